"""The facts of a .tflite file: its graph from the FlatBuffer, delegation from the runtime.

Runs in a child process: see :func:`mnv4_deploy.profiles.inspection.inspect.inspect_file`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError, ToolchainError, UnsupportedError
from mnv4_deploy.profiles.files.hashes import sha256_of
from mnv4_deploy.profiles.graph.read_tflite import read_tflite
from mnv4_deploy.profiles.records.files import FileFacts, OperatorFacts, TensorFacts
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Tensor
from mnv4_deploy.profiles.xnnpack.refusals import explain_refusals

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


@dataclass(frozen=True)
class Delegation:
    """What the runtime did with the main graph: partitions, and ops it ran outside XNNPACK."""

    partitions: int
    builtin: frozenset[int]


def inspect_here(path: str) -> FileFacts:
    """The facts of ``path``, found in this process.

    Raises ModelFileError for a damaged file, ToolchainError where no TFLite runtime is there.
    """
    file = Path(path)
    if importlib.util.find_spec("ai_edge_litert") is None:
        return _inspect_with_interpreter(file)
    graph = read_tflite(file)
    notes: tuple[str, ...] = ()
    delegation = None
    try:
        delegation = ask_runtime(file)
    except (ToolchainError, UnsupportedError) as error:
        notes = (f"Delegation is unknown: {error}",)
    except ModelFileError as error:
        # A whole file may still name operators that this runtime does not carry.
        custom = sorted({op.kind for op in graph.ops if op.custom})
        if not custom:
            raise
        notes = (f"Delegation is unknown, for the file has {', '.join(custom)}: {error}",)
    if graph.subgraphs > 1:
        notes += (f"Only the first of {graph.subgraphs} graphs is listed.",)
    return _facts(file, graph, delegation, notes)


def ask_runtime(path: Path) -> Delegation:
    """Run ``path`` once on example inputs with the profiler on and see what ran where."""
    from mnv4_deploy.profiles.runtimes.litert_capi import EVENT_BUILTIN_OP, CompiledModel
    from mnv4_deploy.profiles.runtimes.run_xnnpack import feed, operator_events, partition_numbers

    with CompiledModel(path, profiling=True) as model:
        feed(model)
        model.start_profiler()
        model.run()
        events = operator_events(model.stop_profiler())
    main = [e for e in events if e.type != EVENT_BUILTIN_OP or e.subgraph == 0]
    return Delegation(
        partitions=len({n for n in partition_numbers(main) if n is not None}),
        builtin=frozenset(e.index for e in main if e.type == EVENT_BUILTIN_OP),
    )


def _facts(
    path: Path, graph: ModelGraph, delegation: Delegation | None, notes: tuple[str, ...]
) -> FileFacts:
    operators = tuple(
        OperatorFacts(
            index=op.index,
            kind=op.kind,
            name=graph.tensors[op.outputs[0]].name if op.outputs else "",
            compute=compute_of(graph, op),
        )
        for op in graph.ops
    )
    if delegation is not None:
        delegated = [op.index not in delegation.builtin for op in graph.ops]
        partition = assign_partitions(graph, delegated, delegation.partitions)
        left = (op.index for op, taken in zip(graph.ops, delegated, strict=True) if not taken)
        refusals = explain_refusals(graph, left)
        operators = tuple(
            replace(facts, delegated=taken, partition=number, refusal=refusals.get(facts.index))
            for facts, taken, number in zip(operators, delegated, partition, strict=True)
        )
    taken_count = sum(op.delegated is True for op in operators)
    return FileFacts(
        path=str(path),
        format="tflite",
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        inputs=tuple(_tensor_facts(graph.tensors[i]) for i in graph.inputs),
        outputs=tuple(_tensor_facts(graph.tensors[i]) for i in graph.outputs),
        operators=operators,
        weight_bytes_by_dtype=dict(graph.weight_bytes),
        metadata=dict(graph.metadata),
        partitions=delegation.partitions if delegation else None,
        delegated_share=taken_count / len(operators) if delegation and operators else None,
        notes=notes,
    )


def _tensor_facts(tensor: Tensor) -> TensorFacts:
    return TensorFacts(tensor.name, tensor.declared, tensor.dtype, tensor.scale, tensor.zero_point)


def compute_of(graph: ModelGraph, op: Operator) -> str:
    """The arithmetic of ``op``, from the types of its operands.

    A float operator with 8-bit constant weights quantizes its input at run time, so it computes
    in integers: "int8 dynamic".
    """
    sources = [graph.tensors[i] for i in op.inputs if i >= 0]
    targets = [graph.tensors[i] for i in op.outputs]
    if not targets:
        return "none"
    if op.kind in _CONVERSIONS and sources:
        return f"{sources[0].dtype}->{targets[0].dtype}"
    if (
        op.kind in _WEIGHTED
        and len(sources) > 1
        and sources[0].dtype == "float32"
        and sources[1].constant
        and sources[1].dtype in ("int8", "int4", "uint8")
    ):
        return f"{sources[1].dtype} dynamic"
    moving = [t for t in sources if not t.constant]
    return (moving or targets)[0].dtype


def assign_partitions(
    graph: ModelGraph, delegated: Sequence[bool], partitions: int
) -> list[int | None]:
    """The partition of each operator, counted in order of execution; None outside.

    TFLite grows one partition at a time: of the operators whose inputs are ready it takes all
    of one kind (delegated or not) until none is left, then turns to the other kind
    (``tflite/graph_info.cc``). Where that does not give the number of partitions that the
    runtime reported, nothing is claimed.
    """
    produced_by = {t: op.index for op in graph.ops for t in op.outputs}
    numbers: list[int | None] = [None] * len(graph.ops)
    done: set[int] = set()
    current, count = True, 0
    stalled = False
    while len(done) < len(graph.ops):
        grew = False
        for op in graph.ops:
            ready = all(produced_by.get(t, -1) in done or t not in produced_by for t in op.inputs)
            if op.index in done or delegated[op.index] != current or not ready:
                continue
            grew = True
            done.add(op.index)
            if current:
                numbers[op.index] = count
        if not grew and stalled:
            break
        stalled = not grew
        count += int(grew and current)
        current = not current
    return numbers if count == partitions else [None] * len(graph.ops)


def _inspect_with_interpreter(path: Path) -> FileFacts:
    """What an old tflite_runtime can tell: tensors and operators, and nothing of weights."""
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError as error:
        raise ToolchainError(
            "Inspecting a .tflite file needs a runtime: run pip install 'mnv4-deploy[tflite]'."
        ) from error
    return facts_from_interpreter(path, Interpreter)


def facts_from_interpreter(path: Path, interpreter_class: Any) -> FileFacts:
    """Facts through the Interpreter API alone, without schema or profiler."""
    try:
        interpreter = interpreter_class(model_path=str(path))
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(
            f"{path} is a damaged or truncated TFLite model: copy or export it again."
        ) from error
    tensors = {t["index"]: t for t in interpreter.get_tensor_details()}
    operators = tuple(
        OperatorFacts(
            index=position,
            kind=op["op_name"],
            name=tensors[op["outputs"][0]]["name"] if len(op["outputs"]) else "",
            compute=_dtype_name(tensors[next((i for i in op["inputs"] if i in tensors), -1)])
            if any(i in tensors for i in op["inputs"])
            else "unknown",
        )
        for position, op in enumerate(interpreter._get_ops_details())
        if op["op_name"] != "DELEGATE"
    )
    return FileFacts(
        path=str(path),
        format="tflite",
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        inputs=tuple(_detail_facts(t) for t in interpreter.get_input_details()),
        outputs=tuple(_detail_facts(t) for t in interpreter.get_output_details()),
        operators=operators,
        weight_bytes_by_dtype={},
        notes=(
            "tflite_runtime cannot tell weight sizes, metadata, partitions or what XNNPACK takes:"
            " pip install 'mnv4-deploy[tflite]' can.",
        ),
    )


def _dtype_name(detail: dict[str, Any]) -> str:
    import numpy as np

    return str(np.dtype(detail["dtype"]).name)


def _detail_facts(detail: dict[str, Any]) -> TensorFacts:
    parameters = detail["quantization_parameters"]
    return TensorFacts(
        name=detail["name"],
        shape=tuple(int(n) for n in detail.get("shape_signature", detail["shape"])),
        dtype=_dtype_name(detail),
        scale=tuple(float(s) for s in parameters["scales"]),
        zero_point=tuple(int(z) for z in parameters["zero_points"]),
    )
