// Text and tables, and what starts it all.
function header() {
  byId("title").textContent = data.title;
  const method = new Map(data.method);
  const machine = new Map(data.machine);
  const device = new Map(data.device);
  byId("subtitle").textContent = [device.get("Device"), device.get("System"),
    method.get("Runtime"), `threads: ${method.get("Threads")}`,
    device.get("Processor") || machine.get("CPU")].filter(Boolean).join("  ·  ");
  for (const [title, text] of data.figures) {
    const box = element("div", undefined, "figure");
    box.append(element("b", text), element("span", title));
    byId("figures").append(box);
  }
  for (const warning of data.warnings) {
    byId("warnings").append(element("div", warning, "warning"));
  }
  if (data.unknown_kinds.length) {
    byId("warnings").append(element("div", "The cost of these kinds is not known, so totals " +
      `leave them out: ${data.unknown_kinds.join(", ")}.`, "warning"));
  }
}

function findings() {
  for (const finding of data.findings) {
    const box = element("div", undefined, "finding");
    box.append(element("h3", `${finding.title} – up to ${ms(finding.recoverable_us)} to win`));
    box.append(element("p", finding.advice));
    const names = finding.layers.slice(0, 4).map((name) => short(name, 60)).join(", ");
    const more = finding.layers.length - 4;
    if (names) {
      box.append(element("p", `Layers: ${names}${more > 0 ? ` and ${more} more` : ""}`, "muted"));
    }
    byId("findings").append(box);
  }
  if (!data.findings.length) {
    byId("findings").append(element("p", data.has_ceilings
      ? "Nothing stands out: no single thing would save much time."
      : "No ceilings are known for this machine and number of threads, so nothing can be said " +
        "about what the layers could reach."));
  }
  const limits = Object.entries(data.limits);
  if (!limits.length) return;
  byId("limits").append(element("p", "What limits the layers, by share of the time:", "muted"));
  const strip = element("div", undefined, "limits");
  const names = element("div", undefined, "limit-names");
  const colours = { arithmetic: "#0072B2", overhead: "#D55E00", not: "#999999" };
  const memory = ["#009E73", "#56B4E9", "#E69F00", "#CC79A7"];
  for (const [title, share] of limits) {
    const fill = colours[title.split(" ")[0]] || memory.shift() || "#777777";
    const part = element("div");
    part.style.cssText = `flex: ${share} 0 0; background: ${fill}`;
    strip.append(part);
    const name = element("span");
    const swatch = element("span", undefined, "swatch");
    swatch.style.background = fill;
    name.append(swatch, `${title} ${number(share, 2)} %`);
    names.append(name);
  }
  byId("limits").append(strip, names);
}

function worst() {
  const ranked = data.layers.filter((layer) => layer.rank).sort((a, b) => a.rank - b.rank);
  if (!ranked.length) return;
  byId("worst-title").textContent = data.has_ceilings ? "Most time to win" : "Slowest layers";
  for (const layer of ranked) {
    let text = `${layer.module || layer.name || layer.kind} (${layer.kind}): ` +
      ms(layer.latency_us);
    if (layer.roof_us !== null) {
      text += `, ${ms(layer.recoverable_us)} above its roof, limited by ${limit(layer)}`;
    }
    byId("worst").append(element("li", text));
  }
}

// [key, title, in the short table]; a column is of numbers where any of its cells is one.
const COLUMNS = [
  ["index", "#", true], ["module", "module", true], ["name", "name", false],
  ["kind", "kind", true], ["latency_us", "us", true], ["share_percent", "%", true],
  ["p10_us", "p10 us", false], ["p50_us", "p50 us", false], ["p90_us", "p90 us", true],
  ["min_us", "min us", false], ["max_us", "max us", false], ["mean_us", "mean us", false],
  ["macs", "MACs", true], ["operational_intensity", "MACs/B", true],
  ["gmacs_per_s", "GMAC/s", true], ["bound", "bound", true], ["level", "level", true],
  ["percent_of_roof", "% of roof", true], ["roof_us", "roof us", false],
  ["recoverable_us", "to win us", true], ["compute", "compute", true],
  ["where", "where", true], ["partition", "partition", false],
  ["other_ops", "other ops", false], ["weight_bytes", "weight B", false],
  ["read_bytes", "read B", false], ["written_bytes", "written B", false],
  ["output_shape", "output", false],
  ["file_kinds", "in the file", false], ["kernels", "kernels", false],
  ["refusal", "why not delegated", true],
];
const sorting = { key: "index", down: false };

