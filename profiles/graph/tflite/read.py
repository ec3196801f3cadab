"""The graphs of a .tflite file, read from its FlatBuffer without running anything.

Every offset in the file is untrusted: reading one that is out of bounds raises here, and
:func:`read_tflite` turns that into ModelFileError. Needs only ai-edge-litert, which carries the
generated schema.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import ModelFileError, UnsupportedError, missing_library
from mnv4_deploy.profiles.graph.format import looks_like_tflite
from mnv4_deploy.profiles.graph.tflite.options import called_graphs, read_options
from mnv4_deploy.profiles.records.graph import ModelGraph, Operator, Signature, Tensor

_MAX_METADATA_BYTES = 1 << 20
_MAX_TOTAL_BYTES = 4 << 20  # labels of 21,000 classes have 0.4 MB
_MAX_ENTRIES = 256
# LiteRT's time to load grows with the square of these; no network has nearly as many.
_MOST = 20_000
_HOSTILE = (
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    AttributeError,
)


class _TooManyError(Exception):
    """More than can be read, and loaded by the runtime, in reasonable time."""


def read_tflite(path: Path, signature: str = "") -> ModelGraph:
    """The graph of ``path`` behind ``signature``, with the shapes that the file itself has.

    "" is the file's first graph, which is the first signature's in all but odd files. A dimension
    that the file allocates with a negative size is 1.
    Raises ModelFileError for a damaged file, UnsupportedError for a signature that it does not
    have, MissingLibraryError without ai-edge-litert.
    """
    return chosen_graph(path, read_tflite_graphs(path), signature)


def chosen_graph(path: Path, graphs: Sequence[ModelGraph], signature: str) -> ModelGraph:
    """The one of the ``graphs`` of ``path`` that is behind ``signature``, "" for the first."""
    if not signature:
        return graphs[0]
    for known in graphs[0].signatures:
        if known.name == signature:
            return graphs[known.subgraph]
    names = ", ".join(known.name for known in graphs[0].signatures)
    raise UnsupportedError(
        f"{path} has no signature {signature}: it has {names}."
        if names
        else f"{path} has no signatures: leave out --signature."
    )


def read_tflite_graphs(path: Path) -> tuple[ModelGraph, ...]:
    """Every graph of ``path``, in the file's order, at least one; raises as read_tflite."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise missing_library("Reading a .tflite file needs ai-edge-litert", "tflite") from error
    data = path.read_bytes()
    if not looks_like_tflite(data):
        raise ModelFileError(f"{path} is not a TFLite model: give a .tflite file.")
    try:
        return _read(data, schema)
    except _TooManyError as error:
        raise ModelFileError(
            f"{path} has {error.args[0]:,} tensors or operators, of at most {_MOST:,}: give a"
            " smaller model."
        ) from error
    except _HOSTILE as error:
        raise ModelFileError(
            f"{path} is a damaged or truncated TFLite model: copy or export it again."
        ) from error


@dataclass(frozen=True)
class _File:
    """What all graphs of a file share. ``buffers`` are sizes in bytes."""

    model: Any
    schema: Any
    buffers: list[int]
    kinds: list[tuple[str, bool]]
    signatures: tuple[Signature, ...]
    weight_bytes: dict[str, int]
    metadata: dict[str, str]


def _read(data: bytes, schema: Any) -> tuple[ModelGraph, ...]:
    model = schema.Model.GetRootAs(data, 0)
    count = model.SubgraphsLength()
    if count < 1:
        raise ValueError("no graph")
    size = max(_size(model.Subgraphs(number)) for number in range(count))
    if max(size, model.BuffersLength()) > _MOST:
        raise _TooManyError(size)
    buffers = [_buffer_size(model.Buffers(i), data) for i in range(model.BuffersLength())]
    file = _File(
        model,
        schema,
        buffers,
        _operator_kinds(model, schema),
        tuple(_signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())),
        _weight_bytes(model, buffers, _enum_names(schema.TensorType)),
        _metadata(model, data),
    )
    graphs = tuple(_graph(file, number) for number in range(count))
    for signature in file.signatures:
        size = len(graphs[signature.subgraph].tensors)
        if any(not 0 <= t < size for _, t in (*signature.inputs, *signature.outputs)):
            raise IndexError("signature of a tensor that is not there")
    return graphs


def _size(graph: Any) -> int:
    return max(int(graph.TensorsLength()), int(graph.OperatorsLength()))


def _signature(found: Any) -> Signature:
    def names(at: Any, count: int) -> tuple[tuple[str, int], ...]:
        return tuple((_name(at(i).Name()), int(at(i).TensorIndex())) for i in range(count))

    return Signature(
        _name(found.SignatureKey()),
        int(found.SubgraphIndex()),
        names(found.Inputs, found.InputsLength()),
        names(found.Outputs, found.OutputsLength()),
    )


