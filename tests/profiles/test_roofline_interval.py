"""The interval over sessions: hand-computed, and how often it holds a truth that is known."""

import math
import random

import pytest

from mnv4_deploy.profiles.measure.sessions import opens_b_first
from mnv4_deploy.profiles.records.profile import statistic_us
from mnv4_deploy.profiles.roofline.comparison import STATISTIC, confidence_of
from mnv4_deploy.profiles.roofline.interval import crossover_interval, t_quantile

SESSIONS, RUNS = 8, 20


# From printed tables of Student's distribution.
@pytest.mark.parametrize(
    ("percent", "freedom", "expected"),
    [
        (95, 1, 12.706),
        (99, 1, 63.657),
        (95, 2, 4.303),
        (95, 3, 3.182),
        (95, 6, 2.447),
        (99, 6, 3.707),
        (95, 14, 2.145),
        (90, 5, 2.015),
        (95, 30, 2.042),
        (99, 120, 2.617),
    ],
)
def test_t(percent, freedom, expected):
    assert t_quantile(percent, freedom) == pytest.approx(expected, abs=6e-4)


def test_by_hand():
    # Means .35 and .25 of the orders; squares 2 * .25^2 + 2 * .05^2 = .13 over 2 degrees.
    middle, low, high = crossover_interval([0.1, 0.3, 0.2, 0.6], [False, True, True, False], 95)
    assert middle == pytest.approx(0.3)
    reach = 4.302653 * math.sqrt(0.065 * (1 / 2 + 1 / 2)) / 2
    assert (low, high) == (pytest.approx(0.3 - reach), pytest.approx(0.3 + reach))


def test_what_the_order_adds_cancels_and_widens_nothing():
    plain = [0.1, 0.3, 0.2, 0.6]
    swapped = [False, True, True, False]
    moved = [v + (0.5 if s else -0.5) for v, s in zip(plain, swapped, strict=True)]
    assert crossover_interval(moved, swapped, 95) == pytest.approx(
        crossover_interval(plain, swapped, 95)
    )


@pytest.mark.parametrize(
    ("values", "swapped"), [([0.1, 0.2, 0.3], [False] * 3), ([0.1, 0.2], [False, True])]
)
def test_nothing_is_known_from_one_order_or_two_values(values, swapped):
    _, low, high = crossover_interval(values, swapped, 95)
    assert (low, high) == (-math.inf, math.inf)


def test_a_steady_drift_and_the_order_cancel():
    """Each even number of sessions has both orders alike, and 8 of them no linear drift."""
    orders = [opens_b_first(i) for i in range(64)]
    assert orders[:8] == [False, True, True, False, True, False, False, True]
    for count in range(2, 65, 2):
        assert sum(orders[:count]) == count / 2
    for count in (8, 16, 32):
        assert sum(i * (1 if orders[i] else -1) for i in range(count)) == 0


class _Machine:
    """Logarithms of B over A in sessions: memory that lies well or badly for as long as the
    process lives, with heavy tails, an advantage of what opens second, drift that both share,
    other programs' bursts."""

    def __init__(self, seed, *, truth, spread=0.015):
        self._random = random.Random(seed)
        self._truth, self._spread = truth, spread

    def session(self, index):
        logs: list[float] = []
        second_is_b = not opens_b_first(index)
        for is_b in (False, True):
            log_us = math.log(self._truth) if is_b else 0.0
            log_us += self._spread * self._student_3() + 0.02 * (is_b is not second_is_b)
            logs.append(math.log(statistic_us(self._runs(math.exp(log_us)), STATISTIC)))
        return logs[1] - logs[0]

    def _student_3(self):
        squares = sum(self._random.gauss(0, 1) ** 2 for _ in range(3))
        return self._random.gauss(0, 1) / math.sqrt(squares / 3)

    def _runs(self, us):
        """Rounds of five that go slow together, and single runs of any length."""
        found = []
        for _ in range(RUNS // 5):
            slow = self._random.paretovariate(3)
            found += [us * slow * (1 + 0.05 * self._random.paretovariate(1.5)) for _ in range(5)]
        return found


def _interval(logs, looks=1):
    swapped = [opens_b_first(i) for i in range(len(logs))]
    _, low, high = crossover_interval(logs, swapped, confidence_of(looks))
    return math.exp(low), math.exp(high)


@pytest.mark.parametrize("truth", [1.0, 0.305])
def test_the_interval_holds_the_truth(truth):
    held, told = 0, 0
    count = 1000
    for seed in range(count):
        machine = _Machine(seed, truth=truth)
        low, high = _interval([machine.session(i) for i in range(SESSIONS)])
        held += low <= truth <= high
        told += high < 1 or low > 1
    assert 0.93 * count <= held <= 0.995 * count
    if truth < 1:
        assert told >= 0.99 * count  # it is no use to hold the truth by holding everything


def test_looking_again_and_again_closes_the_gate_no_more_often():
    """As --fail-if-slower does: sessions double until the interval is on one side of the limit."""
    wrong, decided, count, looks = 0, 0, 500, 3
    for seed in range(count):
        machine = _Machine(seed, truth=1.0)
        logs: list[float] = []
        for look in range(looks):
            logs += [machine.session(i) for i in range(len(logs), SESSIONS * 2**look)]
            low, high = _interval(logs, looks)
            if low > 1.0 or high < 1.0:  # the truth itself is the limit: any verdict is wrong
                wrong += 1
                break
        decided += _interval(logs, looks)[1] <= 1.1
    assert wrong <= 0.06 * count
    assert decided >= 0.9 * count