function table() {
  const wanted = byId("search").value.trim().toLowerCase();
  const columns = COLUMNS.filter(([key, , always]) => byId("all-columns").checked ||
    (always && data.layers.some((layer) => layer[key] !== null && layer[key] !== "")));
  const numeric = new Set(columns.map(([key]) => key)
    .filter((key) => data.layers.some((layer) => typeof layer[key] === "number")));
  const rows = data.layers.filter((layer) => !wanted ||
    COLUMNS.some(([key]) => typeof layer[key] === "string" &&
      layer[key].toLowerCase().includes(wanted)));
  const way = sorting.down ? -1 : 1;
  const empty = (value) => value === null || value === "";
  rows.sort((a, b) => {
    const [x, y] = [a[sorting.key], b[sorting.key]];
    if (empty(x) || empty(y)) return empty(x) - empty(y);
    return way * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true }));
  });
  const head = element("tr");
  for (const [key, title] of columns) {
    const cell = element("th", undefined, numeric.has(key) ? "number" : "text");
    const sorted = sorting.key === key;
    cell.setAttribute("aria-sort", !sorted ? "none" : sorting.down ? "descending" : "ascending");
    const button = element("button", title + (sorted ? (sorting.down ? " ↓" : " ↑") : ""));
    button.addEventListener("click", () => {
      sorting.down = sorted ? !sorting.down : numeric.has(key) && key !== "index";
      sorting.key = key;
      table();
    });
    cell.append(button);
    head.append(cell);
  }
  const body = document.createDocumentFragment();
  for (const layer of rows) {
    const row = element("tr");
    for (const [key] of columns) {
      const value = layer[key];
      const text = typeof value === "number" ? number(value) : value || "–";
      const cell = element("td", text, numeric.has(key) ? "number" : "text");
      if (typeof value === "string") cell.title = value;
      row.append(cell);
    }
    body.append(row);
  }
  document.querySelector("#table thead").replaceChildren(head);
  document.querySelector("#table tbody").replaceChildren(body);
  byId("count").textContent = `${rows.length} of ${data.layers.length} layers`;
}

function facts(id, pairs, otherwise) {
  for (const [title, text] of pairs) {
    byId(id).append(element("dt", title), element("dd", text));
  }
  if (!pairs.length) byId(id).append(element("dd", otherwise));
}

function charts() {
  if (byId("roofline")) roofline();
  if (data.layers.some((layer) => layer.latency_us > 0)) {
    blocks();
    bars();
  }
}

// Without times of operators there is nothing to say of layers.
function withoutLayers() {
  for (const section of document.querySelectorAll(".of-layers")) section.remove();
  byId("warnings").append(element("div", data.without_layers, "warning"));
}

header();
if (data.whole) {
  withoutLayers();
  roofline();
} else {
  findings();
  charts();
  worst();
  table();
  for (const [id, draw] of [["layer-order", bars], ["block-by", blocks],
    ["block-order", blocks], ["all-columns", table]]) {
    byId(id).addEventListener("change", draw);
  }
  byId("search").addEventListener("input", table);
}
if (data.device.length) facts("device", data.device);
else byId("device-part").remove();
facts("trust", data.trust);
facts("method", data.method);
facts("machine", data.machine, "No ceilings are known for this machine and number of threads.");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts);
let width = window.innerWidth;
let timer;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(charts, 150);
});
