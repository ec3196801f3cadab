"""One device against this machine: outputs, and layer by layer where those differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from mnv4_deploy.device.device import Device, TensorSession
from mnv4_deploy.errors import ModelFileError, UnsupportedError
from mnv4_deploy.layers.layer import Array
from mnv4_deploy.parity.inputs import Inputs
from mnv4_deploy.parity.isolate import read_by_layers
from mnv4_deploy.parity.layer_tally import Evidence, LayersFound, LayersTally
from mnv4_deploy.parity.layers import LayersPlan
from mnv4_deploy.parity.outputs import OutputsParity, compare_outputs, digest, run
from mnv4_deploy.parity.records import DeviceParity, LayerParity
from mnv4_deploy.profiles.records.files import FileFacts
from mnv4_deploy.tasks.classification.signature import gives_classes

Explain = Callable[[Evidence, LayerParity], str]
# Writes the copy of a plan's file that takes these tensors (see ``isolate.isolated_copy``).
Isolate = Callable[[LayersPlan, Sequence[int]], Path]
# Every tensor of an inference goes to the device: a few tell what there is to tell.
_ISOLATED_INFERENCES = 2


def compare_device(
    here: Device,
    there: Device,
    path: Path,
    facts: FileFacts,
    inputs: Inputs,
    plan_of: Callable[[], LayersPlan],
    explain: Explain,
    isolate: Isolate | None = None,
) -> tuple[DeviceParity, str]:
    """``there`` against ``here``, and the name of the runtime here.

    ``plan_of``, ``explain`` and ``isolate`` are asked only where the outputs are not equal;
    without the last, layers behind one that differs are not run on equal inputs. Raises what
    the devices raise; a runtime that cannot keep tensors is a note.
    """
    with closing(here.open(path)) as mine, closing(there.open(path)) as theirs:
        outputs = compare_outputs(
            mine, theirs, inputs, facts.outputs, classes=gives_classes(facts)
        )
        runtimes = mine.runtime, theirs.runtime
    found = LayersFound((), None, None)
    notes: tuple[str, ...] = ()
    if outputs.difference.differing:
        try:
            found, notes = _layers(here, there, plan_of(), inputs, outputs, isolate)
        except UnsupportedError as error:
            notes = (f"Layers were not compared: {error}",)
    first, explanation = _explained(found.first, found, explain)
    first_code, code_explanation = _explained(found.first_code, found, explain)
    parity = DeviceParity(
        device=there.address.text,
        facts=there.facts,
        runtime=runtimes[1],
        outputs=outputs.difference,
        layers=found.layers,
        first=first,
        explanation=explanation,
        notes=notes,
        top_class_differs=outputs.top_class_differs,
        first_code=first_code,
        code_explanation=code_explanation,
    )
    return parity, runtimes[0]


def _explained(
    place: tuple[int, Evidence] | None, found: LayersFound, explain: Explain
) -> tuple[int | None, str]:
    if place is None:
        return None, ""
    at, evidence = place
    return at, explain(evidence, found.layers[at])


def _layers(
    here: Device,
    there: Device,
    plan: LayersPlan,
    inputs: Inputs,
    outputs: OutputsParity,
    isolate: Isolate | None,
) -> tuple[LayersFound, tuple[str, ...]]:
    tally = LayersTally(plan)
    unlike = [0, 0]
    isolated = _Isolated(there, plan, isolate)
    with ExitStack() as stack:
        stack.callback(isolated.close)
        mine: TensorSession = stack.enter_context(closing(here.open(plan.path, plan.tensors)))
        theirs: TensorSession = stack.enter_context(closing(there.open(plan.path, plan.tensors)))
        for at in range(inputs.count):
            arrays = inputs.make(at)
            kept = tuple(run(session, arrays, len(plan.order)) for session in (mine, theirs))
            alone = None
            if at < _ISOLATED_INFERENCES:
                alone = isolated.run(arrays, tally.by_tensor(arrays, kept[0]))
            tally.add(arrays, kept[0], kept[1], alone)
            digests = outputs.digests_here[at], outputs.digests_there[at]
            for side in (0, 1):
                unlike[side] += digest(kept[side][: plan.outputs]) != digests[side]
    names = "this machine", there.address.text
    notes = [
        f"With intermediate tensors kept, {name} gives other outputs than plain runs in "
        f"{count} of {inputs.count} inferences: operators that plain runs fuse run apart then, "
        "so the layers may not show all that differs."
        for name, count in zip(names, unlike, strict=True)
        if count
    ]
    notes += isolated.notes
    if tally.missing:
        notes.append(
            f"{len(tally.missing)} of {len(plan.layers)} intermediate tensors are not kept by a "
            "runtime: the layer behind such a tensor answers for it."
        )
    found = tally.result()
    if found.first is None:
        notes.append(
            "No layer differs on equal inputs while intermediate tensors are kept: the outputs "
            "differ through operators that plain runs fuse."
        )
    return found, tuple(notes)


class _Isolated:
    """The device's runs in which every layer reads what was computed here."""

    def __init__(self, there: Device, plan: LayersPlan, isolate: Isolate | None) -> None:
        self._there, self._plan, self._isolate = there, plan, isolate
        self._session: TensorSession | None = None
        self._given: tuple[int, ...] = ()
        self.notes: list[str] = []

    def run(self, inputs: Sequence[Array], kept: Mapping[int, Array]) -> tuple[Array, ...] | None:
        """None where that cannot be done, which the notes then say."""
        if self._isolate is None:
            return None
        try:
            if self._session is None:
                self._given = tuple(t for t in read_by_layers(self._plan) if t in kept)
                copy = self._isolate(self._plan, self._given)
                self._session = self._there.open(copy)
            arrays = [*inputs, *(kept[t] for t in self._given)]
            return run(self._session, arrays, len(self._plan.order))
        except (ModelFileError, UnsupportedError) as error:
            self._isolate = None
            self.notes.append(
                f"Layers behind the first that differs did not run on equal inputs: {error}"
            )
            return None

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
