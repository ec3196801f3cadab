"""The pictures and the page: read back, with hostile names, and looked at in a browser."""

import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.errors import OutputError, UnsupportedError
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.reports.page import environment
from mnv4_deploy.reports.plots.label_layout import Box, LabelLayout, along, around, overlap
from mnv4_deploy.reports.plots.pareto_panel import axis_range, pareto_front
from mnv4_deploy.reports.plots.ridge_plot import RidgeSweep, save_ridge_sweep, spread
from mnv4_deploy.reports.plots.roofline_data import ceiling_lines, limit_shares, points_of
from mnv4_deploy.text import layer_title, milliseconds
from tests.browser import browse, needs_chromium
from tests.profiles.profile_factory import MACHINE, SPECS, Spec, make_profile, with_names

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

from mnv4_deploy.reports.plots.roofline_plot import save_roofline
from mnv4_deploy.reports.profile.html_report import write_report

HOSTILE = "</script><script>alert(1)</script><b>$x_{1}$ <!-- \u2028 =cmd() &lt;\x07"
SHOWN = "</script><script>alert(1)</script><b>$x_{1}$ <!-- =cmd() &lt;"
NOTHING = (Spec("ODD", samples_us=(), cost=None), Spec("CONV_2D", samples_us=(), cost=OpCost(9)))


def svg_texts(path):
    root = ElementTree.parse(path).getroot()
    return ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]


