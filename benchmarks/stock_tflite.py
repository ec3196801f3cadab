"""The stock TFLite path: the best that the public tools give from an ordinary PyTorch model.

litert-torch with channel-last input, then ai-edge-quantizer's ``static_wi8_ai8`` recipe with its
own calibration. int8 files take and give int8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from stock_attention import AttentionForm, with_stock_attention
from torch import nn

from mnv4_deploy.profiles.runtimes.quiet import quiet


def build_stock_tflite(
    module: nn.Module,
    fp32_path: Path,
    int8_path: Path,
    *,
    form: AttentionForm,
    input_shape: tuple[int, int, int],
    calibration: Iterable[npt.NDArray[np.float32]],
) -> None:
    """Write both files. ``calibration`` gives inputs ``[B, H, W, 3]``."""
    export_stock_tflite(module, fp32_path, form=form, input_shape=input_shape)
    quantize_stock_tflite(fp32_path, int8_path, calibration)


def export_stock_tflite(
    module: nn.Module, path: Path, *, form: AttentionForm, input_shape: tuple[int, int, int]
) -> None:
    with quiet():
        import litert_torch

        stock = with_stock_attention(module, form, input_shape[1:])
        stock = litert_torch.to_channel_last_io(stock, args=[0]).eval()
        example = torch.zeros(*input_shape, 3)
        with torch.no_grad():
            litert_torch.convert(stock, (example,)).export(str(path))


def quantize_stock_tflite(
    fp32_path: Path, int8_path: Path, calibration: Iterable[npt.NDArray[np.float32]]
) -> None:
    with quiet():
        from ai_edge_quantizer import quantizer, recipe

        work = quantizer.Quantizer(str(fp32_path))
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        signature, argument = _signature(fp32_path)
        statistics = work.calibrate({signature: [{argument: batch} for batch in calibration]})
        quantized = work.quantize(statistics, enable_progress_report=False)
    int8_path.write_bytes(quantized.quantized_model)


def _signature(path: Path) -> tuple[str, str]:
    """The name of a file's only signature and of its only input."""
    from ai_edge_litert.interpreter import Interpreter

    ((name, tensors),) = Interpreter(str(path)).get_signature_list().items()
    (argument,) = tensors["inputs"]
    return name, argument
