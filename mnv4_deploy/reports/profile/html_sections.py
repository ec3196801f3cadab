"""The report's facts in words: pairs of a title and a text."""

from __future__ import annotations

from mnv4_deploy.profiles.records.profile import ModelProfile, Spread, Trust
from mnv4_deploy.reports.plots.roofline_data import LIMIT_TITLES, limit_shares
from mnv4_deploy.text import (
    STATISTIC_TITLES,
    milliseconds,
    plural,
    significant,
    with_prefix,
)

Fact = tuple[str, str]
_COLOURS = {
    LIMIT_TITLES["compute"]: "#0072B2",
    LIMIT_TITLES["overhead"]: "#D55E00",
    LIMIT_TITLES["unknown"]: "#999999",
}
_MEMORY_COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#CC79A7")
_OTHER_COLOUR = "#777777"


def limit_parts(profile: ModelProfile) -> list[tuple[str, float, str]]:
    """What limits the layers, its share in percent and its colour; the largest first."""
    memory = iter(_MEMORY_COLOURS)
    return [
        (title, percent, _COLOURS.get(title) or next(memory, _OTHER_COLOUR))
        for title, percent in limit_shares(profile).items()
    ]


def key_figures(profile: ModelProfile) -> list[Fact]:
    trust = profile.trust
    cost = profile.total_cost
    speed = cost.macs / trust.wall_us / 1e3 if trust.wall_us else 0.0
    outside = sum(layer.backend == "builtin" for layer in profile.layers)
    wall = Spread.of([us for burst in profile.measurement.rounds_us for us in burst])
    facts = [
        ("an inference", milliseconds(trust.wall_us)),
        ("MACs", with_prefix(cost.macs).strip()),
        ("GMAC/s", significant(speed)),
        ("MACs/byte", significant(cost.operational_intensity)),
        ("weights", f"{with_prefix(cost.weight_bytes)}B"),
    ]
    if profile.whole:
        return [
            *facts,
            ("10th percentile", milliseconds(wall.p10)),
            ("median", milliseconds(wall.p50)),
            ("90th percentile", milliseconds(wall.p90)),
        ]
    facts.append(("layers", str(len(profile.layers))))
    if profile.measurement.format == "tflite":
        facts.append(("layers outside XNNPACK", str(outside)))
    if profile.bounded:
        won_us = sum(layer.bound.recoverable_us for layer in profile.layers if layer.bound)
        facts.append(("above the roofs", milliseconds(won_us)))
    return facts


def method_facts(profile: ModelProfile) -> list[Fact]:
    measured = profile.measurement
    rounds = measured.rounds_us
    latency = "An inference's latency" if profile.whole else "A layer's latency"
    cpus = ", ".join(str(cpu) for cpu in measured.cpus) or "as the system has it"
    return [
        ("File", measured.path),
        ("Format and size", f"{measured.format}, {measured.size_bytes:,} bytes"),
        ("SHA-256", measured.sha256),
        ("Runtime", measured.runtime),
        ("Threads", str(measured.threads)),
        ("CPUs", cpus),
        ("Runs without profiler", f"{sum(map(len, rounds))} in {plural(len(rounds), 'round')}"),
        ("Runs with profiler", "none" if profile.whole else str(profile.trust.runs)),
        ("Statistics", f"{latency} is the {STATISTIC_TITLES[profile.statistic]} of its runs."),
        (
            "Operational intensity",
            "MACs over weights, inputs and outputs in bytes, each tensor counted once.",
        ),
        *(("Note", note) for note in measured.notes),
    ]


def trust_facts(profile: ModelProfile) -> list[Fact]:
    trust = profile.trust
    conditions = profile.measurement.conditions
    spins = conditions.spin_us
    facts = [
        ("Wall time without profiler", milliseconds(trust.wall_us)),
        *([] if profile.whole else _profiler_facts(trust)),
        ("Spread of the rounds", f"{trust.spread_percent:.1f} %"),
    ]
    if min(spins, default=0.0) > 0:
        facts.append(("Clock and load moved by", f"{100 * (max(spins) / min(spins) - 1):.1f} %"))
    if conditions.steal_percent is not None:
        facts.append(("Time the hypervisor took", f"{conditions.steal_percent:.1f} %"))
    if conditions.other_load_percent is not None:
        facts.append(("Other processes", f"{conditions.other_load_percent:.1f} % of all CPUs"))
    return facts


def _profiler_facts(trust: Trust) -> list[Fact]:
    return [
        ("Wall time with profiler", milliseconds(trust.profiled_wall_us)),
        ("Profiling adds", f"{trust.overhead_percent:.1f} %"),
        (
            "Sum of the layers",
            f"{milliseconds(trust.layers_us)}; in undisturbed runs {trust.sum_percent:.1f} % of"
            " the wall time",
        ),
        ("Not attributed", milliseconds(trust.unattributed_us)),
    ]


def machine_facts(profile: ModelProfile) -> list[Fact]:
    """The machine and every ceiling; empty where none are known."""
    machine, ceilings = profile.machine, profile.ceilings
    if machine is None:
        return []
    facts = [
        ("CPU", machine.cpu),
        ("Cores", str(machine.cores)),
        ("Instruction sets", ", ".join(machine.isa)),
    ]
    facts += [(f"{name} cache", f"{size:,} bytes") for name, size in machine.caches.items()]
    if ceilings:
        for source, peaks in ceilings.peak_macs_per_s.items():
            facts += [
                (f"Peak, {compute}, {source}", f"{significant(peak / 1e9)} GMAC/s")
                for compute, peak in peaks.items()
            ]
        facts += [
            (f"Reading from {level.name}", f"{significant(level.bytes_per_s / 1e9)} GB/s")
            for level in ceilings.memory
        ]
        facts += [
            (f"An operator with nothing to do, {runtime}", f"{significant(us)} us")
            for runtime, us in ceilings.op_overhead_us.items()
        ]
        if ceilings.clock_ghz:
            facts.append(("Clock", f"{ceilings.clock_ghz:.2f} GHz"))
        facts.append(("Threads", str(ceilings.threads)))
    facts += [
        (
            f"Limit of instruction set and clock, one core, {compute}",
            f"{significant(limit / 1e9)} GMAC/s",
        )
        for compute, limit in machine.limits_macs_per_s.items()
    ]
    facts += [
        ("Measured on", machine.measured_on),
        ("Method", machine.method),
        ("Versions", ", ".join(f"{k} {v}" for k, v in machine.versions.items())),
    ]
    return facts
