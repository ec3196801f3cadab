"""What the search tries, adopts and refuses, on a trial runner that only pretends."""

import math
from dataclasses import dataclass, field, replace

import pytest

from mnv4_deploy.budget.search import judged, latency_limit, run_search
from mnv4_deploy.exporters.records import Int8Choice, NotTried, Sensitivity, Trial

IMAGES = 1000
# 96 % of 1000 agree: 40 changed, a standard error of sqrt(40) = 6.3 images.
CHANCE = 100 * math.sqrt(40) / IMAGES
FIRST_US = 10_000.0
METHODS = ("average", "minmax", "percentile", "mse", "entropy")
Figures = tuple[float, float]  # points of top-1 lost, dB of SQNR


def _trial(choice: Int8Choice, figures: Figures, ratio: float = 1.0, name: str = "") -> Trial:
    drop, sqnr_db = figures
    return Trial(
        format="tflite",
        name=name or f"calibration {choice.method}",
        choice=choice,
        drop=drop,
        interval=(drop - 1.25, drop + 1.25),
        chance=CHANCE,
        median_sqnr_db=sqnr_db,
        latency_us=ratio * FIRST_US,
        latency_ratio=ratio,
        size_bytes=1000,
        size_ratio=1.0,
        images=IMAGES,
    )


def _layer(module, gain, added_us=0.0, precision="float", ratio=None, modules=None):
    return Sensitivity(
        module=module,
        modules=modules or (module,),
        precision=precision,
        damage=0.1,
        noise_before=0.01,
        noise_after=0.01 - gain,
        added_us=added_us,
        latency_ratio=1 + added_us / FIRST_US if ratio is None else ratio,
        gain_per_ms=gain / max(0.2, added_us / 1000),
    )


@dataclass
class Pretended:
    """Figures by what a choice has that the last adopted one had not; everything else is bad."""

    methods: dict[str, Figures] = field(default_factory=dict)
    changes: dict[str, Figures | NotTried] = field(default_factory=dict)
    layers: list = field(default_factory=list)
    after_layers: list[Figures] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    float_ratio: float = 2.0
    asked: list = field(default_factory=list)

    def measure(self, title, steps):
        self.asked.append((title, [step.choice for step in steps]))
        return [self._one(step) for step in steps]

    def _one(self, step):
        figures: Figures | NotTried
        count = len(step.choice.float_layers) + len(step.choice.int16_layers)
        if count:
            figures = self.after_layers.pop(0)
        elif step.name.startswith("calibration"):
            figures = self.methods.get(step.choice.method, (9.0, 1.0))
        else:
            figures = self.changes.get(step.name, (9.0, 1.0))
        if isinstance(figures, NotTried):
            return figures
        return _trial(step.choice, figures, self.ratios.get(step.name, 1.0), step.name)

    def float_latency_ratio(self):
        return self.float_ratio

    def sensitivities(self, choice):
        self.asked.append(("sensitivities", [choice]))
        return self.layers


def _searched(trial_runner, first=(2.0, 20.0), max_drop=0.5, method="average", confident=False):
    start = _trial(Int8Choice(method=method), first)
    return run_search(start, max_drop, trial_runner, confident=confident)


def _adopted(search):
    return [trial.name for trial in search.trials if trial.adopted]


@pytest.mark.parametrize("drop", [0.5, 0.5 + 1e-12, 0.0, -0.3])
def test_a_first_rung_within_the_budget_costs_nothing(drop):
    trial_runner = Pretended()
    search = _searched(trial_runner, first=(drop, 20.0))
    assert search.met
    assert trial_runner.asked == []
    assert _adopted(search) == ["calibration average"]
    assert search.chosen == search.trials[0]
    assert search.latency_limit is None


@pytest.mark.parametrize(("max_drop", "met"), [(0.5, False), (1.54, False), (1.55, True)])
def test_a_confident_budget_is_that_of_the_upper_end(max_drop, met):
    trial_runner = Pretended()
    search = _searched(trial_runner, first=(0.3, 20.0), max_drop=max_drop, confident=True)
    assert search.met == met == (not trial_runner.asked)
    assert search.confident


@pytest.mark.parametrize("method", METHODS)
def test_the_second_rung_tries_each_other_method_once(method):
    trial_runner = Pretended(methods={"entropy": (0.5, 20.0), "minmax": (0.4, 20.0)})
    _searched(trial_runner, method=method)
    (title, choices), *_ = trial_runner.asked
    assert title == "other calibration methods"
    assert sorted(c.method for c in choices) == sorted(set(METHODS) - {method})
    assert all(replace(c, method="average") == Int8Choice() for c in choices)


