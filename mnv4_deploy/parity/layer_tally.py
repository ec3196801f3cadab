"""Every layer's difference over all inferences, and the first layers that differ by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mnv4_deploy.layers.layer import Array
from mnv4_deploy.parity.differences import Tally
from mnv4_deploy.parity.layers import Equality, LayersPlan, Watched
from mnv4_deploy.parity.records import LayerParity


@dataclass(frozen=True)
class Evidence:
    """One inference in which a layer differed on equal inputs.

    ``sources`` are the arrays it read, by tensor; those that no side has in memory are missing.
    """

    layer: Watched
    sources: Mapping[int, Array]
    here: Array
    there: Array


@dataclass
class _Compared:
    """A layer over all inferences; ``unequal`` counts those in which its inputs differed."""

    layer: Watched
    all_inputs: Tally
    equal_inputs: Tally
    seen: int = 0
    unequal: int = 0

    def result(self) -> LayerParity:
        own = self.equal_inputs.differing > 0
        quantization = self.layer.quantization
        return LayerParity(
            index=self.layer.op,
            module=self.layer.module,
            kind=self.layer.kind,
            compute=self.layer.compute,
            tensor=self.layer.name,
            shape=self.layer.shape,
            difference=self.all_inputs.result(),
            inputs_equal=own or not self.unequal,
            step=None if quantization is None else quantization.scale,
            on_equal_inputs=self.equal_inputs.result() if self.equal_inputs.elements else None,
        )


@dataclass(frozen=True)
class LayersFound:
    """Layers in order of execution. ``first`` is the first that differs by itself, ``first_code``
    the first whose codes do: floats that differ in their last bits may mean nothing further on.
    Each is a place in ``layers`` with its evidence."""

    layers: tuple[LayerParity, ...]
    first: tuple[int, Evidence] | None
    first_code: tuple[int, Evidence] | None


@dataclass
class LayersTally:
    """All layers of a plan. ``missing`` are tensors that a runtime had no memory for."""

    plan: LayersPlan
    missing: set[int] = field(default_factory=set)
    _first: tuple[int, Evidence] | None = None
    _first_code: tuple[int, Evidence] | None = None

    def __post_init__(self) -> None:
        self._compared = [
            _Compared(layer, Tally(layer.quantization), Tally(layer.quantization))
            for layer in self.plan.layers
        ]
        self._sources = {layer.tensor: layer.sources for layer in self.plan.layers}

    def add(
        self,
        inputs: Sequence[Array],
        here: Sequence[Array],
        there: Sequence[Array],
        isolated: Sequence[Array] | None = None,
    ) -> None:
        """Count one inference, from runs as the plan says.

        ``isolated`` is the device's run in which every layer read what was computed here.
        """
        kept = self.by_tensor(inputs, here)
        there_by = self.by_tensor(inputs, there)
        alone = None if isolated is None else self.by_tensor(inputs, isolated)
        equality = Equality(self.plan.inputs, self._sources)
        for at, compared in enumerate(self._compared):
            tensor = compared.layer.tensor
            if tensor not in kept or tensor not in there_by:
                self.missing.add(tensor)
                continue
            equal = equality.inputs_equal(compared.layer)
            agree = not compared.all_inputs.add(kept[tensor], there_by[tensor])
            equality.set(tensor, equal=agree)
            compared.seen += 1
            compared.unequal += not equal
            if alone is not None and tensor in alone:
                self._count_own(at, kept, alone[tensor])
            elif equal:
                self._count_own(at, kept, there_by[tensor])

    def by_tensor(self, inputs: Sequence[Array], run: Sequence[Array]) -> dict[int, Array]:
        """What a run gave, and what went in; without tensors that the runtime did not keep."""
        found = dict(zip(self.plan.order, run, strict=True))
        shapes = {layer.tensor: layer.shape for layer in self.plan.layers}
        present = {t: a for t, a in found.items() if a.shape != (0,) or shapes.get(t) == (0,)}
        return present | dict(zip(self.plan.inputs, inputs, strict=True))

    def _count_own(self, at: int, kept: Mapping[int, Array], there: Array) -> None:
        compared = self._compared[at]
        here = kept[compared.layer.tensor]
        if not compared.equal_inputs.add(here, there):
            return
        sources = {t: kept[t] for t in compared.layer.sources if t in kept}
        found = at, Evidence(compared.layer, sources, here, there)
        if self._first is None or at < self._first[0]:
            self._first = found
        if here.dtype.kind in "iu" and (self._first_code is None or at < self._first_code[0]):
            self._first_code = found

    def result(self) -> LayersFound:
        """The layers that were seen, and which of them are the first to differ by themselves."""
        seen = [at for at, compared in enumerate(self._compared) if compared.seen]
        firsts = [
            None if first is None else (seen.index(first[0]), first[1])
            for first in (self._first, self._first_code)
        ]
        return LayersFound(tuple(self._compared[at].result() for at in seen), *firsts)
