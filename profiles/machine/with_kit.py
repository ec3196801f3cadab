"""On a device: its ceilings, by what the host has made for it (``remote.py``).

No NumPy yet: the agent imports this and runs it in a child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv4_deploy.profiles.records.machine import Machine


def measure_from_bytes(path: str, threads: int) -> Machine:
    """The ceilings of this device with ``threads`` threads, by the kit in the file ``path``.

    Takes up to a few minutes; starts child processes of its own. Raises UnsupportedError for a
    number of threads that the device has not and where nothing can be measured, ToolchainError
    for a damaged kit.
    """
    from mnv4_deploy.profiles.machine.ceilings import measure_machine

    return measure_machine([threads], kit=path)