def test_of_the_methods_the_one_with_fewest_errors_is_adopted():
    trial_runner = Pretended(
        methods={"minmax": (0.7, 30.0), "mse": (0.3, 19.0), "entropy": (0.3, 18.0)}
    )
    search = _searched(trial_runner)
    assert search.met
    assert search.chosen.choice == Int8Choice(method="mse")
    assert _adopted(search) == ["calibration average", "calibration mse"]
    reasons = {trial.name: trial.reason for trial in search.trials}
    assert reasons["calibration entropy"] == reasons["calibration minmax"]
    assert reasons["calibration minmax"] == "calibration mse is better"
    assert "7.00 points more" in reasons["calibration percentile"]
    assert reasons["calibration mse"] == ""
    assert len(trial_runner.asked) == 1  # and no trial after it


def test_each_change_builds_on_what_was_adopted_and_not_on_what_was_refused():
    trial_runner = Pretended(
        methods={"mse": (1.3, 20.0)},
        changes={
            "equalization": (2.0, 25.0),  # refused: more errors, whatever the noise
            "bias correction": (0.6, 20.0),
            "rounding": (0.4, 20.0),
        },
    )
    search = _searched(trial_runner)
    assert _adopted(search) == [
        *("calibration average", "calibration mse", "bias correction", "rounding"),
    ]
    assert search.chosen.choice == Int8Choice("mse", correct_bias=True, optimise_rounding=True)
    asked = {title: choices[0] for title, choices in trial_runner.asked}
    assert asked["equalization"] == Int8Choice("mse", equalize=True)
    assert asked["bias correction"] == Int8Choice("mse", correct_bias=True)
    (refused,) = [trial for trial in search.trials if trial.name == "equalization"]
    assert refused.reason == "drops 0.70 points more than the best so far, and 0.63 are chance"


def test_a_few_images_do_not_outweigh_clearly_more_noise():
    search = _searched(Pretended(methods={"percentile": (1.8, 17.0), "mse": (2.2, 20.5)}))
    assert _adopted(search) == ["calibration average", "calibration mse"]
    reasons = {trial.name: trial.reason for trial in search.trials}
    assert reasons["calibration percentile"] == "errors within chance (-0.20 points), and -3.00 dB"


def test_a_file_within_the_budget_ends_the_search_whatever_its_noise():
    search = _searched(Pretended(methods={"percentile": (0.5, 12.0)}), first=(0.6, 20.0))
    assert search.met and search.chosen.choice.method == "percentile"


def test_as_many_errors_need_clearly_less_noise():
    changes = {"equalization": (2.0, 20.1), "bias correction": (2.0, 20.3), "rounding": (2, 20.0)}
    search = _searched(Pretended(changes=changes))
    assert _adopted(search) == ["calibration average", "bias correction"]
    reasons = {trial.name: trial.reason for trial in search.trials}
    assert reasons["equalization"] == "errors within chance (+0.00 points), and +0.10 dB"
    assert reasons["rounding"] == "errors within chance (+0.00 points), and -0.30 dB"
    assert not search.met
    assert search.chosen.name == "bias correction"


def test_what_cannot_be_built_is_told_and_does_not_stop_the_search():
    missing = NotTried("equalization", "this network has no layers that it applies to")
    search = _searched(Pretended(changes={"equalization": missing, "rounding": (0.1, 20.0)}))
    assert search.met
    assert search.not_tried == (missing,)
    assert search.chosen.choice == Int8Choice(optimise_rounding=True)


def test_a_file_that_gives_back_half_of_what_int8_saves_is_refused():
    """float32 takes 2.0: the limit is 1.5. At 1.1 there is nothing to save, and 10 % is free."""
    assert latency_limit(2.0) == 1.5
    assert latency_limit(1.1) == latency_limit(0.8) == 1.1
    trial_runner = Pretended(changes={"equalization": (0.0, 40.0)}, ratios={"equalization": 1.51})
    search = _searched(trial_runner)
    assert search.latency_limit == 1.5
    (refused,) = [trial for trial in search.trials if trial.name == "equalization"]
    assert not refused.adopted
    assert "1.51 times as long" in refused.reason
    search = _searched(replace(trial_runner, ratios={"equalization": 1.49}, asked=[]))
    assert search.met


