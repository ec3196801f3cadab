"""One self-contained page about a profile: opens anywhere, asks no network for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template
from typing import Any

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.profiles.files.whole import write_whole
from mnv4_deploy.profiles.records.profile import ModelProfile
from mnv4_deploy.reports.plots.roofline_data import ceiling_lines, limit_shares, points_of
from mnv4_deploy.reports.profile.device_text import device_facts
from mnv4_deploy.reports.profile.html_sections import (
    block_names,
    key_figures,
    machine_facts,
    method_facts,
    trust_facts,
)
from mnv4_deploy.reports.profile.kinds import FAMILIES, WHOLE, family_of
from mnv4_deploy.reports.profile.rows import row_of, rows_of
from mnv4_deploy.text import NO_OPERATOR_TIMES, clean, layer_title, markup_text

_LABEL_CHARACTERS = 44
_SCRIPTS = ("report_base.js", "report_charts.js", "report_page.js")


def write_report(profile: ModelProfile, path: Path) -> None:
    """Write the report page of ``profile``, with plotly.js inside (about 5 MB).

    Raises ToolchainError where plotly is missing, OutputError where ``path`` cannot be written.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ToolchainError(
            "The HTML report needs plotly: pip install 'mnv4-deploy[profile]'."
        ) from error
    parts = files("mnv4_deploy.reports.profile")
    # A browser reads any line end as one of these, and so must the hash.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")
    script = "\n".join(parts.joinpath(name).read_text("utf-8") for name in _SCRIPTS)
    script = f"(() => {{\n{script}\n}})();"
    page = Template(parts.joinpath("report.html").read_text("utf-8")).substitute(
        title=_escaped(f"Profile of {PurePath(profile.measurement.path).name}"),
        style=parts.joinpath("report.css").read_text("utf-8"),
        # The browser runs these scripts and no other, whatever a name should smuggle in.
        script_hashes=f"{_hash(plotly)} {_hash(script)}",
        plotly=plotly,
        data=script_json(report_data(profile)),
        script=script,
    )
    write_whole(path, page.encode("utf-8"))


def script_json(data: Any) -> str:
    """JSON that is safe inside a ``<script>``: no character of it can end or open a tag."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def report_data(profile: ModelProfile) -> dict[str, Any]:
    """What the page's script draws. Only ``label`` and ``lines`` are markup, for plotly."""
    points = {point.layer.index: point for point in points_of(profile)}
    device = profile.measurement.device
    blocks = block_names(profile)
    layers = [
        {
            **{key: clean(cell) if isinstance(cell, str) else cell for key, cell in row.items()},
            "family": family_of(profile, layer).key,
            "block": blocks[layer.index],
            "label": markup_text(layer_title(layer), _LABEL_CHARACTERS),
            "rank": points[layer.index].rank if layer.index in points else None,
            "drawn": layer.index in points,
        }
        for layer, row in zip(profile.layers, rows_of(profile), strict=True)
    ]
    return {
        "title": clean(PurePath(profile.measurement.path).name),
        "figures": key_figures(profile),
        "findings": [
            {
                "title": clean(finding.title),
                "advice": clean(finding.advice),
                "recoverable_us": finding.recoverable_us,
                "layers": [clean(layer_title(profile.layers[index])) for index in finding.layers],
            }
            for finding in profile.findings
        ],
        "limits": limit_shares(profile),
        "has_ceilings": profile.ceilings is not None,
        "families": [
            {"key": f.key, "title": f.title, "colour": f.colour, "symbol": f.symbol}
            for f in FAMILIES
        ],
        "lines": [
            {"kind": line.kind, "label": markup_text(line.label), "value": line.value}
            for line in ceiling_lines(profile)
        ],
        "layers": layers,
        "whole": _whole(profile),
        "without_layers": NO_OPERATOR_TIMES if profile.whole else "",
        "device": device_facts(device) if device else [],
        "machine": machine_facts(profile),
        "method": method_facts(profile),
        "trust": trust_facts(profile),
        "warnings": [
            clean(warning)
            for warning in (*(device.warnings if device else ()), *profile.trust.warnings)
        ],
        "unknown_kinds": [clean(kind) for kind in profile.unknown_kinds],
    }


def _whole(profile: ModelProfile) -> dict[str, Any] | None:
    """The model as the one mark of the roofline, where there are no layers."""
    if profile.whole is None:
        return None
    row = row_of(profile.whole, None, profile.whole.latency_us)
    return {
        **{key: clean(cell) if isinstance(cell, str) else cell for key, cell in row.items()},
        "family": WHOLE.key,
        "label": markup_text(layer_title(profile.whole), _LABEL_CHARACTERS),
        "rank": None,
        "drawn": bool(points_of(profile)),
    }


def _hash(script: str) -> str:
    """``script`` as a source of a Content-Security-Policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _escaped(text: str) -> str:
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
