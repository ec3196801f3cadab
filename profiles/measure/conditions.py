"""How the machine was doing while it measured: clock, hypervisor and other processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mnv4_deploy.profiles.records.profile import Conditions
from mnv4_deploy.profiles.runtimes.timing import time_run_us

_SPIN_STEPS = 20_000
_SPIN_REPEATS = 3
_STAT = Path("/proc/stat")
# The columns of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal.
_IDLE = (3, 4)
_STEAL = 7


def spin_us() -> float:
    """Time of one fixed piece of single-threaded work, in us: the fastest of a few.

    It touches next to no memory, so it moves with the clock of the core and with whatever else
    runs on it, and with nothing that the models do.
    """
    return min(time_run_us(_spin) for _ in range(_SPIN_REPEATS))


def _spin() -> int:
    value = 1
    for _ in range(_SPIN_STEPS):
        value = (value * 48271) % 2147483647
    return value


@dataclass(frozen=True)
class _CpuTimes:
    """Seconds since the start of the system, of all CPUs together; ``own_s`` is this process's."""

    total_s: float
    busy_s: float
    steal_s: float
    own_s: float


def _read_cpu_times() -> _CpuTimes | None:
    """None where the system does not tell (anything but Linux)."""
    try:
        fields = _STAT.read_text(encoding="ascii").partition("\n")[0].split()[1:]
        ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[: _STEAL + 1]]
    except (OSError, ValueError, AttributeError):
        return None
    if len(ticks) <= _STEAL:
        return None
    steal = ticks[_STEAL]
    idle = sum(ticks[i] for i in _IDLE)
    return _CpuTimes(sum(ticks), sum(ticks) - idle - steal, steal, time.process_time())


class ConditionsSampler:
    """Collects :class:`Conditions` from its creation to :meth:`finish`."""

    def __init__(self) -> None:
        self._spins = [spin_us()]
        self._start = _read_cpu_times()

    def spin(self) -> None:
        """Time the fixed work once more."""
        self._spins.append(spin_us())

    def finish(self) -> Conditions:
        """What was seen until now."""
        end = _read_cpu_times()
        if self._start is None or end is None or end.total_s <= self._start.total_s:
            return Conditions(tuple(self._spins))
        elapsed = end.total_s - self._start.total_s
        others = (end.busy_s - self._start.busy_s) - (end.own_s - self._start.own_s)
        return Conditions(
            spin_us=tuple(self._spins),
            steal_percent=100 * (end.steal_s - self._start.steal_s) / elapsed,
            # Ticks are coarse: a short measurement can count more of its own time than all.
            other_load_percent=max(0.0, 100 * others / elapsed),
        )
