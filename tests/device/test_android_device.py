"""Timing and replaying models on a scripted Android device, through the real adb client."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.device.address import parse_address
from mnv4_deploy.device.android.open import open_adb
from mnv4_deploy.device.android.tool import check_architecture
from mnv4_deploy.errors import InputError, OutputError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.records.device import DeviceOptions
from mnv4_deploy.profiles.records.profile import MeasureRequest
from tests.device.fake_adbd import FakeDevice
from tests.device.real_adb import adb_server, connect, connecting, disconnect
from tests.device.test_android_facts import CPUINFO, PROPERTIES, THERMAL

pytest.importorskip("ai_edge_litert")
from mnv4_deploy.device.measure import measure_on
from mnv4_deploy.profiles.machine.products import Product
from mnv4_deploy.profiles.machine.tflite_models import write_tflite
from mnv4_deploy.profiles.measure.measure import measure
from tests.device.planted_models import write_chain
from tests.profiles.conftest import TfliteBuilder
from tests.time_limit import wait_until

pytestmark = pytest.mark.usefixtures("no_child")
_TOOL = Path(__file__).with_name("fake_benchmark_model.py")
_RECORDED = Path(__file__).parent / "recorded"
_NAMES = [
    "a b.tflite",
    "'.tflite",
    '"$(touch planted)".tflite',
    "`touch planted`.tflite",
    "; touch planted;.tflite",
    "&& touch planted.tflite",
    "|touch planted.tflite",
    "x\ntouch planted.tflite",
    "--serial=$IFS*?[a]~#!\\.tflite",
    "-$(touch${IFS}planted)>planted.tflite",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Iterator[str]:
    with adb_server(tmp_path_factory.mktemp("adb")) as found:
        yield found


def phone(folder: Path, **options) -> FakeDevice:
    """A Pixel 7 with benchmark_model where it usually is."""
    made = FakeDevice(folder, **options)
    made.program("getprop", f"cat <<'.'\n{PROPERTIES}.")
    made.program("dumpsys", f"cat <<'.'\n{THERMAL.format(status=2)}.")
    made.program("df", f"cat {made.folder}/df.txt")
    made.program("taskset", 'shift; exec "$@"')
    room(made, kib=500_000)
    made.write("proc/cpuinfo", CPUINFO)
    made.write("proc/meminfo", "MemTotal:        7775780 kB\n")
    cpus = "sys/devices/system/cpu"
    made.write(f"{cpus}/online", "0-7\n")
    made.write(f"{cpus}/cpu0/topology/core_id", "0\n")
    for name, value in (("governor", "sched_pixel"), ("cur_freq", 300000), ("max_freq", 1803000)):
        made.write(f"{cpus}/cpufreq/policy0/scaling_{name}", f"{value}\n")
    made.write("sys/class/thermal/thermal_zone0/type", "BIG\n")
    made.write("sys/class/thermal/thermal_zone0/temp", "43210\n")
    tool(made)
    return made


def room(device: FakeDevice, kib: int) -> None:
    lines = f"Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 9 9 {kib} 5% /data\n"
    device.write("df.txt", lines)


def tool(device: FakeDevice, mode: str = "recorded") -> None:
    script = f'exec {sys.executable} -I -S {_TOOL} {mode} "$@"'
    device.program("benchmark_model", script, where="data/local/tmp")


@pytest.fixture
def device(program, tmp_path) -> Iterator[FakeDevice]:
    made = phone(tmp_path / "device")
    connect(program, made.serial)
    yield made
    made.close()
    disconnect(program)


def opened(text="adb", note=print, **options):
    return open_adb(parse_address(text), DeviceOptions(**options), note)


def model(path: Path, compute="float32") -> Path:
    return write_tflite(path, Product(4, 4, 8, 8, 1), compute)


def request(path: Path, **settings) -> MeasureRequest:
    return MeasureRequest(str(path), **{"runs": 30, "max_seconds": 1.0, **settings})


def test_facts_and_state(device):
    with opened() as found:
        assert found.facts.title == "Google Pixel 7"
        assert found.facts.architecture == "aarch64"
        assert found.facts.memory_bytes == 7775780 << 10
        assert found.facts.free_bytes == 500_000 << 10
        assert re.fullmatch(r"sha256 [0-9a-f]{12}", found.facts.runtimes["benchmark_model"])
        state = found.state()
    assert state.governors == {"policy0": "sched_pixel"}
    assert state.clocks_mhz == {"policy0": (300.0, 1803.0)}
    assert state.temperatures_c == {"BIG": 43.21}
    assert state.throttled == "Android's thermal status is 2, moderate"
    assert device.folders == []


def test_times_of_one_file(device, tmp_path):
    with opened(f"adb://{device.serial}") as found:
        (timed,) = found.time([request(model(tmp_path / "m.tflite"), threads=2, cpus=(4, 6, 7))])
    # The numbers of the recorded runs.
    assert {us for burst in timed.rounds_us for us in burst} <= {6449.0, 6479.5}
    assert len(timed.profile.ops) > 40
    assert timed.profile.ops[0].tag == "Convolution (NHWC, QU8) IGEMM"
    assert timed.cpus == (4, 6, 7)
    assert timed.profile.path == str(tmp_path / "m.tflite")
    runs = [command for command in device.commands if "--graph=" in command]
    assert runs
    start = "taskset d0 /data/local/tmp/benchmark_model --graph=/data/local/tmp/mnv4-deploy-"
    for command in runs:
        assert start in command
        assert "--num_threads=2" in command
        assert "--use_xnnpack=true" in command
    assert any("--enable_op_profiling=true" in command for command in runs)
    assert device.folders == []


def test_two_files_take_turns(device, tmp_path):
    paths = [model(tmp_path / name) for name in ("a.tflite", "b.tflite")]
    with opened() as found:
        first, second = found.time([request(path, runs=6) for path in paths])
    ran = [m[1] for c in device.commands if (m := re.search(r"--graph=\S+/model-(\d)", c))]
    blocks = [ran[0]] + [now for before, now in pairwise(ran) if now != before]
    assert blocks == ["0", "1"] * 3
    assert len(first.rounds_us) == len(second.rounds_us) == ran.count("0") / 2
    assert first.cpus == tuple(range(8))
    samples = {len(op.samples_us) for op in first.profile.ops}
    assert samples == {sum(map(len, first.profiled_rounds_us))}


def test_names_of_models_mean_nothing_there(device, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in _NAMES:
        model(folder / "plain.tflite").rename(folder / name)
    with opened() as found:
        for name in _NAMES:
            (timed,) = found.time([request(Path(name), runs=1)])
            assert timed.profile.path == name
    ran = [command for command in device.commands if "--graph=" in command]
    copies = {name for command in ran for name in re.findall(r"model-\d+\.tflite", command)}
    assert len(copies) == len(_NAMES)
    assert not any("planted" in command or "IFS" in command for command in device.commands)
    assert [*tmp_path.rglob("planted*")] == []
    assert sorted(path.name for path in folder.iterdir()) == sorted(_NAMES)
    assert device.folders == []


@pytest.mark.parametrize(
    "serial", ["x; touch planted", "$(touch planted)", "-s", "--help", "a b", "nobody:5555"]
)
def test_serials_are_never_run(device, tmp_path, monkeypatch, serial):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANDROID_SERIAL", serial)
    with pytest.raises(InputError, match="No Android device has the serial"):
        opened()
    assert device.commands == []
    assert not (tmp_path / "planted").exists()


def test_layers_measured_over_there_are_those_measured_here(device, tmp_path):
    tool(device, "measured")
    wanted = request(write_chain(tmp_path / "m.tflite", "AMSCSAM"), runs=1)
    with opened() as found:
        (there,) = measure_on(found, [wanted])
    (local,) = measure((wanted,))
    rows = [(layer.op_type, layer.name, layer.backend, layer.op_indices) for layer in there.layers]
    assert [row for row in rows if row[2] != "runtime"] == [
        (layer.op_type, layer.name, layer.backend, layer.op_indices)
        for layer in local.layers
        if layer.backend != "runtime"
    ]
    assert there.device.facts.title == "Google Pixel 7"
    assert there.device.after.temperatures_c == {"BIG": 43.21}
    assert any("thermal status is 2, moderate" in text for text in there.device.warnings)
    assert any("sched_pixel" in text for text in there.device.warnings)


def here(path: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("compute", ["float32", "int8"])
def test_outputs_are_replayed_bit_for_bit(tmp_path, compute):
    path = model(tmp_path / "m.tflite", compute)
    random = np.random.default_rng(0)
    with opened() as found:
        session = found.open(path)
        assert session.runtime.startswith("benchmark_model sha256 ")
        for _ in range(2):
            image = random.integers(-128, 127, (1, 4, 4, 8)).astype(session.inputs[0].dtype)
            (output,) = session.run([image])
            (expected,) = here(path, [image])
            assert output.dtype == expected.dtype
            assert output.tobytes() == expected.tobytes()
            output[0] = 0  # an array of its own
        session.close()


def two_by_two(path: Path, open_side: bool = False) -> Path:
    """Outputs "difference" and "sum" of inputs "a,b:c" and "c"."""
    b = TfliteBuilder()
    first, second = b.tensor("a,b:c", (1, 4)), b.tensor("c", (1, 4))
    difference, total = b.tensor("difference", (1, 4)), b.tensor("sum", (1, 4))
    if open_side:
        b.graph.tensors[first].shapeSignature = [-1, 4]
    b.op("SUB", (first, second), (difference,), "SubOptions")
    b.op("ADD", (first, second), (total,), "AddOptions")
    return b.write(path, (first, second), (difference, total))


@pytest.mark.usefixtures("device")
def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    path = two_by_two(tmp_path / "m.tflite")
    a, b = np.arange(4, dtype=np.float32)[None], np.full((1, 4), 10, np.float32)
    with opened() as found, closing(found.open(path)) as session:
        difference, total = session.run([a, b])
        with pytest.raises(UnsupportedError, match="takes 2 inputs, not 1"):
            session.run([a])
        with pytest.raises(UnsupportedError, match="not float64"):
            session.run([a.astype(np.float64), b])
    np.testing.assert_array_equal(difference, a - b)
    np.testing.assert_array_equal(total, a + b)


def test_what_cannot_be_replayed_is_refused(device, tmp_path):
    with opened() as found:
        with pytest.raises(UnsupportedError, match="not the tensors of its layers"):
            found.open(model(tmp_path / "m.tflite"), tensors=[1])
        with pytest.raises(UnsupportedError, match="export it with a fixed one"):
            found.open(two_by_two(tmp_path / "open.tflite", open_side=True))
    tool(device, "output_filepath")
    with opened() as found, pytest.raises(UnsupportedError, match="no --output_filepath"):
        found.open(tmp_path / "m.tflite")
    assert device.folders == []


def test_requests_that_cannot_be_met(device, tmp_path):
    path = model(tmp_path / "m.tflite")
    (tmp_path / "m.onnx").write_bytes(b"x")
    with opened() as found:
        for wrong, kind, what in (
            (request(tmp_path / "m.onnx"), UnsupportedError, "Android devices run .tflite files"),
            (request(path, cpus=(7, 8)), UnsupportedError, "CPU 8 is not available"),
            (request(path, cpus=()), UnsupportedError, "No CPU is given"),
            (request(path, threads=9), UnsupportedError, "more than the 8 CPUs"),
            (request(path, threads=2, cpus=(3,)), UnsupportedError, "more than the 1 CPU to"),
            (request(path, threads=0), UnsupportedError, "too few"),
            (request(tmp_path / "none.tflite"), InputError, "cannot be read"),
        ):
            with pytest.raises(kind, match=what):
                found.time([wrong])
        room(device, kib=1000)
        with pytest.raises(OutputError, match=r"but the device only 1\.0 MB free"):
            found.time([request(path)])
        room(device, kib=500_000)
        device.full = True
        with pytest.raises(OutputError, match="is full"):
            found.time([request(path)])
    assert not any("--graph=" in command for command in device.commands)


def test_no_benchmark_model(device, tmp_path):
    (device.tmp / "benchmark_model").unlink()
    with opened() as found:  # what it is can still be told
        assert found.facts.title == "Google Pixel 7"
        assert found.facts.runtimes == {}
        path = model(tmp_path / "m.tflite")
        for call in (
            lambda: found.time([request(path)]),
            lambda: found.open(path),
            lambda: found.machine(1),
        ):
            with pytest.raises(
                UnsupportedError, match="benchmark_model is not on the device: get the"
            ):
                call()


def elf(path: Path, machine: int) -> Path:
    """The head of a program for ``machine`` (ELF specification, e_machine)."""
    path.write_bytes(
        b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0" + machine.to_bytes(2, "little") + bytes(44)
    )
    return path


def test_a_binary_for_another_processor_is_not_copied(device, tmp_path):
    path = elf(tmp_path / "benchmark_model", 62)
    with pytest.raises(UnsupportedError, match=r"is for x86_64, the device is arm64-v8a or arme"):
        opened(benchmark_model=str(path))
    assert device.folders == []


@pytest.mark.parametrize(("machine", "abi"), [(183, "arm64-v8a"), (40, "armeabi-v7a"), (3, "x86")])
def test_architectures_of_binaries(tmp_path, machine, abi):
    check_architecture(elf(tmp_path / "x", machine), (abi,))
    with pytest.raises(UnsupportedError, match=f"is for {abi}, the device is riscv64"):
        check_architecture(elf(tmp_path / "x", machine), ("riscv64",))


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 9, b"MZ" * 40])
def test_what_is_no_program(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UnsupportedError, match="is no program for Android"):
        check_architecture(tmp_path / "x", ("arm64-v8a",))


def test_a_named_tool_that_is_nowhere_or_another_program(device):
    for wanted in ("/data/local/tmp/none", "no such; touch planted", "-n"):
        with pytest.raises(InputError, match="here or on the device"):
            opened(benchmark_model=wanted)
    device.program("other", "echo hello", where="data/local/tmp")
    with pytest.raises(ToolchainError, match="is not LiteRT's benchmark_model"):
        opened(benchmark_model="/data/local/tmp/other")
    assert device.folders == []


def test_the_users_own_binary_is_copied_and_run(device):
    """With a real program of this machine: it starts there, and is not the tool."""
    program = shutil.which("true")
    machine = int.from_bytes(Path(program).read_bytes()[18:20], "little")
    abi = {62: "x86_64", 183: "arm64-v8a"}.get(machine, "")
    if not abi:
        pytest.skip("no ABI of Android's on this machine")
    device.program("getprop", f"cat <<'.'\n{PROPERTIES.replace('arm64-v8a', abi)}.")
    with pytest.raises(ToolchainError, match=r"mnv4-deploy-.*/benchmark_model is not LiteRT's"):
        opened(benchmark_model=program)
    assert device.folders == []


@pytest.mark.usefixtures("device")
def test_options_for_other_devices_are_noted_and_folders_checked():
    notes: list[str] = []
    with opened(note=notes.append, setup=True, python="python3.11"):
        pass
    assert [note.split(" means nothing to adb")[0] for note in notes] == [
        "--setup",
        "--device-python",
    ]
    for folder in ("relative", "/with\nline"):
        with pytest.raises(UnsupportedError, match="path that starts with a slash"):
            opened(folder=folder)


def test_two_devices_and_none_named(device, program, tmp_path, monkeypatch):
    other = phone(tmp_path / "other", model="SM_A526B")
    connect(program, other.serial)
    try:
        with pytest.raises(UnsupportedError) as caught:
            opened()
        for serial in (device.serial, other.serial):
            assert serial in str(caught.value)
        with opened(f"adb://{other.serial}"):
            assert (len(device.folders), len(other.folders)) == (0, 1)
        monkeypatch.setenv("ANDROID_SERIAL", device.serial)
        with opened():  # as adb itself takes it
            assert (len(device.folders), len(other.folders)) == (1, 0)
    finally:
        other.close()


@pytest.mark.parametrize(
    ("mode", "state", "what"),
    [
        ("unauthorized", "unauthorized", "unlock it and accept the key"),
        ("mute", "offline|connecting", "is offline|still connecting"),
    ],
)
def test_a_device_that_is_not_ready(program, tmp_path, mode, state, what):
    made = FakeDevice(tmp_path / "device", mode=mode)
    try:
        with (
            connecting(program, made.serial, state),
            pytest.raises(InputError, match=what),
        ):
            opened(f"adb://{made.serial}")
    finally:
        made.close()
        disconnect(program)


def test_a_lost_device_cleans_up_later(device):
    notes: list[str] = []
    with pytest.raises(ToolchainError, match="reconnect"), opened(note=notes.append) as found:
        device.cut()
        found.state()
    assert "removes /data/local/tmp/mnv4-deploy-" in notes[0]


def test_an_error_in_between_leaves_nothing(device):
    with pytest.raises(ZeroDivisionError), opened():
        assert len(device.folders) == 1
        raise ZeroDivisionError
    assert device.folders == []
    wait_until(lambda: not device.processes())
