"""The stock ONNX path: the best that the public tools give from an ordinary PyTorch model.

Attention as plain matmul and softmax (timm's style), torch.onnx.export, onnxsim, and
onnxruntime's ``quant_pre_process`` and ``quantize_static`` (QDQ, per channel, uint8 activations,
int8 weights, minmax). The alternatives were measured on Hybrid-M: scaled_dot_product_attention
is as fast (0.97 to 1.02 of it), int8 activations are slower (1.37).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stock_attention import with_stock_attention
from torch import nn

from mnv4_deploy.profiles.runtimes.quiet import quiet


def build_stock_onnx(
    module: nn.Module,
    fp32_path: Path,
    int8_path: Path,
    *,
    input_shape: tuple[int, int, int],
    calibration: Iterable[npt.NDArray[np.float32]],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write both files. ``calibration`` gives inputs ``[1, 3, H, W]``.

    ``options`` are those of ``quantize_static``, None for the fastest.
    """
    export_stock_onnx(module, fp32_path, input_shape=input_shape)
    quantize_stock_onnx(fp32_path, int8_path, calibration, options)


def export_stock_onnx(module: nn.Module, path: Path, *, input_shape: tuple[int, int, int]) -> None:
    batch, height, width = input_shape
    with quiet():
        import onnx
        import onnxsim

        stock = with_stock_attention(module, "matmul", (height, width))
        program = torch.onnx.export(
            stock,
            (torch.zeros(batch, 3, height, width),),
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        model, _ = onnxsim.simplify(program.model_proto)
        onnx.save(model, path)


def quantize_stock_onnx(
    fp32_path: Path,
    int8_path: Path,
    calibration: Iterable[npt.NDArray[np.float32]],
    options: Mapping[str, Any] | None = None,
) -> None:
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.batches = iter(calibration)

            def get_next(self) -> dict[str, Any] | None:
                batch = next(self.batches, None)
                return None if batch is None else {"input": batch}

        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(fp32_path, prepared)
        fastest = {
            "per_channel": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
        }
        quantize_static(prepared, int8_path, Reader(), **(fastest if options is None else options))
