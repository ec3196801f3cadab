"""A comparison as JUnit XML: one test case, the form that CI systems show."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import PurePath
from xml.etree import ElementTree

from mnv4_deploy.profiles.roofline.comparison import Comparison
from mnv4_deploy.profiles.roofline.verdict import outcome_of
from mnv4_deploy.reports.comparison.words import ratio_text, ratio_title, sentence_of
from mnv4_deploy.text import clean

_SUITE = "mnv4-deploy compare"
_US = 1e-6


def junit(result: Comparison, limit: float | None = None) -> str:
    """The test case fails with the gate and is skipped where that is inconclusive; without
    ``limit`` it passes. Its time is that of the recorded runs."""
    outcome = "passed" if limit is None else outcome_of(result.ratio, limit)
    sentence = clean(sentence_of(result, limit))
    seconds = f"{_seconds(result):.3f}"
    counts = {
        "tests": "1",
        "failures": str(int(outcome == "failed")),
        "errors": "0",
        "skipped": str(int(outcome == "inconclusive")),
        "time": seconds,
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _SUITE, **counts})
    a, b = (clean(PurePath(p.measurement.path).name) for p in (result.a, result.b))
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {"classname": _SUITE, "name": f"{b} against {a}", "time": seconds},
    )
    if outcome == "failed":
        ElementTree.SubElement(case, "failure", {"message": sentence, "type": "slower"})
    elif outcome == "inconclusive":
        ElementTree.SubElement(case, "skipped", {"message": sentence})
    out = ElementTree.SubElement(case, "system-out")
    out.text = f"{sentence}\nB/A {ratio_text(result.ratio)} ({ratio_title(result)})"
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _seconds(result: Comparison) -> float:
    measured = (profile.measurement for profile in (result.a, result.b))
    rounds = (burst for m in measured for burst in (*m.rounds_us, *m.profiled_rounds_us))
    return _US * math.fsum(chain.from_iterable(rounds))
