"""Matplotlib without its global state: figures that are drawn off screen and written whole."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv4_deploy.errors import UnsupportedError, missing_library
from mnv4_deploy.profiles.files.whole import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg", "pdf")
_DPI = 150
INK = "#222222"
MUTED = "#666666"


def check_format(path: Path) -> str:
    """The image format that ``path`` asks for. Raises UnsupportedError for any other."""
    name = path.suffix.lower().lstrip(".")
    if name not in _FORMATS:
        raise UnsupportedError(f"Cannot draw {path.name}: give it the ending .png, .svg or .pdf.")
    return name


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own defaults, whatever the user's matplotlibrc says.

    Raises MissingLibraryError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise missing_library("Plots need matplotlib", "profile") from error
    style: dict[Any, Any] = {
        # Text stays text in an SVG: it can be searched, and it is smaller.
        "svg.fonttype": "none",
        "svg.hashsalt": "mnv4-deploy",
        "text.usetex": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.labelcolor": INK,
        "text.color": INK,
    }
    skipped = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}
    defaults: dict[Any, Any] = {
        k: v for k, v in matplotlib.rcParamsDefault.items() if k not in skipped
    }
    with warnings.catch_warnings():
        # A name may hold characters the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
        with matplotlib.rc_context({**defaults, **style}):
            yield


def save(figure: Figure, paths: Sequence[Path]) -> None:
    """Write ``figure`` to each of ``paths`` in the format of its ending."""
    for path in paths:
        write_whole(path, encoded(figure, check_format(path)))


def encoded(figure: Figure, name: str) -> bytes:
    """``figure`` in the image format ``name``."""
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(name)
    figure.savefig(buffer, format=name, dpi=_DPI, metadata=undated)
    return buffer.getvalue()
