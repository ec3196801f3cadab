"""What cannot be used is refused in one sentence, before any slow work, and nothing is written."""

import contextlib
import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from mnv4_deploy.cli import app as cli
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.models import zoo
from mnv4_deploy.outputs import staged, write_manifest
from mnv4_deploy.pipelines import export as pipeline
from tests.astray import EVERYTHING, NO_FILES, TOO_LARGE
from tests.device.small_models import onnx_with_weights_beside
from tests.time_limit import PATIENCE_S, in_time

SMALL = ("--model", "conv-s-035", "--weights", "random", "--size", "32", "--eval-images", "16")


def _contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Run a command line in ``tmp_path``; exit code, stdout and the lines of stderr."""
    monkeypatch.chdir(tmp_path)

    def run_(*arguments):
        handler = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as exit_:
                cli.main([str(argument) for argument in arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capfd.readouterr()
        return exit_.value.code or 0, captured.out, captured.err.splitlines()

    return run_


@pytest.fixture
def refused(run, tmp_path):
    """Assert that a command is refused as every bad input must be; the sentence it says."""

    def refused_(*arguments):
        before = _contents(tmp_path)
        code, out, err = run(*arguments)
        assert code == 2, err
        assert out == ""
        assert len(err) == 1, err
        assert err[0].startswith("mnv4-deploy: ")
        assert err[0].endswith(".")
        assert _contents(tmp_path) == before
        return err[0]

    return refused_


@pytest.fixture
def no_slow_work(monkeypatch):
    def fail(_):
        raise AssertionError("the export began")

    monkeypatch.setattr(pipeline._Export, "run", fail)


@contextlib.contextmanager
def _unprivileged():
    """Root may read everything, so for a moment be nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked_folder():
    """A folder with an image in it that ``_unprivileged`` code may not enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "locked"
        (folder / "deeper").mkdir(parents=True)
        _image(folder / "0.png")
        Path(name).chmod(0o755)
        folder.chmod(0)
        yield folder
        folder.chmod(0o700)


def _image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _images(folder, good, corrupt=0):
    folder.mkdir()
    for index in range(good):
        _image(folder / f"good{index:02}.png", index)
    for index in range(corrupt):
        (folder / f"corrupt{index:02}.jpg").write_bytes(b"\xff\xd8\xff" + b"no image" * 20)
    return folder


@pytest.mark.usefixtures("no_slow_work")
class TestOptions:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("hybrid-n", "hybrid-m"),
            ("mobilenetv4_conv_smal", "conv-s"),
            ("CONV-L", "conv-l"),
            ("../conv-s", "conv-s"),
        ],
    )
    def test_unknown_model(self, refused, name, nearest):
        assert f"did you mean '{nearest}'?" in refused("export", "--model", name)

    @pytest.mark.parametrize(
        "size", ["0", "16", "99999", "abc", "1x2x3", "64x", "x64", "64x16", "", "-64", "1e3", "٦٤"]
    )
    def test_size(self, refused, size):
        message = refused("export", "--model", "conv-s", f"--size={size}")
        assert "32 to 4096" in message or "not an input size" in message

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--format", "tf"], "'tf'"),
            (["--format", "onnx,coreml"], "onnx,coreml"),
            (["--format", ","], "give onnx, tflite"),
            (["--int8", "--io", "int16"], "float, int8 or uint8"),
            (["--int8", "--target", "edgetpu"], "xnnpack, integer-only"),
            (["--int8", "--target", "vnni,edgetpu"], "any-cpu, vnni, arm"),
            (["--int8", "--target", ""], "''"),
            (["--int8", "--calib-method", "foo"], "average, minmax, percentile, mse, entropy"),
            (["--int8", "--calib-images", "15"], "15 images"),
            (["--int8", "--calib-images", "-1"], "at least 16"),
            (["--int8", "--calib", "random", "--calib-images", "15"], "at least 16"),
            (["--eval-images", "15"], "15 images"),
            (["--batch", "0"], "batch of 0"),
            (["--batch", "5000"], "1 to 1024"),
        ],
    )
    def test_unknown_value(self, refused, options, says):
        assert says in refused("export", *SMALL, *options)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--io", "int8"], "--int8"),
            (["--target", "integer-only"], "--int8"),
            (["--target", "integer-only", "--int8", "--format", "onnx"], "tflite"),
            (["--target", "integer-only", "--int8", "--io", "float"], "int8 or uint8"),
            (["--target", "vnni"], "--int8"),
            (["--target", "arm", "--int8", "--format", "tflite"], "onnx"),
            (["--target", "vnni,arm", "--int8"], "arm and vnni"),
            (["--target", "xnnpack,integer-only", "--int8"], "integer-only and xnnpack"),
            (["--dynamic-batch", "--batch", "2"], "--dynamic-batch"),
            (["--dynamic-batch", "--format", "tflite"], "ONNX"),
            (["--num-classes", "0"], "at least 1"),
        ],
    )
    def test_contradictions(self, refused, options, says):
        assert says in refused("export", *SMALL, *options)

    def test_wrong_method_is_found_before_the_weights_are_read(self, refused, monkeypatch):
        monkeypatch.setattr(pipeline, "_gather", lambda _: pytest.fail("weights were read"))
        assert "'foo'" in refused("export", "--model", "hybrid-m", "--calib-method", "foo")

    @pytest.mark.parametrize(
        "arguments",
        [["export"], ["export", "--model"], ["export", "--no"], ["inspect"], ["nonsense"]],
    )
    def test_usage(self, run, arguments, tmp_path):
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert "Traceback" not in "\n".join(err)
        assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("no_slow_work")
class TestImages:
    @pytest.mark.parametrize("option", ["--calib", "--eval"])
    def test_missing_empty_or_a_file(self, refused, tmp_path, option):
        (tmp_path / "empty").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("no image")
        (tmp_path / "file.jpg").write_bytes(b"x")
        for name, says in (
            ("missing", "does not exist"),
            ("empty", "has no images"),
            ("notes", "has no images"),
            ("file.jpg", "is a file"),
        ):
            message = refused("export", *SMALL, "--int8", option, tmp_path / name)
            assert says in message
            assert name in message

    @pytest.mark.parametrize("option", ["--calib", "--eval"])
    def test_unreadable_folder(self, run, locked_folder, option):
        run("export", *SMALL, "--int8", option, "missing")  # nobody may not even import modules
        for path in (locked_folder, locked_folder / "deeper"):
            with _unprivileged():
                where = "--out", locked_folder.parent / "out"
                code, out, err = run("export", *SMALL, "--int8", option, path, *where)
            assert (code, out, len(err)) == (2, "", 1)
            assert "locked" in err[0]
            assert "Permission denied" in err[0]

    @pytest.mark.parametrize(("good", "corrupt"), [(5, 0), (15, 3), (0, 20)])
    def test_too_few_good_images(self, refused, tmp_path, good, corrupt):
        folder = _images(tmp_path / "calib", good, corrupt)
        message = refused("export", *SMALL, "--int8", "--calib", folder)
        assert f"{good} good images" in message
        assert message.count("corrupt") == min(corrupt, 4)
        assert "at least 16" in message

    def test_the_same_images_for_calibration_and_evaluation(self, refused, tmp_path):
        calibration = _images(tmp_path / "calib", 20)
        evaluation = _images(tmp_path / "eval", 17)
        folders = "--calib", calibration, "--eval", evaluation
        assert "17 images are in both" in refused(
            "export", *SMALL[:-2], "--int8", *folders, "--eval-images", "64"
        )

    def test_random_data_is_for_calibration_only(self, refused):
        assert "random" in refused("export", *SMALL, "--eval", "random")


@pytest.mark.usefixtures("no_slow_work")
class TestWeights:
    @pytest.fixture(scope="class")
    @staticmethod
    def checkpoint(tmp_path_factory):
        path = tmp_path_factory.mktemp("weights") / "conv-s-035.safetensors"
        save_file(zoo.build("conv-s-035", num_classes=10).state_dict(), path)
        return path

    def test_another_model(self, refused, checkpoint):
        message = refused("export", "--model", "conv-s-050", "--weights", checkpoint)
        assert "conv-s-050" in message
        assert "shape" in message or "x" in message

    def test_another_head(self, refused, checkpoint):
        message = refused(
            "export", "--model", "conv-s-035", "--weights", checkpoint, "--num-classes", "1000"
        )
        assert "10 classes, not 1000" in message

    def test_none_bundled(self, refused):
        message = refused("export", "--model", "conv-s")
        assert "no bundled weights" in message
        assert "--weights timm" in message

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
    def test_truncated_safetensors(self, refused, checkpoint, tmp_path, share):
        content = checkpoint.read_bytes()
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[: int(len(content) * share)])
        assert "truncated" in refused("export", "--model", "conv-s-035", "--weights", path)

    @pytest.mark.parametrize("name", ["evil.pt", "evil.pth"])
    def test_pickle_that_would_run_code(self, refused, tmp_path, name):
        proof = tmp_path / "it-ran"

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {proof}",)

        content = pickle.dumps({"state_dict": Evil()})
        pickle.loads(content)
        assert proof.exists()  # the pickle does what it says where it is trusted
        proof.unlink()
        (tmp_path / name).write_bytes(content)
        message = refused("export", "--model", "conv-s-035", "--weights", tmp_path / name)
        assert "code" in message
        assert not proof.exists()

    @pytest.mark.parametrize(
        "weights",
        [
            "missing.safetensors",
            "random:x",
            "timm:no_such_tag",
            "w.onnx",
            "",
            "x" * 300,
            "y" * 300 + ".safetensors",
        ],
    )
    def test_no_such_weights(self, refused, weights):
        refused("export", "--model", "conv-s", "--weights", weights)

    @pytest.mark.parametrize("weights", ["timm", "m.safetensors"])
    def test_classes_of_other_weights(self, refused, tmp_path, weights):
        state = zoo.build("efficientvit-m0", num_classes=1000).state_dict()
        save_file(state, tmp_path / "m.safetensors")
        model = ("--model", "efficientvit-m0", "--weights", weights)
        assert "1000 classes, not 7" in refused("export", *model, "--num-classes", 7)

    def test_hub_unreachable(self, refused, monkeypatch):
        cache = tempfile.mkdtemp()
        monkeypatch.setenv("HF_HUB_CACHE", cache)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        message = refused("export", "--model", "conv-s", "--weights", "timm")
        assert "http://127.0.0.1:9" in message
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "HF_HUB_OFFLINE" in refused("export", "--model", "conv-s", "--weights", "timm")
        shutil.rmtree(cache)


@pytest.mark.usefixtures("no_slow_work")
class TestOutput:
    def test_holds_an_export(self, refused, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        with staged(out, overwrite=False) as folder:
            write_manifest(folder, {})
        assert "--overwrite" in refused("export", *SMALL, "--out", out)

    def test_default_output_holds_an_export(self, refused, tmp_path):
        with staged(tmp_path / "out" / "conv-s-035", overwrite=False) as folder:
            write_manifest(folder, {})
        assert "out/conv-s-035 already holds an export" in refused("export", *SMALL)

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    @pytest.mark.parametrize("text", ["not even JSON", '{"files": [{"file": "index.html"}]}'])
    def test_holds_a_manifest_of_something_else(self, refused, tmp_path, text, overwrite):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "manifest.json").write_text(text)
        assert "manifest.json exists" in refused("export", *SMALL, "--out", "out", *overwrite)

    def test_file_of_the_same_name(self, refused, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "conv-s-035-int8.onnx").write_bytes(b"precious")
        message = refused("export", *SMALL, "--int8", "--out", "out")
        assert "conv-s-035-int8.onnx exists" in message

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    def test_folder_where_a_file_goes(self, refused, tmp_path, overwrite):
        (tmp_path / "out" / "conv-s-035-fp32.onnx").mkdir(parents=True)
        assert "is a folder" in refused("export", *SMALL, "--out", "out", *overwrite)

    @pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
    def test_is_a_file_or_below_one(self, refused, tmp_path, overwrite):
        (tmp_path / "out").write_bytes(b"a file")
        assert "is a file" in refused("export", *SMALL, "--out", "out", *overwrite)
        assert "cannot be written to" in refused(
            "export", *SMALL, "--out", "out/below", *overwrite
        )

    @pytest.mark.parametrize("out", ["/proc/x", "/proc/1/x/y", "z" * 300, "new/" + "z" * 300])
    def test_cannot_be_made(self, refused, out):
        assert "cannot be written to" in refused("export", *SMALL, "--out", out)

    def test_no_permission(self, locked_folder):
        from mnv4_deploy.errors import OutputError
        from mnv4_deploy.outputs import staged

        for out in (locked_folder, locked_folder / "new", locked_folder / "deeper" / "new"):
            with (
                _unprivileged(),
                pytest.raises(OutputError, match="Permission denied"),
                staged(out, overwrite=False),
            ):
                pytest.fail("nothing can be staged")


@pytest.mark.usefixtures("converted_once", "no_child")
class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()

        def mount(size_kib):
            options = ["-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)]
            if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
                pytest.skip("mounting needs root")
            return disk

        yield mount
        subprocess.run(["umount", str(disk)], capture_output=True, check=False)

    # 64 KiB do not take the first file, 2.75 MiB only that: its int8 form fails halfway.
    @pytest.mark.parametrize("size_kib", [64, 2816])
    def test_disk_fills_up(self, refused, small_disk, size_kib):
        disk = small_disk(size_kib)
        message = refused(
            "export",
            *SMALL,
            *("--num-classes", "10", "--format", "onnx", "--int8", "--calib-images", "16"),
            "--out",
            disk / "a" / "b",
        )
        assert "full" in message
        assert not any(disk.iterdir())

    def test_manifest_does_not_fit(self, refused, monkeypatch):
        def run(export):
            (export.job.folder / "conv-s-035-fp32.onnx").write_bytes(b"model")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(pipeline._Export, "run", run)
        assert "full" in refused("export", *SMALL, "--out", "new/deep")


class TestInspect:
    @pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
    def test_no_model(self, refused, tmp_path, suffix):
        rng = random.Random(0)
        (tmp_path / f"empty{suffix}").touch()
        (tmp_path / f"garbage{suffix}").write_bytes(rng.randbytes(5000))
        (tmp_path / f"text{suffix}").write_text("version https://git-lfs.github.com/spec/v1\n")
        # A flatbuffer by its identifier, whose root offset points nowhere.
        (tmp_path / f"liar{suffix}").write_bytes(b"\xff\xff\xff\x7fTFL3" + rng.randbytes(5000))
        (tmp_path / f"folder{suffix}").mkdir()
        for name in ("empty", "garbage", "text", "liar", "folder", "missing"):
            assert f"{name}{suffix}" in refused("inspect", tmp_path / f"{name}{suffix}")

    def test_no_model_as_json(self, run, tmp_path):
        path = tmp_path / "garbage.onnx"
        path.write_bytes(random.Random(0).randbytes(5000))
        code, out, err = run("inspect", "--json", path)
        assert code == 2 and len(err) == 1
        assert str(path) in json.loads(out)["error"]["message"]

    def test_truncated(self, refused, tmp_path, inspected_files):
        for path in inspected_files:
            content = path.read_bytes()
            for share in (0.3, 0.9):
                cut = tmp_path / path.name
                cut.write_bytes(content[: int(len(content) * share)])
                assert path.name in refused("inspect", cut)

    @pytest.fixture(scope="class")
    @staticmethod
    def inspected_files(tmp_path_factory):
        """A whole file of each format, one linear layer each."""
        import torch
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        folder = tmp_path_factory.mktemp("whole")
        program = torch.onnx.export(
            torch.nn.Linear(64, 64).eval(), (torch.zeros(1, 64),), dynamo=True, verbose=False
        )
        program.save(folder / "linear.onnx")
        model, graph = schema.ModelT(), schema.SubGraphT()
        model.version, model.subgraphs, model.operatorCodes = 3, [graph], []
        model.buffers = [schema.BufferT(), schema.BufferT(), schema.BufferT()]
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
        code.version = 1
        model.operatorCodes.append(code)
        graph.tensors = []
        for index, shape in enumerate([(1, 64), (64, 64), (1, 64)]):
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.buffer = f"t{index}", list(shape), index
            tensor.type = schema.TensorType.FLOAT32
            graph.tensors.append(tensor)
        graph.tensors[2].buffer = 0
        model.buffers[1].data = np.ones((64, 64), np.float32).view(np.uint8).ravel()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, -1], [2]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
        flatbuffer_utils.write_model(model, str(folder / "linear.tflite"))
        return [folder / "linear.onnx", folder / "linear.tflite"]


@pytest.mark.usefixtures("no_child")
class TestNoFile:
    """What waits for ever, has no end or lies elsewhere, in the place of a file."""

    @pytest.fixture
    def refused_at_once(self, run):
        def refused_(*arguments):
            with in_time():
                code, out, err = run(*arguments)
            assert (code, out, len(err)) == (2, "", 1), err
            assert err[0].startswith("mnv4-deploy: ")
            assert err[0].endswith(".")
            return err[0]

        return refused_

    COMMANDS = (
        ["inspect", "{0}"],
        ["profile", "{0}", "--machine", "none"],
        ["profile", "{0}", "--machine", "none", "--device", "local"],
        ["compare", "{0}", "{1}"],
        ["parity", "{0}", "--device", "local", "--data", "random"],
        ["drift", "--reference", "{0}", "--candidate", "{0}"],
        ["drift", "--reference", "{0}", "--candidate", "{0}", "--device", "local"],
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.parametrize(
        "name",
        ["a FIFO", "a link to /dev/zero", "a folder", "nothing", "a terabyte", "a link out"],
    )
    def test_as_weights_of_a_model(self, refused_at_once, tmp_path, command, name):
        (tmp_path / "a").mkdir()
        other = onnx_with_weights_beside(tmp_path / "other.onnx", "other.bin")
        path = onnx_with_weights_beside(tmp_path / "a" / "m.onnx", "w.bin")
        (tmp_path / "a" / "w.bin").unlink()
        EVERYTHING[name](tmp_path / "a" / "w.bin")
        message = refused_at_once(*(word.format(path, other) for word in command))
        assert "w.bin" in message
        assert str(path) in message

    @pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
    @pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
    @pytest.mark.parametrize("name", ["a FIFO", "a terabyte"])
    def test_as_a_model(self, refused_at_once, tmp_path, command, name, suffix):
        other = onnx_with_weights_beside(tmp_path / "other.onnx", "other.bin")
        path = tmp_path / f"m{suffix}"
        EVERYTHING[name](path)
        if name == "a terabyte" and suffix == ".tflite":
            with path.open("r+b") as stream:
                stream.write(b"\x1c\0\0\0TFL3")
        message = refused_at_once(*(word.format(path, other) for word in command))
        assert path.name in message

    @pytest.mark.usefixtures("no_slow_work")
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize("name", [*NO_FILES, *TOO_LARGE])
    def test_as_a_checkpoint(self, refused_at_once, tmp_path, name, suffix):
        path = tmp_path / f"w{suffix}"
        EVERYTHING[name](path)
        model = ("--model", "conv-s-035", "--weights", path)
        assert path.name in refused_at_once("export", *model)
        pair = ("--reference", "conv-s-035", "--candidate", "conv-s-035", "--weights", path)
        assert path.name in refused_at_once("drift", *pair)

    @pytest.mark.parametrize("name", [*NO_FILES, *TOO_LARGE])
    def test_as_labels(self, refused_at_once, tmp_path, name):
        path = tmp_path / "truth.csv"
        EVERYTHING[name](path)
        pair = ("--reference", "conv-s-035", "--candidate", "conv-s-035", "--weights", "random")
        data = ("--data", _images(tmp_path / "data", 16), "--labels", path)
        assert path.name in refused_at_once("drift", *pair, *data)

    @pytest.mark.parametrize("name", [*NO_FILES, *TOO_LARGE])
    def test_as_inputs(self, refused_at_once, tmp_path, name):
        model = onnx_with_weights_beside(tmp_path / "m.onnx", "w.bin")
        EVERYTHING[name](tmp_path / "x.npz")
        arguments = ("--device", "local", "--data", tmp_path / "x.npz")
        assert "x.npz" in refused_at_once("parity", model, *arguments)

    @pytest.mark.usefixtures("no_slow_work")
    @pytest.mark.parametrize("name", NO_FILES)
    def test_as_the_only_images(self, refused_at_once, tmp_path, name):
        (tmp_path / "data").mkdir()
        for index in range(16):
            EVERYTHING[name](tmp_path / "data" / f"{index:02}.png")
            (tmp_path / "data" / "pipe").unlink(missing_ok=True)
        assert "data" in refused_at_once("export", *SMALL, "--int8", "--calib", tmp_path / "data")


def test_library_output_is_not_shown_for_what_the_user_did(capfd):
    from mnv4_deploy.profiles.runtimes.quiet import quiet

    with pytest.raises(UnsupportedError), quiet():
        os.write(2, b"converter noise\n")
        raise UnsupportedError("It cannot be done.")
    with pytest.raises(RuntimeError), quiet():
        os.write(2, b"why it failed\n")
        raise RuntimeError
    assert capfd.readouterr().err == "why it failed\n"


@pytest.mark.parametrize("capture", ["capfd", "capsys"])
def test_a_last_word_is_not_lost_where_another_thread_keeps_libraries_quiet(capture, request):
    """Threads that still read images when a command gives up did that to its last word; streams
    may be descriptors, or what stands for them in a notebook."""
    from mnv4_deploy.cli.json_output import print_error
    from mnv4_deploy.profiles.runtimes.quiet import quiet
    from mnv4_deploy.streams import complain

    captured = request.getfixturevalue(capture)
    inside, done = threading.Event(), threading.Event()

    def decode():
        with quiet():
            inside.set()
            assert done.wait(PATIENCE_S)

    thread = threading.Thread(target=decode)
    thread.start()
    assert inside.wait(PATIENCE_S)
    complain("It cannot be done.")
    print_error("It cannot be done.", 4)
    done.set()
    thread.join()
    complain("Nor this.")
    printed, said = captured.readouterr()
    assert said == "mnv4-deploy: It cannot be done.\nmnv4-deploy: Nor this.\n"
    assert json.loads(printed)["error"] == {"message": "It cannot be done.", "exit_code": 4}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "Disk full"), MemoryError()])
def test_a_full_disk_is_not_a_failed_conversion(monkeypatch, tmp_path, error):
    import litert_torch
    import torch

    from mnv4_deploy.exporters.to_onnx import convert as to_onnx
    from mnv4_deploy.exporters.to_onnx.convert import export_onnx
    from mnv4_deploy.exporters.to_tflite.convert import export_tflite

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(litert_torch, "convert", fail)
    monkeypatch.setattr(to_onnx, "_traced", fail)
    for convert in (export_onnx, export_tflite):
        with pytest.raises(type(error)):
            convert(torch.nn.Identity(), tmp_path / "x", input_shape=(1, 32, 32))
