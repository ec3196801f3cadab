"""Statistics against published examples, hand-computed values and second implementations."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from mnv4_deploy.decibels import decibels
from mnv4_deploy.images.records import DatasetImage
from mnv4_deploy.tasks.classification.statistics import (
    mcnemar,
    paired_difference,
    proportion,
    summarise,
)
from mnv4_deploy.tasks.rows import ImageRows


def results_of(label, reference, candidate, *, index=None, **columns):
    """Rows with these labels (-1 unknown) and best classes; the figures of one output."""
    count = len(label)
    made = {
        "label": np.asarray(label, np.int32),
        "reference_top": np.asarray(reference, np.int32),
        "candidate_top": np.asarray(candidate, np.int32),
        "signal": np.full(count, 100.0),
        "noise": np.full(count, 1.0),
        "cosine": np.full(count, 0.99),
        "kl": np.full(count, 0.01),
        **{name: np.asarray(column) for name, column in columns.items()},
    }
    for name in ("signal", "noise", "cosine"):
        made[name] = made[name][:, None]
    rows = np.arange(count) if index is None else np.asarray(index)
    return ImageRows(rows, np.zeros((count, 32), np.uint8), made)


def images_of(count):
    return tuple(DatasetImage(f"/data/{i}.png", f"{i}.png") for i in range(count))


def wilson_by_search(count, total):
    """The two p where (share - p)^2 = z^2 p (1 - p) / n, found by bisection."""
    share, z = count / total, 1.959963984540054

    def outside(p):
        return (share - p) ** 2 > z * z * p * (1 - p) / total

    def edge(far):
        near = share
        for _ in range(200):
            middle = (near + far) / 2
            if outside(middle):
                far = middle
            else:
                near = middle
        return near

    return edge(0.0), edge(1.0)


# Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, chapter 8: airway
# hyper-responsiveness (Bentur et al. 2009) and complete response (Cavo et al. 2012).
@pytest.mark.parametrize(
    ("table", "interval"),
    [((1, 1, 7, 12), (-0.2857, -0.5069, -0.0256)), ((59, 6, 16, 80), (-0.0621, -0.1186, -0.0046))],
)
def test_newcombes_interval_is_that_of_published_examples(table, interval) -> None:
    assert paired_difference(*table) == pytest.approx([100 * x for x in interval], abs=0.0051)


def test_newcombes_interval_turns_round_with_the_pairs() -> None:
    drop, low, high = paired_difference(59, 6, 16, 80)
    assert paired_difference(59, 16, 6, 80) == pytest.approx((-drop, -high, -low))


def test_newcombes_interval_without_correlation_is_squared_and_added() -> None:
    # both * neither - lost * gained = 20 * 20 - 20 * 20 = 0, so phi = 0.
    low1, high1 = wilson_by_search(40, 80)
    expected = math.sqrt((0.5 - low1) ** 2 + (high1 - 0.5) ** 2)
    assert paired_difference(20, 20, 20, 20) == pytest.approx((0, -100 * expected, 100 * expected))


def test_newcombes_interval_of_pairs_that_contradict_each_other() -> None:
    # 4 * 2 - 20 * 15 = -292 < 0 is not corrected: phi = -292 / sqrt(24 * 17 * 19 * 22).
    low1, high1 = wilson_by_search(24, 41)
    low2, high2 = wilson_by_search(19, 41)
    p1, p2, phi = 24 / 41, 19 / 41, -0.7070736109
    down = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    up = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    expected = (500 / 41, 500 / 41 - 100 * math.sqrt(down), 500 / 41 + 100 * math.sqrt(up))
    assert paired_difference(4, 20, 15, 2) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("table", [(9, 0, 0, 0), (0, 0, 0, 9), (0, 9, 0, 0), (0, 0, 9, 0)])
def test_newcombes_interval_where_a_margin_is_empty(table) -> None:
    drop, low, high = paired_difference(*table)
    assert -100 <= low <= drop <= high <= 100
    assert high - low > 1


def test_newcombes_interval_covers_what_it_promises() -> None:
    """Pairs drawn with a known difference of 4 points: 95 % of intervals hold it."""
    rng = np.random.default_rng(0)
    tables = rng.multinomial(400, [0.80, 0.07, 0.03, 0.10], 4000).tolist()
    held = sum(low <= 4.0 <= high for _, low, high in (paired_difference(*t) for t in tables))
    assert held / 4000 == pytest.approx(0.95, abs=0.015)


def test_wilson_solves_its_equation() -> None:
    for count, total in [(0, 7), (7, 7), (1, 20), (7, 50), (12, 15), (38123, 50000)]:
        low, high = wilson_by_search(count, total)
        found = proportion(count, total)
        assert (found.low_percent, found.high_percent) == pytest.approx((100 * low, 100 * high))
        assert found.percent == pytest.approx(100 * count / total)
    assert proportion(0, 7).low_percent == 0
    assert proportion(7, 7).high_percent == 100


def test_wilson_is_that_of_published_examples() -> None:
    # Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3.
    for count, total, low, high in [
        (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718),
    ]:  # fmt: skip
        found = proportion(count, total)
        assert found.low_percent == pytest.approx(100 * low, abs=0.006)
        assert found.high_percent == pytest.approx(100 * high, abs=0.006)


def test_mcnemar_is_that_of_published_examples() -> None:
    # The same two tables as above: 0.070 and 0.052 in the book.
    assert mcnemar(1, 7) == 18 / 256
    assert mcnemar(6, 16) == pytest.approx(0.0525, abs=5e-5)
    # Ten flips one way: 2 / 1024.
    assert mcnemar(10, 0) == 2 / 1024
    assert mcnemar(0, 0) == mcnemar(1, 0) == mcnemar(5, 5) == 1.0


def test_mcnemar_adds_up_every_outcome_as_uneven() -> None:
    for total in range(1, 15):
        for lost in range(total + 1):
            # All 2^n ways that the flips can go, counted.
            tally = [bin(way).count("1") for way in range(2**total)]
            uneven = sum(abs(2 * k - total) >= abs(2 * lost - total) for k in tally)
            assert mcnemar(lost, total - lost) == float(Fraction(uneven, 2**total))


def test_mcnemar_of_many_flips_neither_underflows_nor_waits() -> None:
    # Normal approximation with continuity correction, good to a few per cent here.
    z = (abs(9400 - 9000) - 1) / math.sqrt(18400)
    assert mcnemar(9400, 9000) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert mcnemar(30000, 20000) < 1e-300


def test_what_is_counted_by_hand() -> None:
    # Six classes; the best two of each, the last image unlabelled.
    label = [0, 0, 0, 1, 1, 2, -1]
    reference = [[0, 1], [0, 1], [0, 1], [1, 0], [2, 1], [2, 0], [5, 0]]
    candidate = [[0, 1], [1, 0], [3, 0], [1, 0], [1, 2], [0, 1], [5, 1]]
    found = summarise(
        results_of(label, reference, candidate), images_of(7), ("a", "b", "c", "d", "e", "f")
    )
    assert (found.images, found.labelled) == (7, 6)
    assert (found.reference.top1.count, found.candidate.top1.count) == (5, 3)
    assert found.reference.top1.total == 6
    assert found.reference.top5.count == 6
    assert found.candidate.top5.count == 5  # the sixth image has class 2 nowhere
    assert found.top5_drop == pytest.approx(100 / 6)
    assert found.top1_drop == pytest.approx(100 * 2 / 6)
    assert found.top1_drop_low < 0 < found.top1_drop < found.top1_drop_high
    flips = found.flips
    assert (flips.both_right, flips.lost, flips.gained, flips.both_wrong) == (2, 3, 1, 0)
    assert flips.p_value == 10 / 16
    assert (found.agreement.count, found.agreement.total) == (3, 7)
    assert [(c.name, c.images, c.lost, c.gained, c.mistaken_for) for c in found.classes] == [
        ("a", 3, 2, 0, "b"),  # once b, once d: the lower class
        ("c", 1, 1, 0, "a"),
        ("b", 2, 0, 1, ""),
    ]
    assert found.classes[0].reference_top1 == 100
    assert found.classes[0].candidate_top1 == pytest.approx(100 / 3)


def test_signal_and_noise_by_hand() -> None:
    found = summarise(
        results_of(
            [-1] * 3,
            [[1], [1], [1]],
            [[1], [1], [1]],
            signal=[100.0, 1000.0, 1.0],
            noise=[1.0, 1.0, 9.01],
            cosine=[1.0, 0.5, 0.9],
            kl=[0.0, 0.2, 0.1],
        ),
        images_of(3),
        (),
    )
    assert found.sqnr_db == pytest.approx(20.0)  # 1101 / 11.01
    assert found.median_sqnr_db == pytest.approx(20.0)  # 20, 30 and less than 0 dB
    assert found.cosine == pytest.approx(0.8)
    assert found.kl == pytest.approx(0.1)


def test_without_labels_there_is_no_accuracy() -> None:
    found = summarise(results_of([-1, -1], [[1], [2]], [[1], [3]]), images_of(2), ())
    assert found.reference is found.candidate is found.flips is found.top1_drop is None
    assert found.top1_drop_low is found.top1_drop_high is found.top5_drop is None
    assert found.classes == ()
    assert found.labelled == 0
    assert found.agreement.count == 1
    assert [change.label for change in found.worst] == [None, None]


@pytest.mark.parametrize(("classes", "names"), [(5, ("a",) * 5), (5, ()), (3, ("a",) * 3)])
def test_five_answers_of_five_classes_are_no_accuracy(classes, names) -> None:
    row = list(range(classes))
    found = summarise(results_of([0], [row], [row]), images_of(1), names)
    assert found.reference.top5 is None
    assert found.top5_drop is None


def test_the_worst_images_come_first_and_ties_in_order() -> None:
    kl = [0.1, 0.5, 0.1, 0.0, math.nan, 0.5]
    found = summarise(
        results_of([2, -1, 1, 1, 1, 1], [[1]] * 6, [[2]] * 6, kl=kl, noise=[1, 1, 1, 0, 1, 1]),
        images_of(6),
        (),
    )
    assert [change.index for change in found.worst] == [4, 1, 5, 0, 2]
    last = found.worst[3]
    assert (last.name, last.path, last.label) == ("0.png", "/data/0.png", 2)
    assert (last.reference_class, last.candidate_class) == (1, 2)
    assert last.sqnr_db == pytest.approx(20.0)
    few = summarise(results_of([0] * 9, [[1]] * 9, [[2]] * 9), images_of(9), (), worst=2)
    assert [change.index for change in few.worst] == [0, 1]


def test_names_follow_the_place_in_the_data_set_where_images_were_skipped() -> None:
    found = summarise(
        results_of([0, 0], [[0], [0]], [[1], [0]], index=[3, 7]), images_of(9), ("a",)
    )
    assert [change.name for change in found.worst] == ["3.png", "7.png"]
    assert found.classes[0].mistaken_for == "class 1"


def test_a_second_implementation_agrees() -> None:
    rng = random.Random(5)
    rows = [
        (rng.randrange(-1, 8), rng.sample(range(8), 5), rng.sample(range(8), 5))
        for _ in range(500)
    ]
    rows = [(y, first, first if rng.random() < 0.7 else second) for y, first, second in rows]
    names = tuple("abcdefgh")
    found = summarise(results_of(*zip(*rows, strict=True)), images_of(500), names)
    known = [row for row in rows if row[0] >= 0]
    assert found.labelled == len(known)
    assert found.candidate.top5.count == sum(label in second for label, _, second in known)
    assert found.flips.lost == sum(f[0] == y != s[0] for y, f, s in known)
    assert found.flips.gained == sum(f[0] != y == s[0] for y, f, s in known)
    assert found.agreement.count == sum(f[0] == s[0] for _, f, s in rows)
    assert sum(change.images for change in found.classes) == len(known)
    assert sum(change.lost for change in found.classes) == found.flips.lost
    drops = [change.lost - change.gained for change in found.classes]
    assert drops == sorted(drops, reverse=True)
    for change in found.classes:
        mine = [s[0] for y, f, s in known if names[y] == change.name and f[0] == y != s[0]]
        if mine:
            assert mine.count(names.index(change.mistaken_for)) == max(map(mine.count, mine))


def test_sums_do_not_depend_on_the_order_of_rounding() -> None:
    """0.1 ten times and huge terms that cancel: only an exact sum gets both right."""
    ten = results_of([-1] * 10, [[0]] * 10, [[0]] * 10, cosine=[0.1] * 10, kl=[0.3] * 10)
    found = summarise(ten, images_of(10), ())
    assert (found.cosine, found.kl) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [
        (100.0, 1.0, 20.0),
        (1.0, 0.0, 200.0),
        (0.0, 0.0, 200.0),
        (1.0, 1e-30, 200.0),
        (0.0, 1.0, -200.0),
        (1.0, math.inf, -200.0),
        (1e-300, 1e300, -200.0),
        (math.nan, math.nan, -200.0),
    ],
)
def test_decibels(signal, noise, expected) -> None:
    assert decibels(signal, noise) == pytest.approx(expected)
