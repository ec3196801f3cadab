"""The models there are, for ``mnv4-deploy models``. No torch where the counts were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mnv4_deploy.support import facts
from mnv4_deploy.support.facts import FileSupport, ModelSupport

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CatalogueEntry:
    """One model. MACs are at ``native_size`` (square, pixels) with 1000 classes.

    ``files`` are the formats, precisions and targets it can be exported to and whether that
    works; ``recorded_with`` are the versions of the tools that this was found out with.
    """

    name: str
    family: str
    parameters: int
    macs: int
    native_size: int
    weights: tuple[str, ...]
    files: tuple[FileSupport, ...] = ()
    recorded_with: Mapping[str, str] = field(default_factory=dict)


def list_models() -> tuple[CatalogueEntry, ...]:
    """Every model of the zoo: exact counts, weights it can be loaded with, files that work.

    Raises InputError if the recorded facts are damaged.
    """
    from mnv4_deploy.models import zoo

    return _entries(zoo.names())


def find_model(name: str) -> CatalogueEntry:
    """One model of :func:`list_models`.

    Raises UnknownModelError for a model that does not exist.
    """
    from mnv4_deploy.models import zoo

    (entry,) = _entries((zoo.entry(name).name,))
    return entry


def count(model: str) -> tuple[int, int]:
    """Parameters, and MACs at the native size, counted with torch. Slow: see ``facts``."""
    from mnv4_deploy.models import macs, meta, zoo

    module = meta.built(model, 1000)
    side = zoo.entry(model).native_size
    return macs.count_parameters(module), macs.count_macs(module, (side, side))


def _entries(names: tuple[str, ...]) -> tuple[CatalogueEntry, ...]:
    records = facts.read()
    installed = facts.installed_tools()
    return tuple(_entry(name, records.get(name), installed) for name in names)


def _entry(name: str, record: ModelSupport | None, installed: Mapping[str, str]) -> CatalogueEntry:
    from mnv4_deploy.models import weights, zoo

    if record is not None and record.depends_on == facts.digest(name):
        parameters, macs = record.parameters, record.macs
    else:
        parameters, macs = count(name)
    entry = zoo.entry(name)
    return CatalogueEntry(
        name=name,
        family=entry.family,
        parameters=parameters,
        macs=macs,
        native_size=entry.native_size,
        weights=weights.choices(name),
        files=facts.current(name, record, installed),
        recorded_with={} if record is None else record.tools,
    )
