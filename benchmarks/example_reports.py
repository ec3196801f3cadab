"""Write the reports of docs/examples anew: python benchmarks/example_reports.py out/hybrid-m.

The folder is of ``mnv4-deploy export hybrid-m``. Plotly is left out of the pages (5 MB each),
which then show the still picture of the roofline; all else is as the commands write it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
# By the page that each writes into its folder.
COMMANDS = {
    "report.html": ("profile", "hybrid-m-int8.tflite"),
    "drift-report.html": (
        *("drift", "--reference", "hybrid-m-fp32.onnx", "--candidate", "hybrid-m-int8.tflite"),
        *("--images", "200", "--layer-images", "16"),
    ),
}
NAMES = {"report.html": "profile.html", "drift-report.html": "drift.html"}
_SCRIPT = re.compile(r"<script>.*?</script>\n?", re.DOTALL)
_PLOTLY_CHARACTERS = 1_000_000


def without_plotly(page: str) -> str:
    return _SCRIPT.sub(lambda found: found[0] if len(found[0]) < _PLOTLY_CHARACTERS else "", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of an export of hybrid-m, such as out/hybrid-m")
    models = parser.parse_args().folder.resolve()
    EXAMPLES.mkdir(exist_ok=True)
    for page, command in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "mnv4_deploy", *command, "--out", f"{folder}/out"]
            # From their folder: the page says which file it is about as it was given.
            subprocess.run(line, cwd=models, check=True)
            text = (Path(folder) / "out" / page).read_text("utf-8")
        (EXAMPLES / NAMES[page]).write_text(without_plotly(text), encoding="utf-8")


if __name__ == "__main__":
    main()
