"""Drift's verdict on planted faults, as the pipeline comes to it."""

from __future__ import annotations

from dataclasses import dataclass

from mnv4_deploy.drift.causes.diagnose import diagnose
from mnv4_deploy.drift.causes.input_faults import find_input_fault
from mnv4_deploy.drift.causes.output_faults import find_output_fault
from mnv4_deploy.layers.compare import compare_layers
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.records import ModelRef
from tests.drift.planted.bench import Bench, photographs
from tests.drift.planted.faults import Fault

_IMAGES = 8


@dataclass(frozen=True)
class Verdict:
    fault: Fault
    format: Format
    found: LayersDrift

    @property
    def first(self) -> tuple[str, str]:
        """Where the first of the ranking is, and its cause; empty where there is none."""
        if not self.found.ranking:
            return "", ""
        return self.found.ranking[0].module, self.found.ranking[0].cause.kind

    @property
    def hit(self) -> bool:
        module, cause = self.first
        return self.fault.found_at(module) and cause == self.fault.cause


def examine(reference: ModelRef, candidate: ModelRef) -> LayersDrift:
    pixels = photographs("evaluation", 16)[:_IMAGES]
    layers = compare_layers(reference, candidate, pixels, effects=True)
    whole = find_output_fault(reference, candidate, pixels)
    return diagnose(layers, whole or find_input_fault(reference, candidate, pixels))


def judge(bench: Bench, fault: Fault) -> Verdict:
    return Verdict(fault, bench.format, examine(*fault.build(bench)))
