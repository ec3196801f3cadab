"""Does a device compute what this machine does? A drift's layers are compared here alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnv4_deploy.decibels import CAP_DB
from mnv4_deploy.drift.records import DeviceAgreement, ShardJob
from mnv4_deploy.images.records import Pixels
from mnv4_deploy.parity.records import DeviceParity
from mnv4_deploy.profiles.files.own import scratch_folder
from mnv4_deploy.sessions.records import ModelRef

if TYPE_CHECKING:
    from mnv4_deploy.device.device import Device
    from mnv4_deploy.parity.inputs import Inputs
    from mnv4_deploy.sessions.feed import ImageFeed

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
    from mnv4_deploy.parity.layered_file import LayeredFile
    from mnv4_deploy.parity.run import compare_device
    from mnv4_deploy.profiles.graph.read import read_graph_of
    from mnv4_deploy.profiles.inspection.inspect import inspect_file
    from mnv4_deploy.sessions.feed import ImageFeed

    path = Path(subject.path)
    feed = ImageFeed(subject.inputs, subject.preprocessing)
    facts = inspect_file(path)
    graph = read_graph_of(path, feed.shapes())
    with scratch_folder() as folder:
        file = LayeredFile(path, graph, facts, folder)
        explain = file.explainer(here.facts, there.facts)
        inputs = _inputs(feed, pixels)
        parity, _ = compare_device(here, there, path, facts, inputs, file.plan, explain)
    return parity


def _inputs(feed: ImageFeed, pixels: Pixels) -> Inputs:
    """The tensors that a drift feeds, in batches of the file's own size."""
    from mnv4_deploy.parity.inputs import Inputs
    from mnv4_deploy.sessions.feed import batches

    chunks = [chunk for chunk, _ in batches(pixels, feed.batch)]
    return Inputs("images", len(chunks), lambda at: feed.arrays(chunks[at]))


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
