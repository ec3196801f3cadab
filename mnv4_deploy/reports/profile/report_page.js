// The table, and what starts it all.
// [key, title, in the short table]; a column is of numbers where any of its cells is one.
// The name, which stays where it is, then the figures: on a phone they are what is seen.
const COLUMNS = [
  ["title", "layer", true], ["latency_us", "us", true], ["share_percent", "%", true],
  ["p10_us", "p10 us", false], ["p50_us", "p50 us", true], ["p90_us", "p90 us", true],
  ["min_us", "min us", false], ["max_us", "max us", false], ["mean_us", "mean us", false],
  ["percent_of_roof", "% of roof", true], ["roof_us", "roof us", false],
  ["recoverable_us", "to win us", true], ["gmacs_per_s", "GMAC/s", true],
  ["macs", "MMAC", true], ["operational_intensity", "MACs/B", true],
  ["limit", "bound", true], ["op_type", "operator", true], ["compute", "compute", true],
  ["backend", "backend", true], ["index", "#", true],
  ["refusal", "why not delegated", true], ["module", "module", false], ["name", "name", false],
  ["partition", "partition", false],
  ["other_ops", "other ops", false], ["weight_bytes", "weight B", false],
  ["read_bytes", "read B", false], ["written_bytes", "written B", false],
  ["output_shape", "output", false],
  ["file_op_types", "in the file", false], ["kernels", "kernels", false],
];
// Of a prediction all runs are one.
const SPREAD = new Set(["p10_us", "p50_us", "p90_us", "min_us", "max_us", "mean_us"]);
const sorting = { key: "index", down: false };

function table() {
  const wanted = byId("search").value.trim().toLowerCase();
  const columns = COLUMNS.filter(([key, , always]) =>
    !(data.predicted && SPREAD.has(key)) && (byId("all-columns").checked || (always && data.layers.some((layer) => layer[key] !== null && layer[key] !== ""))));
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
    const row = element("tr", undefined, rowOf(layer) === location.hash.slice(1) ? "pointed" : "");
    row.id = rowOf(layer);
    for (const [key] of columns) {
      const value = layer[key];
      const text = typeof value === "number" ? number(key === "macs" ? value / 1e6 : value)
        : value || "–";
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

roofline();
if (!data.whole) {
  if (data.layers.some((layer) => layer.latency_us > 0)) {
    blocks();
    bars();
  }
  table();
  for (const [id, draw] of [["layer-order", bars], ["block-by", blocks],
    ["block-order", blocks], ["all-columns", table]]) {
    byId(id).addEventListener("change", draw);
  }
  byId("search").addEventListener("input", table);
  document.addEventListener("reveal", () => {
    byId("search").value = "";
    table();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", roofline);
let width = window.innerWidth;
let timer;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(roofline, 150);
});
