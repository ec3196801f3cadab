"""The runtimes' peaks come from files that ask for the arithmetic they are booked under."""

import platform
from contextlib import closing

import pytest

pytest.importorskip("ai_edge_litert.schema_py_generated")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from mnv4_deploy.errors import MissingLibraryError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.profiles.machine import ceilings, peaks
from mnv4_deploy.profiles.machine.cpu import read_cpu
from mnv4_deploy.profiles.machine.onnx_models import write_onnx, write_onnx_chain
from mnv4_deploy.profiles.machine.products import Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite, write_tflite_chain
from mnv4_deploy.profiles.runtimes.runners import open_runner
from tests.profiles.hasty import machine_here

_PRODUCTS = {
    "1x1": Product(6, 7, 64, 32),
    "3x3": Product(6, 7, 32, 32, kernel=3),
    "matrix": Product(6, 7, 64, 32, kernel=0),
}


def test_macs_counted_by_hand():
    assert _PRODUCTS["1x1"].macs == 42 * 64 * 32
    assert _PRODUCTS["3x3"].macs == 42 * 32 * 32 * 9
    assert _PRODUCTS["matrix"].macs == 42 * 64 * 32


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("compute", ["float32", "int8", "uint8", "int8 dynamic"])
@pytest.mark.parametrize("shape", _PRODUCTS)
def test_tflite_files_run_on_xnnpack_in_that_arithmetic(tmp_path, shape, compute):
    facts = inspect_file(write_tflite(tmp_path / "m.tflite", _PRODUCTS[shape], compute))
    assert [op.compute for op in facts.operators] == [compute]
    assert facts.delegated_share == 1.0


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("compute", ["float32", "int8", "uint8", "int8 dynamic"])
@pytest.mark.parametrize("shape", _PRODUCTS)
def test_onnx_files_run_in_that_arithmetic(tmp_path, shape, compute):
    facts = inspect_file(write_onnx(tmp_path / "m.onnx", _PRODUCTS[shape], compute))
    kind = {"1x1": "Conv", "3x3": "Conv", "matrix": "MatMul"}[shape]
    found = {op.compute for op in facts.operators if op.kind.startswith(kind)}
    assert found == {compute}


def test_chains_run_every_addition(tmp_path):
    for path in (
        write_tflite_chain(tmp_path / "c.tflite", 30),
        write_onnx_chain(tmp_path / "c.onnx", 30),
    ):
        with closing(open_runner(path)) as runner:
            runner.run_profiled(record=True)
            timings = runner.timings()
        assert sum(t.tag.startswith("Add") for t in timings) == 30


def test_rate_is_macs_over_the_longest_operators_time(tmp_path, monkeypatch):
    slow, fast = Product(1, 1, 1000, 2), Product(1, 1, 1000, 1)
    seen = []

    def took_us(path, threads, runs):
        seen.append((path.name, threads, runs))
        return {2000: 10.0, 1000: 2.0}[int(path.name)]

    def write(product, compute):
        assert compute == "int8"
        return tmp_path / str(product.macs)

    monkeypatch.setattr(peaks, "longest_op_us", took_us)
    assert peaks._best_rate(write, "int8", 3, (slow, fast)) == pytest.approx(500e6)
    assert {threads for _, threads, _ in seen} == {3}


def test_int8_and_uint8_of_onnxruntime_share_a_peak_where_they_share_kernels():
    rates = peaks.onnxruntime_peaks(1, (Product(14, 15, 128, 64),))
    assert set(rates) == {"float32", "int8", "uint8", "int8 dynamic"}
    assert all(rate > 1e8 for rate in rates.values())
    if platform.machine() == "x86_64":
        assert rates["int8"] == rates["uint8"]


def test_an_operator_with_nothing_to_do_costs_little_but_something():
    for cost in (peaks.xnnpack_op_overhead_us(1), peaks.onnxruntime_op_overhead_us(1)):
        assert 0.0 < cost < 50.0


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_impossible_thread_counts(threads):
    with pytest.raises(UnsupportedError, match="number of CPUs"):
        ceilings.measure_machine([threads])


def _parts(**parts):
    def run(function, threads, kit, *, timeout_s):
        del threads, kit, timeout_s
        name = function.__name__.removeprefix("measure_")
        if name not in parts:
            raise ToolchainError(f"{name} is missing: install it.")
        return parts[name]

    return run


def test_a_missing_part_is_left_out_with_a_note(monkeypatch):
    part = ceilings.Part(peaks={"float32": 1e9}, op_overhead_us=0.5, spin_us=7.0)
    monkeypatch.setattr(ceilings, "run_isolated", _parts(xnnpack=part))
    machine = ceilings.measure_machine([1])
    (found,) = machine.ceilings
    assert found.peak_macs_per_s == {"xnnpack": {"float32": 1e9}}
    assert found.op_overhead_us == {"xnnpack": 0.5}
    assert (found.memory, found.clock_ghz, found.spin_us) == ((), None, 7.0)
    assert machine.limits_macs_per_s == {}
    assert machine.method.count("independent is missing: install it.") == 1
    assert machine.method.count("onnxruntime is missing: install it.") == 1


def test_nothing_measurable_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ceilings, "run_isolated", _parts())
    with pytest.raises(MissingLibraryError, match="pip install"):
        ceilings.measure_machine([1])


def test_all_ceilings_of_one_thread(shared):
    """The whole measurement: everything is there and no kernel beats its instructions."""
    pytest.importorskip("llvmlite")
    (found,) = machine_here(shared).ceilings
    assert set(found.peak_macs_per_s) == {"independent", "xnnpack", "onnxruntime"}
    assert [level.name for level in found.memory] == [
        *(cache.name for cache in read_cpu().caches),
        "DRAM",
    ]
    for runtime in ("xnnpack", "onnxruntime"):
        ratio = found.peak(runtime, "float32") / found.peak("independent", "float32")
        assert 0.1 < ratio < 1.25
        assert found.op_overhead_us[runtime] >= 0
    assert found.spin_us > 0
