"""The page: read back, with hostile names, and run in a browser."""

import base64
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.layers.records import Agreement, LayerEvidence
from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.reports.drift.network_chart import HEIGHT, WIDTH
from mnv4_deploy.reports.drift.thumbnails import SIZE, thumbnail
from mnv4_deploy.reports.page import environment
from mnv4_deploy.tasks.classification.records import Flips
from mnv4_deploy.tasks.classification.report import drop_sentence, flips_sentence
from mnv4_deploy.text import clean, number_text, p_text
from tests.browser import browse, needs_chromium
from tests.drift.drift_factory import (
    HOSTILE,
    make_layers,
    make_output,
    make_result,
    output_of,
    with_names,
)

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Tags with attributes, the text of each, and whether everything opened is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags: list = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.faults: list[str] = []
        self.feed(page)
        self.faults += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())

    def with_class(self, name):
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def page_of(result):
    return Page(report_page(result))


def test_page_is_well_formed_small_and_the_same_every_time(tmp_path) -> None:
    result = make_result(folder=tmp_path)
    text = report_page(result)
    assert not Page(text).faults
    assert len(text) < 2_000_000
    assert report_page(result) == text


def test_page_says_what_it_cost_and_how_sure_that_is() -> None:
    result = make_result()
    output, words = output_of(result), page_of(result).words
    assert f"{output.reference.top1.percent:.2f} %" in words
    assert f"{output.candidate.top1.percent:.2f} %" in words
    assert f"({output.reference.top1.low_percent:.2f} to" in words
    assert f"loses {output.top1_drop:.2f} points of top-1" in words
    assert f"{output.flips.lost} images the reference had right went wrong" in words
    assert "significantly worse" in words
    assert "✗ failed fail if top1_drop > 0.5: top1_drop is 8.3" in words
    assert "✓ passed fail if agreement < 50" in words
    assert "8.30 points lost, significant" in words
    better = page_of(replace(result, output=replace(output, top1_drop=-0.25))).words
    assert "0.25 points gained, " in better
    assert "2 files could not be used" in words
    assert "Quantization parameters of 2 tensors are unknown." in words


def test_page_has_causes_layers_classes_and_provenance() -> None:
    result = make_result()
    page = page_of(result)
    first = page.words.index("blocks.1.0.dw_mid: outlier channel")
    assert first < page.words.index("blocks.2.3.pw_exp: clipped activation")
    assert "Equalize the depthwise chain (--equalize)" in page.words
    assert "(DEPTHWISE_CONV_2D, SQNR isolated 11.5 dB, accumulated 11.4 dB)" in page.words
    assert "input: normalisation" in page.words
    ids = [attrs["id"] for name, attrs in page.tags if name == "tr" and "id" in attrs]
    assert sorted(ids) == sorted(f"layer-{layer.index}" for layer in result.layers.layers)
    assert ids[0] == "layer-39"  # the most damaged first
    links = {attrs["href"] for name, attrs in page.tags if name == "a"}
    assert links <= {f"#{name}" for name in ids}
    assert "model/reshape_1, model/concat" in page.words
    assert result.candidate.sha256 in page.words
    assert "frog/broken.jpg: image file is truncated" in page.words
    change = output_of(result).classes[0]
    figures = (change.images, f"{change.reference_top1:.1f}", f"{change.candidate_top1:.1f}")
    assert " ".join(map(str, (change.name, *figures))) in page.words
    assert "/home/someone" not in report_page(result)


