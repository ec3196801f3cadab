"""int8 recipes as data: what each target accepts, and what quantization must therefore respect.

A target is what runs an int8 file, so each is one of a format: ``RECIPES`` for TFLite, ``CPUS``
for ONNX.

What XNNPACK takes is in ``profiles.xnnpack.rules``; ``verify`` asks the runtime itself whether it
took everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.xnnpack.rules import FLOAT_ONLY, RULES, ScaleRatio

if TYPE_CHECKING:
    from mnv4_deploy.exporters.pair_scales import WeightGrid

Target = Literal["xnnpack", "integer-only"]


@dataclass(frozen=True)
class TfliteRecipe:
    """How the int8 TFLite file of one target is made.

    ``float_ops``: TFLite operators that stay in float, between a DEQUANTIZE and a QUANTIZE.
    ``symmetric_products``: the second operand of a batch product gets zero point 0.
    ``scale_ratios``: for an operator, the range that input scale over output scale must stay in:
    an addition's ranges are widened to it, and what still is outside stays in float.
    """

    target: Target
    float_ops: frozenset[str] = frozenset()
    symmetric_products: bool = False
    scale_ratios: tuple[tuple[str, ScaleRatio], ...] = ()


# Operators that LiteRT computes with 16-bit activations and 8-bit weights. Activation functions
# are left out: none is where int8 loses accuracy and int16 would not cost more than float.
INT16_OPS = frozenset(
    {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX"),
        *("ADD", "SUB", "MUL", "MEAN", "AVERAGE_POOL_2D", "LOGISTIC", "TANH"),
        *("RESHAPE", "TRANSPOSE", "PAD", "STRIDED_SLICE", "CONCATENATION", "SPLIT"),
    }
)

RECIPES: dict[str, TfliteRecipe] = {
    # XNNPACK has these operators in float only: an int8 one leaves the delegate and splits the
    # graph, while DEQUANTIZE and QUANTIZE around a float one stay inside.
    "xnnpack": TfliteRecipe(
        target="xnnpack",
        float_ops=FLOAT_ONLY,
        symmetric_products=RULES["BATCH_MATMUL"].symmetric_second,
        scale_ratios=tuple(
            (kind, rule.scale_ratio) for kind, rule in RULES.items() if rule.scale_ratio
        ),
    ),
    # DSPs and NPUs without float units: everything in int8, inputs and outputs too.
    "integer-only": TfliteRecipe(target="integer-only"),
}

# Weights of int8 .onnx files by the processors they are for. x86 without VNNI adds pairs of
# products in int16: what is right there is right everywhere.
CPUS: dict[str, WeightGrid] = {"any-cpu": "pairs", "vnni": "full", "arm": "full"}


@dataclass(frozen=True)
class Targets:
    """What runs the int8 file of each format."""

    onnx: str = "any-cpu"
    tflite: str = "xnnpack"

    @classmethod
    def named(cls, text: str) -> Targets:
        """The targets of ``text``, comma-separated; a format without one has its default.

        Raises UnsupportedError for a target that does not exist, or two of one format.
        """
        names = {part.strip() for part in text.split(",")}
        if unknown := sorted(names - {*RECIPES, *CPUS}):
            raise UnsupportedError(
                f"There is no target {unknown[0]!r}: choose one of {', '.join(RECIPES)} for "
                f"TFLite and one of {', '.join(CPUS)} for ONNX."
            )
        found = {"onnx": names & {*CPUS}, "tflite": names & {*RECIPES}}
        if many := next((chosen for chosen in found.values() if len(chosen) > 1), None):
            raise UnsupportedError(
                f"--target has {' and '.join(sorted(many))}, which are for one and the same file: "
                "choose one of them."
            )
        return cls(**{format_: chosen.pop() for format_, chosen in found.items() if chosen})

    def weights(self, format_: str) -> WeightGrid:
        """The grid of an int8 file's weights."""
        return CPUS[self.onnx] if format_ == "onnx" else "full"


def recipe(target: str) -> TfliteRecipe:
    """Raises UnsupportedError for a target that does not exist."""
    try:
        return RECIPES[target]
    except KeyError:
        raise UnsupportedError(
            f"There is no target {target!r}: choose one of {', '.join(RECIPES)}."
        ) from None