def _name(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def _graph(file: _File, number: int) -> ModelGraph:
    graph, schema, kinds = file.model.Subgraphs(number), file.schema, file.kinds
    dtypes = _enum_names(schema.TensorType)
    tensors = tuple(
        _tensor(graph.Tensors(i), file.buffers, dtypes) for i in range(graph.TensorsLength())
    )
    ops = tuple(
        _op(graph.Operators(i), i, kinds, tensors, schema) for i in range(graph.OperatorsLength())
    )
    inputs = tuple(int(graph.Inputs(i)) for i in range(graph.InputsLength()))
    outputs = tuple(int(graph.Outputs(i)) for i in range(graph.OutputsLength()))
    used = [t for op in ops for t in op.inputs if t >= 0]
    used += [t for op in ops for t in op.outputs] + [*inputs, *outputs]
    if any(not 0 <= t < len(tensors) for t in used):
        raise IndexError("tensor index out of range")
    if any(not 0 <= called < file.model.SubgraphsLength() for op in ops for called in op.calls):
        raise IndexError("graph index out of range")
    return ModelGraph(
        "tflite",
        tensors,
        ops,
        inputs,
        outputs,
        subgraphs=file.model.SubgraphsLength(),
        subgraph=number,
        signatures=file.signatures,
        weight_bytes=file.weight_bytes,
        metadata=file.metadata,
    )


def _buffer_size(buffer: Any, data: bytes) -> int:
    """Bytes of a buffer; ValueError where they lie beyond the end of the file."""
    length = int(buffer.DataLength())
    if length:
        start = buffer._tab.Vector(buffer._tab.Offset(4))
        if start + length > len(data):
            raise ValueError("buffer beyond the end of the file")
        return length
    if buffer.Offset() > 1:  # data outside the FlatBuffer, for files over 2 GB
        if buffer.Offset() + buffer.Size() > len(data):
            raise ValueError("buffer beyond the end of the file")
        return int(buffer.Size())
    return 0


def _enum_names(enum: type) -> dict[int, str]:
    return {v: k.lower() for k, v in vars(enum).items() if isinstance(v, int)}


def _tensor(tensor: Any, buffers: list[int], dtypes: dict[int, str]) -> Tensor:
    quantization = tensor.Quantization()
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis = 0
    if quantization is not None:
        # Whole vectors: one at a time, the scales of all channels take half a second.
        if quantization.ScaleLength():
            scale = tuple(quantization.ScaleAsNumpy().tolist())
        if quantization.ZeroPointLength():
            zero_point = tuple(quantization.ZeroPointAsNumpy().tolist())
        axis = int(quantization.QuantizedDimension())
    signature = [int(tensor.ShapeSignature(i)) for i in range(tensor.ShapeSignatureLength())]
    allocated = [int(tensor.Shape(i)) for i in range(tensor.ShapeLength())]
    return Tensor(
        name=_name(tensor.Name()),
        shape=tuple(1 if n < 0 else n for n in allocated),
        dtype=dtypes[tensor.Type()],
        constant=buffers[tensor.Buffer()] > 0,
        declared=tuple(signature or allocated),
        scale=scale,
        zero_point=zero_point,
        axis=axis,
        variable=bool(tensor.IsVariable()),
    )


def _weight_bytes(model: Any, buffers: list[int], dtypes: dict[int, str]) -> dict[str, int]:
    """Bytes by element type of what the tensors of all graphs hold."""
    graphs = (model.Subgraphs(i) for i in range(model.SubgraphsLength()))
    tensors = (graph.Tensors(i) for graph in graphs for i in range(graph.TensorsLength()))
    stored = {t.Buffer(): dtypes[t.Type()] for t in tensors if buffers[t.Buffer()]}
    found: defaultdict[str, int] = defaultdict(int)
    for buffer, dtype in stored.items():
        found[dtype] += buffers[buffer]
    return dict(found)


def _operator_kinds(model: Any, schema: Any) -> list[tuple[str, bool]]:
    """The name of each operator code, and whether it is a custom one."""
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    kinds = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        # Old files keep the operator in the byte-sized field; new ones in both.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = _name(code.CustomCode())
        kinds.append((custom or names[number], bool(custom)))
    return kinds


def _op(
    op: Any,
    index: int,
    kinds: list[tuple[str, bool]],
    tensors: tuple[Tensor, ...],
    schema: Any,
) -> Operator:
    kind, custom = kinds[op.OpcodeIndex()]
    outputs = tuple(int(op.Outputs(i)) for i in range(op.OutputsLength()))
    options = read_options(op, schema)
    return Operator(
        index=index,
        kind=kind,
        name=tensors[outputs[0]].name if outputs else kind,
        inputs=tuple(int(op.Inputs(i)) for i in range(op.InputsLength())),
        outputs=outputs,
        attributes=options,
        custom=custom,
        calls=called_graphs(options),
    )


def _metadata(model: Any, data: bytes) -> dict[str, str]:
    """Description, metadata buffers and the files packed behind the model (labels).

    A buffer or file of more than 1 MiB is cut or left out, and so is what would make all of them
    more than 4 MiB together: several may be the same bytes of the file.
    """
    found: dict[str, str] = {}
    left = _MAX_TOTAL_BYTES
    if model.Description():
        found["description"] = model.Description()[:_MAX_METADATA_BYTES].decode("utf-8", "replace")
    for i in range(min(model.MetadataLength(), _MAX_ENTRIES)):
        entry = model.Metadata(i)
        buffer = model.Buffers(entry.Buffer())
        limit = max(0, min(left, _MAX_METADATA_BYTES))
        raw = bytes(buffer.DataAsNumpy()[:limit]) if buffer.DataLength() else b""
        left -= len(raw)
        found[_name(entry.Name())] = _text(raw)
    # TFLite Metadata appends label files as a ZIP archive to the FlatBuffer.
    if b"PK\x05\x06" in data[-(1 << 16) :]:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for info in archive.infolist()[:_MAX_ENTRIES]:
                    if info.file_size <= min(left, _MAX_METADATA_BYTES):
                        left -= info.file_size
                        found[info.filename] = _text(archive.read(info))
        except Exception:  # zipfile's and its decoders' exceptions share no base
            found["associated files"] = "unreadable"
    return found


def _text(raw: bytes) -> str:
    text = raw.rstrip(b"\0").decode("utf-8", "replace")
    if "\ufffd" in text or any(ord(c) < 32 and c not in "\t\r\n" for c in text):
        return f"{len(raw)} bytes of binary data"
    return text
