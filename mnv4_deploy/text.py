"""Names from model files as harmless text, and numbers as people read them.

A name can hold anything: control characters, direction overrides, mathtext, formulas, markup.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from mnv4_deploy.decibels import CAP_DB
from mnv4_deploy.profiles.records.profile import Layer, ModelProfile, Statistic

# Control, format (direction overrides, zero width), surrogate, private use, unassigned.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# What a spreadsheet takes for the start of a formula (OWASP, "CSV injection").
_FORMULA_STARTS = ("=", "+", "-", "@")
_ELLIPSIS = "…"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_HUNDREDTHS = {"%", "points"}

# What every output says in place of its layers.
NO_OPERATOR_TIMES = (
    "No times of layers: the runtime gives none of operators. MACs and bytes are those of the"
    " file's operators, as if nothing were fused."
)

STATISTIC_TITLES: Mapping[Statistic, str] = {
    "min": "fastest",
    "p10": "10th percentile",
    "p50": "median",
    "mean": "mean",
}


def trust_sentence(profile: ModelProfile) -> str:
    """How far the times of a run can be trusted, in one line: the larger of what its batches
    differ by and what its layers leave of the whole is noise."""
    trust = profile.trust
    gap = 0.0 if profile.whole else abs(100 - trust.sum_percent)
    noise = max(1, math.ceil(max(trust.spread_percent, gap)))
    facts = [f"batches vary by {trust.spread_percent:.1f} %"]
    if not profile.whole:
        facts.append(f"layers add up to {trust.sum_percent:.1f} % of the undisturbed wall time")
        facts.append(f"profiling adds {trust.overhead_percent:+.1f} %")
    told = f"; {plural(len(profile.warnings), 'warning')} below" if profile.warnings else ""
    return f"Differences below {noise} % are noise in this run ({', '.join(facts)}){told}."


def visible(text: str) -> str:
    """``text`` without characters that are not seen; spaces and line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char for char in text if char == "\n" or unicodedata.category(char) not in _INVISIBLE
    )


def clean(name: str) -> str:
    """``name`` without characters that are not seen; white space becomes one space."""
    return " ".join(visible("".join(" " if char.isspace() else char for char in name)).split())


def shorten(name: str, limit: int) -> str:
    """``name`` in at most ``limit`` characters, cut in the middle: its two ends tell most."""
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return name[: limit - 1 - tail] + _ELLIPSIS + name[len(name) - tail :]


@lru_cache(maxsize=4096)
def brief(name: str, limit: int) -> str:
    """``name`` without characters that are not seen, in at most ``limit``."""
    return shorten(clean(name), limit)


def plot_text(name: str, limit: int = 200) -> str:
    """``name`` for matplotlib, which sets what stands between two dollars as mathematics."""
    return brief(name, limit).replace("$", r"\$")


def markup_text(name: str, limit: int = 200) -> str:
    """``name`` for plotly, which renders a subset of HTML and TeX in every label."""
    text = brief(name, limit)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(char, entity)
    return text


def cell_text(name: str) -> str:
    """``name`` for a CSV cell: what a spreadsheet would compute gets a leading apostrophe."""
    text = clean(name)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def layer_title(layer: Layer) -> str:
    """What to call ``layer``: its module, else its name, else its operator."""
    names = (layer.module, layer.name, layer.op_type)
    return next(filter(None, map(clean, names)), f"layer {layer.index}")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def milliseconds(us: float) -> str:
    """A time given in us, in ms with three significant digits."""
    return f"{significant(us / 1e3)} ms"


def significant(value: float) -> str:
    """Three significant digits without an exponent; every digit before the point."""
    if value == 0:
        return "0"
    for limit, digits in ((100.0, 0), (10.0, 1), (1.0, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def with_prefix(value: float) -> str:
    """``value`` with an SI prefix: 1.23e9 is "1.23 G"; the unit comes after it."""
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{significant(value / size)} {prefix}"
    return f"{significant(value)} "


def number_text(value: float | None, digits: int = 3) -> str:
    """Significant digits, with an exponent only where the zeros would be many."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-12:
        return "0"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def decibels_text(sqnr_db: float | None) -> str:
    """Without the unit, for columns that name it."""
    if sqnr_db is None or math.isnan(sqnr_db):
        return "–"
    return "identical" if sqnr_db >= CAP_DB else f"{sqnr_db:.1f}"


def in_db(sqnr_db: float) -> str:
    """With its unit; what does not differ has none."""
    shown = decibels_text(sqnr_db)
    return shown if sqnr_db >= CAP_DB else f"{shown} dB"


def p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def rounded(value: float, unit: str) -> str:
    """Two decimals of percents and points, four significant digits of anything else."""
    return f"{value:.2f}" if unit in _HUNDREDTHS else number_text(value, 4)


def with_interval(value: float, low: float | None, high: float | None, unit: str) -> str:
    """A figure with its unit, and its interval where there is one."""
    figure = f"{rounded(value, unit)} {unit}".rstrip()
    if low is None or high is None:
        return figure
    return f"{figure} ({rounded(low, unit)} to {rounded(high, unit)})"
