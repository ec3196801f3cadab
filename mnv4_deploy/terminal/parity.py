"""A parity check on the terminal: is a device the same, and if not, since which layer and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mnv4_deploy.parity.records import DeviceParity, Difference, LayerParity, ParityResult
from mnv4_deploy.parity.write import parity_to_dict
from mnv4_deploy.terminal.profile import console_for
from mnv4_deploy.terminal.tables import Column, print_table
from mnv4_deploy.text import clean, plural

__all__ = ["parity_to_dict", "print_parity"]

_NAME_WIDTH = 40
_SAME_CLASSES = "The same top-1 class in every input."


def print_parity(result: ParityResult, top: int = 10, console: Console | None = None) -> None:
    """The verdict on each device, its first differing layer, and the ``top`` (0: all) worst."""
    console = console or console_for()
    kind = "integers, which must be equal" if result.quantized else "floats"
    console.print(
        f"\n[bold]{_text(Path(result.path).name)}[/]  {kind}; "
        f"{plural(result.count, 'input')} ({_text(result.inputs)}); here {_text(result.runtime)}, "
        f"{_text(result.here.architecture)}",
    )
    for device in result.devices:
        console.print()
        for line in _verdict(device):
            console.print(line)
        _print_own(device, top, console)


def _text(name: str) -> str:
    """What a file or a device says, as it is to be read: no markup, nothing unseen."""
    return escape(clean(name))


def _verdict(device: DeviceParity) -> Iterator[str]:
    verdict = device.outputs.verdict
    colour = {"exact": "green", "different": "red"}.get(verdict, "yellow")
    within = "" if verdict in ("exact", "different") else "within "
    yield (
        f"[bold]{_text(device.device)}[/]  [{colour}]{within}{verdict}[/]: "
        f"{_figures(device.outputs)}  [dim]{_text(device.runtime)}, "
        f"{_text(device.facts.architecture)}[/]"
    )
    if device.top_class_differs is not None and device.outputs.differing:
        others = plural(device.top_class_differs, "input")
        yield f"Another top-1 class in {others}." if device.top_class_differs else _SAME_CLASSES
    if device.first is not None:
        yield _first("First layer to differ", device.layers[device.first])
    if device.explanation:
        yield _text(device.explanation)
    if device.first_code not in (None, device.first):
        yield _first("First layer whose codes differ", device.layers[device.first_code])
        yield _text(device.code_explanation)
    for note in device.notes:
        yield f"[yellow]note:[/] {_text(note)}"


def _first(title: str, layer: LayerParity) -> str:
    return (
        f"{title}: [bold]{_text(layer.module or layer.tensor)}[/] ({_text(layer.kind)}, "
        f"{_text(layer.compute)}), operator {layer.index}: {_figures(layer.own)}."
    )


def _figures(difference: Difference) -> str:
    if not difference.differing:
        return f"{difference.elements:,} elements equal bit for bit"
    parts = [f"{difference.differing:,} of {difference.elements:,} elements differ"]
    if difference.max_codes is not None:
        parts.append(f"by at most {plural(difference.max_codes, 'code')}")
    else:
        parts.append(
            f"by at most {difference.max_error:.3g}, {difference.max_relative_error:.2g} of the "
            "largest value"
        )
    return ", ".join(parts)


def _print_own(device: DeviceParity, top: int, console: Console) -> None:
    own = [layer for layer in device.layers if layer.own.differing and layer.inputs_equal]
    if not own:
        return
    own.sort(key=lambda layer: (-layer.own.max_relative_error, -layer.own.differing))
    shown = own[:top] if top else own
    console.print(
        f"\n{len(own)} of {plural(len(device.layers), 'layer')} "
        f"{'differs' if len(own) == 1 else 'differ'} on equal inputs"
        f"{f'; the {len(shown)} worst' if len(shown) < len(own) else ''}",
    )
    print_table(
        console,
        (
            *(Column.name("layer", _NAME_WIDTH), Column.text("kind", 20), Column.text("type", 16)),
            *map(Column, ("differ", "of", "codes", "error", "relative")),
        ),
        [
            (
                clean(layer.module or layer.tensor),
                clean(layer.kind),
                clean(layer.compute),
                f"{layer.own.differing:,}",
                f"{layer.own.elements:,}",
                "" if layer.own.max_codes is None else str(layer.own.max_codes),
                f"{layer.own.max_error:.3g}",
                f"{layer.own.max_relative_error:.2g}",
            )
            for layer in shown
        ],
    )
