"""One known defect a network: drift must rank it first and name its cause, in both formats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mnv4_deploy.drift.causes.diagnose import diagnose
from mnv4_deploy.drift.causes.input_faults import find_input_fault
from mnv4_deploy.exporters.records import FORMATS
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.image_runner import open_image_runner
from tests.drift.planted.bench import SPEC, Bench, make_bench, photographs
from tests.drift.planted.faults import FAULTS, Fault, sound
from tests.drift.planted.suite import examine, judge
from tests.shared import Shared

pytestmark = pytest.mark.usefixtures("no_child")
CASES = [
    pytest.param(fault, format_, id=f"{fault.name}-{format_}")
    for format_ in FORMATS
    for fault in FAULTS
    if format_ in fault.formats
]
Benches = Callable[[Format], Bench]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory, shared: Shared) -> Benches:
    made: dict[Format, Bench] = {}

    def bench(format_: Format) -> Bench:
        if format_ not in made:
            made[format_] = make_bench(format_, tmp_path_factory.mktemp(format_), shared)
        return made[format_]

    return bench


def outputs(path):
    found = open_image_runner(path, SPEC).outputs(photographs("evaluation", 16))
    return found["logits"]


def sqnr(reference, candidate) -> float:
    noise = np.square(reference - candidate).sum()
    return float(10 * np.log10(np.square(reference).sum() / max(noise, 1e-20)))


@pytest.mark.parametrize(("fault", "format_"), CASES)
def test_a_planted_fault_is_ranked_first(benches: Benches, fault: Fault, format_: Format) -> None:
    verdict = judge(benches(format_), fault)
    assert verdict.first[1] == fault.cause, verdict.found.ranking
    assert fault.found_at(verdict.first[0]), verdict.found.ranking
    # The sentence has figures and the advice is for this project.
    first = verdict.found.ranking[0].cause
    assert any(character.isdigit() for character in first.sentence)
    assert first.advice.endswith(".")


@pytest.mark.parametrize("format_", FORMATS)
def test_a_sound_file_gets_no_diagnosis_of_the_whole(benches: Benches, format_: Format) -> None:
    bench = benches(format_)
    reference, candidate = (bench.subject(path) for path in sound(bench))
    found = examine(reference, candidate)
    assert [d for d in found.ranking if d.layer is None] == []
    assert len(found.layers) >= 17
    # Nothing is planted, so what is ranked at all costs little: nothing below 20 dB.
    ranked = [found.layers[d.layer] for d in found.ranking if d.layer is not None]
    assert all(layer.damage < 0.01 for layer in ranked)


@pytest.mark.parametrize("format_", FORMATS)
def test_damage_that_does_not_matter_is_named_only_where_it_stands_out(
    benches: Benches, format_: Format
) -> None:
    bench = benches(format_)
    quiet = diagnose(examine(*map(bench.subject, sound(bench))), None, matters=False)
    assert quiet.ranking == ()
    assert all(layer.cause is None for layer in quiet.layers)
    clipped = next(fault for fault in FAULTS if fault.name == "a clipped layer")
    (named,) = diagnose(examine(*clipped.build(bench)), None, matters=False).ranking
    assert clipped.found_at(named.module)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", ["a clipped layer", "a range 16 times too wide"])
def test_what_mending_a_layer_wins_is_what_the_sound_file_has(
    benches: Benches, format_: Format, name: str
) -> None:
    bench = benches(format_)
    without = examine(*map(bench.subject, sound(bench))).effects
    fault = next(fault for fault in FAULTS if fault.name == name)
    found = examine(*fault.build(bench))
    effect = found.ranking[0].effect
    assert without is not None and found.effects is not None and effect is not None
    mended_db = found.effects.sqnr_db + effect.total_gain_db
    assert effect.gain_db > 3
    assert mended_db == pytest.approx(without.sqnr_db, abs=3)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", ["a clipped layer", "a range 16 times too wide"])
def test_a_range_that_was_tried_wins_what_the_file_with_that_range_has(
    benches: Benches, format_: Format, name: str
) -> None:
    bench = benches(format_)
    without = examine(*map(bench.subject, sound(bench))).effects
    found = examine(*next(f for f in FAULTS if f.name == name).build(bench))
    first, *others = found.ranking
    assert without is not None and without.tried is not None and first.trial is not None
    assert first.trial.fitting_range is not None
    assert first.trial.gain_db > 3
    assert first.trial.mended.sqnr_db == pytest.approx(without.tried.candidate.sqnr_db, abs=3)
    assert first.cause.advice
    # Three layers are tried, and what wins nothing is no advice.
    assert found.effects is not None and found.effects.tried is not None
    assert len(found.effects.tried.together) == 3
    assert found.effects.tried.together[0] == found.effects.tried.in_float[0]
    for entry in others:
        won = entry.trial is not None and entry.trial.gain_db >= 0.1
        assert bool(entry.cause.advice) == won


@pytest.mark.parametrize("format_", FORMATS)
def test_weights_of_4_bits_are_those_that_the_runtime_unpacks(
    benches: Benches, format_: Format
) -> None:
    """With them in it the float file computes what the file of 4 bits does."""
    fault = next(fault for fault in FAULTS if fault.name == "weights of 4 bits")
    found = examine(*fault.build(benches(format_)))
    assert found.weights is not None and found.weights.whole
    assert found.weights.weights_db == pytest.approx(found.weights.sqnr_db, abs=0.01)
    assert found.weights.rounded_db > found.weights.weights_db + 12
    bits = [x.evidence.weight_bits for x in found.layers if x.evidence.weight_scales]
    assert set(bits) == {4}
    # Nothing but the weights is rounded, so they make all of each layer's noise.
    shares = [x.evidence.weights_share for x in found.layers if x.evidence.weight_scales]
    assert shares == pytest.approx([1.0] * len(shares), abs=0.01)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_is_rounded_at_run_time_is_told_from_weights(
    benches: Benches, format_: Format
) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "an outlier read at run time")
    first = examine(*fault.build(benches(format_))).ranking[0]
    assert first.effect is not None
    # The outlier is in what it reads; its weights have a scale as good as any.
    assert first.effect.weights_share < 0.2


@pytest.mark.parametrize("format_", FORMATS)
def test_faults_do_what_they_are_planted_for(benches: Benches, format_: Format) -> None:
    """Or a hit would mean nothing: the sound file agrees, and every faulty one worse."""
    bench = benches(format_)
    reference, candidate = sound(bench)
    good = sqnr(outputs(reference), outputs(candidate))
    assert good > 22
    for fault in FAULTS:
        if format_ in fault.formats:
            reference, candidate = fault.files(bench)
            bad = sqnr(outputs(reference), outputs(candidate))
            assert bad < good - 1, fault.name


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", ["an outlier channel", "depthwise weights of one scale"])
def test_moved_scales_keep_the_float_function(benches: Benches, format_: Format, name) -> None:
    """The defect is one of quantization only: the float file computes what it did before."""
    bench = benches(format_)
    reference, _ = next(f for f in FAULTS if f.name == name).files(bench)
    np.testing.assert_allclose(outputs(reference), outputs(bench.base), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format_", FORMATS)
def test_other_faults_are_not_taken_for_an_input(benches: Benches, format_: Format) -> None:
    """The layer is wrong, and no other pixels would help."""
    bench = benches(format_)
    pixels = photographs("evaluation", 16)
    for name in ("a clipped layer", "padded with minus infinity", "calibrated on noise"):
        fault = next(f for f in FAULTS if f.name == name)
        assert find_input_fault(*fault.build(bench), pixels) is None, name
