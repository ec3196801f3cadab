"""Opening interpreters and sessions, and what becomes of their errors, on the real runtimes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.runtimes.errors import tells_of_memory, translated
from mnv4_deploy.profiles.runtimes.litert import interpreter as open_tflite
from mnv4_deploy.profiles.runtimes.litert.interpreter import allocate, open_interpreter
from mnv4_deploy.profiles.runtimes.ort.session import open_session

if TYPE_CHECKING:
    from tests.profiles.conftest import TfliteBuilder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]


def _raise(error: BaseException) -> None:
    with translated("some-runtime 1.2", "run", "net.tflite"):
        raise error


class TestTranslated:
    @pytest.mark.parametrize(
        "error", [RuntimeError, ValueError, IndexError, OverflowError, NotImplementedError]
    )
    def test_what_cpp_throws_is_the_files_fault(self, error: type[Exception]) -> None:
        with pytest.raises(ModelFileError) as caught:
            _raise(error("\nno kernel for it\nstack frame 1"))
        said = str(caught.value)
        assert said.startswith("some-runtime 1.2 cannot run net.tflite (no kernel for it): ")
        assert "stack frame" not in said
        assert isinstance(caught.value.__cause__, error)

    def test_onnxruntimes_own_exceptions(self, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.onnx"
        damaged.write_bytes(b"no model at all")
        with pytest.raises(ModelFileError, match=r"^it cannot load m \(") as caught:  # noqa: SIM117
            with translated("it", "load", "m"):
                open_session(damaged)
        cause = caught.value.__cause__
        assert not isinstance(cause, RuntimeError | ValueError)
        assert type(cause).__module__.startswith("onnxruntime")

    @pytest.mark.parametrize(
        "error",
        [
            UnsupportedError("no"),
            ToolchainError("no"),
            OSError(28, "No space left on device"),
            MemoryError(),
            TypeError("a bug"),
            KeyError("a bug"),
            KeyboardInterrupt(),
        ],
    )
    def test_everything_else_passes(self, error: BaseException) -> None:
        with pytest.raises(type(error)) as caught:
            _raise(error)
        assert caught.value is error

    @pytest.mark.parametrize(
        "text",
        [
            "std::bad_alloc",
            "bad allocation",
            "[ONNXRuntimeError] : 6 : Exception during initialization: std::bad_alloc",
            "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4096",
            "failed to allocate 128 bytes for Convolution operator descriptor",
            "failed\nmmap: Cannot allocate memory",
        ],
    )
    def test_lack_of_memory_is_not_the_files_fault(self, text: str) -> None:
        with pytest.raises(MemoryError, match=r"^net\.tflite: "):
            _raise(RuntimeError(text))

    def test_real_lack_of_memory(self, tmp_path: Path) -> None:
        """onnxruntime is asked for 8 TB in a process that may have 4 GB."""
        shape = [1 << 20, 1 << 21]
        node = onnx.helper.make_node("Expand", ["x", "shape"], ["y"])
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [node],
            "net",
            [value("x", onnx.TensorProto.FLOAT, [1])],
            [value("y", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.array(shape), "shape")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
        model.ir_version = 9
        path = tmp_path / "large.onnx"
        onnx.save(model, str(path))
        code = (
            "import sys, numpy\n"
            "from mnv4_deploy.profiles.isolated import limit_memory\n"
            "from mnv4_deploy.profiles.runtimes.tensors import TensorRunner\n"
            "runner = TensorRunner(sys.argv[1])\n"
            "limit_memory(4 << 30)\n"
            "try:\n"
            "    runner.run([numpy.ones(1, numpy.float32)])\n"
            "except MemoryError as error:\n"
            "    print('memory:', error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith(f"memory: {path}: ")


@pytest.mark.parametrize(
    "text",
    [
        "Failed to allocate tensors!",
        "tensorflow/lite/kernels/conv.cc:1 Node number 3 (CONV_2D) failed to prepare.",
        "Cannot set tensor: Tensor is unallocated. Try calling allocate_tensors() first",
        "Memory object allocation failure",
    ],
)
def test_other_failures_do_not_tell_of_memory(text: str) -> None:
    assert not tells_of_memory(text)


class TestInterpreter:
    def test_content_is_as_good_as_a_path(self, conv_tflite: Path) -> None:
        x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
        found = []
        for model in (conv_tflite, str(conv_tflite), conv_tflite.read_bytes()):
            interpreter = open_interpreter(model)
            allocate(interpreter)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
            interpreter.invoke()
            found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        assert found[0].any()
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])

    def test_without_the_delegate_the_same_operators_run_one_by_one(
        self, split_tflite: Path
    ) -> None:
        kinds = []
        for delegate in (True, False):
            interpreter = open_interpreter(split_tflite, delegate=delegate)
            allocate(interpreter)
            kinds.append([op["op_name"] for op in interpreter._get_ops_details()])
        assert "DELEGATE" in kinds[0]
        assert kinds[1] == ["CONV_2D", "CUMSUM", "CONV_2D", "MEAN"]

    def test_inputs_take_new_shapes(self, tflite: TfliteBuilder, tmp_path: Path) -> None:
        x, y = (tflite.tensor(name, (1, 4)) for name in "xy")
        tflite.op("TANH", (x,), (y,))
        interpreter = open_interpreter(tflite.write(tmp_path / "net.tflite", (x,), (y,)))
        allocate(interpreter, {x: (3, 5)})
        assert interpreter.get_input_details()[0]["shape"].tolist() == [3, 5]
        assert interpreter.get_output_details()[0]["shape"].tolist() == [3, 5]

    def test_old_packages_are_not_told_what_they_do_not_know(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """tflite-runtime 2.4 knows a path, a content and nothing else but the threads."""

        class Old:
            def __init__(
                self, model_path: str = "", model_content: bytes = b"", num_threads: int = 0
            ) -> None:
                self.given = model_path, model_content, num_threads

        module = type(sys)("interpreter")
        module.Interpreter = Old  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "math.interpreter", module)
        monkeypatch.setattr(open_tflite, "_RUNTIMES", (("old", "math"),))
        assert open_interpreter(Path("net.tflite"), threads=2).given == ("net.tflite", b"", 2)
        assert open_interpreter(b"TFL3").given == ("", b"TFL3", 1)

    def test_a_broken_package_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(open_tflite, "_RUNTIMES", (("broken", "math"),))
        with pytest.raises(ToolchainError, match=r"broken .* cannot be loaded \(.*\): reinstall"):
            open_interpreter(b"TFL3")


class TestSession:
    def test_a_serialized_model_is_as_good_as_a_path(self, conv_onnx: Path) -> None:
        x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
        found = [
            open_session(model).run(None, {"image": x})[0]
            for model in (conv_onnx, str(conv_onnx), conv_onnx.read_bytes())
        ]
        assert found[0].any()
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])

    def test_weights_of_a_serialized_model_lie_in_their_folder(
        self, conv_onnx: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        path = folder / "net.onnx"
        onnx.save(
            onnx.load(conv_onnx),
            str(path),
            save_as_external_data=True,
            location="net.bin",
            size_threshold=0,
        )
        x = np.ones((1, 3, 32, 32), np.float32)
        expected = open_session(conv_onnx).run(None, {"image": x})[0]
        session = open_session(path.read_bytes(), weights_folder=folder)
        assert np.array_equal(session.run(None, {"image": x})[0], expected)

    def test_nodes_run_as_the_file_has_them_without_optimisation(
        self, conv_onnx: Path, tmp_path: Path
    ) -> None:
        kinds = []
        for optimize in (True, False):
            session = open_session(conv_onnx, optimize=optimize, profile_prefix=tmp_path / "p")
            session.run(None, {"image": np.ones((1, 3, 32, 32), np.float32)})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
            kinds.append(
                [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
            )
        assert kinds[1] == ["Conv", "Relu", "Conv", "Erf", "GlobalAveragePool"]
        assert "Relu" not in kinds[0]  # it is part of the convolution

    def test_options_reach_the_runtime(self, conv_onnx: Path) -> None:
        options = open_session(conv_onnx, threads=2, log_severity=3).get_session_options()
        assert (options.intra_op_num_threads, options.log_severity_level) == (2, 3)
        assert options.inter_op_num_threads == 1
        assert open_session(conv_onnx, threads=0).get_session_options().intra_op_num_threads == 0


def test_runtimes_are_opened_in_one_place_each() -> None:
    """Sources of the product that call Interpreter(...) or InferenceSession(...)."""
    wanted = {"Interpreter": "interpreter.py", "InferenceSession": "session.py"}
    found = {
        (name, path.name)
        for folder in ("mnv4_deploy", "exporters", "models", "profiles")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (name := _called(node.func)) in wanted
    }
    assert found == set(wanted.items())


def _called(function: ast.expr) -> str:
    """The name that is called; "" where it is torch.fx's interpreter, or no name."""
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        return "" if owner == "fx" else function.attr
    return function.id if isinstance(function, ast.Name) else ""
