// The charts, which plotly draws.

// A direction for each rank in pixels, so that badges of layers in one place keep apart.
const BADGE_OFFSETS = [[34, -34], [-34, -34], [34, 34], [-34, 34], [0, -48]];

function roofline() {
  const marks = data.whole ? [data.whole] : data.layers;
  const drawn = marks.filter((layer) => layer.drawn);
  const left_out = marks.filter((layer) => !layer.drawn);
  const idle = left_out.reduce((sum, layer) => sum + layer.latency_us, 0);
  byId("roofline-note").textContent = (data.whole ? "The mark is the model as a whole. "
    : "Each mark is a layer, its area the time it takes. ") +
    (data.lines.length ? "Lines are what this machine can do: under a slope memory is the " +
      "limit, under a level line arithmetic; the further below them, the more could be won. "
      : "No ceilings are known for this machine and number of threads, so no lines are drawn. ") +
    (data.whole ? ""
      : `Not in the plot: ${left_out.length} layers without MACs or without a time, ${ms(idle)}.`);
  if (!drawn.length) {
    byId("roofline").replaceWith(element("p", "No layer has MACs and a time to draw.", "muted"));
    return;
  }
  const wide = byId("roofline").clientWidth > 900;
  const xs = drawn.map((layer) => layer.operational_intensity);
  const ys = drawn.map((layer) => layer.gmacs_per_s);
  const peaks = data.lines.filter((line) => line.kind !== "memory").map((line) => line.value);
  const slopes = data.lines.filter((line) => line.kind === "memory").map((line) => line.value);
  let low = Math.min(...xs) / 1.8;
  let high = Math.max(...xs) * 2.2;
  if (peaks.length && slopes.length) {
    high = Math.max(high, 1.6 * Math.max(...peaks) / Math.min(...slopes));
    low = Math.min(low, 0.2 * Math.max(...peaks) / Math.max(...slopes));
  }
  const top = Math.max(...ys, ...peaks) * 2;
  const bottom = Math.max(Math.min(...ys, ...slopes.map((v) => v * low)) / 1.6,
                          Math.min(...ys) / 20);
  const ink = colour("--ink");
  const traces = [];
  const annotations = [];
  let below = false;
  for (const line of data.lines) {
    const memory = line.kind === "memory";
    let from = memory ? Math.max(low, bottom / line.value) : low;
    if (!memory && slopes.length) from = Math.max(low, line.value / Math.max(...slopes));
    const to = memory && peaks.length ? Math.min(high, Math.max(...peaks) / line.value) : high;
    if (from >= to) continue;
    const at = (x) => (memory ? line.value * x : line.value);
    traces.push({
      x: [from, to], y: [at(from), at(to)], mode: "lines", hoverinfo: "skip", showlegend: false,
      line: { color: memory ? colour("--muted") : ink, width: 1.4,
              dash: line.kind === "independent" ? "dash" : "solid" },
    });
    // Right of and below its slope, or above its peak where no close one lies above it: behind
    // the last slope, for the marks crowd at the right.
    const ridge = slopes.length ? 1.15 * line.value / Math.min(...slopes) : from;
    const early = ridge < to / 4;
    const x = memory ? from * Math.pow(to / from, 0.04) : early ? ridge : to;
    const twin = !memory && peaks.some((peak) => peak > line.value && peak < line.value * 1.5);
    traces.push({
      x: [x], y: [at(x) * (memory ? 1 : twin ? 0.96 : 1.03)], text: [line.label], mode: "text", hoverinfo: "skip",
      showlegend: false, textfont: { size: 11, color: ink },
      textposition: memory ? "bottom right" : `${twin ? "bottom" : "top"} ${early ? "right" : "left"}`,
    });
  }
  for (const family of data.families) {
    const members = drawn.filter((layer) => layer.family === family.key);
    if (!members.length) continue;
    traces.push({
      x: members.map((layer) => layer.operational_intensity),
      y: members.map((layer) => layer.gmacs_per_s),
      mode: "markers",
      name: family.title + (data.whole ? "" : ` (${members.length})`),
      hoverinfo: "text", hovertext: members.map(describe),
      marker: {
        color: family.colour, symbol: family.symbol, opacity: 0.78,
        // One mark alone: its size compares with nothing.
        size: members.map((layer) => (data.whole ? 22
          : Math.max(6, 13 * Math.sqrt(layer.share_percent)))),
        line: { color: members.map((layer) => (layer.rank ? ink : colour("--card"))),
                width: members.map((layer) => (layer.rank ? 1.6 : 0.6)) },
      },
    });
  }
  for (const layer of drawn.filter((each) => each.rank)) {
    annotations.push({
      x: Math.log10(layer.operational_intensity), y: Math.log10(layer.gmacs_per_s),
      text: `<b>${layer.rank}</b>`, font: { size: 12, color: "#ffffff" },
      bgcolor: "rgba(0,0,0,.78)", borderpad: 2,
      showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: ink,
      ax: BADGE_OFFSETS[layer.rank - 1][0], ay: BADGE_OFFSETS[layer.rank - 1][1],
    });
  }
  Plotly.react("roofline", traces, base({
    margin: { l: 62, r: 16, t: 16, b: 56 }, annotations, hovermode: "closest",
    legend: wide ? { x: 1.01, y: 0.94 } : { orientation: "h", y: -0.14, x: 0 },
    xaxis: axis({ type: "log", title: { text: "Operational intensity (MACs/byte)" },
                  range: [Math.log10(low), Math.log10(high)], ...ticks(low, high) }),
    yaxis: axis({ type: "log", title: { text: "Attained speed (GMAC/s)" },
                  range: [Math.log10(bottom), Math.log10(top)], ...ticks(bottom, top) }),
  }), config);
}

