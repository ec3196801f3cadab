"use strict";
// What every report does: it says where there is more to the right, opens everything for print,
// and leads a link to its row, whatever hides that.
(() => {
  for (const box of document.querySelectorAll(".scroller > .scroll")) {
    const hint = box.previousElementSibling;
    const look = () => {
      hint.hidden = box.scrollWidth - box.clientWidth < 2;
      box.parentNode.style.setProperty("--top", `${box.offsetTop}px`);
      box.parentNode.classList.toggle("more",
        box.scrollWidth - box.clientWidth - box.scrollLeft > 2);
    };
    const observer = new ResizeObserver(look);
    [box, ...box.children].forEach((each) => observer.observe(each));
    box.addEventListener("scroll", look, { passive: true });
  }

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((each) => { each.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));

  const point = () => {
    if (location.hash.length < 2) return;
    // A table that is searched shows all of its rows again.
    document.dispatchEvent(new Event("reveal"));
    for (const row of document.querySelectorAll(".pointed")) row.classList.remove("pointed");
    const row = document.getElementById(location.hash.slice(1));
    if (!row) return;
    row.classList.add("pointed");
    for (let at = row; at; at = at.parentElement) if (at.localName === "details") at.open = true;
    (row.cells?.[0] ?? row).scrollIntoView({ block: "center" });
  };
  window.addEventListener("hashchange", point);
  // Once more to the same row is no change of the hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (link && link.getAttribute("href") === location.hash) point();
  });
  window.addEventListener("load", point);
})();
