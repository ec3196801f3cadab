"""The main job as users run it: one export, whose files many tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.shared import Shared
from tests.traces import run_traced

EVAL_IMAGES, CALIBRATION_IMAGES = 100, 32
REAL = (
    *("export", "--model", "hybrid-m", "--int8", "--size", "64", "--json"),
    *("--eval-images", str(EVAL_IMAGES), "--calib-images", str(CALIBRATION_IMAGES)),
)
_OUT = Path("new", "hybrid-m")  # in a folder that is not there yet


@dataclass(frozen=True)
class Export:
    """The folder that the command ran in, where it was told to put its files, and what it said."""

    folder: Path
    told: str
    stdout: str
    stderr: str

    @property
    def out(self) -> Path:
        """Where its files are now."""
        return self.folder / _OUT


def hybrid_export(shared: Shared) -> Export:
    """Hybrid-M at 64 px with its bundled weights, exported by a process of its own."""

    def export(folder: Path) -> tuple[str, str, str]:
        told = str(folder / _OUT)
        done = run_traced(folder, *REAL, "--out", told)
        assert done.returncode == 0, done.stderr
        return told, done.stdout, done.stderr

    folder, said = shared.folder_and_value("hybrid-export", export)
    return Export(folder, *said)
