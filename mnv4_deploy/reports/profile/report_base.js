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
const still = { ...config, displayModeBar: false };
const BAR_PIXELS = 20;

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

const limit = (layer) => layer.bound === "memory" && layer.level
  ? `memory (${layer.level})` : layer.bound;

// 1, 2 and 5 of each decade between two powers of ten.
function ticks(low, high) {
  const values = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of [1, 2, 5]) values.push(digit * Math.pow(10, power));
  }
  return { tickmode: "array", tickvals: values,
           ticktext: values.map((value) => String(Number(value.toPrecision(1)))) };
}

function describe(layer) {
  const line = (name, value) => `<br>${name}: ${value}`;
  let text = `<b>${layer.label}</b><br>${escaped(short(layer.op_type, 60))}, ` +
    `${escaped(short(layer.compute, 30))}, ${escaped(layer.backend)}` +
    line("latency", `${ms(layer.latency_us)} (${number(layer.share_percent)} %)`);
  if (layer.name) text += line("name", escaped(short(layer.name, 60)));
  if (layer.macs) {
    text += line("MACs", number(layer.macs)) +
      line("intensity", `${number(layer.operational_intensity)} MACs/byte`) +
      line("speed", `${number(layer.gmacs_per_s)} GMAC/s`);
  }
  if (layer.bound) {
    text += line("limited by", escaped(limit(layer)));
    if (layer.percent_of_roof !== null) {
      text += line("of its roof", `${number(layer.percent_of_roof)} %`);
    }
    text += line("to win", ms(layer.recoverable_us));
  }
  return text;
}
