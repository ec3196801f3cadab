"""The report's facts in words: pairs of a title and a text."""

from __future__ import annotations

from mnv4_deploy.profiles.join.modules import block_of
from mnv4_deploy.profiles.records.profile import ModelProfile, Spread, Trust
from mnv4_deploy.profiles.roofline.groups import NO_MODULE
from mnv4_deploy.text import (
    STATISTIC_TITLES,
    clean,
    milliseconds,
    plural,
    significant,
    with_prefix,
)

Fact = tuple[str, str]


def block_names(profile: ModelProfile) -> list[str]:
    """The block of modules that each layer belongs to."""
    return [clean(block_of(layer.module)) or NO_MODULE for layer in profile.layers]


def key_figures(profile: ModelProfile) -> list[Fact]:
    trust = profile.trust
    cost = profile.total_cost
    speed = cost.macs / trust.wall_us / 1e3 if trust.wall_us else 0.0
    outside = sum(layer.where == "builtin" for layer in profile.layers)
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
    if profile.bounds:
        won_us = sum(bound.recoverable_us for bound in profile.bounds)
        facts.append(("above the roofs", milliseconds(won_us)))
    return facts


def method_facts(profile: ModelProfile) -> list[Fact]:
    measured = profile.measurement
    rounds = measured.rounds_us
    latency = "An inference's latency" if profile.whole else "A layer's latency"
    cpus = ", ".join(str(cpu) for cpu in measured.cpus) or "as the system has it"
    return [
        ("File", clean(measured.path)),
        ("Format and size", f"{measured.format}, {measured.size_bytes:,} bytes"),
        ("SHA-256", clean(measured.sha256)),
        ("Runtime", clean(measured.runtime)),
        ("Threads", str(measured.threads)),
        ("CPUs", cpus),
        ("Runs without profiler", f"{sum(map(len, rounds))} in {plural(len(rounds), 'round')}"),
        ("Runs with profiler", "none" if profile.whole else str(profile.trust.runs)),
        ("Statistics", f"{latency} is the {STATISTIC_TITLES[profile.statistic]} of its runs."),
        (
            "Operational intensity",
            "MACs over weights, inputs and outputs in bytes, each tensor counted once.",
        ),
        *(("Note", clean(note)) for note in measured.notes),
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
        ("CPU", clean(machine.cpu)),
        ("Cores", str(machine.cores)),
        ("Instruction sets", clean(", ".join(machine.isa)) or "–"),
    ]
    facts += [(f"{clean(name)} cache", f"{size:,} bytes") for name, size in machine.caches.items()]
    if ceilings:
        for source, peaks in ceilings.peak_macs_per_s.items():
            facts += [
                (f"Peak, {clean(compute)}, {clean(source)}", f"{significant(peak / 1e9)} GMAC/s")
                for compute, peak in peaks.items()
            ]
        facts += [
            (f"Reading from {clean(level.name)}", f"{significant(level.bytes_per_s / 1e9)} GB/s")
            for level in ceilings.memory
        ]
        facts += [
            (f"An operator with nothing to do, {clean(runtime)}", f"{significant(us)} us")
            for runtime, us in ceilings.op_overhead_us.items()
        ]
        if ceilings.clock_ghz:
            facts.append(("Clock", f"{ceilings.clock_ghz:.2f} GHz"))
        facts.append(("Threads", str(ceilings.threads)))
    facts += [
        (
            f"Limit of instruction set and clock, one core, {clean(compute)}",
            f"{significant(limit / 1e9)} GMAC/s",
        )
        for compute, limit in machine.limits_macs_per_s.items()
    ]
    facts += [
        ("Measured on", clean(machine.measured_on)),
        ("Method", clean(machine.method)),
        ("Versions", clean(", ".join(f"{k} {v}" for k, v in machine.versions.items()))),
    ]
    return facts
