"""The reports of docs/examples: what the commands write, without plotly."""

import re

import pytest

from benchmarks.example_reports import EXAMPLES, NAMES, without_plotly
from tests.browser import browse, needs_chromium
from tests.profiles.profile_factory import SPECS, make_profile


def test_examples_are_there_small_and_tell_nothing_of_who_made_them() -> None:
    for name in NAMES.values():
        page = (EXAMPLES / name).read_text("utf-8")
        assert len(page) < 400_000
        assert not re.search(r"/(home|tmp|root|Users)/|https?://", page)


@needs_chromium
def test_without_plotly_the_page_shows_the_picture_and_all_else(tmp_path) -> None:
    pytest.importorskip("plotly")
    from mnv4_deploy.reports.profile.html_report import write_report

    path = tmp_path / "report.html"
    write_report(make_profile(), path)
    path.write_text(without_plotly(path.read_text("utf-8")), encoding="utf-8")
    page = browse(path)
    assert "main-svg" not in page
    assert not re.search(r'<html[^>]*class="[^"]*live', page)
    assert page.count("<tr") == 1 + len(SPECS)
    assert page.count('class="bar-row"') > 5
