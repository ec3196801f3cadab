"use strict";
// What all parts of the page use. Names come from model files: they reach the page as
// textContent, or escaped as plotly's labels.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const families = new Map(data.families.map((family) => [family.key, family]));
// These buttons and no others, whatever plotly adds: by default it has one that uploads the chart.
// The page's policy cannot stop that, for it opens a window.
const config = {
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "select2d", "lasso2d"],
                   ["zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"]],
  showSendToCloud: false, plotlyServerURL: "", displaylogo: false, responsive: true,
};

const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const escaped = (text) =>
  String(text).replace(/[&<>$]/g, (char) => `&#${char.charCodeAt(0)};`);
const short = (text, limit) => text.length <= limit ? text
  : text.slice(0, Math.ceil((limit - 1) / 2)) + "…" + text.slice(-Math.floor((limit - 1) / 2));
const rowOf = (layer) => `layer-${layer.index}`;
const number = (value, digits = 3) => {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) || Math.abs(value) >= 1000) {
    return value.toLocaleString("en", { maximumFractionDigits: 1 });
  }
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
};
const ms = (us) => `${number(us / 1000)} ms`;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function base(extra) {
  const ink = colour("--ink");
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 13 },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), align: "left",
                  font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"),
               activecolor: colour("--accent") },
    ...extra,
  };
}
const axis = (extra) => ({ gridcolor: colour("--grid"), linecolor: colour("--line"),
                           zeroline: false, ...extra });

for (const layer of data.layers) {
  const named = layer.bound === "memory" && layer.level && layer.level !== "memory";
  layer.limit = named ? `memory (${layer.level})` : layer.bound;
}

// 1, 2 and 5 of each decade between two powers of ten.
function ticks(low, high) {
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of [1, 2, 5]) values.push(digit * Math.pow(10, power));
  }
  return { tickmode: "array", tickvals: values,
           ticktext: values.map((value) => String(Number(value.toPrecision(1)))) };
}

// What to say of a layer that is pointed at: lines of text, its name first.
function describe(layer) {
  const lines = [layer.title,
    `${short(layer.op_type, 60)}, ${short(layer.compute, 30)}, ${layer.backend}`,
    `latency: ${ms(layer.latency_us)} (${number(layer.share_percent)} %)`];
  if (layer.name) lines.push(`name: ${short(layer.name, 60)}`);
  if (layer.macs) {
    lines.push(`MACs: ${number(layer.macs)}`,
      `intensity: ${number(layer.operational_intensity)} MACs/byte`,
      `speed: ${number(layer.gmacs_per_s)} GMAC/s`);
  }
  if (layer.bound) {
    lines.push(`limited by: ${layer.limit}`);
    if (layer.percent_of_roof !== null) lines.push(`of its roof: ${number(layer.percent_of_roof)} %`);
    lines.push(`to win: ${ms(layer.recoverable_us)}`);
  }
  return lines;
}