def test_chart_puts_every_figure_where_it_belongs() -> None:
    result = make_result()
    page = page_of(result)
    layers = result.layers.layers
    dots = [(float(d["cx"]), float(d["cy"])) for d in page.with_class("isolated") if "cx" in d]
    alone = [layer.isolated.sqnr_db for layer in layers if layer.isolated]
    assert len(dots) == len(alone)
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in dots)
    # More decibels lie higher; the axis is linear, but for what lies beyond its end.
    inside = [(db, y) for db, (_, y) in zip(alone, dots, strict=True) if db < 50]
    assert np.corrcoef(np.array(inside).T)[0, 1] == pytest.approx(-1, abs=1e-4)
    (line,) = [attrs for attrs in page.with_class("accumulated") if "points" in attrs]
    assert len(line["points"].split()) == len(layers)
    tips = [attrs["data-tip"] for attrs in page.with_class("hit")]
    assert tips[13].split("\n") == [
        "blocks.1.0.dw_mid",
        "DEPTHWISE_CONV_2D, int8",
        "isolated: 11.5 dB",
        f"accumulated: {layers[13].accumulated.sqnr_db:.1f} dB",
        f"range used: {number_text(layers[13].output.used_percent)} %, clipped: "
        f"{number_text(layers[13].output.clipped_percent, 2)} %",
        "cause: outlier channel",
    ]
    assert "isolated: identical" in tips[4]


def test_channel_chart_names_the_outlier() -> None:
    words = page_of(make_result()).words
    assert re.search(r"Channel 17 reaches 96\.5, \d+ times the median; the type can hold", words)


def test_page_asks_no_network_for_anything(tmp_path) -> None:
    text = report_page(make_result(folder=tmp_path))
    page = Page(text)
    for name, attrs in page.tags:
        assert name not in {"iframe", "object", "embed", "base", "form"}
        for key in ("src", "href"):
            assert attrs.get(key, "#").startswith(("#", "data:"))
        assert not any(key.startswith("on") for key in attrs)
    assert "url(" not in text
    assert "http" not in "".join(part for part in re.split(r"<meta http-equiv", text))
    assert "{{" not in text and "{%" not in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy


def test_page_escapes_hostile_names(tmp_path) -> None:
    result = make_result(folder=tmp_path)
    plain, hostile = page_of(result), page_of(with_names(result, HOSTILE))
    assert not hostile.faults
    count = [name for name, _ in plain.tags].count
    for name in ("script", "style", "a", "tr", "section", "svg"):
        assert [tag for tag, _ in hostile.tags].count(name) == count(name)
    known = {key for _, attrs in plain.tags for key in attrs}
    assert {key for _, attrs in hostile.tags for key in attrs} <= known
    assert clean(HOSTILE) in hostile.words
    assert not re.search("[\x00-\x08\u2028\u202e]", report_page(with_names(result, HOSTILE)))
    long = report_page(with_names(result, "x" * 5_000))
    assert len(long) < 2_000_000


def test_contact_sheet_embeds_small_images_and_says_what_is_missing(tmp_path) -> None:
    result = make_result(folder=tmp_path)
    page = page_of(result)
    pictures = [attrs for name, attrs in page.tags if name == "img"]
    missing = page.with_class("missing")
    assert len(pictures) + len(missing) == len(output_of(result).worst) == 24
    assert pictures and missing
    for picture in pictures:
        encoded = picture["src"].removeprefix("data:image/jpeg;base64,")
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert image.format == "JPEG"
        assert max(image.size) <= SIZE
    worst = output_of(result).worst[0]
    assert f"KL {number_text(worst.kl)}" in page.words


def test_a_thumbnail_has_the_pixels_and_nothing_else_of_the_file(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    exif[0x0112] = 6  # to be transposed by 90 degrees
    image = Image.new("RGB", (400, 200), (200, 30, 40))
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"secret comment")
    data = base64.b64decode(thumbnail(str(tmp_path / "a.jpg")).partition(",")[2])
    assert b"secret" not in data
    small = Image.open(io.BytesIO(data))
    assert small.size == (64, 128)
    assert np.allclose(np.asarray(small).reshape(-1, 3).mean(axis=0), (200, 30, 40), atol=4)
    Image.new("L", (8, 8), 77).save(tmp_path / "b.png")
    data = base64.b64decode(thumbnail(str(tmp_path / "b.png")).partition(",")[2])
    small = Image.open(io.BytesIO(data))
    assert small.size == (8, 8)
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    for name in ("c.png", "none.png", "", "\x00"):
        assert thumbnail(str(tmp_path / name)) is None


