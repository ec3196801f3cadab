// Bars of time, of which each is a link to its row where it is a layer's.
function legend(id, shown) {
  byId(id).replaceChildren(...shown.map((family) => {
    const item = element("span");
    const swatch = element("span", undefined, "swatch");
    swatch.style.background = family.colour;
    item.append(swatch, family.title);
    return item;
  }));
}

// ``rows`` have a name, the row of the table to go to (or none), and parts: (family, us, text).
function drawBars(id, rows) {
  const totals = rows.map((row) => row.parts.reduce((sum, [, us]) => sum + us, 0));
  const longest = Math.max(...totals);
  byId(id).replaceChildren(...rows.map((row, at) => {
    const line = element("div", undefined, "bar-row");
    const name = element(row.target ? "a" : "span", row.name);
    if (row.target) name.href = `#${row.target}`;
    const bar = element("div", undefined, "bar");
    for (const [family, us, text] of row.parts) {
      const part = element("span");
      part.style.background = families.get(family).colour;
      part.style.width = `${100 * us / longest}%`;
      part.title = text;
      bar.append(part);
    }
    line.append(name, bar, element("span", ms(totals[at])));
    return line;
  }));
  const used = new Set(rows.flatMap((row) => row.parts.map(([family]) => family)));
  legend(`${id}-legend`, data.families.filter((family) => used.has(family.key)));
}

function bars() {
  const order = byId("layer-order").value;
  let shown = data.layers.filter((layer) => layer.latency_us > 0);
  if (order !== "file") shown = [...shown].sort((a, b) => b.latency_us - a.latency_us);
  if (order === "top") shown = shown.slice(0, 30);
  drawBars("bars", shown.map((layer) => ({
    name: layer.title, target: rowOf(layer),
    parts: [[layer.family, layer.latency_us, describe(layer).join("\n")]],
  })));
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
  drawBars("blocks", shown.map((group) => ({
    name: group.name,
    parts: data.families.filter((family) => group.families.get(family.key)).map((family) => [
      family.key, group.families.get(family.key),
      `${group.name}\n${ms(group.total)} (${number(100 * group.total / total)} %), ` +
      `layers: ${group.layers}\n${family.title}: ${ms(group.families.get(family.key))}`]),
  })));
}
