"""Which layer of the reference computes what a layer of the candidate computes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mnv4_deploy.layers.families import PRODUCT
from mnv4_deploy.layers.layer import Array, Format, Network, NetworkLayer
from mnv4_deploy.layers.layout import Layout, channel_axis, find_layout

# What quantizers append to the name of a tensor: onnxruntime's, ai-edge-quantizer's, ours.
_APPENDED = re.compile(
    r"(_(Quantize|Dequantize)Linear(_\d+)?(_Output)?(_\d+)?|_quantized|_(de)?quant|_requant(ize)?|"
    r";(u?int(8|16)|float))$"
)


@dataclass(frozen=True)
class Match:
    """Tensors of the reference, joined along their channels, that one layer is compared with.

    ``channels`` is a part of them, None for all.
    """

    tensors: tuple[int, ...]
    axis: int
    layout: Layout
    channels: tuple[int, int] | None = None

    def __call__(self, values: Mapping[int, Array]) -> Array:
        """The reference's values in the candidate's layout."""
        return self.layout(_picked(values, self.tensors, self.axis, self.channels))

    def back(self, values: Array, reference: Mapping[int, Array]) -> dict[int, Array]:
        """Values in the candidate's layout as the reference's tensors have them.

        ``reference`` has arrays of their shapes. Channels that are not compared are 0.
        """
        parts = [reference[t] for t in self.tensors]
        picked = _picked(reference, self.tensors, self.axis, self.channels)
        found = self.layout.back(values, picked.shape)
        if self.channels is not None:
            whole = np.zeros(parts[0].shape, values.dtype)
            whole[(slice(None),) * self.axis + (slice(*self.channels),)] = found
            found = whole
        ends = np.cumsum([part.shape[self.axis] for part in parts])[:-1]
        return dict(zip(self.tensors, np.split(found, ends, self.axis), strict=True))


def _picked(
    values: Mapping[int, Array],
    tensors: tuple[int, ...],
    axis: int,
    channels: tuple[int, int] | None,
) -> Array:
    parts = [values[t] for t in tensors]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
    if channels is None:
        return whole
    return whole[(slice(None),) * axis + (slice(*channels),)]


def seen_through(
    tensors: Iterable[int], layers: Mapping[int, NetworkLayer], known: Collection[int]
) -> tuple[int, ...]:
    """``tensors``; instead of a mergeable layer that is not ``known``, what that layer reads.

    ``layers`` are by their output.
    """
    found: dict[int, None] = {}
    for tensor in tensors:
        layer = layers.get(tensor)
        if layer is not None and layer.mergeable and tensor not in known:
            found |= dict.fromkeys(seen_through(layer.sources, layers, known))
        else:
            found[tensor] = None
    return tuple(found)


def bare_name(name: str) -> str:
    """A tensor's name without what quantizers append."""
    while (shorter := _APPENDED.sub("", name)) != name:
        name = shorter
    return name


