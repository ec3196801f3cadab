"""MACs and tensor sizes of each layer of a model, as the MobileNetV4 paper's roofline counts them.

Shapes only, on torch's meta device: no arithmetic, whatever the input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from mnv4_deploy.models.meta import built, forward

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LayerCost:
    """A convolution, a linear layer or a matrix product of two activations, per image.

    ``kind`` is "Conv2d", "Linear", … or "matmul"; ``module`` is the dotted name of the layer,
    of a product that of the module it is computed in. ``weight_elements`` leave out the bias;
    the second operand of a product is in ``input_elements``.
    """

    module: str
    kind: str
    macs: int
    weight_elements: int
    input_elements: int
    output_elements: int

    @property
    def attention(self) -> bool:
        """Whether it multiplies activations with one another."""
        return self.kind == "matmul"

    @property
    def elements(self) -> int:
        """Values read and written; their bytes in int8."""
        return self.weight_elements + self.input_elements + self.output_elements


def layer_costs(
    model: str | nn.Module, size: tuple[int, int], num_classes: int = 1000
) -> tuple[LayerCost, ...]:
    """The layers of ``model`` for one RGB image of ``size`` (height, width), as they run.

    ``model`` is a name of the zoo or a built module, for which ``num_classes`` is ignored.
    Norms, activations, additions and pooling are no layers here, as in the paper
    (arXiv 2404.10518, section 3).

    Raises:
        UnknownModelError: no model of that name.
    """
    module = built(model, num_classes)
    recorder = _Recorder(module)
    try:
        with recorder.products:
            forward(module, size)
    finally:
        recorder.remove()
    return tuple(recorder.found)


class _Recorder:
    """Hooks on every layer, and a watch on the matrix products between them."""

    def __init__(self, model: nn.Module) -> None:
        from torch import nn

        self.found: list[LayerCost] = []
        self.running: list[str] = []
        self.inside_layer = 0
        self._handles: list[Any] = []
        layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        for name, module in model.named_modules():
            if isinstance(module, layers + transposed):
                self._watch_layer(name, module, isinstance(module, transposed))
            else:
                self._watch_scope(name, module)
        self.products = _product_watch(self)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch_scope(self, name: str, module: nn.Module) -> None:
        def enter(*_: object) -> None:
            self.running.append(name)

        def leave(*_: object) -> None:
            self.running.pop()

        self._handles.append(module.register_forward_pre_hook(enter))
        self._handles.append(module.register_forward_hook(leave))

    def _watch_layer(self, name: str, layer: nn.Module, transposed: bool) -> None:
        def enter(*_: object) -> None:
            self.inside_layer += 1

        def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.inside_layer -= 1
            weight = cast("Tensor", module.weight)
            positions = inputs[0] if transposed else output
            self.found.append(
                LayerCost(
                    module=name,
                    kind=type(module).__name__,
                    # Each position meets the weights of its own channel.
                    macs=positions.numel() * weight[0].numel(),
                    weight_elements=weight.numel(),
                    input_elements=inputs[0].numel(),
                    output_elements=output.numel(),
                )
            )

        self._handles.append(layer.register_forward_pre_hook(enter))
        self._handles.append(layer.register_forward_hook(leave))


def _product_watch(recorder: _Recorder) -> Any:
    """A mode that records every matrix product outside the layers."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    products = {
        torch.ops.aten.mm.default: 0,
        torch.ops.aten.bmm.default: 0,
        torch.ops.aten.addmm.default: 1,
        torch.ops.aten.baddbmm.default: 1,
    }

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            if func in products and not recorder.inside_layer:
                a, b = args[products[func] : products[func] + 2]
                recorder.found.append(
                    LayerCost(
                        module=recorder.running[-1] if recorder.running else "",
                        kind="matmul",
                        macs=output.numel() * a.shape[-1],
                        weight_elements=0,
                        input_elements=a.numel() + b.numel(),
                        output_elements=output.numel(),
                    )
                )
            return output

    return Watch()  # type: ignore[no-untyped-call]
