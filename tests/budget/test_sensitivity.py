"""Which layers are looked at, and what their gain is worth, by hand-computed figures."""

import pytest

from mnv4_deploy.budget.sensitivity import gain_per_ms, suspects
from mnv4_deploy.layers.records import Agreement, LayerDrift, LayerEvidence, LayersDrift


def _layer(module, isolated_db, accumulated_db=10.0):
    isolated = None if isolated_db is None else Agreement(isolated_db, 1.0)
    return LayerDrift(
        index=0,
        module=module,
        kind="CONV_2D",
        compute="int8",
        tensor="t",
        reference_tensor="t",
        shape=(1, 2),
        accumulated=Agreement(accumulated_db, 1.0),
        isolated=isolated,
        output=None,
        evidence=LayerEvidence(),
    )


def _found(*layers):
    return LayersDrift(images=1, layers=layers, ranking=())


def test_layers_by_the_noise_of_all_their_operators():
    found = _found(
        _layer("one", 20.0),  # 0.01
        _layer("two", 23.0103),  # 0.005
        _layer("two", 22.2185),  # and 0.006
        _layer("three", 30.0),
        _layer("", 0.0),  # no module to put back
        _layer("unknown", None, accumulated_db=0.0),  # the noise may be others'
    )
    worst = suspects(found, 10)
    assert [suspect.module for suspect in worst] == ["two", "one", "three"]
    assert [s.damage for s in worst] == pytest.approx([0.011, 0.01, 0.001], rel=1e-3)
    assert suspects(found, 1) == worst[:1]


def test_after_the_layers_come_the_blocks_they_are_in():
    found = _found(
        _layer("blocks.0.0.expand", 30.0),
        _layer("blocks.0.0.depthwise", 20.0),
        _layer("blocks.0.1.expand", 29.0),
        _layer("blocks.0.1.project", 29.0),
        _layer("head", 21.0),
    )
    worst = suspects(found, 2)
    assert [suspect.module for suspect in worst] == ["blocks.0.0.depthwise", "head", "blocks.0.0"]
    assert worst[-1].modules == ("blocks.0.0.expand", "blocks.0.0.depthwise")
    assert worst[-1].damage == pytest.approx(0.011)


def test_time_is_counted_in_steps_that_a_clock_can_tell_apart():
    """A step is 2 % of 10 ms: 0.2 ms."""
    assert gain_per_ms(0.01, 0.0, 10_000) == pytest.approx(0.01 / 0.2)
    assert gain_per_ms(0.01, -500.0, 10_000) == pytest.approx(0.01 / 0.2)
    assert gain_per_ms(0.01, 290.0, 10_000) == pytest.approx(0.01 / 0.2)
    assert gain_per_ms(0.01, 310.0, 10_000) == pytest.approx(0.01 / 0.4)
    assert gain_per_ms(0.01, 4_040.0, 10_000) == pytest.approx(0.01 / 4.0)
    assert gain_per_ms(-0.01, 400.0, 10_000) < 0
