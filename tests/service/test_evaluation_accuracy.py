"""The figures of `alexnet evaluate`, against worked examples and other people's computations."""

import math
from pathlib import Path

import numpy as np
import pytest

from service.evaluation.accuracy import calibrations, comparisons
from service.evaluation.accuracy import metrics as metrics_of
from service.evaluation.calibration import (
    BINS,
    Confidence,
    bins,
    difference_interval,
    expected_error,
    measured,
)
from service.evaluation.confusion import class_metrics, confusions, without_images, worst
from service.evaluation.intervals import mcnemar, paired_difference, wilson
from service.evaluation.predicted import Predictions
from service.evaluation.report import between, from_to, percent, points, probability
from service.inference.model_file import Label, Model

stats = pytest.importorskip("scipy.stats", reason="needs scipy, which scikit-learn brings")
calibration = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn")
metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")


def model(*names: str, path: str = "a.onnx") -> Model:
    """A model's record with classes of these names; `n...` are WordNet ids."""
    labels = tuple(Label(name if name.startswith("n0") else None, name) for name in names)
    facts = {"name": "m", "variant": "owt", "precision": "fp32", "sha256": "0" * 64}
    return Model(
        **facts,
        labels=labels,
        crops={"ten": 10, "one": 1},
        weights={},
        accuracy=[],
        exporter={},
        golden={},
        views=(),
        features=0,
        path=Path(path),
        size_bytes=1,
    )


def answers(
    probabilities: list[list[float]], labels: list[int], of: Model, crops: str = "ten"
) -> Predictions:
    """Probabilities of all classes, `(N, classes)`, as a candidate's answers."""
    table = np.array(probabilities, np.float32)
    best = np.argsort(-table, axis=1, kind="stable")[:, :5]
    return Predictions(
        of,
        crops,
        np.array(labels, np.int32),
        best.astype(np.int32),
        np.take_along_axis(table, best, axis=1),
        table[np.arange(len(table)), labels],
    )


def spread(images: int, *, power: float, seed: int = 0) -> Confidence:
    """Probabilities p, and answers that are right in p ** power of the cases."""
    random = np.random.default_rng(seed)
    sure = random.beta(1.3, 2.0, images).astype(np.float32)
    return sure, random.random(images) < sure**power


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_of_shares_are_those_of_newcombes_table_i(
    right: int, of: int, low: float, high: float
) -> None:
    assert wilson(right, of) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("right", "of"), [(0, 1), (1, 1), (160, 500), (314, 500), (500, 500), (7, 9)]
)
def test_intervals_of_shares_are_those_of_scipy(right: int, of: int) -> None:
    theirs = stats.binomtest(right, of).proportion_ci(method="wilson")

    assert wilson(right, of) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_of_a_paired_difference_is_that_of_a_published_example() -> None:
    # Complete response before and after consolidation therapy (Cavo et al. 2012), as worked out in
    # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, chapter 8.
    assert paired_difference(59, 6, 16, 80) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


def test_the_interval_of_a_paired_difference_joins_scipys_intervals_by_the_correlation() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        of = int(random.integers(20, 400))
        first, second = random.random((2, of)) < random.random((2, 1))
        second = np.where(random.random(of) < random.random(), first, second)
        if not 0 < first.sum() < of or not 0 < second.sum() < of:
            continue
        both, gained, lost = (
            int(n)
            for n in ((first & second).sum(), (first & ~second).sum(), (~first & second).sum())
        )
        correlation = np.corrcoef(first, second)[0, 1]
        if correlation > 0:  # the correction for continuity, on the scale of the correlation
            correction = of / 2 / math.sqrt(of**4 * first.var() * second.var())
            correlation = max(0.0, correlation - correction)
        p, q = (
            stats.binomtest(int(x.sum()), of).proportion_ci(method="wilson")
            for x in (first, second)
        )
        below = np.array([first.mean() - p.low, second.mean() - q.high])
        above = np.array([first.mean() - p.high, second.mean() - q.low])
        difference = first.mean() - second.mean()

        low, high = paired_difference(both, gained, lost, of - both - gained - lost)

        # |a|, |b| have opposite signs at either end, so that the form is a^2 - 2 phi |a| |b| + b^2.
        a, b = np.abs(below)
        assert low == pytest.approx(difference - math.sqrt(a * a - 2 * correlation * a * b + b * b))
        a, b = np.abs(above)
        assert high == pytest.approx(
            difference + math.sqrt(a * a - 2 * correlation * a * b + b * b)
        )


