// The roofline, which plotly draws.

// A direction for each rank in pixels, so that badges of layers in one place keep apart.
const BADGE_OFFSETS = [[34, -34], [-34, -34], [34, 34], [-34, 34], [0, -48]];

function roofline() {
  if (!byId("roofline")) return;
  const marks = data.whole ? [data.whole] : data.layers;
  const drawn = marks.filter((layer) => layer.drawn);
  const left_out = marks.filter((layer) => !layer.drawn);
  const idle = left_out.reduce((sum, layer) => sum + layer.latency_us, 0);
  byId("roofline-note").textContent = (data.whole ? "The mark is the model as a whole. "
    : "Each mark is a layer, its area the time it takes. ") +
    (data.predicted ? "Its time is predicted, so it lies on the lines that the prediction " +
      "takes the machine to have: on the slope memory is the limit, on the level arithmetic. "
      : data.lines.length ? "Lines are what this machine can do: under a slope memory is the " +
      "limit, under a level line arithmetic; the further below them, the more could be won. "
      : "No ceilings are known for this machine and number of threads, so no lines are drawn. ") +
    (data.whole ? ""
      : `Not in the plot: ${left_out.length} layers without MACs or without a time, ${ms(idle)}.`);
  if (!drawn.length) {
    byId("roofline").replaceWith(element("p", "No layer has MACs and a time to draw.", "muted"));
    return;
  }
  // Without plotly the picture stays.
  if (!window.Plotly) return;
  document.documentElement.classList.add("live");
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
      hoverinfo: "text", 
      hovertext: members.map((layer) => describe(layer)
        .map((line, at) => (at ? escaped(line) : `<b>${escaped(line)}</b>`)).join("<br>")),
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
