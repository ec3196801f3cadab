from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnv4_deploy.profiles.measure import conditions
from mnv4_deploy.profiles.measure.conditions import ConditionsSampler, spin_us


def test_spin_is_a_fixed_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def processor_us() -> float:
        started = time.thread_time_ns()
        conditions._spin()
        return (time.thread_time_ns() - started) / 1000

    once = min(processor_us() for _ in range(9))
    assert 500 < once < 50_000
    assert spin_us() > once / 2
    monkeypatch.setattr(conditions, "_SPIN_STEPS", 4 * conditions._SPIN_STEPS)
    four_times = min(processor_us() for _ in range(9))
    assert 2 * once < four_times < 8 * once


def _write_stat(path: Path, **ticks: int) -> None:
    columns = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    path.write_text("cpu  " + " ".join(str(ticks.get(c, 0)) for c in columns) + " 0 0\ncpu0 1 2\n")


def test_percentages_of_all_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 ticks of 10 ms pass: 300 busy, of which 200 our own, 50 stolen, the rest idle."""
    stat = tmp_path / "stat"
    monkeypatch.setattr(conditions, "_STAT", stat)
    monkeypatch.setattr("os.sysconf", lambda _name: 100)
    own_s = iter([5.0, 7.0])
    monkeypatch.setattr(time, "process_time", lambda: next(own_s))
    _write_stat(stat, user=10, system=10, idle=1000, iowait=100, steal=1)
    sampler = ConditionsSampler()
    _write_stat(stat, user=200, system=110, irq=5, softirq=5, idle=1600, iowait=150, steal=51)
    sampler.spin()
    seen = sampler.finish()
    assert seen.steal_percent == pytest.approx(5.0)
    assert seen.other_load_percent == pytest.approx(10.0)
    assert len(seen.spin_us) == 2


@pytest.mark.parametrize("content", ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n"])
def test_a_system_that_does_not_tell(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_STAT", tmp_path / "stat")
    sampler = ConditionsSampler()
    assert sampler.finish().steal_percent is None
    (tmp_path / "stat").write_text(content)
    sampler = ConditionsSampler()
    seen = sampler.finish()
    assert (seen.steal_percent, seen.other_load_percent) == (None, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/stat")
def test_another_process_is_seen_and_our_own_work_is_not() -> None:
    def load_while(work: float) -> float:
        sampler = ConditionsSampler()
        end = time.process_time() + work
        while time.process_time() < end:
            pass
        time.sleep(0.8 - work)
        load = sampler.finish().other_load_percent
        assert load is not None
        return load

    alone = min(load_while(0.6) for _ in range(2))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        beside = max(load_while(0.0) for _ in range(2))
    finally:
        busy.kill()
        busy.wait()
    import os

    if alone < 10:  # else other programs drown the difference
        assert beside > alone + 50 / (os.cpu_count() or 1)