def test_a_paired_difference_the_other_way_round_has_the_other_sign() -> None:
    low, high = paired_difference(59, 6, 16, 80)

    assert paired_difference(59, 16, 6, 80) == pytest.approx((-high, -low))


def test_answers_that_are_always_the_same_differ_by_nothing_for_certain() -> None:
    low, high = paired_difference(160, 0, 0, 340)

    assert low == pytest.approx(-high)
    assert high < 0.005


@pytest.mark.parametrize(
    ("gained", "lost"), [(6, 16), (0, 0), (0, 5), (15, 19), (16, 15), (700, 600)]
)
def test_mcnemars_test_is_scipys_binomial_test(gained: int, lost: int) -> None:
    theirs = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0

    assert mcnemar(gained, lost) == pytest.approx(theirs, rel=1e-9)


def test_many_discordant_answers_do_not_overflow_mcnemars_test() -> None:
    assert mcnemar(30_000, 31_000) == pytest.approx(
        stats.binomtest(30_000, 61_000).pvalue, rel=1e-6
    )


def test_the_calibration_error_is_that_of_a_worked_example() -> None:
    # Two bins: (0.40, 0.42) with one right of two, and (0.90) with none of one.
    sure = np.array([0.41, 0.42, 0.90], np.float32)
    hits = np.array([True, False, False])

    assert expected_error(sure, hits) == pytest.approx((abs(1 - 0.83) + 0.90) / 3, abs=1e-7)


def test_the_calibration_error_is_that_of_scikit_learns_curve() -> None:
    sure, hits = spread(700, power=1.4)
    right, confidence = calibration.calibration_curve(hits, sure, n_bins=BINS, strategy="uniform")
    numbers = np.histogram(sure, np.linspace(0, 1, BINS + 1))[0]

    expected = np.sum(numbers[numbers > 0] / 700 * np.abs(right - confidence))

    assert expected_error(sure, hits) == pytest.approx(expected, abs=1e-6)


def test_each_image_is_in_the_bin_of_its_probability_nothing_and_all_included() -> None:
    # No probability but 0 and 1 lies on a bin's end: fifteenths are no binary fractions.
    third = np.float32(1 / 3)  # a little above
    sure = np.array([0.0, np.nextafter(third, np.float32(0)), third, 1.0], np.float32)

    all_bins = bins(sure, np.ones(4, bool))

    assert [m for m, each in enumerate(all_bins) if each.images] == [0, 4, 5, 14]
    assert (all_bins[4].low, all_bins[4].high) == (4 / 15, 5 / 15)


