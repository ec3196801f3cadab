"""The facts of an .onnx file, and what onnxruntime makes of each of its nodes.

Runs in a child process: see :func:`mnv4_deploy.profiles.inspection.inspect.inspect_file`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import MissingLibraryError, ModelFileError, ToolchainError
from mnv4_deploy.profiles.files.hashes import sha256_of
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.profiles.graph.onnx.bodies import Body, bodies_of, nodes_of
from mnv4_deploy.profiles.graph.onnx.constants import constants_of, dtype_name
from mnv4_deploy.profiles.graph.onnx.external_weights import load_weights
from mnv4_deploy.profiles.graph.onnx.model import import_onnx, load_onnx
from mnv4_deploy.profiles.graph.onnx.renamed import name_notes, renamed_copy
from mnv4_deploy.profiles.inspection.onnx_operators import integer_kernels, operators_of
from mnv4_deploy.profiles.ort.rules import CONVERSIONS
from mnv4_deploy.profiles.records.files import FileFacts, TensorFacts
from mnv4_deploy.profiles.runtimes.ort.run import optimized_graph


def inspect_here(path: str) -> FileFacts:
    """The facts of ``path``, found in this process.

    Raises ModelFileError for a damaged file, ToolchainError where onnx is missing. Without
    onnxruntime the facts say so in a note.
    """
    onnx = import_onnx()
    file = Path(path)
    load_onnx(onnx, file)  # which says what is no model
    with scratch_folder() as folder:
        return _facts(onnx, file, renamed_copy(file, folder))


def _facts(onnx: Any, file: Path, named: Path) -> FileFacts:
    """The facts of ``file`` by its copy ``named``, in which every node has a name of its own and
    which onnxruntime so accepts."""
    model = load_onnx(onnx, named)
    load_weights(named, model)
    problem = _checker_problem(onnx, file)
    notes = name_notes(file)
    executed, traced = None, None
    try:
        executed = optimized_graph(named).graph
        traced = optimized_graph(named, traceable=True).graph
        if integer_kernels(executed) != integer_kernels(traced):
            notes += ("Some nodes may run in another arithmetic than listed: see what executes.",)
    except (MissingLibraryError, ModelFileError, ToolchainError) as error:
        if problem:
            raise ModelFileError(f"{file} is not a valid ONNX model: {problem}") from error
        notes += (f"What really runs is unknown: {str(error).replace(str(named), str(file))}",)
    if problem:
        notes += (f"The ONNX checker objects, though onnxruntime loads the file: {problem}",)
    graph = model.graph
    bodies = bodies_of(graph)
    constants = {i.name for i in graph.initializer}
    quantization = _boundary_quantization(onnx, graph)
    return FileFacts(
        path=str(file),
        format="onnx",
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
        inputs=tuple(
            _tensor_facts(onnx, v, quantization) for v in graph.input if v.name not in constants
        ),
        outputs=tuple(_tensor_facts(onnx, v, quantization) for v in graph.output),
        operators=operators_of(onnx, bodies, traced, executed),
        weight_bytes_by_dtype=_weight_bytes(onnx, bodies),
        metadata={p.key: p.value for p in model.metadata_props},
        notes=notes,
        executed_histogram=_histogram(executed) if executed is not None else None,
    )


def _checker_problem(onnx: Any, path: Path) -> str | None:
    """The first line of what the ONNX checker objects to, if anything."""
    try:
        # By path, because a model with its weights beside it may exceed protobuf's 2 GB.
        onnx.checker.check_model(str(path))
    except Exception as error:  # protobuf's and onnx's exceptions share no base
        return str(error).strip().partition("\n")[0]
    return None


def _tensor_facts(
    onnx: Any, value: Any, quantization: dict[str, tuple[tuple[float, ...], tuple[int, ...]]]
) -> TensorFacts:
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    )
    scale, zero_point = quantization.get(value.name, ((), ()))
    return TensorFacts(value.name, shape, dtype_name(onnx, tensor.elem_type), scale, zero_point)


def _boundary_quantization(
    onnx: Any, graph: Any
) -> dict[str, tuple[tuple[float, ...], tuple[int, ...]]]:
    """Scale and zero point of tensors that a Q or DQ node reads or writes in integers."""
    constants = {i.name: i for i in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type not in CONVERSIONS:
            continue
        tensor = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if tensor in constants or node.input[1] not in constants:
            continue
        scale = onnx.numpy_helper.to_array(constants[node.input[1]]).reshape(-1)
        zero = [0]
        if len(node.input) > 2 and node.input[2] in constants:
            zero = onnx.numpy_helper.to_array(constants[node.input[2]]).reshape(-1).tolist()
        found[tensor] = (tuple(float(s) for s in scale), tuple(int(z) for z in zero))
    return found


def _weight_bytes(onnx: Any, bodies: Sequence[Body]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for body in bodies:
        for tensor in constants_of(onnx, body.graph).values():
            total[tensor.dtype] += tensor.size_bytes
    return dict(total)


def _histogram(graph: Any) -> dict[str, int]:
    return dict(Counter(node.op_type for node in nodes_of(bodies_of(graph))).most_common())
