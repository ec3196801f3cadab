"""The command compare of two files: verdicts on planted times, exit codes, and what it writes."""

import csv
import json
import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from rich.console import Console

from mnv4_deploy.pipelines import compare as pipeline
from mnv4_deploy.profiles.measure import conditions, rounds
from mnv4_deploy.profiles.measure import measure as measuring
from mnv4_deploy.profiles.measure.sessions import SESSIONS
from mnv4_deploy.profiles.records.profile import MeasureRequest
from mnv4_deploy.profiles.runtimes import runners
from mnv4_deploy.progress import Progress
from mnv4_deploy.terminal.compare import print_comparison
from tests.conv_net import conv_net

pytest.importorskip("onnx")

# These files crash no runtime.
pytestmark = pytest.mark.usefixtures("no_child")
QUICK = ("--runs", "24", "--warmup", "1", "--max-seconds", "60")
FILES = {
    *("comparison.json", "comparison.csv", "comparison.html", "comparison.md"),
    "comparison-junit.xml",
}


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))
    return run


@pytest.fixture(scope="module")
def a(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("onnx") / "a.onnx", 8)


@pytest.fixture(scope="module")
def b(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("onnx") / "b.onnx", 64)


@pytest.fixture
def plant(monkeypatch):
    """Make runs take the given times; the files run all the same."""

    def plant_(us):
        """``us(name, session)``, the session from 0."""
        opened: dict[int, tuple[str, int]] = {}
        sessions: Counter[str] = Counter()
        open_runner = runners.open_runner

        def noted(path, settings):
            runner = open_runner(path, settings)
            opened[id(runner)] = (path.rpartition("/")[2], sessions[path])
            sessions[path] += 1
            return runner

        def timed(run):
            run()
            found = us(*opened[id(run.__self__)])
            return found, found

        monkeypatch.setattr(measuring, "open_runner", noted)
        monkeypatch.setattr(conditions, "_read_cpu_times", lambda: None)  # no other load
        monkeypatch.setattr(rounds, "time_run_and_cpu_us", timed)
        return sessions

    return plant_


def ratio_of(ratios):
    """B takes ``ratios`` times 100 us, by session, the last one from there on."""
    return lambda name, session: (
        100.0 * (ratios[min(session, len(ratios) - 1)] if name == "b.onnx" else 1.0)
    )


# Session after session; both orders of opening have both, so that the order explains nothing.
NOISY = [0.8, 0.8, 1.3, 1.3, 1.3, 1.3, 0.8, 0.8] * 4


@pytest.mark.parametrize(
    ("ratios", "limit", "code", "sessions"),
    [
        ([1.0], 1.0, 0, 8),
        ([1.04], 1.05, 0, 8),
        ([1.06], 1.05, 1, 8),
        ([0.5], 0.4, 1, 8),
        (NOISY, 1.05, 3, 32),
        (NOISY, 2.0, 0, 8),
        (NOISY, 0.5, 1, 8),
        # Eight sessions do not tell, sixteen do.
        ([0.9, 0.9, 1.1, 1.1, 1.1, 1.1, 0.9, 0.9, 1.0], 1.09, 0, 16),
    ],
)
def test_the_gate(run, a, b, plant, ratios, limit, code, sessions):
    opened = plant(ratio_of(ratios))
    found, out, err = run("compare", a, b, "--fail-if-slower", limit, "--json", *QUICK)
    content = json.loads(out)
    assert (found, len(content["sessions"])) == (code, sessions)
    assert set(opened.values()) == {sessions}
    outcome = {0: "passed", 1: "failed", 3: "inconclusive"}[code]
    assert content["gate"]["outcome"] == outcome
    assert (err == "") is (code == 0)
    low, high = content["ratio"]["low"], content["ratio"]["high"]
    assert (low > limit, high <= limit) == (code == 1, code == 0)
    assert content["interval_percent"] == pytest.approx(100 - 5 / 3)


def test_a_total_limit_of_one_part_is_one_look(run, a, b, plant):
    opened = plant(ratio_of(NOISY))
    gate = ("--fail-if-slower", 1.05, "--max-total-seconds", 60)
    code, out, _ = run("compare", a, b, *gate, "--json", *QUICK)
    assert (code, set(opened.values())) == (3, {SESSIONS})
    assert json.loads(out)["interval_percent"] == 95


