"""What is kept on this machine between commands, by us and by libraries that we use.

Only what we wrote is ever removed here; of the rest it is said who removes it.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.errors import OutputError, UnsupportedError


@dataclass(frozen=True)
class Cache:
    """``paths`` are its files and folders that are there, below ``folder``. ``advice`` is how it
    is removed where that is not ours to do, "" where it is."""

    name: str
    content: str
    folder: Path
    paths: tuple[Path, ...]
    size_bytes: int
    advice: str = ""


def list_caches() -> tuple[Cache, ...]:
    """All of them, also those that are empty."""
    from mnv4_deploy.drift.store import kept_runs, store_folder
    from mnv4_deploy.models.hub import cache_folder as hub_folder
    from mnv4_deploy.models.hub import cached_repositories
    from mnv4_deploy.profiles.agent.bootstrap import private_folder
    from mnv4_deploy.profiles.agent.setup import is_ours
    from mnv4_deploy.profiles.machine.cache import cache_folder, kept_machines

    hub, drift, environment = hub_folder(), store_folder(None), private_folder()
    fonts = _matplotlib_folder()
    repositories = cached_repositories()
    names = " ".join(f"model/{hub_id}" for hub_id in repositories)
    return (
        _cache("ceilings", "what machines can do, measured", cache_folder(), kept_machines()),
        _cache("drift", "finished images of drift without --out", drift, kept_runs(drift)),
        _cache(
            "device",
            "the environment that --setup made here",
            environment.parent,
            [environment] if is_ours(environment) else [],
        ),
        _cache(
            "weights",
            "checkpoints of --weights timm, in the cache of the Hugging Face hub",
            hub,
            repositories.values(),
            f"hf cache rm --cache-dir {shlex.quote(str(hub))} {names}",
        ),
        _cache(
            "fonts",
            "matplotlib's list of fonts, of all programs that draw with it",
            fonts,
            [fonts] if fonts.is_dir() else [],
            f"rm -r {shlex.quote(str(fonts))}",
        ),
    )


def clear_cache(name: str) -> Cache:
    """Remove what we wrote of the cache ``name``; what was there.

    What a running command uses stays. Raises UnsupportedError for a name that does not exist, or
    for what others share with us, OutputError where something cannot be removed.
    """
    caches = {cache.name: cache for cache in list_caches()}
    if name not in caches:
        raise UnsupportedError(f"There is no cache {name!r}: give {', '.join(_CLEARED)}.")
    cache = caches[name]
    if name not in _CLEARED:
        how = f"run {cache.advice}" if cache.paths else "there is nothing in it to remove"
        raise UnsupportedError(f"The cache {name!r} is shared with other programs: {how}.")
    try:
        _CLEARED[name](cache)
    except OSError as error:
        raise OutputError(
            f"{error.filename or cache.folder} cannot be removed ({error.strerror or error})."
        ) from error
    return cache


def _clear_ceilings(cache: Cache) -> None:
    for path in cache.paths:
        path.unlink(missing_ok=True)


def _clear_drift(cache: Cache) -> None:
    from mnv4_deploy.drift.store import forget

    forget(cache.folder)


def _clear_device(_: Cache) -> None:
    from mnv4_deploy.profiles.agent.setup import Place, remove

    remove(Place.of_user())


_CLEARED: dict[str, Callable[[Cache], None]] = {
    "ceilings": _clear_ceilings,
    "drift": _clear_drift,
    "device": _clear_device,
}


def _cache(
    name: str, content: str, folder: Path, paths: Iterable[Path], advice: str = ""
) -> Cache:
    found = tuple(sorted(paths))
    return Cache(name, content, folder, found, sum(map(_size_bytes, found)), advice)


def _size_bytes(path: Path) -> int:
    """Of all regular files below ``path``; what links lead to is counted where it is."""
    try:
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode):
            return facts.st_size
        return sum(map(_size_bytes, path.iterdir())) if stat.S_ISDIR(facts.st_mode) else 0
    except OSError:  # gone meanwhile, or nobody's business
        return 0


def _matplotlib_folder() -> Path:
    """As matplotlib finds it, without importing it."""
    if chosen := os.environ.get("MPLCONFIGDIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "matplotlib"