def test_without_labels_sections_vanish_with_a_reason() -> None:
    page = page_of(make_result(labelled=False))
    assert "the true classes of these images are not known" in page.words
    for gone in ("top-1", "Top-5", "McNemar's exact test,", "Classes that changed", "true class:"):
        assert gone not in page.words, gone
    assert "the same class on 87.60 %" in page.words
    assert not page.with_class("right")


def test_without_layers_the_page_says_how_to_get_them() -> None:
    page = page_of(make_result(layers=False))
    assert "run drift with --layer-images" in page.words
    assert not page.with_class("network")
    assert "All layers" not in page.words


def extremes():
    result = make_result()
    layers = make_layers()
    odd = replace(
        layers.layers[0],
        module="",
        shape=(),
        isolated=Agreement(math.nan, math.nan),
        accumulated=Agreement(-200.0, -1.0),
        evidence=LayerEvidence(channel_peaks=np.array([math.inf, 0.0, math.nan])),
    )
    zero = replace(odd, evidence=LayerEvidence(channel_peaks=np.zeros(5)), isolated=None)
    same = replace(odd, accumulated=Agreement(200.0, 1.0), isolated=Agreement(200.0, 1.0))
    same_output = replace(make_output(), worst=(), classes=(), top1_drop=0.0)
    return {
        "no layers": replace(result, layers=replace(layers, layers=(), ranking=())),
        "no causes": replace(result, layers=replace(layers, ranking=(), unmatched=())),
        "odd": replace(result, layers=replace(layers, layers=(odd,), ranking=())),
        "zero": replace(result, layers=replace(layers, layers=(zero,), ranking=())),
        "identical": replace(
            result, layers=replace(layers, layers=(same,), ranking=()), output=same_output
        ),
        "many": replace(
            result,
            layers=replace(
                layers, layers=tuple(replace(layers.layers[13], index=i) for i in range(1500))
            ),
        ),
    }


@pytest.mark.parametrize("name", list(extremes()))
def test_page_survives_extremes(name) -> None:
    text = report_page(extremes()[name])
    page = Page(text)
    assert not page.faults
    for attrs in page.with_class("isolated") + page.with_class("interval"):
        assert not any("nan" in str(v) for k, v in attrs.items() if k in ("cx", "cy", "x1", "x2"))
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)
    assert len(text) < 2_000_000
    if name == "many":
        assert "The 1000 most damaged of 1500 layers" in page.words


@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        (Flips(90, 9, 5, 2, 0.42395), "9 images .* 5 it had wrong .* could be chance .*p = 0.42"),
        (Flips(90, 30, 5, 2, 2.3e-5), "significantly worse, this is hardly chance .*p < 0.0001"),
        (Flips(90, 5, 30, 2, 0.004), "significantly better.*p = 0.004"),
        (Flips(90, 1, 0, 2, 1.0), "^1 image the reference had right went wrong, .*p = 1"),
        (Flips(90, 0, 0, 2, 1.0), "^No answer went"),
    ],
)
def test_flips_in_plain_words(flips, expected) -> None:
    assert re.search(expected, flips_sentence(flips))


def test_drop_in_plain_words() -> None:
    output = make_output()
    for drop, word in ((0.4, "loses 0.40 points"), (-0.3, "gains 0.30 points"), (0.0, "as often")):
        said = drop_sentence(
            replace(output, top1_drop=drop, top1_drop_low=-0.5, top1_drop_high=0.9)
        )
        assert word in said
        assert "-0.50 to 0.90 points" in said
    assert drop_sentence(make_output(labelled=False)) == ""


def test_numbers_as_people_read_them() -> None:
    assert [number_text(v) for v in (None, math.nan, 0, 3, 1234, 0.28234, 1e-18, 2e-5, 1.5e9)] == [
        "–", "–", "0", "3", "1,234", "0.282", "0", "2.00e-05", "1.50e+09",
    ]  # fmt: skip
    assert p_text(0.05) == "p = 0.05"


