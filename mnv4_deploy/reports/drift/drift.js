"use strict";
(() => {
  const table = document.getElementById("layers");
  const tip = document.getElementById("tip");

  // Hover texts: ours instead of the browser's slow ones, which are there without scripts.
  for (const hit of document.querySelectorAll("[data-tip]")) {
    hit.querySelector("title").remove();
    const show = (x, y) => {
      tip.textContent = hit.dataset.tip;
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      const right = x + 16 + box.width > window.innerWidth;
      tip.style.left = `${Math.max(4, right ? x - 16 - box.width : x + 16)}px`;
      tip.style.top = `${Math.max(4, Math.min(y + 12, window.innerHeight - box.height - 4))}px`;
    };
    hit.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
    hit.addEventListener("pointerleave", () => { tip.hidden = true; });
    hit.parentNode.addEventListener("focus", () => {
      const box = hit.getBoundingClientRect();
      show(box.right, box.top);
    });
    hit.parentNode.addEventListener("blur", () => { tip.hidden = true; });
  }
  if (!table) return;

  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell.classList.contains("number")) return cell.textContent === "–" ? null : cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => typeof a === "number" ? a - b
    : a.localeCompare(b, "en", { numeric: true });
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    // What is not known stays last either way.
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
      : (down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));

  const search = document.getElementById("search");
  const count = document.getElementById("count");
  const everything = count.textContent;
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of body.rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? `${shown} of ${body.rows.length}` : everything;
  };
  search.addEventListener("input", filter);
  document.addEventListener("reveal", () => {
    search.value = "";
    filter();
  });
})();