class TestLayers:
    def test_best_bargains_first_until_the_budget_is_met(self):
        layers = [
            _layer("dear", 0.004, added_us=2000.0),
            _layer("cheap", 0.003, added_us=200.0),
            _layer("small", 0.001, added_us=200.0),
        ]
        trial_runner = Pretended(
            layers=layers, after_layers=[(1.5, 21.0), (1.0, 22.0), (0.5, 23.0)]
        )
        search = _searched(trial_runner)
        assert _adopted(search)[1:] == ["cheap in float", "small in float", "dear in float"]
        assert search.chosen.choice.float_layers == ("cheap", "small", "dear")
        assert search.met
        assert [layer.module for layer in search.sensitivities] == ["cheap", "small", "dear"]
        trial_runner = Pretended(layers=layers, after_layers=[(0.5, 21.0)])
        assert _searched(trial_runner).chosen.choice.float_layers == ("cheap",)

    def test_hopeless_ones_are_not_even_built(self):
        layers = [
            _layer("useless", 0.00009),
            _layer("worse", -0.001),
            _layer("slow", 0.009, added_us=30_000.0, precision="int16x8"),
        ]
        trial_runner = Pretended(layers=layers)
        search = _searched(trial_runner)
        assert trial_runner.asked[-1][0] == "sensitivities"
        reasons = {layer.module: layer.reason for layer in search.sensitivities}
        assert "hardly less noise" in reasons["useless"]
        assert "hardly less noise" in reasons["worse"]
        assert reasons["slow"] == "takes 4.00 times as long as the first file"
        assert not search.met

    def test_a_layer_is_put_back_in_one_precision_only(self):
        layers = [
            _layer("a", 0.003, precision="int16x8"),
            _layer("a", 0.002),
            _layer("b", 0.001),
        ]
        trial_runner = Pretended(layers=layers, after_layers=[(1.5, 21.0), (1.0, 22.0)])
        search = _searched(trial_runner)
        assert search.chosen.choice == Int8Choice(float_layers=("b",), int16_layers=("a",))

    def test_the_other_precision_is_tried_where_the_better_bargain_failed(self):
        layers = [_layer("a", 0.003, precision="int16x8"), _layer("a", 0.002)]
        trial_runner = Pretended(layers=layers, after_layers=[(5.0, 15.0), (0.1, 22.0)])
        search = _searched(trial_runner)
        assert search.chosen.choice == Int8Choice(float_layers=("a",))

    def test_less_noise_outweighs_errors_within_chance_but_not_beyond(self):
        """A standard error is 0.63 points."""
        layers = [_layer(name, 0.003 - i / 1e4) for i, name in enumerate("abc")]
        figures = [(2.5, 21.0), (2.7, 22.0), (1.9, 22.0)]
        search = _searched(Pretended(layers=layers, after_layers=figures))
        assert _adopted(search)[1:] == ["a in float", "c in float"]
        # Chance is counted from the fewest errors: it does not add up from layer to layer.
        (refused,) = [trial for trial in search.trials if trial.name == "b in float"]
        assert "0.70 points more than the best so far" in refused.reason
        assert search.chosen.choice.float_layers == ("a", "c")

    def test_the_best_file_is_chosen_where_none_meets_the_budget(self):
        layers = [_layer("a", 0.003), _layer("b", 0.002)]
        trial_runner = Pretended(layers=layers, after_layers=[(1.9, 21.0), (2.1, 25.0)])
        search = _searched(trial_runner)
        assert _adopted(search)[-1] == "b in float"
        assert search.chosen.name == "a in float"
        assert not search.met

    def test_of_a_block_only_what_is_still_int8_is_added(self):
        layers = [
            _layer("block.a", 0.003),
            _layer("block", 0.002, modules=("block.a", "block.b")),
            _layer("block.b", 0.001),
        ]
        trial_runner = Pretended(layers=layers, after_layers=[(1.5, 21.0), (1.0, 22.0)])
        search = _searched(trial_runner)
        assert _adopted(search)[1:] == ["block.a in float", "block in float"]
        assert search.chosen.choice.float_layers == ("block.a", "block.b")

    def test_what_could_not_be_built_is_told(self):
        missing = NotTried("a in int16x8", "the library cannot")
        search = _searched(Pretended(layers=[missing]))
        assert search.not_tried == (missing,)
        assert search.sensitivities == ()

    def test_ties_go_by_name(self):
        layers = [_layer(name, 0.003) for name in ("c", "a", "b")]
        assert [layer.module for layer in judged(layers, 1.5)] == ["a", "b", "c"]
        assert list(judged(layers[::-1], 1.5)) == list(judged(layers, 1.5))
