"""Which extra of ours brings a library that is not installed."""

from __future__ import annotations

import re
from importlib import metadata

from mnv4_deploy.errors import MissingLibraryError, missing_library

_PACKAGE = "mnv4-deploy"
# Where a distribution's name is not that of its module.
_DISTRIBUTIONS = {"google": "protobuf", "dask": "distributed"}
_OF_DEVELOPERS = "dev"
_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)[^;]*;.*\bextra\s*==\s*["'](?P<extra>[\w-]+)["']""")


def missing(module: str) -> MissingLibraryError | None:
    """What to do about a module that cannot be found; None for one that no extra brings."""
    name = module.partition(".")[0]
    extra = _extras().get(_DISTRIBUTIONS.get(name, name.replace("_", "-").lower()))
    if extra is None:
        return None
    return missing_library(f"This needs {name}, which is not installed", extra)


def _extras() -> dict[str, str]:
    """The extra that lists each distribution, as the metadata of this package say."""
    try:
        requirements = metadata.requires(_PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match and match["extra"] != _OF_DEVELOPERS:
            found.setdefault(match["name"].lower(), match["extra"])
    return found
