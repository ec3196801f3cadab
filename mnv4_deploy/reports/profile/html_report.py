"""One self-contained page about a profile: opens anywhere, asks no network for anything."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path, PurePath
from typing import Any

from mnv4_deploy.errors import missing_library
from mnv4_deploy.profiles.files.whole import write_whole
from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.profiles.roofline.groups import NO_MODULE
from mnv4_deploy.reports.labels import distinct
from mnv4_deploy.reports.page import render_page, resource
from mnv4_deploy.reports.plots.roofline_data import ceiling_lines, points_of
from mnv4_deploy.reports.plots.roofline_plot import roofline_svg
from mnv4_deploy.reports.profile.device_text import device_facts
from mnv4_deploy.reports.profile.html_sections import (
    beside_facts,
    key_figures,
    limit_parts,
    machine_facts,
    method_facts,
    trust_facts,
)
from mnv4_deploy.reports.profile.kinds import FAMILIES, family_of
from mnv4_deploy.reports.profile.rows import Cell, row_of
from mnv4_deploy.text import (
    NO_OPERATOR_TIMES,
    brief,
    clean,
    layer_title,
    markup_text,
    trust_sentence,
)

_NAME_CHARACTERS = 60
_NO_CEILINGS = "None are known for this machine and number of threads."
_SCRIPTS = ("report_base.js", "report_charts.js", "report_bars.js", "report_page.js")


def write_report(profile: ModelProfile, path: Path) -> None:
    """Write the report page of ``profile``, with plotly.js inside (about 5 MB).

    Raises MissingLibraryError without plotly, matplotlib or Jinja2, OutputError where ``path``
    cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_library("The HTML report needs plotly", "profile") from error
    script = "\n".join(resource(f"profile/{name}") for name in _SCRIPTS)
    script = f"(() => {{\n{script}\n}})();\n{resource('page.js')}"
    measured = profile.measurement
    device = device_facts(measured.device) if measured.device else []
    method, machine = method_facts(profile), machine_facts(profile)
    known = {**dict(machine), **dict(method), **dict(device)}
    page = render_page(
        "profile/page.html.j2",
        title=_title(profile),
        scripts=[get_plotlyjs(), script],
        data=report_data(profile),
        titles=layer_titles(profile),
        picture=f"data:image/svg+xml;base64,{b64encode(roofline_svg(profile)).decode('ascii')}",
        profile=profile,
        name=PurePath(measured.path).name,
        subtitle=filter(
            None,
            (
                *(known.get(key) for key in ("Device", "System", "Runtime")),
                "" if profile.prediction else f"threads: {measured.threads}",
                known.get("Processor") or known.get("CPU"),
            ),
        ),
        figures=key_figures(profile),
        trust="" if profile.prediction else trust_sentence(profile),
        warnings=profile.warnings,
        no_operator_times=NO_OPERATOR_TIMES,
        limits=limit_parts(profile),
        worst=[
            point.layer
            for point in sorted(points_of(profile), key=lambda point: point.rank or 0)
            if point.rank and not profile.whole
        ],
        facts=(
            *((("Device", device),) if device else ()),
            *(() if profile.prediction else (("Can it be believed?", trust_facts(profile)),)),
            ("Method", method),
            ("Machine and its ceilings", machine or [("Ceilings", _NO_CEILINGS)]),
            ("Files beside this page", beside_facts(profile)),
        ),
    )
    write_whole(path, page.encode("utf-8"))


def _brief_cell(cell: Cell) -> Cell:
    """Without characters that are not seen, and without digits that none needs."""
    if isinstance(cell, float):
        return float(f"{cell:.7g}")
    return clean(cell) if isinstance(cell, str) else cell


def _title(profile: ModelProfile) -> str:
    name = PurePath(profile.measurement.path).name
    if profile.prediction:
        return f"Predicted profile of {name} for {profile.prediction.title}"
    return f"Profile of {name}"


def layer_titles(profile: ModelProfile) -> list[str]:
    """What the page calls each layer, by its index; no two the same."""
    layers = profile.rows
    return distinct(
        [brief(layer_title(layer), _NAME_CHARACTERS) for layer in layers],
        [brief(layer.op_type, _NAME_CHARACTERS) for layer in layers],
        [layer.index for layer in layers],
    )


def report_data(profile: ModelProfile) -> dict[str, Any]:
    """What the page's script draws. Only the labels of ``lines`` are markup, for plotly.

    ``whole`` is the model as the one mark of the roofline, where there are no layers.
    """
    ranks = {point.layer.index: point.rank for point in points_of(profile)}
    total_us = sum(layer.latency_us for layer in profile.rows)
    marks = [
        {
            **{key: _brief_cell(cell) for key, cell in row_of(layer, total_us).items()},
            "family": family_of(profile, layer).key,
            "block": clean(block_of(layer.module)) or NO_MODULE,
            "title": title,
            "rank": None if profile.whole else ranks.get(layer.index),
            "drawn": layer.index in ranks,
        }
        for layer, title in zip(profile.rows, layer_titles(profile), strict=True)
    ]
    return {
        "predicted": profile.prediction is not None,
        "families": [
            {"key": f.key, "title": f.title, "colour": f.colour, "symbol": f.symbol}
            for f in FAMILIES
        ],
        "lines": [
            {"kind": line.kind, "label": markup_text(line.label), "value": line.value}
            for line in ceiling_lines(profile)
        ],
        "layers": [] if profile.whole else marks,
        "whole": marks[0] if profile.whole else None,
    }