@pytest.mark.parametrize(
    ("ratios", "verdict", "words"),
    [
        ([0.5], "faster", "B is faster"),
        ([2.0], "slower", "B is slower"),
        (NOISY, "unclear", "No difference that can be told"),
    ],
)
def test_without_a_limit_the_verdict_is_in_words(run, a, b, plant, ratios, verdict, words):
    plant(ratio_of(ratios))
    code, out, _ = run("compare", a, b, "--json", *QUICK)
    content = json.loads(out)
    assert (code, content["verdict"], content["gate"]) == (0, verdict, None)
    assert len(content["sessions"]) == SESSIONS
    code, out, _ = run("compare", a, b, *QUICK)
    assert code == 0 and words in out


def test_what_opens_second_being_faster_is_no_difference(run, a, b, plant):
    """By 5 % in every session: a fixed order would call it B's."""
    first = [False, True, True, False, True, False, False, True]

    def us(name, session):
        return 95.0 if (name == "b.onnx") is not first[session] else 100.0

    plant(us)
    _, out, _ = run("compare", a, b, "--json", *QUICK)
    ratio = json.loads(out)["ratio"]
    assert [ratio[key] for key in ("low", "value", "high")] == pytest.approx([1.0] * 3)


def test_slow_files_get_fewer_sessions_and_runs(a, b, plant):
    opened = plant(lambda name, session: 2e6)  # noqa: ARG005 - two seconds each
    requests = [MeasureRequest(str(path), runs=400, warmup=0, max_seconds=4) for path in (a, b)]
    result = pipeline.compare(pipeline.CompareRequest(*requests), Progress(show=False))
    assert set(opened.values()) == {4} == {len(result.sessions)}
    assert [session.rounds for session in result.sessions[1:]] == [1, 1, 1]


def test_it_measures_really(run, a, b):
    code, out, _ = run("compare", a, b, "--json", *QUICK)
    assert code == 0
    content = json.loads(out)
    assert content["schema_version"] == 3
    assert content["ratio"]["value"] > 1.5
    assert content["ratio"]["low"] <= content["ratio"]["value"] <= content["ratio"]["high"]
    assert content["ratio"]["statistic"] == "p10" and content["ratio"]["of"] == "cpu_time"
    assert {"stem", "blocks.0.pw"} <= {m["module"] for m in content["modules"]}
    for side in ("a", "b"):
        wall = content[side]["wall"]
        assert len(wall["rounds_us"]) == sum(s["rounds"] for s in content["sessions"])
        assert content["figures"]["min"][f"{side}_us"] == wall["min_us"]
        assert content["figures"]["p50"][f"{side}_us"] == wall["p50_us"]
        layer = content[side]["layers"][0]
        assert len(layer["samples_us"]) == 24  # of all sessions


def test_figures_are_whole_at_80_columns(run, a, b, plant, monkeypatch):
    plant(lambda name, session: 123456.789 if name == "b.onnx" else 98765.432)  # noqa: ARG005
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("compare", a, b, "--runs", "8", "--warmup", "0")
    for figure in ("98.765", "123.457", "1.250"):
        assert len(re.findall(rf"(?<!\S){re.escape(figure)}(?!\S)", out)) >= 3


def test_outputs_are_written_together_and_replaced_only_when_asked(run, a, b, plant, tmp_path):
    plant(ratio_of([2.0]))
    out = tmp_path / "out"
    arguments = ("compare", a, b, "--out", out, *QUICK)
    assert run(*arguments)[0] == 0
    assert {path.name for path in out.iterdir()} == FILES
    before = (out / "comparison.json").read_bytes()
    (out / "mine.txt").write_text("mine")
    code, _, err = run(*arguments)
    assert code == 2 and "--overwrite" in err
    assert (out / "comparison.json").read_bytes() == before
    (out / "comparison.md").write_text("changed since, so mine")
    code, _, err = run(*arguments, "--overwrite")
    assert code == 2 and "comparison.md" in err
    (out / "comparison.md").unlink()
    assert run(*arguments, "--overwrite")[0] == 0
    assert {path.name for path in out.iterdir()} == {*FILES, "mine.txt"}
    assert (out / "comparison.json").read_bytes() != before


