"""A .tflite file as mutable objects, and the few edits that the exporters share.

Tensor indices are those of the main subgraph. Reading and writing is
``ai_edge_litert.tools.flatbuffer_utils``; the schema is LiteRT's ``schema.fbs``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}


class TfliteFile:
    """The main subgraph of a model, with its operators in execution order."""

    def __init__(self, path: str | Path) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        self.schema: Any = schema
        self.model: Any = flatbuffer_utils.read_model(str(path))
        self.graph: Any = self.model.subgraphs[0]
        self._kinds: dict[int, str] = {
            value: name
            for name, value in vars(schema.BuiltinOperator).items()
            if isinstance(value, int)
        }

    def write(self, path: str | Path) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        for buffer in self.model.buffers:
            # The generated writer copies an array at once, anything else byte by byte: minutes.
            if buffer.data is not None and not isinstance(buffer.data, np.ndarray):
                buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
        flatbuffer_utils.write_model(self.model, str(path))

    def kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return self._kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def operators(self, *kinds: str) -> Iterator[Any]:
        for operator in self.graph.operators:
            if self.kind(operator) in kinds:
                yield operator

    def name(self, tensor: int) -> str:
        return str(self.graph.tensors[tensor].name.decode())

    def shape(self, tensor: int) -> list[int]:
        return [int(size) for size in self.graph.tensors[tensor].shape]

    def is_constant(self, tensor: int) -> bool:
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def producer(self, tensor: int) -> Any | None:
        return next((o for o in self.graph.operators if tensor in o.outputs), None)

    def opcode(self, kind: str, version: int = 1) -> int:
        """The index of the operator code, added where the model has none yet."""
        builtin = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                code.version = max(code.version, version)
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode = builtin
        code.deprecatedBuiltinCode = min(builtin, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def add_tensor(
        self,
        name: str,
        like: int,
        dtype: str,
        quantization: tuple[float, int] | None = None,
    ) -> int:
        """A new tensor with the shape of ``like`` and ``(scale, zero point)``, without data."""
        tensor = self.schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.array(self.shape(like), dtype=np.int32)
        tensor.type = _DTYPES[dtype]
        tensor.buffer = 0
        if quantization is not None:
            parameters = self.schema.QuantizationParametersT()
            parameters.scale = np.array([quantization[0]], dtype=np.float32)
            parameters.zeroPoint = np.array([quantization[1]], dtype=np.int64)
            tensor.quantization = parameters
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def quantization(self, tensor: int) -> tuple[float, int]:
        """Scale and zero point of a per-tensor quantized tensor."""
        parameters = self.graph.tensors[tensor].quantization
        return float(parameters.scale[0]), int(parameters.zeroPoint[0])

    def insert_unary(self, position: int, kind: str, source: int, result: int) -> None:
        """Insert a QUANTIZE or DEQUANTIZE before the operator at ``position``."""
        operator = self.schema.OperatorT()
        # Version 2 of DEQUANTIZE is the first with int8; QUANTIZE has it from version 1.
        operator.opcodeIndex = self.opcode(kind, version=2 if kind == "DEQUANTIZE" else 1)
        operator.inputs = np.array([source], dtype=np.int32)
        operator.outputs = np.array([result], dtype=np.int32)
        options = {"QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions"}[kind]
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(self.schema, f"{options}T")()
        self.graph.operators.insert(position, operator)

    def add(self, left: int, right: int, result: int) -> Any:
        """An ADD, for the caller to put in its place."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self.opcode("ADD")
        operator.inputs = np.array([left, right], dtype=np.int32)
        operator.outputs = np.array([result], dtype=np.int32)
        operator.builtinOptionsType = self.schema.BuiltinOptions.AddOptions
        operator.builtinOptions = self.schema.AddOptionsT()
        return operator

    def rename_signature(self, inputs: list[str], outputs: list[str]) -> None:
        """Give the default signature these argument names and make them the tensor names."""
        signature = self.model.signatureDefs[0]
        for entries, names, tensors in (
            (signature.inputs, inputs, self.graph.inputs),
            (signature.outputs, outputs, self.graph.outputs),
        ):
            order = {int(tensor): name for tensor, name in zip(tensors, names, strict=True)}
            for entry in entries:
                entry.name = order[int(entry.tensorIndex)].encode()
            for tensor, name in order.items():
                self.graph.tensors[tensor].name = name.encode()

    def name_by_module(self) -> None:
        """Shorten the converter's tensor names to the module paths inside them, kept unique.

        ``Wrapper/pkg.Net_wrapped/torch...Sequential_blocks/torch...Conv2d_conv;3`` becomes
        ``blocks.conv``: the path by which the PyTorch model knows the layer.
        """
        keep = {*map(int, self.graph.inputs), *map(int, self.graph.outputs)}
        # An output may be called like the module that makes it, and has the name for itself.
        used = {self.name(index): 1 for index in keep}
        for index, tensor in enumerate(self.graph.tensors):
            if index in keep:
                continue
            name = module_path(tensor.name.decode())
            count = used[name] = used.get(name, 0) + 1
            tensor.name = (name if count == 1 else f"{name};{count}").encode()

    def constant(self, tensor: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.frombuffer(self._bytes(tensor), dtype=dtype).reshape(self.shape(tensor))

    def half_bytes(self, tensor: int) -> npt.NDArray[np.int8]:
        """A constant of int4, stored two a byte with the lower half first."""
        packed = np.frombuffer(self._bytes(tensor), np.int8)
        both = np.stack([packed << 4, packed], axis=1).ravel() >> 4
        shape = self.shape(tensor)
        return both[: math.prod(shape)].reshape(shape)

    def _bytes(self, tensor: int) -> bytes:
        return bytes(self.model.buffers[self.graph.tensors[tensor].buffer].data)

    def add_constant(self, name: str, values: npt.NDArray[np.float32]) -> int:
        """A new float tensor with ``values``."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name.encode(), np.array(values.shape, np.int32)
        tensor.type, tensor.buffer = _DTYPES["float32"], len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


def module_path(name: str) -> str:
    """The module path inside a tensor name that litert-torch made, else the name itself."""
    segments = name.split(";", 1)[0].split("/")
    attributes = [re.fullmatch(r"(?:[\w<>]+\.)*_*[A-Za-z0-9]+_(\w+)", s) for s in segments[1:]]
    if not attributes or any(match is None for match in attributes):
        return name
    path = [match[1] for match in attributes if match is not None and match[1] != "wrapped"]
    return ".".join(path) or name
