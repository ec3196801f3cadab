"""What both report pages have in common: links that lead to rows, names told apart, print."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.reports.labels import distinct
from tests.browser import browse, needs_chromium
from tests.drift.drift_factory import make_layers, make_result
from tests.profiles.profile_factory import SPECS, make_profile

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Attributes and text of every element, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict, list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(self.found[-1][2])

    def handle_endtag(self, tag):
        if tag not in VOID and self._open:
            self._open.pop()

    def handle_data(self, data):
        for texts in self._open:
            texts.append(data)

    def ids(self) -> Counter[str]:
        return Counter(attrs["id"] for _, attrs, _ in self.found if "id" in attrs)

    def links(self) -> dict[str, set[str]]:
        """What leads to each place of the page."""
        leading: dict[str, set[str]] = {}
        for tag, attrs, texts in self.found:
            if tag == "a" and (attrs.get("href") or "").startswith("#"):
                leading.setdefault(attrs["href"][1:], set()).add("".join(texts).strip())
        return leading


def written(kind: str, folder: Path, script: str = "") -> Path:
    """A page with twins: layers of the same module and kind. ``script`` runs at its end."""
    path = folder / "report.html"
    if kind == "drift":
        layers = make_layers()
        found = list(layers.layers)
        for at in (20, 21):
            found[at] = replace(found[at], module=found[13].module, kind="CONV_2D")
        page = report_page(replace(make_result(), layers=replace(layers, layers=tuple(found))))
    else:
        pytest.importorskip("plotly")
        from mnv4_deploy.reports.profile.html_report import write_report

        profile = make_profile((*SPECS, SPECS[6], SPECS[3], SPECS[3]))
        many = replace(profile.findings[0], layers=tuple(range(len(profile.layers))))
        write_report(replace(profile, findings=(many,)), path)
        page = path.read_text("utf-8")
    if script:
        page = re.sub(r"<meta http-equiv[^>]*>", "", page)
        page = page.replace("</body>", f"<script>{script}</script></body>")
    path.write_text(page, encoding="utf-8")
    return path


def test_names_are_told_apart_by_kind_and_then_by_number() -> None:
    names = ["a", "b", "a", "a", "c", "c"]
    kinds = ["ADD", "ADD", "MUL", "MUL", "", ""]
    assert distinct(names, kinds, range(6)) == [
        "a (ADD)", "b", "a (MUL) #2", "a (MUL) #3", "c #4", "c #5",
    ]  # fmt: skip
    # Two that are only made alike by what is put behind them.
    assert len(set(distinct(["a (ADD)", "a", "a"], ["", "ADD", "MUL"], range(3)))) == 3


@needs_chromium
@pytest.mark.parametrize("kind", ["drift", "profile"])
def test_every_link_leads_to_one_row_and_every_row_has_its_own_name(kind, tmp_path) -> None:
    page = Page(browse(written(kind, tmp_path)))
    assert max(page.ids().values()) == 1
    links = page.links()
    assert links and set(links) <= set(page.ids())
    names = [name for texts in links.values() for name in texts if name]
    assert len(names) > 5
    assert len(names) == len(set(names))
    rows = [texts for tag, attrs, texts in page.found if tag == "tr" and "id" in attrs]
    assert len(rows) > 10


def test_the_layers_of_a_finding_are_all_linked(tmp_path) -> None:
    page = Page(written("profile", tmp_path).read_text("utf-8"))
    assert set(page.links()) == {f"layer-{index}" for index in range(len(SPECS) + 3)}


def test_layers_without_a_row_are_not_linked() -> None:
    """The page has a thousand rows at most, whatever a file holds."""
    layers = make_layers()
    many = tuple(replace(layers.layers[13], index=i) for i in range(1200))
    page = Page(report_page(replace(make_result(), layers=replace(layers, layers=many))))
    assert len(page.links()) == 1000
    assert set(page.links()) <= set(page.ids())


POINTING = """
addEventListener("load", () => {
  const search = document.getElementById("search");
  search.value = "no such layer";
  search.dispatchEvent(new Event("input"));
  const shown = () => document.querySelectorAll("tr[id]:not([hidden])").length;
  const said = { before: shown() };
  const links = [...document.querySelectorAll("a[href^='#layer-']")];
  const link = links.at(-1);
  link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
  location.hash = link.getAttribute("href");
  setTimeout(() => {
    dispatchEvent(new Event("beforeprint"));
    said.closed = document.querySelectorAll("details:not([open])").length;
    dispatchEvent(new Event("afterprint"));
    said.wanted = link.getAttribute("href").slice(1);
    said.after = shown();
    const rows = [...document.querySelectorAll(".pointed")];
    said.pointed = rows.map((row) => row.id);
    const at = rows[0].getBoundingClientRect();
    const box = rows[0].closest(".scroll").getBoundingClientRect();
    said.seen = at.top >= box.top && at.bottom <= box.bottom && at.top >= 0 &&
      at.bottom <= innerHeight;
    const pre = document.createElement("pre");
    pre.id = "said";
    pre.textContent = JSON.stringify(said);
    document.body.append(pre);
  }, 200);
});
"""


@needs_chromium
@pytest.mark.parametrize("kind", ["drift", "profile"])
def test_a_link_shows_its_row_whatever_hid_it_and_print_opens_all(kind, tmp_path) -> None:
    page = Page(browse(written(kind, tmp_path, POINTING)))
    (said,) = [json.loads("".join(t)) for _, attrs, t in page.found if attrs.get("id") == "said"]
    assert said["before"] == 0
    assert said["after"] > 10
    assert said["pointed"] == [said["wanted"]]
    assert said["seen"]
    assert said["closed"] == 0


WIDTHS = """
addEventListener("load", () => setTimeout(() => {
  const said = [...document.querySelectorAll(".scroller")].map((each) => ({
    wider: each.lastElementChild.scrollWidth > each.lastElementChild.clientWidth + 1,
    told: !each.firstElementChild.hidden,
  }));
  const pre = document.createElement("pre");
  pre.id = "said";
  pre.textContent = JSON.stringify(said);
  document.body.append(pre);
}, 200));
"""


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["drift", "profile"])
def test_what_is_wider_than_the_page_says_so(kind, width, tmp_path) -> None:
    narrow = f"document.body.style.width = '{width}px';"
    page = Page(browse(written(kind, tmp_path, narrow + WIDTHS)))
    (said,) = [json.loads("".join(t)) for _, attrs, t in page.found if attrs.get("id") == "said"]
    assert said
    assert all(box["wider"] == box["told"] for box in said)
    if width < 1280:
        assert any(box["told"] for box in said)