def test_an_empty_bin_has_no_figures() -> None:
    (*_, last) = bins(np.array([0.5], np.float32), np.ones(1, bool))

    assert (last.images, last.confidence, last.right, last.right_interval) == (
        0,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_calibrated_models_error_begins_at_nothing(seed: int) -> None:
    (result,) = measured([spread(500, power=1.0, seed=seed)])

    assert result.error > 0.02  # by chance, and the interval knows
    assert result.interval[0] == 0.0
    assert result.if_calibrated == pytest.approx(0.054, abs=0.01)


@pytest.mark.parametrize(("power", "true"), [(0.6, 0.1487), (2.0, 0.1906)])
def test_the_interval_of_a_wrong_calibration_holds_the_true_error(
    power: float, true: float
) -> None:
    # The true errors are those of four million images.
    (result,) = measured([spread(3000, power=power)])

    assert 0 < result.interval[0] < true < result.interval[1]
    assert result.interval[0] < result.error < result.interval[1]
    assert result.interval[1] - result.interval[0] < 0.08


def test_the_same_answers_have_the_same_intervals() -> None:
    each = [spread(300, power=0.7), spread(300, power=1.5)]

    assert [calibrated.interval for calibrated in measured(each)] == [
        calibrated.interval for calibrated in measured(each)
    ]


def test_a_difference_of_calibrations_is_taken_on_the_same_resamples() -> None:
    first, same, other = measured(
        [spread(2000, power=0.5), spread(2000, power=0.5), spread(2000, power=0.9)]
    )

    low, high = difference_interval(first, other)
    assert difference_interval(first, same) == (0.0, 0.0)
    assert low < first.error - other.error < high
    assert low > 0


SIX = model("n01", "n02", "n03", "n04", "n05", "n06")


def test_figures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(5)
    probabilities = random.dirichlet(np.full(6, 0.7), 200).tolist()
    truth = random.integers(6, size=200).tolist()
    each = [answers(probabilities, truth, SIX)]

    measured_metrics = metrics_of(each[0], calibrations(each)[0])

    assert measured_metrics.images == 200
    assert measured_metrics.top1 == metrics.top_k_accuracy_score(
        truth, probabilities, k=1, labels=range(6)
    )
    assert measured_metrics.top5 == metrics.top_k_accuracy_score(
        truth, probabilities, k=5, labels=range(6)
    )
    assert measured_metrics.nll == pytest.approx(
        metrics.log_loss(truth, probabilities, labels=range(6)), rel=1e-5
    )
    assert measured_metrics.confidence == pytest.approx(
        np.max(probabilities, axis=1).mean(), rel=1e-6
    )
    assert measured_metrics.top1_interval == wilson(round(200 * measured_metrics.top1), 200)
    assert measured_metrics.top5_interval == wilson(round(200 * measured_metrics.top5), 200)


def test_a_probability_of_nothing_is_a_large_surprise_and_not_an_infinite_one() -> None:
    each = [answers([[1, 0]], [1], model("a", "b"))]

    assert metrics_of(each[0], calibrations(each)[0]).nll == pytest.approx(87.3, abs=0.1)


def test_with_three_classes_the_right_one_is_among_five() -> None:
    each = [answers([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], [2, 0], model("a", "b", "c"))]

    measured_metrics = metrics_of(each[0], calibrations(each)[0])

    assert (measured_metrics.top1, measured_metrics.top5) == (0.5, 1.0)


def test_gained_and_lost_answers_are_counted_of_the_later_candidate() -> None:
    truth = [0, 0, 0, 0]
    first = answers([[0.9, 0.1]] * 3 + [[0.1, 0.9]], truth, model("a", "b"))
    second = answers([[0.9, 0.1]] + [[0.1, 0.9]] * 3, truth, model("a", "b"), "one")
    each = [first, second]

    (comparison,) = comparisons(each, calibrations(each))

    assert (comparison.run, comparison.against) == (1, 0)
    assert (comparison.top1.gained, comparison.top1.lost) == (0, 2)
    assert comparison.top1.difference == -0.5
    assert comparison.top1.interval == paired_difference(1, 0, 2, 1)
    assert comparison.top1.p == mcnemar(0, 2)
    assert (comparison.top5.difference, comparison.top5.gained, comparison.top5.lost) == (0.0, 0, 0)
    assert comparison.same_best == 0.5


def test_a_candidate_is_held_against_the_first_and_what_differs_in_one_thing() -> None:
    first, second = model("a", "b"), model("a", "b", path="b.onnx")
    each = [
        answers([[0.9, 0.1]], [0], each_model, crops)
        for each_model in (first, second)
        for crops in ("ten", "one")
    ]

    pairs = [
        (comparison.run, comparison.against) for comparison in comparisons(each, calibrations(each))
    ]

    assert pairs == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]


