"""PyTorch module to float32 TFLite, ready for one XNNPACK partition.

Input ``[B, H, W, 3]``; outputs as PyTorch has them, but for maps, which are ``[B, h, w, C]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mnv4_deploy.errors import ToolchainError
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.models.records import LOGITS, OutputSpec
from mnv4_deploy.profiles.runtimes.quiet import quiet
from mnv4_deploy.sessions.outputs import CHANNELS_LAST, named


class _ChannelsLast(nn.Module):
    """NHWC in and, for maps, NHWC out. The permutes cancel against the converter's own."""

    def __init__(self, wrapped: nn.Module, outputs: Sequence[OutputSpec]) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.outputs = tuple(outputs)

    def forward(self, x_BHWC: Tensor) -> tuple[Tensor, ...]:
        result = self.wrapped(x_BHWC.permute(0, 3, 1, 2))
        found = named(result, [output.name for output in self.outputs])
        return tuple(
            found[output.name].permute(CHANNELS_LAST) if output.is_map else found[output.name]
            for output in self.outputs
        )


def export_tflite(
    module: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    outputs: Sequence[OutputSpec] = (LOGITS,),
) -> None:
    """Convert ``module`` (NCHW) and write it to ``path``.

    ``input_shape`` is ``(batch, height, width)``. Tensors are named after the PyTorch modules
    that made them. Raises ToolchainError where litert-torch cannot convert the module.
    """
    batch, height, width = input_shape
    example = torch.zeros(batch, height, width, 3)
    with quiet():
        import litert_torch

        try:
            with torch.no_grad():
                converted = litert_torch.convert(_ChannelsLast(module, outputs).eval(), (example,))
            converted.export(str(path))
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ToolchainError(
                f"litert-torch could not convert the model to TFLite ({error})."
            ) from error
    file = TfliteFile(path)
    file.rename_signature(["input"], [output.name for output in outputs])
    products_as_batch_matmul(file)
    file.name_by_module()
    file.write(path)


def products_as_batch_matmul(file: TfliteFile) -> int:
    """Turn products that the converter wrote as FULLY_CONNECTED into BATCH_MATMUL.

    XNNPACK takes a FULLY_CONNECTED only with constant weights; ``x @ w.T`` with a computed
    ``w`` is the same as BATCH_MATMUL with ``adj_y``, which it does take. Returns how many.
    """
    count = 0
    for operator in file.operators("FULLY_CONNECTED"):
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] >= 0
        if has_bias or file.is_constant(int(operator.inputs[1])):
            continue
        options = file.schema.BatchMatMulOptionsT()
        options.adjX, options.adjY = False, True
        operator.opcodeIndex = file.opcode("BATCH_MATMUL")
        operator.inputs = np.array(operator.inputs[:2], dtype=np.int32)
        operator.builtinOptions = options
        operator.builtinOptionsType = file.schema.BuiltinOptions.BatchMatMulOptions
        count += 1
    return count
