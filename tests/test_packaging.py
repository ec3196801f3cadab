"""What is installed is what the checkout has, and what the code needs is declared."""

import ast
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mnv4_deploy
from mnv4_deploy.cli import app as cli
from mnv4_deploy.models import weights

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
DEMO = tomllib.loads((ROOT / "demo_data" / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
EXTRAS = PROJECT["project"]["optional-dependencies"]


def sources() -> list[Path]:
    return [path for folder in FOLDERS.values() for path in folder.glob("*.py")]


def imported_packages(path: Path) -> set[str]:
    """The top-level names of every import of a file, lazy ones included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def requirements(extra: str = "") -> dict[str, Requirement]:
    """The direct requirements of the project, or of an extra with all the extras it takes in."""
    listed = EXTRAS[extra] if extra else PROJECT["project"]["dependencies"]
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, listed):
        if requirement.name == "mnv4-deploy":
            for inner in requirement.extras:
                found |= requirements(inner)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def contents(folder: Path) -> dict[str, str]:
    """sha256 of each file below a folder, but for subpackages, caches and hidden files."""
    found: dict[str, str] = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__":
            continue
        if path.is_file():
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir() and not path.is_symlink() and not (path / "__init__.py").exists():
            found |= {f"{path.name}/{name}": digest for name, digest in contents(path).items()}
    return found


def demo_globs() -> list[str]:
    (globs,) = DEMO["tool"]["setuptools"]["package-data"].values()
    return list(globs)


def test_every_package_on_disk_is_packaged() -> None:
    on_disk = {"mnv4_deploy"}
    own = [p for p in (ROOT / "mnv4_deploy").iterdir() if p.is_dir() and not p.is_symlink()]
    for top in (*own, *(ROOT / name for name in ("exporters", "models", "profiles"))):
        for init in top.rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            on_disk.add(".".join(parts if top in own else ("mnv4_deploy", *parts)))
    assert set(SETUPTOOLS["packages"]) == set(FOLDERS) == on_disk
    assert all((folder / "__init__.py").is_file() for folder in FOLDERS.values())


def test_the_links_for_working_in_the_checkout_agree_with_the_packaging() -> None:
    for top in ("exporters", "models", "profiles"):
        assert (ROOT / "mnv4_deploy" / top).resolve() == FOLDERS[f"mnv4_deploy.{top}"].resolve()


@pytest.mark.parametrize("package", FOLDERS)
def test_globs_take_every_data_file(package: str) -> None:
    folder = FOLDERS[package]
    globs = SETUPTOOLS["package-data"].get(package, [])
    if package == "mnv4_deploy.models":
        globs = [*globs, *(f"data/{glob}" for glob in demo_globs())]
    taken = {path.relative_to(folder).as_posix() for glob in globs for path in folder.glob(glob)}
    assert {name for name in contents(folder) if not name.endswith(".py")} <= taken
    assert all(any(folder.glob(glob)) for glob in globs)


@pytest.mark.parametrize("package", FOLDERS)
def test_installed_files_are_those_of_the_checkout(package: str) -> None:
    installed = Path(mnv4_deploy.__file__).parent.joinpath(*package.split(".")[1:])
    assert contents(installed) == contents(FOLDERS[package])


def matched(folder: Path, globs: list[str]) -> dict[str, int]:
    """Sizes in bytes."""
    files = {path for glob in globs for path in folder.glob(glob) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def test_the_network_and_photographs_are_a_distribution_of_their_own() -> None:
    """A board needs neither: each file is in one of the two, and the small ones in ours."""
    models = FOLDERS["mnv4_deploy.models"]
    ours = matched(models, SETUPTOOLS["package-data"]["mnv4_deploy.models"])
    demo = matched(models / "data", demo_globs())
    assert {"data/imagenet1k-labels.txt", "data/LABELS.md", "timm_checkpoints.toml"} <= set(ours)
    assert {
        *("ATTRIBUTION.md", "imagenet-cc-by/labels.csv"),
        *("hybrid-m-cifar10/bundle.toml", "hybrid-m-cifar10/weights.safetensors"),
    } <= set(demo)
    assert not set(ours) & {f"data/{name}" for name in demo}
    assert sum(ours.values()) < 1e6
    assert sum(demo.values()) > 20e6


def test_the_demonstration_is_of_the_same_version_and_goes_where_it_is_looked_for() -> None:
    assert DEMO["project"]["version"] == PROJECT["project"]["version"]
    folders = DEMO["tool"]["setuptools"]["package-dir"]
    assert [*folders] == DEMO["tool"]["setuptools"]["packages"] == ["mnv4_deploy.models.data"]
    there = (ROOT / "demo_data" / folders["mnv4_deploy.models.data"]).resolve()
    assert there == (FOLDERS["mnv4_deploy.models"] / "data").resolve()


@pytest.mark.parametrize("asked", [("hybrid-m",), ("conv-s", "--weights", "random", "--int8")])
def test_without_the_demonstration_one_sentence_says_what_to_do(
    asked: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(weights, "bundles", lambda: ())
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", *asked, "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert "./demo_data" in told
    assert not (tmp_path / "out").exists()


def test_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert mnv4_deploy.__version__ == importlib.metadata.version("mnv4-deploy") == version


def test_license_files_exist_and_are_the_license_named() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    for name in PROJECT["project"]["license-files"]:
        assert (ROOT / name).is_file()
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_every_import_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    own = {"__future__", "mnv4_deploy"}
    # The predecessor of ai-edge-litert, which old devices bring along.
    own.add("tflite_runtime")
    declared = set(requirements()) | set(requirements("export")) | set(requirements("cluster"))
    for path in sources():
        for name in imported_packages(path) - own - set(sys.stdlib_module_names):
            providers = {canonicalize_name(found) for found in distributions.get(name, [name])}
            assert providers & declared, f"{path.name} imports {name}"


def test_no_module_is_named_after_a_library_it_could_shadow() -> None:
    libraries = set().union(*map(imported_packages, sources())) - set(sys.stdlib_module_names)
    assert {"torch", "onnx", "litert_torch"} <= libraries
    assert not {path.stem for path in sources()} & libraries


def test_constraints_pin_every_requirement_within_its_range() -> None:
    pinned = pins()
    for name, requirement in (requirements() | requirements("dev")).items():
        assert requirement.specifier.contains(pinned[name]), requirement


def test_constraints_name_versions_that_any_index_has() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*")
    assert not [line for line in lines if not line.startswith("#") and not pattern.fullmatch(line)]


def test_constraints_cover_what_requirements_bring_along() -> None:
    """Each pinned package's own requirements, as this environment has them, are pinned too."""
    pinned = pins()
    for name in pinned:
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert needed in pinned or needed == "setuptools", f"{name} needs {needed}"


def test_base_and_runtimes_bring_no_torch() -> None:
    """A device needs the base and one runtime; neither may bring the exporter's gigabytes."""
    todo = list(requirements() | requirements("runtimes"))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(requirement.name))
    assert {"numpy", "onnxruntime", "protobuf"} <= seen
    assert not {"torch", "litert-torch", "transformers", "jax", "scipy"} & seen


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_removes_only_what_make_has_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    theirs = ["out/hybrid-m/model.onnx", "build/notes", "dist/a.whl", "mine/thesis.tex", ".venv/x"]
    ours = ["build/lib/a.py", "mnv4_deploy.egg-info/PKG-INFO", ".mypy_cache/x", "made/pyvenv.cfg"]
    for name in (*theirs, *ours):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("mnv4_deploy", "models", "exporters", "profiles"):  # where it looks for sources
        (tmp_path / name).mkdir()

    def make(*arguments: str) -> int:
        command = ["make", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    for environment in (".venv", "mine", "made"):
        assert make("clean", f"VENV={environment}") == 0
    assert make("mine/bin/python", "VENV=mine", "PYTHON=false") != 0
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert set(theirs) <= found
    assert not found.intersection(ours)
