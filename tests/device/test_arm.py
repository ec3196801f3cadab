"""The bits of Arm kernels, where benchmarks/arm_device.py has made an aarch64 system.

Give its folder as MNV4_DEPLOY_ARM_ROOT; it needs root.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.profiles.machine.onnx_models import write_onnx
from mnv4_deploy.profiles.machine.products import Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite

ROOT = os.environ.get("MNV4_DEPLOY_ARM_ROOT", "")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "arm_device.py"
PRODUCT = Product(6, 7, 32, 24, kernel=3)
pytestmark = pytest.mark.skipif(
    not ROOT or os.geteuid() != 0, reason="needs root and MNV4_DEPLOY_ARM_ROOT"
)


def on_arm(*arguments):
    command = [sys.executable, str(SCRIPT), "run", "--root", ROOT, "--"]
    return subprocess.run(
        [*command, sys.executable, "-m", "mnv4_deploy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def parity(path):
    done = on_arm("parity", path, "--device", "ssh://arm-device", "--data", "random", "--json")
    assert done.stdout, done.stderr
    device = json.loads(done.stdout)["devices"][0]
    assert device["facts"]["architecture"] == "aarch64"
    assert device["outputs"]["elements"] == 16 * 6 * 7 * 24
    return done.returncode, device


def test_xnnpack_gives_integers_the_same_bits(tmp_path):
    code, device = parity(write_tflite(tmp_path / "product.tflite", PRODUCT, "int8"))
    assert (code, device["outputs"]["verdict"]) == (0, "exact")


def test_onnxruntime_does_where_pairs_of_products_cannot_saturate(tmp_path):
    """The weights use all of int8, so that x86 without VNNI gives wrong sums, and Arm right
    ones: what exporters/pair_scales.py is for."""
    code, device = parity(write_onnx(tmp_path / "product.onnx", PRODUCT, "uint8"))
    isa = read_cpu().isa
    if "avx2" in isa and not {"avx_vnni", "avx512_vnni"} & set(isa):
        assert (code, device["outputs"]["verdict"]) == (3, "different")
        assert "pairs of neighbouring weights" in device["explanation"]
    else:
        assert (code, device["outputs"]["verdict"]) == (0, "exact")


def test_times_of_an_emulated_processor_are_refused(tmp_path):
    path = write_tflite(tmp_path / "product.tflite", PRODUCT, "int8")
    done = on_arm("profile", path, "--device", "ssh://arm-device")
    assert done.returncode == 2
    assert "emulates the processor" in done.stderr
    assert "Traceback" not in done.stderr
