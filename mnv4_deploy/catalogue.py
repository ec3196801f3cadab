"""The models there are, for ``mnv4-deploy models``. Needs torch for the counts."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CatalogueEntry:
    """One model. MACs are at ``native_size`` (square, pixels) with 1000 classes."""

    name: str
    family: str
    parameters: int
    macs: int
    native_size: int
    weights: tuple[str, ...]


def list_models() -> tuple[CatalogueEntry, ...]:
    """Every model of the zoo with its exact counts and the weights it can be loaded with."""
    import torch

    from mnv4_deploy.models import macs, weights, zoo

    entries = []
    for name in zoo.names():
        entry = zoo.entry(name)
        with torch.device("meta"):
            module = zoo.build(name)
        size = (entry.native_size, entry.native_size)
        entries.append(
            CatalogueEntry(
                name=name,
                family=entry.family,
                parameters=macs.count_parameters(module),
                macs=macs.count_macs(name, size),
                native_size=entry.native_size,
                weights=weights.choices(name),
            )
        )
    return tuple(entries)
