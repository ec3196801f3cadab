"""Which torch `make` installs: the CPU build from PyTorch's index, or what pip's settings name.

Two indexes of dummy wheels are served here: PyTorch's, with a version and its +cpu build side by
side, and a company's, with the version alone.
"""

import http.server
import os
import platform
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PINNED = next(
    line.strip()
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("torch==")
).removeprefix("torch==")
IS_LINUX_X86 = (platform.system(), platform.machine()) == ("Linux", "x86_64")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def wheel(folder: Path, version: str) -> None:
    """A torch of that version that can only say which it is."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as file:
        file.writestr("torch.py", f"__version__ = {version!r}\n")
        file.writestr(
            f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        file.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = "".join(
            f"{name},,\n" for name in ("torch.py", f"{facts}/METADATA", f"{facts}/WHEEL")
        )
        file.writestr(f"{facts}/RECORD", f"{names}{facts}/RECORD,,\n")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a server with the indexes /pytorch and /company."""
    root = tmp_path_factory.mktemp("indexes")
    for index, versions in (("pytorch", (PINNED, f"{PINNED}+cpu")), ("company", (PINNED,))):
        for version in versions:
            wheel(root / index / "torch", version)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(root), **options)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the rule needs, and one virtual environment for all tests."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    for name in ("mnv4_deploy", "models", "exporters", "profiles"):  # where it looks for sources
        (root / name).mkdir()
    return root


@pytest.fixture
def installed(checkout):
    """The version of torch that `make` with these arguments and pip's variables has installed."""

    def _installed(*arguments: str, goal: str = "v/.torch", **variables: str):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TORCH", "MAKE"))},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_TRUSTED_HOST": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **variables,
        }

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
            )

        (checkout / "v" / ".torch").unlink(missing_ok=True)
        done = run("make", "VENV=v", *arguments, goal)
        assert done.returncode == 0, done.stderr
        version = run(
            "v/bin/python", "-c", "import torch; print(torch.__version__)"
        ).stdout.strip()
        run("v/bin/pip", "uninstall", "-y", "torch")
        return version, done.stderr

    return _installed


@pytest.mark.skipif(not IS_LINUX_X86, reason="other torches have no CUDA")
def test_by_default_it_is_the_cpu_build(installed, served):
    assert installed(f"PYTORCH_CPU={served}/pytorch") == (f"{PINNED}+cpu", "")


@pytest.mark.parametrize(
    "variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"]
)
def test_where_pip_has_a_place_of_its_own_that_decides(installed, served, variable):
    """This step then installs nothing: the installation itself brings torch from there."""
    value = "1" if variable == "PIP_NO_INDEX" else f"{served}/company"
    assert installed(f"PYTORCH_CPU={served}/pytorch", **{variable: value}) == ("", "")


def test_a_settings_file_decides_like_a_variable(installed, served, tmp_path):
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[global]\nindex-url = {served}/company\n")
    found = installed(f"PYTORCH_CPU={served}/pytorch", PIP_CONFIG_FILE=str(settings))
    assert found == ("", "")


def test_another_index_may_be_given(installed, served):
    own = {"PIP_INDEX_URL": "http://127.0.0.1:9/nobody"}
    assert installed(f"TORCH_INDEX={served}/company", **own)[0] == PINNED
    assert installed(TORCH_INDEX=f"{served}/pytorch", **own)[0] == f"{PINNED}+cpu"


def test_an_empty_one_is_what_pip_finds(installed, served):
    assert installed("TORCH_INDEX=", f"PYTORCH_CPU={served}/pytorch") == ("", "")


def test_an_index_that_is_not_there_ends_nothing(installed):
    version, said = installed("TORCH_INDEX=http://127.0.0.1:9/nobody")
    assert version == "" and "CUDA" in said


def planned(checkout: Path, goal: str) -> str:
    (checkout / "v" / ".torch").unlink(missing_ok=True)
    command = ["make", "-n", "VENV=v", "TORCH_INDEX=http://example.org/torch", goal]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout


def test_only_what_needs_torch_asks_for_it(checkout):
    (checkout / "demo_data").mkdir()
    for name in ("pyproject.toml", "demo_data/pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    for extra in ("export", "dev"):
        plan = planned(checkout, f"v/.installed-{extra}")
        assert plan.index("http://example.org/torch") < plan.index(f".[{extra}]")
    assert "example.org" not in planned(checkout, "v/.installed-runtimes")