class _Join:
    def __init__(
        self,
        reference: Network,
        candidate: Network,
        reference_values: Mapping[int, Array],
        candidate_values: Mapping[int, Array],
    ) -> None:
        self.formats: tuple[Format, Format] = reference.format, candidate.format
        self.reference = {layer.output: layer for layer in reference.layers}
        self.candidate = {layer.output: layer for layer in candidate.layers}
        self.values = reference_values, candidate_values
        self.inputs = dict(zip(candidate.inputs, reference.inputs, strict=False))
        self.reference_inputs = frozenset(reference.inputs)
        self.found: dict[int, Match] = {}
        self.taken: set[int] = set()

    def free(self) -> tuple[list[NetworkLayer], list[NetworkLayer]]:
        """The layers of the candidate and of the reference that have no counterpart yet."""
        return (
            [c for c in self.candidate.values() if c.output not in self.found and self.whole(c)],
            [r for r in self.reference.values() if r.output not in self.taken and self.whole(r)],
        )

    def whole(self, layer: NetworkLayer) -> bool:
        """False for a product without its sum where the formats may split the two unalike."""
        alike = (self.formats[0] == "tflite") == (self.formats[1] == "tflite")
        return alike or not layer.mergeable or layer.family != PRODUCT

    def match(
        self,
        candidate: NetworkLayer,
        references: Iterable[NetworkLayer],
        channels: tuple[int, int] | None = None,
    ) -> bool:
        tensors = tuple(r.output for r in references)
        first = self.values[0][tensors[0]]
        axis = channel_axis(self.formats[0], first.ndim)
        picked = _picked(self.values[0], tensors, axis, channels)
        mine = self.values[1][candidate.output]
        layout = find_layout(picked, self.formats[0], mine, self.formats[1])
        if layout is None:
            return False
        self.found[candidate.output] = Match(tensors, axis, layout, channels)
        self.taken.update(tensors)
        return True

    def by(
        self,
        candidate_key: Callable[[NetworkLayer], Hashable | None],
        reference_key: Callable[[NetworkLayer], Hashable | None],
        *,
        single: bool,
    ) -> int:
        """Match layers of one key in their order, if both have as many (``single``: one)."""
        groups: defaultdict[Hashable, tuple[list[NetworkLayer], list[NetworkLayer]]]
        groups = defaultdict(lambda: ([], []))
        for side, (layers, key) in enumerate(
            zip(self.free(), (candidate_key, reference_key), strict=True)
        ):
            for layer in layers:
                value = key(layer)
                if value is not None:
                    groups[value][side].append(layer)
        count = 0
        for mine, theirs in groups.values():
            if len(mine) == len(theirs) and (len(mine) == 1 or not single):
                count += sum(self.match(c, [r]) for c, r in zip(mine, theirs, strict=True))
        return count

    def by_name(self) -> None:
        self.by(lambda c: bare_name(c.name), lambda r: bare_name(r.name), single=True)

    def by_module(self) -> None:
        def key(layer: NetworkLayer) -> Hashable | None:
            return (layer.module, layer.family) if layer.module else None

        self.by(key, key, single=False)

    def by_structure(self) -> None:
        """Layers of one family that read the same, until nothing more is found."""
        while self.by(self._candidate_reads, self._reference_reads, single=False):
            pass

    def _candidate_reads(self, layer: NetworkLayer) -> Hashable | None:
        found: set[int] = set()
        for tensor in seen_through(layer.sources, self.candidate, self.found):
            if tensor in self.found:
                found.update(self.found[tensor].tensors)
            elif tensor in self.inputs:
                found.add(self.inputs[tensor])
            else:
                return None
        return (layer.family, frozenset(found)) if found else None

    def _reference_reads(self, layer: NetworkLayer) -> Hashable | None:
        tensors = frozenset(seen_through(layer.sources, self.reference, self.taken))
        known = tensors <= self.taken | self.reference_inputs
        return (layer.family, tensors) if tensors and known else None

    def by_parts(self) -> None:
        """One product in one network, several side by side in the other: query, key, value."""
        free_c, free_r = (self._products(layers) for layers in self.free())
        for read in free_c.keys() & free_r.keys():
            mine, theirs = free_c[read], free_r[read]
            if len(theirs) == 1 < len(mine):
                widths = [self._width(1, c) for c in mine]
                if sum(widths) != self._width(0, theirs[0]):
                    continue
                start = 0
                for layer, width in zip(mine, widths, strict=True):
                    self.match(layer, theirs, (start, start + width))
                    start += width
            elif len(mine) == 1 < len(theirs):
                widths = [self._width(0, r) for r in theirs]
                if sum(widths) == self._width(1, mine[0]):
                    self.match(mine[0], theirs)

    def _products(self, layers: list[NetworkLayer]) -> dict[Hashable, list[NetworkLayer]]:
        groups: defaultdict[Hashable, list[NetworkLayer]] = defaultdict(list)
        for layer in layers:
            mine = self.candidate.get(layer.output) is layer
            key = self._candidate_reads(layer) if mine else self._reference_reads(layer)
            if key is not None and layer.family == PRODUCT:
                groups[key].append(layer)
        return groups

    def _width(self, side: int, layer: NetworkLayer) -> int:
        values = self.values[side][layer.output]
        return int(values.shape[channel_axis(self.formats[side], values.ndim)])


def join(
    reference: Network,
    candidate: Network,
    reference_values: Mapping[int, Array],
    candidate_values: Mapping[int, Array],
) -> dict[int, Match]:
    """The counterpart of each of the candidate's layers, by the layer's output tensor.

    By the names of tensors, then by module and kind of operator, then by what is read, and
    never against the shape. Values are of one image; they settle the order of axes where
    shapes alone do not.
    """
    work = _Join(reference, candidate, reference_values, candidate_values)
    if reference.format == candidate.format:
        work.by_name()
    work.by_module()
    work.by_structure()
    work.by_parts()
    work.by_structure()
    return work.found