function legend(id, traces) {
  byId(id).replaceChildren(...traces.map((trace) => {
    const item = element("span");
    const swatch = element("span", undefined, "swatch");
    swatch.style.background = trace.marker.color;
    item.append(swatch, trace.name);
    return item;
  }));
}

function barLayout(count, labels, width) {
  return base({
    height: count * BAR_PIXELS + 54, barmode: "stack", bargap: 0.25, hovermode: "closest",
    margin: { l: width, r: 24, t: 44, b: 10 }, showlegend: false,
    xaxis: axis({ title: { text: "ms", standoff: 4 }, side: "top", rangemode: "tozero" }),
    yaxis: axis({ autorange: false, range: [count - 0.4, -0.6], tickmode: "array",
                  tickvals: labels.map((_, at) => at), ticktext: labels, showgrid: false,
                  tickfont: { size: 12 } }),
  });
}
const labelWidth = (id) => Math.min(330, Math.max(150, byId(id).clientWidth * 0.3));
const fit = (text, id) => escaped(short(text, Math.floor(labelWidth(id) / 7.4)));

function bars() {
  const order = byId("layer-order").value;
  let shown = data.layers.filter((layer) => layer.latency_us > 0);
  if (order !== "file") shown = [...shown].sort((a, b) => b.latency_us - a.latency_us);
  if (order === "top") shown = shown.slice(0, 30);
  const traces = data.families.map((family) => {
    const rows = shown.map((layer, at) => [layer, at]).filter(([x]) => x.family === family.key);
    return {
      type: "bar", orientation: "h", name: family.title, marker: { color: family.colour },
      x: rows.map(([layer]) => layer.latency_us / 1000), y: rows.map(([, at]) => at),
      hoverinfo: "text", hovertext: rows.map(([layer]) => describe(layer)),
    };
  }).filter((trace) => trace.x.length);
  const labels = shown.map((layer) => fit(layer.module || layer.name || layer.op_type, "bars"));
  Plotly.react("bars", traces, barLayout(shown.length, labels, labelWidth("bars")), still);
  legend("bars-legend", traces);
}

function blocks() {
  const by = byId("block-by").value;
  const groups = new Map();
  for (const layer of data.layers) {
    const name = layer[by] || "(no module)";
    if (!groups.has(name)) groups.set(name, { name, total: 0, families: new Map(), layers: 0 });
    const group = groups.get(name);
    group.total += layer.latency_us;
    group.layers += 1;
    group.families.set(layer.family, (group.families.get(layer.family) || 0) + layer.latency_us);
  }
  const shown = [...groups.values()].filter((group) => group.total > 0);
  if (byId("block-order").value === "time") shown.sort((a, b) => b.total - a.total);
  const total = data.layers.reduce((sum, layer) => sum + layer.latency_us, 0);
  const traces = data.families.map((family) => {
    const rows = shown.map((group, at) => [group, at])
      .filter(([group]) => group.families.get(family.key));
    return {
      type: "bar", orientation: "h", name: family.title, marker: { color: family.colour },
      x: rows.map(([group]) => group.families.get(family.key) / 1000),
      y: rows.map(([, at]) => at), hoverinfo: "text",
      hovertext: rows.map(([group]) => `<b>${escaped(short(group.name, 60))}</b>` +
        `<br>${ms(group.total)} (${number(100 * group.total / total)} %), ` +
        `layers: ${group.layers}<br>${family.title}: ${ms(group.families.get(family.key))}`),
    };
  }).filter((trace) => trace.x.length);
  const labels = shown.map((group) => fit(group.name, "blocks"));
  Plotly.react("blocks", traces, barLayout(shown.length, labels, labelWidth("blocks")), still);
  legend("blocks-legend", traces);
}