class Page(HTMLParser):
    """The tags of a page, the text of each script, and its other text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self._inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs)) if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self._inside and self._inside[0] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif not self._inside:
            self.text.append(data)

    def handle_endtag(self, _tag):
        self._inside = None

    @property
    def words(self):
        return " ".join("".join(self.text).split())

    @property
    def data(self):
        (found,) = [text for attrs, text in self.scripts if attrs.get("id") == "data"]
        return json.loads(found)


def page_of(profile, tmp_path):
    path = tmp_path / "report.html"
    write_report(profile, path)
    return Page(path.read_text("utf-8"))


def test_points_are_the_layers_with_macs_and_a_time() -> None:
    profile = make_profile()
    points = {p.layer.module: p for p in points_of(profile)}
    assert set(points) == {
        "conv_stem", "blocks.0.0.dw_start", "blocks.0.0.pw_proj", "blocks.1.1.attn", "classifier",
    }  # fmt: skip
    # The classifier: 1.28 M MACs in 41 us over 1,282,280 bytes.
    assert points["classifier"].gmacs_per_s == pytest.approx(31.2195, rel=1e-4)
    assert points["classifier"].intensity == pytest.approx(0.99822, rel=1e-4)
    by_rank = sorted(points.values(), key=lambda p: p.rank or 0)
    assert [p.layer.module for p in by_rank][:3] == [
        "conv_stem", "blocks.0.0.pw_proj", "blocks.0.0.dw_start",
    ]  # fmt: skip


def test_ceilings_are_those_of_the_runtime_the_types_and_the_threads() -> None:
    lines = {line.label: line for line in ceiling_lines(make_profile())}
    assert lines["int8 peak of XNNPACK: 180 GMAC/s"].at(3.0) == 180
    assert lines["DRAM 15.0 GB/s"].at(2.0) == 30
    assert not any("float32" in label for label in lines)
    assert [line.kind for line in lines.values()].count("independent") == 1
    two = replace(MACHINE, ceilings=(replace(MACHINE.ceilings[0], threads=2),))
    assert ceiling_lines(make_profile(machine=two)) == ()
    assert limit_shares(make_profile())["memory (L2)"] == pytest.approx(100 * 61 / 574)


def test_svg_says_what_it_shows(tmp_path) -> None:
    path = tmp_path / "roofline.svg"
    save_roofline(make_profile(), [path])
    texts = svg_texts(path)
    everything = "\n".join(texts)
    assert "Roofline of hybrid-m-int8.tflite" in texts
    assert re.search(r"1 thread +· +[\d.]+ ms \(fastest run\), 0\.585 ms \(median", everything)
    for label in ("int8 peak of XNNPACK: 180 GMAC/s", "L1 200 GB/s", "L2 90.0 GB/s",
                  "L3 40.0 GB/s", "DRAM 15.0 GB/s"):  # fmt: skip
        assert label in texts, label
    for rank, name in enumerate(("conv_stem", "blocks.0.0.pw_proj", "blocks.0.0.dw_start"), 1):
        assert f"{rank}  {name}" in texts
    assert "62 %" in texts  # (255 + 99) / 574 is bound by arithmetic
    assert "Not in the plot: 5 layers without MACs or without a time, 0.099 ms" in everything
    assert "Cost not known: CUSTOM_THING." in everything


def test_svg_is_the_same_for_the_same_profile(tmp_path) -> None:
    for name in ("a.svg", "b.svg"):
        save_roofline(make_profile(), [tmp_path / name])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_png_shows_layers_in_their_colours(tmp_path) -> None:
    path = tmp_path / "roofline.png"
    save_roofline(make_profile(), [path])
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert pixels.shape[0] > 1000 * 800
    for colour in ("0072B2", "E69F00", "009E73", "CC79A7"):
        wanted = np.frombuffer(bytes.fromhex(colour), np.uint8)
        assert (pixels == wanted).all(axis=1).sum() > 100, colour


def test_without_ceilings_it_says_so_and_draws_no_line(tmp_path) -> None:
    path = tmp_path / "roofline.svg"
    save_roofline(make_profile(machine=None), [path])
    everything = "\n".join(svg_texts(path))
    assert "No ceilings are known for this machine" in everything
    assert "GB/s" not in everything
    assert "Slowest layers" in everything


@pytest.mark.parametrize("specs", [(), NOTHING], ids=["no layers", "no times"])
@pytest.mark.parametrize(("machine", "name"), [(None, "bare.png"), (MACHINE, "machine.svg")])
def test_nothing_to_draw_is_drawn(tmp_path, specs, machine, name) -> None:
    profile = make_profile(specs, machine=machine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_roofline(profile, [tmp_path / name])
    assert page_of(profile, tmp_path).data["layers"] == [] or specs


def test_plots_take_hostile_names_as_text(tmp_path) -> None:
    path = tmp_path / "roofline.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_roofline(with_names(make_profile(), "$x_{1}$ \\frac{ </text><script>&"), [path])
    assert "<script" not in path.read_text("utf-8")
    assert "1  $x_{1}$ \\frac{ </text><script>&"[:16] in "\n".join(svg_texts(path))
    long = with_names(make_profile(), "名前" + "m" * 5000)
    save_roofline(long, [path])
    assert max(map(len, svg_texts(path))) < 250


def test_no_two_labels_overlap(tmp_path, monkeypatch) -> None:
    """Fifty layers in nearly the same place, five of them named."""
    placed = []
    original = LabelLayout.place

    def spying(self, candidates):
        boxes = [tuple(c) for c in candidates]
        chosen = original(self, boxes)
        if chosen is not None:
            placed.append(boxes[chosen])
        return chosen

    monkeypatch.setattr(LabelLayout, "place", spying)
    specs = tuple(
        replace(SPECS[3], module=f"blocks.{i}.pw_proj", samples_us=(99.0 + i / 50,))
        for i in range(50)
    )
    save_roofline(make_profile(specs), [tmp_path / "r.png"])
    assert len(placed) == 5 + 6  # 5 names, 2 peaks, 4 levels
    for i, label in enumerate(placed):
        for other in placed[i + 1 :]:
            assert not overlap(label, other)


def test_layout_weighs_what_is_covered_against_distance() -> None:
    frame = Box(0, 0, 100, 100)
    places = list(around(50, 50, 20, 10))
    right_half = Box(50, 0, 100, 100)
    index = LabelLayout(frame, obstacles=[right_half]).place((p,) for p in places)
    assert index == 1
    assert overlap([places[1]], [right_half]) == 0
    # A sliver of two square pixels is not worth even the second place.
    first = places[0]
    sliver = Box(first.left, first.bottom, first.left + 2, first.bottom + 1)
    assert LabelLayout(frame, obstacles=[sliver]).place((p,) for p in places) == 0


def test_layout_never_overlaps_labels_and_gives_up_when_full() -> None:
    layout = LabelLayout(Box(0, 0, 100, 100))
    places = list(around(50, 50, 20, 10))
    chosen = []
    while (index := layout.place((p,) for p in places)) is not None:
        chosen.append(places[index])
    assert len(chosen) > 3
    for i, box in enumerate(chosen):
        assert layout.frame.holds(box)
        assert overlap([box], chosen[i + 1 :]) == 0
    chain = along(0, 0, 30, 10, 90)
    assert max(box.top for box in chain) == pytest.approx(30)


def test_page_has_every_layer_and_its_figures(tmp_path) -> None:
    profile = make_profile()
    page = page_of(profile, tmp_path)
    layers = page.data["layers"]
    assert [layer["op_type"] for layer in layers] == [spec.op_type for spec in SPECS]
    assert [layer["latency_us"] for layer in layers] == [x.latency_us for x in profile.layers]
    assert layers[1]["macs"] == 7_077_888
    assert layers[2]["block"] == "blocks.0.0"
    assert layers[9]["macs"] is None
    finding = profile.findings[0]
    assert f"{finding.title} – up to {milliseconds(finding.recoverable_us)} to win" in page.words
    for said in (finding.advice, *profile.trust.warnings, *profile.unknown_op_types):
        assert said in page.words
    assert "0.585 ms an inference" in page.words
    assert f"SHA-256 {profile.measurement.sha256}" in page.words
    points = sorted((p for p in points_of(profile) if p.rank), key=lambda p: p.rank or 0)
    worst = page.words[page.words.index("Most time to win") :]
    places = [worst.index(f"{layer_title(p.layer)} ({p.layer.op_type})") for p in points]
    assert places == sorted(places) and len(places) == 5
    shares = re.findall(r"flex: ([\d.]+) 0 0", " ".join(a.get("style", "") for _, a in page.tags))
    assert list(map(float, shares)) == pytest.approx(
        list(limit_shares(profile).values()), abs=0.0051
    )


def test_page_asks_no_network_for_anything(tmp_path) -> None:
    page = page_of(make_profile(), tmp_path)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "base"} or attributes["href"] == "data:,"
        assert attributes.get("src", "data:").startswith("data:")
    ours = [text for _, text in page.scripts if "Plotly.react" in text and len(text) < 100_000]
    assert len(ours) == 1
    assert "http" not in ours[0]


def test_page_escapes_hostile_names(tmp_path) -> None:
    page = page_of(with_names(make_profile(), HOSTILE), tmp_path)
    expected = page_of(make_profile(), tmp_path)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in expected.tags]
    assert SHOWN[:20] in page.words
    (raw,) = [text for attrs, text in page.scripts if attrs.get("id") == "data"]
    assert not re.search("[<>&\u2028\u2029]", raw)
    layer = page.data["layers"][1]
    assert layer["name"] == SHOWN
    assert layer["title"].startswith(SHOWN[:20])  # text, which the script escapes for plotly
    data = environment().from_string("{{ data|tojson }}").render(data={"b": HOSTILE, "a": 1})
    assert list(json.loads(data).items()) == [("b", HOSTILE), ("a", 1)]


@pytest.mark.parametrize("name", ["r.svg", "r.html"])
def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path, name) -> None:
    write = write_report if name.endswith("html") else lambda p, path: save_roofline(p, [path])
    with pytest.raises(OutputError, match="Cannot write"):
        write(make_profile(), tmp_path / "missing" / name)
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        write(make_profile(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path) -> None:
    with pytest.raises(UnsupportedError, match=r"\.png, \.svg or \.pdf"):
        save_roofline(make_profile(), [tmp_path / "a.png", tmp_path / "b.gif"])
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_matplotlib_as_it_was(tmp_path) -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "font.size": 33.0}):
        before = dict(matplotlib.rcParams)
        save_roofline(make_profile(), [tmp_path / "r.png"])
        assert dict(matplotlib.rcParams) == before


def sweep(**changes):
    points = (0.0, 1.0, 10.0, *(float(x) for x in range(50, 501, 50)))
    cost = {"small": (2e8, 6e6), "large": (2e9, 4e7), "$x_{1}$<b>": (9e8, 9e7)}
    facts = {
        "models": tuple(cost),
        "ridge_points": points,
        "model_time": {m: tuple(max(a, r * b) for r in points) for m, (a, b) in cost.items()},
        "accuracy_percent": {"small": 73.8, "large": 83.4, "$x_{1}$<b>": 72.0},
        "marks": {"Pixel 6 CPU": 31.2, "Pixel 8 EdgeTPU": 433.8, "beyond": 900.0},
    }
    return RidgeSweep(**{**facts, **changes})


def test_ridge_sweep_names_models_and_machines(tmp_path) -> None:
    save_ridge_sweep(sweep(), [tmp_path / "ridge.svg", tmp_path / "ridge.png"])
    texts = svg_texts(tmp_path / "ridge.svg")
    assert {"small", "large", "$x_{1}$<b>"} <= set(texts)
    assert {"Pixel 6 CPU 31.2", "Pixel 8 EdgeTPU 434"} <= set(texts)
    assert not any("beyond" in text for text in texts)
    assert {"at 0 MACs/byte", "at 500 MACs/byte"} <= set(texts)
    pixels = np.asarray(Image.open(tmp_path / "ridge.png").convert("L"))
    assert 0.005 < (pixels < 200).mean() < 0.5


def test_ridge_sweep_without_accuracy_or_with_one_point(tmp_path) -> None:
    path = tmp_path / "ridge.svg"
    save_ridge_sweep(sweep(accuracy_percent={}), [path])
    assert "No accuracy is known for these models." in svg_texts(path)
    one = {m: (t[1],) for m, t in sweep().model_time.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_ridge_sweep(sweep(ridge_points=(50.0,), model_time=one), [path])
    with pytest.raises(ValueError, match="at least one"):
        save_ridge_sweep(sweep(models=()), [path])


def test_names_beside_lines_keep_apart_and_move_as_little_as_that_asks() -> None:
    assert spread([10, 50, 90], 10, 0, 100) == [10, 50, 90]
    assert spread([50, 50, 50], 10, 0, 100) == [50, 60, 70]
    assert spread([95, 98, 99], 10, 0, 100) == [80, 90, 100]


def test_an_axis_of_accuracy_makes_no_gulf_of_an_image() -> None:
    low, high = axis_range(81.0, 81.1, 4.0)  # one of a thousand
    assert high - low == pytest.approx(4.0)
    assert (low + high) / 2 == pytest.approx(81.05)
    low, high = axis_range(60.0, 80.0, 4.0)
    assert low < 60 and high > 80 and high - low < 40


def test_pareto_front() -> None:
    points = {"a": (1.0, 70.0), "b": (2.0, 69.0), "c": (2.0, 75.0), "d": (3.0, 75.0)}
    assert pareto_front(points) == ["a", "c"]


@needs_chromium
@pytest.mark.parametrize("name", ["plain", HOSTILE])
def test_a_browser_draws_the_page_and_complains_of_nothing(tmp_path, name) -> None:
    profile = make_profile() if name == "plain" else with_names(make_profile(), name)
    path = tmp_path / "report.html"
    write_report(profile, path)
    page = browse(path)
    assert page.count("<tr") == 1 + len(SPECS)
    assert page.count('class="main-svg"') >= 3
    assert "10 of 10 layers" in page
    after_scripts = page.split("<main>")[1].split("<script>")[0]
    assert "alert(1)</script>" not in after_scripts
