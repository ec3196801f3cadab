"""Small .tflite files of the kinds that the interpreter runs and LiteRT's profiler may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.profiles.conftest import TfliteBuilder, schema


def add_graph(b: TfliteBuilder, name: str) -> Any:
    """A further graph of the file, which the builder fills from now on; gives the one before."""
    before = b.graph
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.name = [], [], name
    b.model.subgraphs.append(graph)
    b.graph = graph
    return before


def ends(b: TfliteBuilder, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    b.graph.inputs, b.graph.outputs = list(inputs), list(outputs)


def sign(
    b: TfliteBuilder, name: str, subgraph: int, inputs: dict[str, int], outputs: dict[str, int]
) -> None:
    def tensors(side: dict[str, int]) -> list[Any]:
        found = []
        for key, index in side.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = key, index
            found.append(entry)
        return found

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = name, subgraph
    signature.inputs, signature.outputs = tensors(inputs), tensors(outputs)
    b.model.signatureDefs = [*(b.model.signatureDefs or []), signature]


def _vector(b: TfliteBuilder, name: str, dtype: str = "float32") -> int:
    return b.tensor(name, (1, 8), dtype)


def while_loop(b: TfliteBuilder, path: Path) -> Path:
    """Ten times: i + 1, v * 0.9."""
    i, v = b.tensor("i", (), "int32"), _vector(b, "v")
    i_out, v_out = b.tensor("i_out", (), "int32"), _vector(b, "v_out")
    b.op("WHILE", (i, v), (i_out, v_out), "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    main = add_graph(b, "condition")
    i1, v1 = b.tensor("i", (), "int32"), _vector(b, "v")
    ten, more = (
        b.tensor("ten", (), "int32", data=np.array(10, np.int32)),
        b.tensor("more", (), "bool"),
    )
    b.op("LESS", (i1, ten), (more,), "LessOptions")
    ends(b, (i1, v1), (more,))
    add_graph(b, "body")
    i2, v2 = b.tensor("i", (), "int32"), _vector(b, "v")
    one = b.tensor("one", (), "int32", data=np.array(1, np.int32))
    factor = b.tensor("factor", (1,), data=np.array([0.9], np.float32))
    next_i, next_v = b.tensor("next_i", (), "int32"), _vector(b, "next_v")
    b.op("ADD", (i2, one), (next_i,), "AddOptions")
    b.op("MUL", (v2, factor), (next_v,), "MulOptions")
    ends(b, (i2, v2), (next_i, next_v))
    b.graph = main
    return b.write(path, (i, v), (i_out, v_out))


def branch(b: TfliteBuilder, path: Path) -> Path:
    """v + v or v * v, by a flag that is false where made up."""
    flag, v, y = b.tensor("flag", (), "bool"), _vector(b, "v"), _vector(b, "y")
    b.op("IF", (flag, v), (y,), "IfOptions", thenSubgraphIndex=1, elseSubgraphIndex=2)
    main = b.graph
    for kind in ("Add", "Mul"):
        add_graph(b, kind)
        x, out = _vector(b, "x"), _vector(b, "out")
        b.op(kind.upper(), (x, x), (out,), f"{kind}Options")
        ends(b, (x,), (out,))
    b.graph = main
    return b.write(path, (flag, v), (y,))


def counter(b: TfliteBuilder, path: Path) -> Path:
    """A resource variable, set once, read, added to and written in every run."""

    def handle() -> int:
        tensor = b.tensor("state", (), "int32")
        b.graph.tensors[tensor].type = schema.TensorType.RESOURCE
        b.op("VAR_HANDLE", (), (tensor,), "VarHandleOptions", container="", sharedName="state")
        return tensor

    x, read, y = _vector(b, "x"), _vector(b, "read"), _vector(b, "y")
    b.op("CALL_ONCE", (), (), "CallOnceOptions", initSubgraphIndex=1)
    state = handle()
    b.op("READ_VARIABLE", (state,), (read,), "ReadVariableOptions")
    b.op("ADD", (read, x), (y,), "AddOptions")
    b.op("ASSIGN_VARIABLE", (state, y), (), "AssignVariableOptions")
    main = add_graph(b, "init")
    zero = b.tensor("zero", (1, 8), data=np.zeros((1, 8), np.float32))
    b.op("ASSIGN_VARIABLE", (handle(), zero), (), "AssignVariableOptions")
    ends(b, (), ())
    b.graph = main
    sign(b, "serving_default", 0, {"x": x}, {"y": y})
    return b.write(path, (x,), (y,))


def svdf(b: TfliteBuilder, path: Path) -> Path:
    """A recurrent operator, whose state is a variable tensor."""
    rng = np.random.default_rng(0)
    x, y = b.tensor("x", (1, 4)), b.tensor("y", (1, 3))
    feature = b.tensor("feature", (3, 4), data=rng.standard_normal((3, 4)).astype(np.float32))
    time = b.tensor("time", (3, 5), data=rng.standard_normal((3, 5)).astype(np.float32))
    state = b.tensor("state", (1, 15))
    b.graph.tensors[state].isVariable = True
    b.op("SVDF", (x, feature, time, -1, state), (y,), "SVDFOptions", rank=1)
    return b.write(path, (x,), (y,))


def sized_by_values(b: TfliteBuilder, path: Path) -> Path:
    """A convolution, then a reshape to a size that is put together in the run."""
    x, y = b.tensor("x", (1, 16, 16, 4)), b.tensor("y", (1, 1))
    b.graph.tensors[y].shapeSignature = [-1, -1]
    w = b.tensor("w", (8, 3, 3, 4), data=np.full((8, 3, 3, 4), 0.1, np.float32))
    bias = b.tensor("bias", (8,), data=np.zeros(8, np.float32))
    conv = b.tensor("conv", (1, 16, 16, 8))
    b.op("CONV_2D", (x, w, bias), (conv,), "Conv2DOptions", strideW=1, strideH=1)
    size, first, second = b.tensor("size", (4,), "int32"), [], []
    for at in range(4):
        first.append(b.tensor(f"from{at}", (1,), "int32", data=np.array([at], np.int32)))
        second.append(b.tensor(f"to{at}", (1,), "int32", data=np.array([at + 1], np.int32)))
    one = b.tensor("one", (1,), "int32", data=np.array([1], np.int32))
    channels = b.tensor("channels", (), "int32")
    minus = b.tensor("minus", (), "int32", data=np.array(-1, np.int32))
    target = b.tensor("target", (2,), "int32")
    b.op("SHAPE", (conv,), (size,), "ShapeOptions", outType=schema.TensorType.INT32)
    options = {"shrinkAxisMask": 1}
    inputs = (size, first[3], second[3], one)
    b.op("STRIDED_SLICE", inputs, (channels,), "StridedSliceOptions", **options)
    b.op("PACK", (minus, channels), (target,), "PackOptions", valuesCount=2, axis=0)
    b.op("RESHAPE", (conv, target), (y,), "ReshapeOptions")
    return b.write(path, (x,), (y,))


def found_by_value(b: TfliteBuilder, path: Path) -> Path:
    """The places of what is true: as many as there are."""
    x, zero = _vector(b, "x"), b.tensor("zero", (1,), data=np.zeros(1, np.float32))
    positive, y = _vector(b, "positive", "bool"), b.tensor("y", (1, 2), "int64")
    b.graph.tensors[y].shapeSignature = [-1, 2]
    b.op("GREATER", (x, zero), (positive,), "GreaterOptions")
    b.op("WHERE", (positive,), (y,), "WhereOptions")
    return b.write(path, (x,), (y,))


def _product(b: TfliteBuilder, path: Path, names: tuple[str, str, str]) -> Path:
    x, z, y = (_vector(b, name) for name in names)
    b.op("MUL", (x, z), (y,), "MulOptions")
    return b.write(path, (x, z), (y,))


def one_name(b: TfliteBuilder, path: Path) -> Path:
    return _product(b, path, ("in", "in", "out"))


def no_names(b: TfliteBuilder, path: Path) -> Path:
    return _product(b, path, ("", "", ""))


def one_output_name(b: TfliteBuilder, path: Path) -> Path:
    x, y, z = _vector(b, "x"), _vector(b, "y"), _vector(b, "y")
    b.op("MUL", (x, x), (y,), "MulOptions")
    b.op("ADD", (x, x), (z,), "AddOptions")
    return b.write(path, (x,), (y, z))


def tiny_chain(b: TfliteBuilder, path: Path) -> Path:
    """300 operators of a fraction of a microsecond each."""
    current = first = b.tensor("x0", (1, 16))
    half = b.tensor("half", (1,), data=np.array([0.5], np.float32))
    for i in range(300):
        after = b.tensor(f"x{i + 1}", (1, 16))
        b.op("MUL", (current, half), (after,), "MulOptions")
        current = after
    return b.write(path, (first,), (current,))


def signatures(b: TfliteBuilder, path: Path) -> Path:
    """add, mul and sub of two inputs, each a graph of its own."""
    for number, kind in enumerate(("Add", "Mul", "Sub")):
        if number:
            add_graph(b, kind)
        x, z, y = _vector(b, f"{kind}_x"), _vector(b, f"{kind}_z"), _vector(b, f"{kind}_y")
        b.op(kind.upper(), (x, z), (y,), f"{kind}Options")
        ends(b, (x, z), (y,))
        sign(b, kind.lower(), number, {"a": x, "b": z}, {"result": y})
    b.graph = b.model.subgraphs[0]
    return b.write(path, b.graph.inputs, b.graph.outputs)


RUN: dict[str, Callable[[TfliteBuilder, Path], Path]] = {
    made.__name__: made
    for made in (
        *(while_loop, branch, counter, svdf, sized_by_values, found_by_value),
        *(one_name, no_names, one_output_name, tiny_chain, signatures),
    )
}
# LiteRT's profiler does not take these.
END_TO_END = {
    *("svdf", "sized_by_values", "found_by_value"),
    *("one_name", "no_names", "one_output_name"),
}
