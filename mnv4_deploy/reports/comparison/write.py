"""Every file form of a comparison, all of them or none."""

from __future__ import annotations

from pathlib import Path

from mnv4_deploy.outputs import staged, write_manifest
from mnv4_deploy.profiles.roofline.comparison import Comparison
from mnv4_deploy.reports.comparison.comparison_json import comparison_to_dict
from mnv4_deploy.reports.comparison.csv_table import write_csv
from mnv4_deploy.reports.comparison.html_report import report_page
from mnv4_deploy.reports.comparison.junit import junit
from mnv4_deploy.reports.comparison.markdown import markdown

COMPARISON_JSON = "comparison.json"
REPORT = "comparison.html"
_CSV, _MARKDOWN, _JUNIT = "comparison.csv", "comparison.md", "comparison-junit.xml"
NAMES = (REPORT, _CSV, _MARKDOWN, _JUNIT)


def write_outputs(result: Comparison, limit: float | None, out: Path, *, overwrite: bool) -> None:
    """Write ``comparison.json`` and ``NAMES`` into the folder ``out``.

    Raises OutputError where ``out`` cannot take the files, MissingLibraryError without Jinja2.
    """
    with staged(out, overwrite=overwrite, manifest=COMPARISON_JSON) as folder:
        (folder / REPORT).write_text(report_page(result, limit), encoding="utf-8")
        with (folder / _CSV).open("w", encoding="utf-8", newline="") as stream:
            write_csv(result, stream)
        (folder / _MARKDOWN).write_text(markdown(result, limit), encoding="utf-8")
        (folder / _JUNIT).write_text(junit(result, limit), encoding="utf-8")
        write_manifest(folder, comparison_to_dict(result, limit), name=COMPARISON_JSON)