def test_templates_escape_and_clean_all_that_is_put_in() -> None:
    def made(template, **content):
        return environment().from_string(template).render(**content)

    assert made('<p title="{{ x }}">{{ x }}</p>', x='a < b & \u202e"c"\'') == (
        '<p title="a &lt; b &amp; &#34;c&#34;&#39;">a &lt; b &amp; &#34;c&#34;&#39;</p>'
    )
    assert made("{{ x|join('; ') }} {{ y }} {{ 7 }}", x=["<", "\x07b"], y=1.50) == "&lt;; b 1.5 7"
    with pytest.raises(jinja2.UndefinedError):
        made("{{ typing_error }}")


SCRIPTED = """<script>
const table = document.getElementById("layers");
const column = (title) => [...table.tHead.rows[0].cells].findIndex(
  (cell) => cell.textContent === title);
const values = (title) => [...table.tBodies[0].rows].map(
  (row) => row.cells[column(title)].textContent);
const click = (title) => table.tHead.rows[0].cells[column(title)].firstChild.click();
const said = {};
said.first = values("#").slice(0, 2);
click("isolated dB"); said.rising = values("isolated dB");
click("isolated dB"); said.falling = values("isolated dB");
click("module"); said.modules = values("module");
const search = document.getElementById("search");
search.value = "OUTLIER"; search.dispatchEvent(new Event("input"));
said.found = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
said.count = document.getElementById("count").textContent;
const hit = document.querySelectorAll("[data-tip]")[13];
hit.dispatchEvent(new PointerEvent("pointermove", { clientX: 50, clientY: 50 }));
said.tip = document.getElementById("tip").textContent;
said.shown = !document.getElementById("tip").hidden;
document.body.insertAdjacentHTML("beforeend", `<pre id="said"></pre>`);
document.getElementById("said").textContent = JSON.stringify(said);
</script>"""


@needs_chromium
@pytest.mark.parametrize("name", ["short", HOSTILE])
def test_a_browser_shows_the_page_and_complains_of_nothing(tmp_path, name) -> None:
    result = make_result(folder=tmp_path / "images", layers=name != "short")
    if name == HOSTILE:
        result = with_names(result, name)
    path = tmp_path / "report.html"
    path.write_text(report_page(result), encoding="utf-8")
    shown = Page(browse(path))
    rows = [attrs for tag, attrs in shown.tags if tag == "tr" and "id" in attrs]
    assert len(rows) == (len(result.layers.layers) if result.layers else 0)
    # The one of the page; hover texts are the script's now.
    assert [tag for tag, _ in shown.tags].count("title") == 1


@needs_chromium
def test_a_browser_sorts_searches_and_shows_hover_texts(tmp_path) -> None:
    text = re.sub(r"<meta http-equiv[^>]*>", "", report_page(make_result()))
    path = tmp_path / "report.html"
    path.write_text(text.replace("</body>", SCRIPTED + "</body>"), encoding="utf-8")
    shown = browse(path)
    page = Page(shown)
    assert "said" in [attrs.get("id") for _, attrs in page.tags]
    said = json.loads(page.text[-1] if page.text[-1].strip() else page.text[-2])
    layers = make_result().layers
    assert said["first"] == ["39", str(layers.most_damaged(2)[1].index)]
    unknown = said["rising"].count("–")
    assert unknown == sum(layer.isolated is None for layer in layers.layers)
    assert said["rising"][-unknown:] == said["falling"][-unknown:] == ["–"] * unknown
    rising, falling = (
        [200.0 if v == "identical" else float(v) for v in said[way] if v != "–"]
        for way in ("rising", "falling")
    )
    assert rising == sorted(rising)
    assert falling == rising[::-1]
    assert said["modules"][:2] == ["blocks.0.0", "blocks.0.0.dw_mid"]
    assert (said["found"], said["count"]) == (1, f"1 of {len(layers.layers)}")
    assert said["shown"]
    assert said["tip"].startswith("blocks.1.0.dw_mid\nDEPTHWISE_CONV_2D, int8\nisolated: 11.5 dB")
