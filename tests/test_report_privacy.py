"""No report page asks anybody for anything, whatever is clicked: looked at in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from mnv4_deploy.profiles.roofline.analyse import analyse
from mnv4_deploy.reports.comparison.html_report import report_page as comparison_page
from mnv4_deploy.reports.drift.html_report import report_page
from tests.browser import clicked_through, needs_chromium
from tests.drift.drift_factory import make_result
from tests.profiles.comparison_factory import compared
from tests.profiles.profile_factory import MACHINE, make_profile
from tests.profiles.test_without_operators import RUN, measurement

WITHOUT_PLOTLY = ("drift", "comparison")
REPORTS = ("profile", "profile without layers", "drift", "comparison")
# What plotly's buttons are called that save a picture or change the view, and do nothing else.
HARMLESS = {
    *("toImage", "zoom2d", "pan2d", "select2d", "lasso2d"),
    *("zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"),
}
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')
CONFIG = re.compile(r"const config = (\{.*?\});", re.DOTALL)


def write_page(report: str, folder: Path) -> Path:
    path = folder / "report.html"
    if report == "drift":
        path.write_text(report_page(make_result(folder=folder / "images")), encoding="utf-8")
        return path
    if report == "comparison":
        path.write_text(comparison_page(compared()), encoding="utf-8")
        return path
    pytest.importorskip("plotly")
    from mnv4_deploy.reports.profile.html_report import write_report

    whole = report == "profile without layers"
    write_report(analyse(measurement(RUN), MACHINE) if whole else make_profile(), path)
    return path


def own_scripts() -> str:
    folder = files("mnv4_deploy.reports.profile")
    names = ("report_base.js", "report_charts.js", "report_bars.js", "report_page.js")
    return "\n".join(folder.joinpath(name).read_text("utf-8") for name in names)


def mode_bar() -> list[str]:
    found = re.search(r"modeBarButtons: (\[\[.*?\]\])", own_scripts(), re.DOTALL)
    assert found
    return [name for group in json.loads(found[1]) for name in group]


def test_charts_have_these_buttons_and_no_others() -> None:
    plotly = pytest.importorskip("plotly.offline").get_plotlyjs()
    assert set(mode_bar()) == HARMLESS
    for name in mode_bar():
        assert f'name:"{name}"' in plotly
    script = own_scripts()
    (config,) = CONFIG.findall(script)
    for setting in ("displaylogo: false", "showSendToCloud: false", 'plotlyServerURL: ""'):
        assert setting in config
    # Every chart is drawn with it.
    drawn = re.findall(r"Plotly\.(\w+)", script)
    assert set(drawn) == {"react"}
    assert len(drawn) == len(re.findall(r"\), config\);", script))


@pytest.mark.parametrize("report", REPORTS)
def test_the_policy_comes_first_and_knows_the_scripts(report, tmp_path) -> None:
    text = write_page(report, tmp_path).read_text("utf-8")
    (policy,) = POLICY.findall(text)
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    for name in ("default-src", "connect-src", "form-action", "base-uri"):
        assert rules[name] == "'none'"
    assert set(rules["img-src"].split()) <= {"data:", "blob:"}
    before = text[: text.index(policy)].lower()
    assert not re.search(r"<(script|style|link|body)", before)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    # Plotly names hosts, of maps and its own, that no chart here needs; the rest names none.
    rest = text.replace(max(scripts, key=len), "") if report not in WITHOUT_PLOTLY else text
    assert not re.search(r"\b(https?|wss?):|//\w+\.\w", rest)


@needs_chromium
@pytest.mark.parametrize("report", REPORTS)
def test_no_control_and_no_load_asks_anybody(report, tmp_path) -> None:
    page = write_page(report, tmp_path)
    visits = clicked_through(page, tmp_path, downloads=0 if report in WITHOUT_PLOTLY else 1)
    assert visits.requests == ()
    assert visits.attempts == ()
    assert visits.windows == ()
    assert visits.console == ()
    kinds = [each.split(" ")[0] for each in visits.clicked]
    if report == "drift":
        assert kinds.count("button") == page.read_text("utf-8").count("<button") > 10
        assert kinds.count("a") > 100
        return
    if report == "comparison":
        assert kinds == ["summary"]  # all there is to click: doubts about the measurement
        return
    assert kinds.count("button.modebar-btn") == len(mode_bar())
    (picture,) = visits.downloads
    assert len(Image.open(picture).convert("RGB").getcolors(1 << 24) or ()) > 100
    if report == "profile":
        controls = ("block-by", "block-order", "layer-order", "all-columns", "search")
        assert set(controls) <= {each.split(" ")[1] for each in visits.clicked}
        assert kinds.count("button") == len(re.findall(r'\["\w+", "[^"]+", \w+\]', own_scripts()))


LEAKS = """<!DOCTYPE html><html><head><title>leaks</title></head><body>
<img src="http://load.invalid/">
<form action="http://form.invalid/" method="post"><button>form</button></form>
<button onclick="window.open('http://window.invalid/')">window</button>
<button onclick="new Image().src = 'http://image.invalid/'">image</button>
<select onchange="fetch('http://fetch.invalid/', { mode: 'no-cors' })"><option>a</select>
<input type="checkbox" onchange="navigator.sendBeacon('http://beacon.invalid/')">
<a href="https://link.invalid/">link</a>
</body></html>"""


@needs_chromium
def test_what_a_page_asks_is_seen(tmp_path) -> None:
    page = tmp_path / "leaks.html"
    page.write_text(LEAKS, encoding="utf-8")
    visits = clicked_through(page, tmp_path, requests=6)
    gets = {f"GET http://{name}.invalid/" for name in ("load", "window", "image", "fetch")}
    posts = {f"POST http://{name}.invalid/" for name in ("form", "beacon")}
    assert set(visits.requests) == gets | posts
    assert set(visits.attempts) == {
        "form http://form.invalid/",
        "open http://window.invalid/",
        "fetch http://fetch.invalid/",
        "sendBeacon http://beacon.invalid/",
        "link https://link.invalid/",
    }
    assert len(visits.windows) == 1


@needs_chromium
def test_plotlys_own_buttons_would_upload_the_chart(tmp_path) -> None:
    """The page as plotly would have it, but for where it sends charts."""
    page = write_page("profile", tmp_path)
    text = POLICY.sub("", page.read_text("utf-8"))
    default = 'const config = { plotlyServerURL: "http://cloud.invalid/" };'
    text, changed = CONFIG.subn(default, text)
    assert changed == 1
    page.write_text(text, encoding="utf-8")
    visits = clicked_through(page, tmp_path, requests=1, downloads=1)
    bar = [each for each in visits.clicked if each.startswith("button.modebar-btn ")]
    assert len(bar) == len(mode_bar()) + 1
    assert {each.partition("?")[0] for each in visits.requests} == {"GET http://cloud.invalid/"}
    opened, link = sorted(visits.attempts, reverse=True)
    assert opened.startswith("open http://cloud.invalid/?")
    assert link == "link https://plotly.com/"
    assert len(visits.windows) == 1


# Before the policy, where a page has no script of its own: what one could do that it has.
SENDING = """<script>addEventListener("load", () => {
  fetch("http://fetch.invalid/").catch(() => {});
  navigator.sendBeacon("http://beacon.invalid/");
});</script>"""
SMUGGLED = """<base href="http://base.invalid/"><img src="http://image.invalid/">
<link rel="stylesheet" href="http://style.invalid/"><iframe src="http://frame.invalid/"></iframe>
<form action="http://form.invalid/"><button>form</button></form>
<script>open("http://window.invalid/")</script>
<script src="http://script.invalid/"></script>"""


@needs_chromium
@pytest.mark.parametrize("report", ["profile without layers", "drift"])
def test_the_policy_stops_what_is_smuggled_in(report, tmp_path) -> None:
    page = write_page(report, tmp_path)
    text = page.read_text("utf-8")
    text = text.replace("<head>", f'<head><meta charset="utf-8">{SENDING}', 1)
    page.write_text(text.replace("<body>", f"<body>{SMUGGLED}", 1), encoding="utf-8")
    visits = clicked_through(page, tmp_path)
    assert visits.requests == ()
    assert visits.windows == ()
    refused = [each.split(" ")[1] for each in visits.attempts if each.startswith("refused ")]
    assert "inline" in refused
    names = ("fetch", "beacon", "base", "image", "style", "frame", "form", "script")
    assert {urlsplit(url).hostname for url in refused} >= {f"{name}.invalid" for name in names}
