"""Frozen records of the profiler: measurement, layers, bounds and verdicts.

No heavy imports: a device can load this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median, quantiles
from typing import Literal

from mnv4_deploy.profiles.records.device import DeviceRun
from mnv4_deploy.profiles.records.graph import Format, ModelGraph, OpCost
from mnv4_deploy.profiles.records.inputs import GivenInput
from mnv4_deploy.profiles.records.machine import Ceilings, Machine, PublishedMachine
from mnv4_deploy.profiles.records.timing import Backend, OpProfile

Statistic = Literal["min", "p10", "p50", "mean"]
STATISTICS: tuple[Statistic, ...] = ("min", "p10", "p50", "mean")


def statistic_us(samples_us: Sequence[float], statistic: Statistic) -> float:
    """One number for many runs, in us; 0 for none.

    "min" is what a run takes that nothing disturbs: other programs, and neighbours on the same
    processor, only ever add time. It repeats within a percent where medians move by twenty.
    """
    if not samples_us:
        return 0.0
    return float(getattr(Spread.of(samples_us), statistic))


@dataclass(frozen=True)
class Spread:
    """Statistics of samples in us."""

    p10: float
    p50: float
    p90: float
    min: float
    max: float
    mean: float

    @classmethod
    def of(cls, samples_us: Sequence[float]) -> Spread:
        """Percentiles interpolate between samples; all 0 for none."""
        if not samples_us:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        if len(samples_us) == 1:
            return cls(*[samples_us[0]] * 6)
        deciles = quantiles(samples_us, n=10, method="inclusive")
        return cls(
            p10=deciles[0],
            p50=median(samples_us),
            p90=deciles[-1],
            min=min(samples_us),
            max=max(samples_us),
            mean=sum(samples_us) / len(samples_us),
        )


@dataclass(frozen=True)
class MeasureRequest:
    """What to run and how; ``shapes`` resolves dynamic inputs, by name ("" is the only input), and
    ``inputs`` are values of inputs, made up for all others. ``signature`` is the one of a .tflite
    file to run, "" the first.

    Runs stop at ``runs`` or after ``max_seconds``, whichever comes first. ``cpus`` are the CPUs
    the process may use (None: as the system has it).
    """

    path: str
    threads: int = 1
    warmup: int = 5
    runs: int = 400
    max_seconds: float = 8.0
    cpus: tuple[int, ...] | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, GivenInput] = field(default_factory=dict)
    signature: str = ""


@dataclass(frozen=True)
class Conditions:
    """The machine while it measured.

    ``spin_us`` are the times of one fixed piece of single-threaded work before, between and
    after the rounds: they move with the clock and with other load. ``steal_percent`` is time
    that a hypervisor took, ``other_load_percent`` that other processes did, of all CPUs; None
    where the system does not tell.
    """

    spin_us: tuple[float, ...]
    steal_percent: float | None = None
    other_load_percent: float | None = None


@dataclass(frozen=True)
class TimedFile:
    """The times of one file, wherever it ran, before they are joined with its graph.

    ``rounds_us`` are the wall times without profiler grouped by round, ``profiled_rounds_us``
    those with it; both of the latter and ``profile.ops`` are empty where the runtime there gives
    no times of operators, which ``notes`` then say. ``cpu_rounds_us`` are the CPU times of the
    process in the runs of ``rounds_us``, empty where they are not known.
    """

    profile: OpProfile
    cpus: tuple[int, ...]
    rounds_us: tuple[tuple[float, ...], ...]
    profiled_rounds_us: tuple[tuple[float, ...], ...]
    conditions: Conditions
    notes: tuple[str, ...] = ()
    cpu_rounds_us: tuple[tuple[float, ...], ...] = ()


LimitedBy = Literal["compute", "memory", "overhead", "unknown"]


@dataclass(frozen=True)
class Bound:
    """What keeps a layer from being faster.

    ``compute_us`` and ``memory_us`` are the least time its MACs and its bytes need on this
    machine, ``overhead_us`` what any operator costs; None where unknown. ``roof_us`` is the
    larger of the first two. ``level`` is the memory level that costs most. ``recoverable_us``
    is what remains of the latency above all three.
    """

    limit: LimitedBy
    level: str
    compute_us: float | None
    memory_us: float | None
    overhead_us: float
    roof_us: float | None
    percent_of_roof: float | None
    recoverable_us: float


@dataclass(frozen=True)
class Layer:
    """One row of a profile: operators of the file and the runtime operators that did their work.

    Each stage adds what it finds out (``dataclasses.replace``).

    The join (``profiles/join``): ``op_type`` and ``name`` are the main operator's (of
    "DequantizeLinear, Conv, Relu, QuantizeLinear" it is Conv), ``backend`` is what runs it,
    ``compute`` as in OperatorFacts. ``op_indices`` are operators of the file, none for work that
    it did not ask for (layout changes, buffer registration, the call); ``timing_indices`` are
    those of ``OpProfile.ops``, none for operators that the runtime dropped. Every timing belongs
    to exactly one layer. ``runs`` is how often it runs in one inference, as the body of a loop
    does.

    Costs and times (``profiles/roofline/layers.py``): ``kernels`` are the runtime's own names of
    what ran. ``samples_us`` has one entry a run, ``latency_us`` is their ``statistic``. ``cost``
    is None where an operator's type is not in the cost table.

    The roofline (``profiles/roofline/bounds.py``): ``bound`` is None where no ceilings are known.
    """

    op_type: str
    name: str
    module: str
    compute: str
    backend: Backend
    partition: int | None
    op_indices: tuple[int, ...]
    timing_indices: tuple[int, ...]
    index: int = 0
    file_op_types: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    output_shape: tuple[int, ...] = ()
    samples_us: tuple[float, ...] = ()
    cost: OpCost | None = None
    refusal: str | None = None
    statistic: Statistic = "min"
    bound: Bound | None = None
    runs: int = 1

    @cached_property
    def latency_us(self) -> float:
        return statistic_us(self.samples_us, self.statistic)


@dataclass(frozen=True)
class Measurement:
    """What the measuring process sends back about one file.

    ``rounds_us``, ``profiled_rounds_us`` and ``cpu_rounds_us`` are as in :class:`TimedFile`;
    ``ops`` of ``profile`` have a sample for each profiled run, in that order.
    ``layers`` are as the join found them. ``refusals`` say for operator indices why the delegate
    did not take them. ``device`` is where it ran, None for this machine.
    """

    path: str
    format: Format
    runtime: str
    size_bytes: int
    sha256: str
    threads: int
    cpus: tuple[int, ...]
    graph: ModelGraph
    profile: OpProfile
    layers: tuple[Layer, ...]
    rounds_us: tuple[tuple[float, ...], ...]
    profiled_rounds_us: tuple[tuple[float, ...], ...]
    conditions: Conditions
    refusals: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    device: DeviceRun | None = None
    cpu_rounds_us: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing worth doing, in plain words; ``layers`` index ``ModelProfile.layers``."""

    kind: str
    title: str
    advice: str
    recoverable_us: float
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Trust:
    """Whether the numbers can be believed.

    Times are the profile's ``statistic``. ``layers_us``: sum of the layers; ``unattributed_us``
    is the wall time without profiler minus that: work between the layers and, with "min", that
    no run is the fastest in every layer. What must add up in one run is judged in the fastest
    tenth of the runs: ``overhead_percent``, what profiling adds to the wall time, and
    ``sum_percent``, all layers over the wall time without profiler. On onnxruntime the latter is
    ``layers_us`` over ``wall_us``, which the correction for its profiler makes 100 with "min".
    ``spread_percent``: interquartile range of the rounds' medians over their median. Where the
    runtime gave no times of operators, all that speaks of them is NaN, and ``runs`` are those
    without profiler.
    """

    wall_us: float
    profiled_wall_us: float
    overhead_percent: float
    layers_us: float
    unattributed_us: float
    sum_percent: float
    spread_percent: float
    runs: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ModelProfile:
    """Everything that ``mnv4-deploy profile`` found.

    ``statistic`` is that of all latencies. ``machine`` is None where no ceilings are known:
    layers then have no bounds. ``whole`` is the model as one layer where the runtime gave no times
    of operators, and there are no layers; its cost is the sum over the operators of the file, each
    on its own. ``prediction`` is the machine that all times are predicted for, None where they
    were measured.
    """

    measurement: Measurement
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]
    trust: Trust
    statistic: Statistic
    machine: Machine | None
    unknown_op_types: tuple[str, ...]
    whole: Layer | None = None
    prediction: PublishedMachine | None = None

    @property
    def rows(self) -> tuple[Layer, ...]:
        """What has a time: the layers, or the model as a whole."""
        return (self.whole,) if self.whole else self.layers

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that casts doubt on the times, that of a device first."""
        device = self.measurement.device
        return (*(device.warnings if device else ()), *self.trust.warnings)

    @property
    def wall_spread(self) -> Spread:
        """Of the runs without profiler, in us."""
        return Spread.of([us for burst in self.measurement.rounds_us for us in burst])

    @property
    def bounded(self) -> bool:
        """Whether there are layers, and ceilings that bound them."""
        return any(layer.bound for layer in self.layers)

    @property
    def cost_is_least(self) -> bool:
        """Whether :attr:`total_cost` leaves something out: an operator of an unknown type, or one
        that ran on larger tensors too."""
        graph = self.measurement.graph
        varies = (graph.ops[i].varies for row in self.rows for i in row.op_indices)
        return bool(self.unknown_op_types) or any(varies)

    @property
    def total_cost(self) -> OpCost:
        """Of the layers whose cost is known."""
        return sum((layer.cost for layer in self.rows if layer.cost), OpCost())

    @property
    def ceilings(self) -> Ceilings | None:
        return self.machine.with_threads(self.measurement.threads) if self.machine else None
