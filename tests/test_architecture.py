"""The rules of the code's structure that a reader relies on."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("mnv4_deploy", "models", "exporters", "profiles")
MAX_LINES = 400
# What makes a command slow to start. Commands import these when they need them.
HEAVY = {
    "ai_edge_litert",
    "ai_edge_quantizer",
    "huggingface_hub",
    "litert_torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "PIL",
    "torch",
}


def sources() -> list[Path]:
    found = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    ]
    assert len(found) > 40
    return found


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["mnv4_deploy", "mnv4_deploy.cli.app"])
def test_starting_imports_nothing_heavy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("package", ["models", "exporters", "profiles"])
def test_packages_import_without_torch_and_runtimes(package: str) -> None:
    """An import of a package alone, as any import of a module in it does first."""
    code = f"import sys, mnv4_deploy.{package}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not (HEAVY - {"numpy", "PIL"}) & set(done.stdout.split())


def test_files_have_one_job() -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in sources()
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
