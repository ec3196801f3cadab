"""Files made to harm: they are refused, in seconds and in one sentence, or shown harmlessly."""

import io
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.table import Table

from mnv4_deploy.console import PlainConsole
from mnv4_deploy.errors import InputError, ModelFileError, UnsupportedError
from mnv4_deploy.images.decode import opened_image
from mnv4_deploy.parity.arrays_file import open_arrays
from mnv4_deploy.profiles.graph.onnx.checks import MAX_NODES, MAX_TENSORS
from mnv4_deploy.profiles.graph.onnx.model import load_onnx
from mnv4_deploy.profiles.graph.tflite.read import read_tflite
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.profiles.runtimes.timing import example_input
from tests.profiles.conftest import TfliteBuilder
from tests.time_limit import in_time

ESCAPE = "\x1b]0;title\x07\x1b[2J\u202e\x9b31m"


def _model(nodes=None, tensors=(), functions=(), name="x"):
    graph = helper.make_graph(
        nodes or [helper.make_node("Relu", [name], ["y"], "relu")],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        list(tensors),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def _function(name, *calls):
    """``calls`` one behind another."""
    nodes = [
        helper.make_node(call, [f"v{at}"], [f"v{at + 1}"], domain="" if call == "Relu" else "own")
        for at, call in enumerate(calls)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["v0"], [f"v{len(calls)}"], nodes, opsets)


def _loaded(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with in_time():
        return load_onnx(onnx, path)


class TestOnnxContent:
    def test_functions_without_bound(self, tmp_path):
        doubled = [_function("F0", "Relu")]
        doubled += [_function(f"F{i}", f"F{i - 1}", f"F{i - 1}") for i in range(1, 40)]
        call = [helper.make_node("F39", ["x"], ["y"], domain="own")]
        with pytest.raises(ModelFileError, match=f"more than {MAX_NODES:,} nodes"):
            _loaded(tmp_path, _model(call, functions=doubled))
        call[0].op_type = "F9"  # 512 are fine
        assert len(_loaded(tmp_path, _model(call, functions=doubled)).functions) == 40

    def test_a_function_that_calls_itself(self, tmp_path):
        call = [helper.make_node("A", ["x"], ["y"], domain="own")]
        functions = [_function("A", "B"), _function("B", "A")]
        with pytest.raises(ModelFileError, match="without end"):
            _loaded(tmp_path, _model(call, functions=functions))

    def test_too_many_tensors(self, tmp_path):
        many = [numpy_helper.from_array(np.float32(i), f"w{i}") for i in range(MAX_TENSORS + 1)]
        with pytest.raises(ModelFileError, match=f"of at most {MAX_TENSORS:,}"):
            _loaded(tmp_path, _model(tensors=many))

    @pytest.mark.parametrize(
        ("dims", "kind", "size"),
        [
            ([2], TensorProto.INT64, 15),
            ([], TensorProto.FLOAT, 0),
            ([3], TensorProto.INT4, 1),
            ([-1], TensorProto.FLOAT, 4),
            ([1 << 40, 1 << 40], TensorProto.FLOAT, 4),
            ([1], 99, 4),
            ([1], TensorProto.UNDEFINED, 4),
            ([1], TensorProto.STRING, 1),
        ],
    )
    def test_data_that_do_not_fit(self, tmp_path, dims, kind, size):
        tensor = onnx.TensorProto(name="w", dims=dims, data_type=kind, raw_data=bytes(size))
        with pytest.raises(ModelFileError, match=r"its tensor 'w'.*export it again\.$"):
            _loaded(tmp_path, _model(tensors=[tensor]))

    def test_data_that_fit(self, tmp_path):
        """Every type that onnx can write, as raw bytes and in its own field."""
        for name, kind in TensorProto.DataType.items():
            if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
                continue
            own = helper.tensor_dtype_to_np_dtype(kind)
            values = np.ones(5).astype(own)
            raw = numpy_helper.from_array(values, "raw")
            listed = helper.make_tensor("listed", kind, [5], values)
            found = _loaded(tmp_path, _model(tensors=[raw, listed]))
            assert len(found.graph.initializer) == 2, name
        text = numpy_helper.from_array(np.array(["a", "b"], object), "text")
        _loaded(tmp_path, _model(tensors=[text]))

    def test_names_that_are_no_text(self, tmp_path):
        content = _model().SerializeToString().replace(b"relu", b"r\xfflu")
        with pytest.raises(ModelFileError, match="not UTF-8"):
            _loaded(tmp_path, content)


def test_too_many_tensors_of_a_tflite_file(tmp_path):
    builder = TfliteBuilder()
    first = builder.tensor("x", (1, 4))
    for number in range(20_000):
        builder.tensor(f"t{number}", (1, 4))
    path = builder.write(tmp_path / "m.tflite", [first], [first])
    with in_time(), pytest.raises(ModelFileError, match="20,001 tensors"):
        read_tflite(path)


@pytest.mark.parametrize("batch", [1 << 20, 1 << 45])
def test_inputs_too_large_to_be_made_up(batch):
    with in_time(), pytest.raises(UnsupportedError, match="too many"):
        example_input((batch, 3, 16, 16), "float32")


class TestLabelArchives:
    @pytest.fixture
    def model(self, tmp_path):
        builder = TfliteBuilder()
        first, last = builder.tensor("x", (1, 4)), builder.tensor("y", (1, 4))
        builder.op("RELU", (first,), (last,))
        return builder.write(tmp_path / "m.tflite", [first], [last])

    def test_only_so_much_is_unpacked(self, model):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(100):
                archive.writestr(f"labels{number}.txt", b"a" * (1 << 20))
        model.write_bytes(model.read_bytes() + stream.getvalue())
        found = read_tflite(model).metadata
        assert sum(map(len, found.values())) <= 4 << 20

    def test_damaged_ones_are_named(self, model):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("labels.txt", os.urandom(500))
        content = bytearray(stream.getvalue())
        content[60:400] = bytes(340)  # within the compressed data
        model.write_bytes(model.read_bytes() + content)
        assert read_tflite(model).metadata["associated files"] == "unreadable"


class TestArrays:
    FACT = TensorFacts("x", (1, 2), "float32")

    def test_only_the_rows_in_use_are_read(self, tmp_path):
        """The header says 8 GB; the first rows are all that is needed."""
        path = tmp_path / "in.npz"
        header = io.BytesIO()
        rows = 1 << 30
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, 2)}
        np.lib.format.write_array_header_1_0(header, shape)
        header.write(np.arange(8, dtype=np.float32).tobytes())
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", header.getvalue())
        with in_time():
            found = open_arrays(path, [self.FACT], 3)
        assert found.count == 3
        assert found.row(2)[0].tolist() == [[4.0, 5.0]]
        with in_time(), pytest.raises(InputError, match="GB of memory"):
            open_arrays(path, [self.FACT], rows)

    def test_orders_of_bytes_and_axes(self, tmp_path):
        values = np.arange(12, dtype=np.float32).reshape(6, 2)
        for stored in (np.asfortranarray(values), values.astype(">f4")):
            np.savez(tmp_path / "in.npz", x=stored)
            found = open_arrays(tmp_path / "in.npz", [self.FACT], 4)
            assert found.row(3)[0].tolist() == [[6.0, 7.0]]
            assert found.row(3)[0].dtype == np.dtype("float32")