def test_the_same_class_at_another_index_is_the_same_best_class() -> None:
    each = [
        answers([[0.9, 0.1], [0.2, 0.8]], [0, 0], model("a", "b")),
        answers([[0.1, 0.9], [0.8, 0.2]], [1, 1], model("b", "a", path="b.onnx")),
    ]

    (comparison,) = comparisons(each, calibrations(each))

    assert comparison.same_best == 1.0


def confused() -> Predictions:
    """Three images of a, two of them taken for c; one of b, taken for a; one of d, right."""
    return answers(
        [
            [0.8, 0.1, 0.1, 0],
            [0.2, 0.1, 0.7, 0],
            [0.3, 0.1, 0.5, 0.1],
            [0.9, 0.1, 0, 0],
            [0, 0, 0, 1],
        ],
        [0, 0, 0, 1, 3],
        model("a", "b", "c", "d"),
    )


def test_confusions_are_counted_by_pair_and_the_frequent_ones_come_first() -> None:
    rows = confusions(confused())

    summary = [
        (row.true.label, row.predicted.label, row.images, round(row.confidence, 3)) for row in rows
    ]
    assert summary == [("a", "c", 2, 0.6), ("b", "a", 1, 0.9)]


def test_each_class_with_images_has_its_figures_and_the_surest_failure_comes_first() -> None:
    each = confused()

    rows = class_metrics(each, confusions(each))

    summary = [(row.true.label, row.images, round(row.top1, 3), row.top5) for row in rows]
    # a: 1 of 3, b: 0 of 1, d: 1 of 1; the intervals end at 0.79, 0.79 and 1.
    assert sorted(summary) == [("a", 3, 0.333, 1.0), ("b", 1, 0.0, 1.0), ("d", 1, 1.0, 1.0)]
    assert [row.top1_interval[1] for row in rows] == sorted(row.top1_interval[1] for row in rows)
    taken = {
        row.true.label: (row.confused_with and row.confused_with.label, row.confused_images)
        for row in rows
    }
    assert taken == {"a": ("c", 2), "b": ("a", 1), "d": (None, 0)}


def test_a_class_that_fails_often_stands_above_one_that_failed_once() -> None:
    often, once = [[0.1, 0.9, 0.0]] * 50, [[0.9, 0.1, 0.0]]
    each = answers(often + once + [[0.1, 0.8, 0.1]], [0] * 50 + [2] + [0], model("a", "b", "c"))

    assert [row.true.label for row in class_metrics(each, confusions(each))] == ["a", "c"]


def test_classes_without_images_are_named() -> None:
    assert [row.label for row in without_images(confused())] == ["c"]


def test_the_worst_mistakes_are_the_surest_wrong_answers() -> None:
    names = [b"0.jpg", b"1.jpg", b"2.jpg", b"3.jpg", b"\xff.jpg"]

    first, *rest = worst(confused(), names)

    assert [mistake.file for mistake in (first, *rest)] == ["3.jpg", "1.jpg", "2.jpg"]
    assert (first.true.label, round(first.probability, 3), first.row) == ("b", 0.1, 3)
    assert [
        (prediction.predicted.label, round(prediction.probability, 3))
        for prediction in first.classes[:2]
    ] == [
        ("a", 0.9),
        ("b", 0.1),
    ]
    assert len(worst(confused(), names, limit=1)) == 1


def test_shares_are_told_in_percent_and_differences_with_their_sign() -> None:
    assert percent(0.3204) == "32.0"
    assert between((0.2806, 0.362)) == "28.1-36.2"
    assert points(-0.0001) == "+0.0"
    assert from_to((-0.028, 0.012)) == "-2.8 to +1.2"
    assert (probability(0.0525), probability(1e-9)) == ("0.052", "<0.001")
