"""The facts of a .tflite file: its graphs from the FlatBuffer, delegation from the runtime.

Runs in a child process: see :func:`mnv4_deploy.profiles.inspection.inspect.inspect_file`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import DeployError, ModelFileError, missing_library
from mnv4_deploy.profiles.files.hashes import sha256_of
from mnv4_deploy.profiles.graph.shapes import proposed
from mnv4_deploy.profiles.graph.tflite.read import chosen_graph, read_tflite_graphs
from mnv4_deploy.profiles.records.files import (
    FileFacts,
    GraphFacts,
    OperatorFacts,
    SignatureFacts,
    TensorFacts,
)
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Signature, Tensor
from mnv4_deploy.profiles.runtimes.litert.delegation import Delegation, ask_delegation
from mnv4_deploy.profiles.xnnpack.refusals import explain_refusals

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


def inspect_here(path: str, signature: str = "", ask: bool = True) -> FileFacts:
    """The facts of ``path``, found in this process.

    The runtime is asked what it does with the operators, unless ``ask`` is false; what it refuses
    is listed all the same, and a note gives its reason. Raises ModelFileError for a damaged file,
    UnsupportedError for a signature that is not there, MissingLibraryError without a runtime.
    """
    file = Path(path)
    if importlib.util.find_spec("ai_edge_litert") is None:
        return _inspect_with_interpreter(file)
    graphs = read_tflite_graphs(file)
    graph = chosen_graph(file, graphs, signature)
    delegation, notes = _asked(file, graph) if ask else (None, ())
    operators = _operators(graph, delegation)
    bodies = []
    for index, run_by in _run_inside(graphs, graph).items():
        inside, _ = _asked(file, graphs[index]) if delegation else (None, ())
        bodies.append(
            GraphFacts(
                index=index,
                run_by=run_by,
                operators=_operators(graphs[index], inside),
                partitions=inside.partitions if inside else None,
            )
        )
    taken_count = sum(op.delegated is True for op in operators)
    return FileFacts(
        path=path,
        format="tflite",
        size_bytes=file.stat().st_size,
        sha256=sha256_of(file),
        inputs=tuple(_tensor_facts(graph.tensors[i]) for i in graph.inputs),
        outputs=tuple(_tensor_facts(graph.tensors[i]) for i in graph.outputs),
        operators=operators,
        weight_bytes_by_dtype=dict(graph.weight_bytes),
        metadata=dict(graph.metadata),
        partitions=delegation.partitions if delegation else None,
        delegated_share=taken_count / len(operators) if delegation and operators else None,
        notes=notes,
        signature=signature or _default_signature(graph),
        signatures=tuple(_signature_facts(graphs, known) for known in graph.signatures),
        bodies=tuple(bodies),
    )


def _asked(file: Path, graph: ModelGraph) -> tuple[Delegation | None, tuple[str, ...]]:
    """What the runtime does with ``graph``, or why it does not say.

    Sides that the file leaves open get the sizes of an image first, for few networks take one of
    a single pixel, which is what the file then holds.
    """
    open_inputs = [i for i in graph.inputs if any(n < 0 for n in graph.tensors[i].declared)]
    likely = {i: proposed(graph.tensors[i].declared) for i in open_inputs}
    reason = ""
    for shapes in (likely, {}) if likely else ({},):
        try:
            return ask_delegation(file, graph, shapes), ()
        except (DeployError, MemoryError) as error:
            reason = reason or str(error) or "memory ran out"
    ended = reason if reason.endswith((".", "?")) else f"{reason}."
    return None, (f"Delegation is unknown: {ended.replace(f' {file}', ' it')}",)


def _operators(graph: ModelGraph, delegation: Delegation | None) -> tuple[OperatorFacts, ...]:
    operators = tuple(
        OperatorFacts(
            index=op.index,
            kind=op.kind,
            name=graph.tensors[op.outputs[0]].name if op.outputs else "",
            compute=compute_of(graph, op),
        )
        for op in graph.ops
    )
    if delegation is None:
        return operators
    delegated = [op.index not in delegation.builtin for op in graph.ops]
    partition = assign_partitions(graph, delegated, delegation.partitions)
    refusals = explain_refusals(graph, sorted(delegation.builtin))
    return tuple(
        replace(facts, delegated=taken, partition=number, refusal=refusals.get(facts.index))
        for facts, taken, number in zip(operators, delegated, partition, strict=True)
    )


def _run_inside(graphs: Sequence[ModelGraph], graph: ModelGraph) -> dict[int, tuple[str, ...]]:
    """The graphs that operators of ``graph`` run, and those that theirs do, with the kinds of
    these operators."""
    found: dict[int, tuple[str, ...]] = {}
    waiting = [graph]
    while waiting:
        for op in waiting.pop(0).ops:
            for index in op.calls:
                if index not in found and index != graph.subgraph:
                    waiting.append(graphs[index])
                found[index] = tuple(dict.fromkeys((*found.get(index, ()), op.kind)))
    found.pop(graph.subgraph, None)
    return found


def _default_signature(graph: ModelGraph) -> str:
    known = (s.name for s in graph.signatures if s.subgraph == graph.subgraph)
    return next(known, "")


def _signature_facts(graphs: Sequence[ModelGraph], signature: Signature) -> SignatureFacts:
    tensors = graphs[signature.subgraph].tensors

    def named(side: tuple[tuple[str, int], ...]) -> tuple[TensorFacts, ...]:
        return tuple(replace(_tensor_facts(tensors[i]), name=name) for name, i in side)

    return SignatureFacts(signature.name, named(signature.inputs), named(signature.outputs))


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
        raise missing_library(
            "Inspecting a .tflite file needs ai-edge-litert", "tflite"
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
            " ai-edge-litert can: run pip install '.[tflite]' in a checkout of mnv4-deploy.",
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