@pytest.mark.parametrize(
    ("ratios", "code", "outcome"),
    [([1.0], 0, "passed"), ([1.2], 1, "failed"), (NOISY, 3, "inconclusive")],
)
def test_the_forms_agree(run, a, b, plant, tmp_path, ratios, code, outcome):
    plant(ratio_of(ratios))
    out = tmp_path / "out"
    gate = ("--fail-if-slower", "1.05", "--out", out)
    assert run("compare", a, b, *gate, *QUICK)[0] == code
    content = json.loads((out / "comparison.json").read_text())
    assert content["gate"]["outcome"] == outcome
    sentence = content["gate"]["sentence"]

    suites = ElementTree.parse(out / "comparison-junit.xml").getroot()
    (case,) = suites.iter("testcase")
    kinds = [child.tag for child in case if child.tag != "system-out"]
    assert kinds == {0: [], 1: ["failure"], 3: ["skipped"]}[code]
    assert all(child.get("message") == sentence for child in case if child.tag in kinds)
    counts = [suites.get(key) for key in ("tests", "failures", "skipped", "errors")]
    assert counts == ["1", str(int(code == 1)), str(int(code == 3)), "0"]

    rows = list(csv.DictReader((out / "comparison.csv").open(newline="")))
    (ratio,) = [row for row in rows if row["what"] == "model" and row["low"]]
    assert float(ratio["ratio"]) == content["ratio"]["value"]
    assert float(ratio["high"]) == content["ratio"]["high"]
    by_statistic = {row["statistic"]: row for row in rows if row["what"] == "model"}
    assert float(by_statistic["p50"]["b_us"]) == content["figures"]["p50"]["b_us"]
    modules = [row["name"] for row in rows if row["what"] == "module"]
    assert modules == [module["module"] for module in content["modules"]]

    shown = f"{content['ratio']['value']:.3f} [{content['ratio']['low']:.3f}-"
    for name in ("comparison.md", "comparison.html"):
        text = (out / name).read_text()
        assert shown in text
        assert "b.onnx" in text and "a.onnx" in text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--fail-if-slower", "0"), "--fail-if-slower"),
        (("--fail-if-slower", "nan"), "--fail-if-slower"),
        (("--fail-if-slower", "1.05", "--max-total-seconds", "1"), "--max-total-seconds"),
        (("--fail-if-slower", "1.05", "--max-total-seconds", "nan"), "--max-total-seconds"),
        (("--max-total-seconds", "100"), "--fail-if-slower"),
        (("--top", "-1"), "--top"),
    ],
)
def test_what_makes_no_sense_is_refused(run, a, b, options, named):
    code, out, err = run("compare", a, b, *options, *QUICK)
    assert (code, out) == (2, "") and named in err and "Traceback" not in err


def test_help_tells_of_the_third_outcome(run):
    code, out, _ = run("compare", "--help")
    assert code == 0
    assert re.search(r"^\s+3\s+inconclusive", out, re.MULTILINE)


def test_names_are_harmless_in_every_form(a, plant, tmp_path, run):
    evil = conv_net(tmp_path / "=x|`y`<script>@me.onnx", 8)
    plant(lambda name, session: 100.0)  # noqa: ARG005
    out = tmp_path / "out"
    assert run("compare", a, evil, "--out", out, *QUICK)[0] == 0
    ElementTree.parse(out / "comparison-junit.xml")
    page = (out / "comparison.html").read_text()
    assert page.count("<script") == 1  # the page's own
    assert "`y`<script>" not in page
    assert "`y`&lt;script&gt;" in page
    title = (out / "comparison.md").read_text().partition("\n")[0]
    assert title.startswith(r"### `` =x\|`y`<script>@me.onnx `` against")  # as code: no mention


def test_on_the_terminal_nothing_is_taken_for_markup(a, b, plant, capsys):
    plant(ratio_of([2.0]))
    requests = [MeasureRequest(str(path), runs=8, warmup=0) for path in (a, b)]
    result = pipeline.compare(pipeline.CompareRequest(*requests), Progress(show=False))
    print_comparison(result, console=Console(width=80, color_system=None))
    assert "2.000 [2.000-2.000]" in capsys.readouterr().out
