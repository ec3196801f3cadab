"""The report's facts in words: pairs of a title and a text."""

from __future__ import annotations

from pathlib import PurePath

from mnv4_deploy.profiles.records.machine import PublishedMachine
from mnv4_deploy.profiles.records.profile import ModelProfile, Trust
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
_INTENSITY = (
    "Operational intensity",
    "MACs over weights, inputs and outputs in bytes, each tensor counted once.",
)
_PREDICTED = (
    "A layer's time is that of its MACs or that of its bytes, whichever is longer: nothing was"
    " timed. The file ran once, to see which operators the runtime fuses."
)


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
    facts = [
        *_times(profile),
        ("MACs", with_prefix(cost.macs).strip()),
        ("GMAC/s", significant(speed)),
        ("MACs/byte", significant(cost.operational_intensity)),
        ("weights", f"{with_prefix(cost.weight_bytes)}B"),
    ]
    if profile.whole:
        return facts
    facts.append(("layers", str(len(profile.layers))))
    if profile.measurement.format == "tflite":
        facts.append(("layers outside XNNPACK", str(outside)))
    if profile.bounded:
        won_us = sum(layer.bound.recoverable_us for layer in profile.layers if layer.bound)
        what = "beyond the time of the MACs" if profile.prediction else "above the roofs"
        facts.append((what, milliseconds(won_us)))
    return facts


def _times(profile: ModelProfile) -> list[Fact]:
    """What an inference takes: the fastest run and the median, whatever layers are told in."""
    if profile.prediction:
        return [("an inference, predicted", milliseconds(profile.trust.wall_us))]
    wall = profile.wall_spread
    facts = [
        ("an inference, fastest run", milliseconds(wall.min)),
        ("an inference, median run (p50)", milliseconds(wall.p50)),
    ]
    if profile.whole or profile.statistic == "p10":
        facts.append(("10th percentile", milliseconds(wall.p10)))
    if profile.statistic == "mean":
        facts.append(("mean", milliseconds(wall.mean)))
    if profile.whole:
        facts.append(("90th percentile", milliseconds(wall.p90)))
    return facts


def method_facts(profile: ModelProfile) -> list[Fact]:
    measured = profile.measurement
    rounds = measured.rounds_us
    latency = "An inference's latency" if profile.whole else "A layer's latency"
    cpus = ", ".join(str(cpu) for cpu in measured.cpus) or "as the system has it"
    file = [
        ("File", measured.path),
        ("Format and size", f"{measured.format}, {measured.size_bytes:,} bytes"),
        ("SHA-256", measured.sha256),
        ("Runtime", measured.runtime),
    ]
    notes = [("Note", note) for note in measured.notes]
    if profile.prediction:
        return [*file, ("Statistics", _PREDICTED), _INTENSITY, *notes]
    return [
        *file,
        ("Threads", str(measured.threads)),
        ("CPUs", cpus),
        ("Runs without profiler", f"{sum(map(len, rounds))} in {plural(len(rounds), 'round')}"),
        ("Runs with profiler", "none" if profile.whole else str(profile.trust.runs)),
        ("Statistics", f"{latency} is the {STATISTIC_TITLES[profile.statistic]} of its runs."),
        _INTENSITY,
        *notes,
    ]


def beside_facts(profile: ModelProfile) -> list[Fact]:
    """What --out wrote beside the page, and what opens it."""
    name = PurePath(profile.measurement.path).name
    facts = [
        ("layers.csv", "every layer and figure, for a spreadsheet"),
        ("profile.json", "all of it for programs, with the samples of each layer"),
    ]
    if profile.whole:
        return facts
    return [
        *facts,
        ("trace.json", "one inference on a time line: open ui.perfetto.dev, Open trace file"),
        (
            "model-explorer.json",
            "time on the graph: pip install ai-edge-model-explorer, then model-explorer"
            f" {name} --node_data_paths=model-explorer.json",
        ),
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
    if profile.prediction:
        return _published_facts(profile.prediction)
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


def _published_facts(machine: PublishedMachine) -> list[Fact]:
    facts = [("Machine", machine.title)]
    if machine.macs_per_s and machine.matching_bytes_per_s:
        facts += [
            (f"Rate, {machine.dtype}", f"{significant(machine.macs_per_s / 1e9)} GMAC/s"),
            ("Memory", f"{significant(machine.matching_bytes_per_s / 1e9)} GB/s"),
        ]
    return [
        *facts,
        ("Ridge point", f"{significant(machine.ridge_point)} MACs/byte"),
        ("Published in", machine.source),
    ]
