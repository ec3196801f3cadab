"""What a scripted Android device runs as benchmark_model.

Its first argument is the mode: "recorded" prints what the real tool printed (recorded/) and
replays tensors with the real LiteRT runtime, "measured" profiles with that too. Any other mode is
the name of an option that the build does not have. An unknown option ends it.

Started without site-packages, which only some modes need and which take longest.
"""

import site
import sys
from pathlib import Path

OPTIONS = (
    *("graph", "num_threads", "use_xnnpack", "warmup_runs", "num_runs", "warmup_min_secs"),
    *("min_secs", "max_secs", "enable_op_profiling", "input_layer", "input_layer_shape"),
    *("input_layer_value_files", "output_filepath"),
)
_RECORDED = Path(__file__).parent / "recorded"


def main() -> int:
    mode = sys.argv[1]
    if mode == "measured":
        return _measured(sys.argv[2:])
    options = [name for name in OPTIONS if name != mode]
    given = dict(argument[2:].split("=", 1) for argument in sys.argv[2:] if "=" in argument)
    if sys.argv[2:] == ["--help"] or set(given) - set(options):
        lines = [f"\t--{name}={'':40}\tstring\toptional\t" for name in options]
        print("ERROR: usage: benchmark_model <flags>\nFlags:", *lines, sep="\n", file=sys.stderr)
        return 1
    if not Path(given["graph"]).is_file():
        print(f"ERROR: Failed to load model {given['graph']}", file=sys.stderr)
        return 1
    if "output_filepath" in given:
        _replay(given)
    profiled = given.get("enable_op_profiling") == "true"
    name = "totalcompute_profiled.txt" if profiled else "totalcompute_plain.txt"
    print((_RECORDED / name).read_text())
    return 0


def _measured(arguments: list[str]) -> int:
    site.main()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.device.litert_as_tool import BINARY, LocalShell

    done = LocalShell(Path.cwd()).run([BINARY, *arguments], 60)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.code


def _replay(given: dict[str, str]) -> None:
    site.main()
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=given["graph"], num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    names = given["input_layer"].split(",")
    shapes = [list(map(int, s.split(","))) for s in given["input_layer_shape"].split(":")]
    files = dict(pair.split(":") for pair in given["input_layer_value_files"].split(","))
    for detail, name, shape in zip(details, names, shapes, strict=True):
        raw = Path(files[name]).read_bytes()
        interpreter.set_tensor(detail["index"], np.frombuffer(raw, detail["dtype"]).reshape(shape))
    interpreter.invoke()
    outputs = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    Path(given["output_filepath"]).write_bytes(b"".join(o.tobytes() for o in outputs))


if __name__ == "__main__":
    sys.exit(main())
