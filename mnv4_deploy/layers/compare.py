"""Every layer of one network against another's: through the network, and each on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mnv4_deploy.errors import ModelFileError
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.layers.effects import EffectTally
from mnv4_deploy.layers.evidence import gather_evidence
from mnv4_deploy.layers.families import PAD
from mnv4_deploy.layers.join import join, seen_through
from mnv4_deploy.layers.layer import Array, Isolated, Network, NetworkLayer
from mnv4_deploy.layers.layout import channel_axis
from mnv4_deploy.layers.networks.open_network import open_network
from mnv4_deploy.layers.records import LayerDrift, LayersDrift, OutputEffects
from mnv4_deploy.layers.reweigh import OtherWeights, WeightsTally, other_weights
from mnv4_deploy.layers.tally import AgreementTally, ChannelTally, RangeTally, differing
from mnv4_deploy.profiles.inspection.inspect import inspect_file
from mnv4_deploy.sessions.records import ModelRef

# Called with how many images are done, and of how many.
Progress = Callable[[int, int], None]


@dataclass
class _Tallies:
    """What is summed up for one layer. ``isolated`` is None where it cannot be had."""

    accumulated: AgreementTally
    isolated: AgreementTally | None
    use: RangeTally | None
    channels: ChannelTally


def compare_layers(
    reference: ModelRef,
    candidate: ModelRef,
    pixels: Pixels,
    progress: Progress | None = None,
    *,
    effects: bool = False,
) -> LayersDrift:
    """Every layer of ``candidate`` against ``reference`` on ``pixels`` ``[N, H, W, 3]``.

    ``pixels`` are RGB, resized for the candidate, before normalisation. The result's ``ranking``
    is empty and its layers have no cause yet. Tensors of one image are held at a time. With
    ``effects`` the reference also runs once a layer on the first images, twelve times on others,
    and with other weights on some.

    Raises ModelFileError for a file that cannot be run layer by layer, ToolchainError where a
    runtime is missing, WeightsError and UnknownModelError for a PyTorch model that cannot be
    loaded.
    """
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    theirs = open_network(reference, size, candidate.kind)
    mine = open_network(candidate, size, reference.kind)
    work = _Comparison(reference, candidate, theirs, mine, pixels, effects=effects)
    for done, image in enumerate(pixels, 1):
        work.add(image)
        if progress is not None:
            progress(done, len(pixels))
    return work.result(len(pixels))


class _Comparison:
    def __init__(
        self,
        reference: ModelRef,
        candidate: ModelRef,
        theirs: Network,
        mine: Network,
        pixels: Pixels,
        *,
        effects: bool,
    ) -> None:
        self.subjects = reference, candidate
        self.theirs, self.mine = theirs, mine
        self.images, example = len(pixels), pixels[0]
        self.notes: list[str] = []
        reference_values = theirs.run(theirs.feed(example, reference.preprocessing))
        values = mine.run(mine.feed(example, candidate.preprocessing))
        for subject, network, kept in (
            (reference, theirs, reference_values),
            (candidate, mine, values),
        ):
            plain = network.plain(example, subject.preprocessing)
            for output, tensor in zip(plain, network.outputs, strict=True):
                own = kept[tensor].ravel()[: output.size]  # of a batch the first
                self.notes += differing(subject.name, output.ravel(), own)
        self.matches = join(theirs, mine, reference_values, values)
        self.layers = [layer for layer in mine.layers if layer.output in self.matches]
        self.by_output = {layer.output: layer for layer in mine.layers}
        self.reads = {
            layer.output: seen_through(layer.sources, self.by_output, self.matches)
            for layer in self.layers
        }
        self.alone = self._isolate(reference_values)
        self.effects: EffectTally | None = None
        self.weights: WeightsTally | None = None
        if effects and self._outputs(values, reference_values) is not None:
            other = other_weights(theirs, mine, self.matches, self.layers)
            self.effects = self._find_effects(reference_values, other)
            self.weights = WeightsTally(theirs, other) if other.given else None
        self.shapes = {layer.output: values[layer.output].shape for layer in self.layers}
        self.tallies = {layer.output: self._tallies(layer) for layer in self.layers}

    def _isolate(self, reference_values: Mapping[int, Array]) -> Isolated | None:
        known = {*self.matches, *self.mine.inputs}
        self.isolated = [o for o, reads in self.reads.items() if reads and known.issuperset(reads)]
        cut = {t for output in self.isolated for t in self.reads[output]} - {*self.mine.inputs}
        self.cut = sorted(cut)
        if not self.isolated:
            return None
        examples = {t: self.matches[t](reference_values) for t in self.cut}
        try:
            return self.mine.isolate(examples, self.isolated)
        except (ModelFileError, MemoryError) as error:
            self.notes.append(f"No layer could be run on its own: {error}")
            self.isolated = []
            return None

    def _tallies(self, layer: NetworkLayer) -> _Tallies:
        own = layer.quantization
        return _Tallies(
            AgreementTally(),
            AgreementTally() if layer.output in self.isolated else None,
            None if own is None else RangeTally(own),
            ChannelTally(channel_axis(self.mine.format, len(self.shapes[layer.output]))),
        )

    def _find_effects(
        self, reference_values: Mapping[int, Array], weights: OtherWeights
    ) -> EffectTally | None:
        """None where the reference's tensors are no real numbers."""
        theirs = {layer.output: layer for layer in self.theirs.layers}
        matched = {t for match in self.matches.values() for t in match.tensors}
        if not self.isolated or any(theirs[t].quantization is not None for t in matched):
            return None
        return EffectTally(
            self.theirs,
            self.matches,
            [self.by_output[output] for output in self.isolated],
            self.cut,
            reference_values,
            weights.given,
            self.images,
        )

    def _outputs(
        self, values: Mapping[int, Array], reference_values: Mapping[int, Array]
    ) -> list[Array] | None:
        """The candidate's outputs in the reference's layout; None where they are others."""
        found = []
        for mine, theirs in zip(self.mine.outputs, self.theirs.outputs, strict=True):
            output, match = values[mine], self.matches.get(mine)
            if match is not None and match.tensors == (theirs,):
                output = match.back(output, reference_values)[theirs]
            if output.shape != reference_values[theirs].shape:
                return None
            found.append(output)
        return found

    def add(self, image: Pixels) -> None:
        reference, candidate = self.subjects
        wanted = self.theirs.run(self.theirs.feed(image, reference.preprocessing))
        values = self.mine.run(self.mine.feed(image, candidate.preprocessing))
        expected = {o: match(wanted) for o, match in self.matches.items()}
        alone: Mapping[int, Array] = {}
        if self.weights is not None:
            found = self._outputs(values, wanted)
            assert found is not None
            feed = self.theirs.feed(image, reference.preprocessing)
            self.weights.add(feed, [wanted[t] for t in self.theirs.outputs], found)
        if self.alone is not None:
            # The first layer too gets what the reference sees.
            feed = self.mine.feed(image, reference.preprocessing)
            given = {t: expected[t] for t in self.cut}
            alone = self.alone({**given, **feed})
            if self.effects is not None:
                outputs = self._outputs(values, wanted)
                assert outputs is not None
                feed = self.theirs.feed(image, reference.preprocessing)
                self.effects.add(feed, wanted, values, outputs)
        for output, tallies in self.tallies.items():
            truth = expected[output].astype(np.float64)
            tallies.accumulated.add(truth, values[output].astype(np.float64))
            tallies.channels.add_values(truth)
            if tallies.use is not None:
                tallies.use.add(truth)
            if tallies.isolated is not None:
                result = alone[output].astype(np.float64)
                tallies.isolated.add(truth, result)
                tallies.channels.add_error(result - truth)

    def result(self, images: int) -> LayersDrift:
        computes = self._computes()
        unmatched = tuple(
            layer.name
            for layer in self.mine.layers
            if layer.output not in self.matches and not layer.mergeable
        )
        return LayersDrift(
            images=images,
            layers=tuple(self._layer(layer, computes) for layer in self.layers),
            ranking=(),
            unmatched=unmatched,
            notes=tuple(self.notes),
            effects=self._effects(),
            weights=None if self.weights is None else self.weights.result(),
        )

    def _effects(self) -> OutputEffects | None:
        if self.effects is None:
            return None
        positions = {layer.output: i for i, layer in enumerate(self.layers)}
        return self.effects.result([positions[output] for output in self.isolated])

    def _computes(self) -> Mapping[int, str]:
        candidate = self.subjects[1]
        if candidate.kind == "torch":
            return {}
        return {op.index: op.compute for op in inspect_file(candidate.path).operators}

    def _layer(self, layer: NetworkLayer, computes: Mapping[int, str]) -> LayerDrift:
        match, tallies = self.matches[layer.output], self.tallies[layer.output]
        names = {own.output: own.name for own in self.theirs.layers}
        return LayerDrift(
            index=layer.op,
            module=layer.module,
            kind=layer.kind,
            compute=computes.get(layer.op, "float32"),
            tensor=layer.name,
            reference_tensor=" + ".join(names[t] for t in match.tensors),
            shape=tuple(map(int, self.shapes[layer.output])),
            accumulated=tallies.accumulated.result(),
            isolated=None if tallies.isolated is None else tallies.isolated.result(),
            output=None if tallies.use is None else tallies.use.result(),
            evidence=replace(
                gather_evidence(
                    layer,
                    match,
                    self.theirs,
                    self.mine,
                    tallies.channels,
                    tallies.isolated,
                    self._padding(layer),
                ),
                weights_share=None if self.effects is None else self.effects.share(layer.output),
            ),
            inputs=tuple(
                self.by_output[t].op
                for t in self.reads[layer.output]
                if t in self.by_output and t in self.matches
            ),
        )

    def _padding(self, layer: NetworkLayer) -> float | None:
        """The constant of a Pad, also of one in front of ``layer`` that has no counterpart."""
        if layer.family == PAD:
            return self.mine.padding(layer)
        before = [self.by_output[t] for t in layer.sources if t in self.by_output]
        pads = [p for p in before if p.family == PAD and p.output not in self.matches]
        return next((self.mine.padding(pad) for pad in pads), None)
