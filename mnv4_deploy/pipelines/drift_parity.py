"""Does a device compute what this machine does? A drift's layers are compared here alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnv4_deploy.decibels import CAP_DB
from mnv4_deploy.drift.records import DeviceAgreement, ShardJob
from mnv4_deploy.parity.records import DeviceParity
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.sessions.records import ModelRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mnv4_deploy.device.device import Device
    from mnv4_deploy.parity.inputs import Inputs

    Pixels = npt.NDArray[np.uint8]

Role = Literal["reference", "candidate"]


def compare_files(
    job: ShardJob, device: Device, pixels: Pixels
) -> tuple[tuple[DeviceAgreement, ...], tuple[str, ...]]:
    """Every file of ``job`` there against here on ``pixels`` ``[N, H, W, 3]``, and notes.

    Raises ModelFileError for a file that crashes its runtime, UnsupportedError for a device that
    runs no tensors, ToolchainError where one is lost.
    """
    from mnv4_deploy.device.open import open_device

    roles: tuple[tuple[Role, ModelRef], ...] = (
        ("reference", job.reference),
        ("candidate", job.candidate),
    )
    found: list[DeviceAgreement] = []
    notes: list[str] = []
    with open_device("local") as here:
        for role, subject in roles:
            if subject.kind != "torch":
                parity = _parity(subject, here, device, pixels)
                found.append(_agreement(role, parity, len(pixels)))
                notes += [f"Parity of the {role}: {note}" for note in parity.notes]
    return tuple(found), tuple(notes)


def _parity(subject: ModelRef, here: Device, there: Device, pixels: Pixels) -> DeviceParity:
    from mnv4_deploy.layers.feed import image_shape
    from mnv4_deploy.parity.layered_file import LayeredFile
    from mnv4_deploy.parity.run import compare_device
    from mnv4_deploy.profiles.graph.read import read_graph_of
    from mnv4_deploy.profiles.inspection.inspect import inspect_file

    path = Path(subject.path)
    facts = inspect_file(path)
    source = facts.inputs[0]
    sides = tuple(side if isinstance(side, int) and side > 0 else -1 for side in source.shape)
    graph = read_graph_of(path, {source.name: image_shape(sides, subject.preprocessing)})
    with scratch_folder() as folder:
        file = LayeredFile(path, graph, facts, folder)
        explain = file.explainer(here.facts, there.facts)
        inputs = _inputs(subject, pixels)
        parity, _ = compare_device(here, there, path, facts, inputs, file.plan, explain)
    return parity


def _inputs(subject: ModelRef, pixels: Pixels) -> Inputs:
    """The tensors that a drift feeds, in batches of the file's own size."""
    from mnv4_deploy.parity.inputs import Inputs
    from mnv4_deploy.sessions.image_runner import RUNNERS, chunks

    runner = RUNNERS[subject.kind](Path(subject.path), subject.preprocessing)
    batches = [chunk for chunk, _ in chunks(pixels, runner.batch)]
    return Inputs("images", len(batches), lambda at: (runner.feed(batches[at]),))


def _agreement(role: Role, parity: DeviceParity, images: int) -> DeviceAgreement:
    first = ""
    if parity.first is not None:
        layer = parity.layers[parity.first]
        first = f"{layer.module or layer.tensor} ({layer.kind})"
    return DeviceAgreement(
        role=role,
        runtime=parity.runtime,
        images=images,
        elements=parity.outputs.elements,
        differing=parity.outputs.differing,
        max_error=parity.outputs.max_error,
        max_codes=parity.outputs.max_codes,
        sqnr_db=min(parity.outputs.sqnr_db, CAP_DB),
        first_layer=first,
        explanation=parity.explanation,
    )