class TestTerminal:
    def test_nothing_printed_is_obeyed(self):
        stream = io.StringIO()
        console = PlainConsole(file=stream, force_terminal=True, color_system=None, width=60)
        table = Table(f"head{ESCAPE}")
        table.add_row(f"cell{ESCAPE}")
        console.print(f"[bold]text[/]{ESCAPE} :warning:")
        console.print(table)
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(stream.getvalue())
        assert ":warning:" in stream.getvalue()

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_names_of_a_file(self, tmp_path, options):
        _loaded(tmp_path, _model(name=f"x{ESCAPE}"))
        done = _command("inspect", tmp_path / "m.onnx", *options)
        assert done.returncode == 0
        assert not {0x1B, 0x07} & set(done.stdout + done.stderr)
        assert "\u202e" not in done.stdout.decode()

    def test_path_of_a_file_that_is_refused(self, tmp_path):
        done = _command("inspect", tmp_path / f"none{ESCAPE.replace('/', '')}.onnx")
        assert done.returncode == 2
        assert not {0x1B, 0x07} & set(done.stderr)


def _command(*arguments, **streams):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    program = [sys.executable, "-m", "mnv4_deploy", *map(str, arguments)]
    return subprocess.run(program, check=False, **streams)


class TestStreams:
    @pytest.mark.parametrize("arguments", [["models"], ["models", "--json"]])
    def test_a_full_place_for_the_output(self, arguments):
        with Path("/dev/full").open("wb") as full:
            done = _command(*arguments, stdout=full)
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"No space left" in done.stderr

    @pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
    def test_nobody_to_complain_to(self, closed):
        program = f'"{sys.executable}" -m mnv4_deploy inspect no.onnx {closed}'
        assert subprocess.run(program, shell=True, check=False).returncode == 2

    def test_closed_output_is_no_file_of_ours(self, tmp_path):
        """The first file that is opened must not get what is printed."""
        program = f'"{sys.executable}" -m mnv4_deploy models >&- 2>&-'
        assert subprocess.run(program, shell=True, check=False, cwd=tmp_path).returncode == 0
        assert list(tmp_path.iterdir()) == []


class TestWords:
    def test_too_little_memory_is_no_damage(self, tmp_path):
        """Limits of the address space too small for the command, and for its runtimes."""
        _loaded(tmp_path, _model())
        refused = 0
        for megabytes in (100, 160):
            limit = megabytes << 20
            done = _command(
                *("inspect", tmp_path / "m.onnx"),
                preexec_fn=lambda limit=limit: resource.setrlimit(
                    resource.RLIMIT_AS, (limit, limit)
                ),
            )
            if done.returncode:  # 1 is of OpenBLAS, which ends the process by itself
                refused += 1
                assert b"memory" in done.stderr.lower()
                assert b"damaged" not in done.stderr
                assert done.stderr.count(b"\n") == 1
        assert refused

    def test_decoders_of_images_talk_to_nobody(self, capfd):
        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(stream, "TIFF", compression="tiff_lzw")
        damaged = bytearray(stream.getvalue())
        damaged[200:900] = bytes(byte ^ 0x5A for byte in damaged[200:900])
        with pytest.raises(OSError), Image.open(io.BytesIO(damaged)) as image:
            image.load()
        assert capfd.readouterr().err  # libtiff's, which Python does not see
        with pytest.raises(OSError), opened_image(io.BytesIO(damaged)) as image:
            image.load()
        assert capfd.readouterr() == ("", "")
