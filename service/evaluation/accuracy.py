"""
Answers -> how often they are right, how sure they are, and how two candidates differ.

Everything is a share of 0 to 1, with 95% intervals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.calibration import Calibration, difference_interval, measured
from service.evaluation.intervals import Interval, mcnemar, paired_difference, wilson
from service.evaluation.predicted import Answers
from service.inference.model_file import Label

LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 would be an infinite surprise


@dataclass(frozen=True)
class Figures:
    """One candidate's."""

    images: int
    top1: float
    top1_interval: Interval
    top5: float
    top5_interval: Interval
    ece: float  # expected calibration error of the best class
    ece_interval: Interval
    ece_if_calibrated: float  # what chance alone would make of it, on average
    nll: float  # mean negative log-likelihood of the right class, nats
    confidence: float  # mean probability of the best class


@dataclass(frozen=True)
class Difference:
    """How much more often one of two candidates is right on the same images."""

    difference: float
    interval: Interval
    gained: int  # images on which it is right and the other is not
    lost: int
    p: float  # of McNemar's exact test


@dataclass(frozen=True)
class Comparison:
    """Candidate `run` against candidate `against`; both count from 0."""

    run: int
    against: int
    top1: Difference
    top5: Difference
    ece_difference: float
    ece_interval: Interval
    same_best: float  # the share of the images with the same best class


def figures(answers: Answers, calibration: Calibration) -> Figures:
    """One candidate's figures."""
    hits, in_five = answers.hits, answers.hits_in_five
    of = len(hits)
    surprise = -np.log(np.maximum(answers.of_truth.astype(np.float64), LEAST))
    return Figures(
        images=of,
        top1=float(hits.mean()),
        top1_interval=wilson(int(hits.sum()), of),
        top5=float(in_five.mean()),
        top5_interval=wilson(int(in_five.sum()), of),
        ece=calibration.error,
        ece_interval=calibration.interval,
        ece_if_calibrated=calibration.if_calibrated,
        nll=float(surprise.mean()),
        confidence=float(answers.probabilities[:, 0].astype(np.float64).mean()),
    )


def calibrations(each: Sequence[Answers]) -> list[Calibration]:
    """Each candidate's calibration, from resamples of the same images."""
    return measured([(answers.probabilities[:, 0], answers.hits) for answers in each])


def comparisons(each: Sequence[Answers], calibrated: Sequence[Calibration]) -> list[Comparison]:
    """Each candidate against the first; against its own model's first choice of crops; and against
    the first model with the same crops."""
    return [
        _compared(each, calibrated, run, against)
        for run in range(1, len(each))
        for against in sorted(set(_references(each, run)))
    ]


def _references(each: Sequence[Answers], run: int) -> Iterator[int]:
    ours = each[run]
    yield 0
    for number, other in enumerate(each[:run]):
        if other.model is ours.model:
            yield number
            break
    for number, other in enumerate(each[:run]):
        if other.model is each[0].model and other.crops == ours.crops:
            yield number
            break


def _compared(
    each: Sequence[Answers], calibrated: Sequence[Calibration], run: int, against: int
) -> Comparison:
    ours, theirs = each[run], each[against]
    return Comparison(
        run,
        against,
        top1=_difference(ours.hits, theirs.hits),
        top5=_difference(ours.hits_in_five, theirs.hits_in_five),
        ece_difference=calibrated[run].error - calibrated[against].error,
        ece_interval=difference_interval(calibrated[run], calibrated[against]),
        same_best=_same_best(ours, theirs),
    )


def _difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> Difference:
    both, gained, lost = (
        int(np.count_nonzero(which)) for which in (ours & theirs, ours & ~theirs, theirs & ~ours)
    )
    of = len(ours)
    return Difference(
        (gained - lost) / of,
        paired_difference(both, gained, lost, of - both - gained - lost),
        gained,
        lost,
        mcnemar(gained, lost),
    )


def _same_best(ours: Answers, theirs: Answers) -> float:
    """By what the classes are called: two models may number them differently."""
    if ours.model.labels == theirs.model.labels:
        return float(np.mean(ours.best[:, 0] == theirs.best[:, 0]))
    called = [
        [_key(one.model.labels[index]) for index in one.best[:, 0].tolist()]
        for one in (ours, theirs)
    ]
    return float(np.mean([one == other for one, other in zip(*called, strict=True)]))


def _key(label: Label) -> str:
    return label.wordnet_id or label.name
