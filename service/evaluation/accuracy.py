"""
Predictions -> accuracy and confidence of each model and crops, and how two differ.

Everything is a share of 0 to 1, with 95% intervals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.calibration import Calibration, difference_interval, measured
from service.evaluation.intervals import Interval, mcnemar, paired_difference, wilson
from service.evaluation.predicted import Predictions
from service.inference.model_file import Label

LEAST = float(
    np.finfo(np.float32).tiny
)  # a probability of 0 would have an infinite negative logarithm


@dataclass(frozen=True)
class Metrics:
    """Those of one candidate."""

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
    """How much more often one of two is right on the same images, as a proportion."""

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


def metrics(predictions: Predictions, calibration: Calibration) -> Metrics:
    """The metrics of one candidate."""
    hits, in_five = predictions.hits, predictions.hits_in_five
    images = len(hits)
    likelihood = predictions.label_probabilities.astype(np.float64)
    return Metrics(
        images=images,
        top1=float(hits.mean()),
        top1_interval=wilson(int(hits.sum()), images),
        top5=float(in_five.mean()),
        top5_interval=wilson(int(in_five.sum()), images),
        ece=calibration.error,
        ece_interval=calibration.interval,
        ece_if_calibrated=calibration.if_calibrated,
        nll=float(-np.log(np.maximum(likelihood, LEAST)).mean()),
        confidence=float(predictions.probabilities[:, 0].astype(np.float64).mean()),
    )


def calibrations(each: Sequence[Predictions]) -> list[Calibration]:
    """The calibration of each candidate, from resamples of the same images."""
    return measured([(predictions.probabilities[:, 0], predictions.hits) for predictions in each])


def comparisons(each: Sequence[Predictions], calibrated: Sequence[Calibration]) -> list[Comparison]:
    """Each candidate against the first; against its own model's first choice of crops; and against
    the first model with the same crops."""
    return [
        _compared(each, calibrated, run, against)
        for run in range(1, len(each))
        for against in sorted(set(_references(each, run)))
    ]


def _references(each: Sequence[Predictions], run: int) -> Iterator[int]:
    this, first, before = each[run], each[0], list(enumerate(each[:run]))
    yield 0
    yield from [number for number, other in before if other.model is this.model][:1]
    same_crops = [(number, other) for number, other in before if other.crops == this.crops]
    yield from [number for number, other in same_crops if other.model is first.model][:1]


def _compared(
    each: Sequence[Predictions], calibrated: Sequence[Calibration], run: int, against: int
) -> Comparison:
    this, other = each[run], each[against]
    return Comparison(
        run,
        against,
        top1=_difference(this.hits, other.hits),
        top5=_difference(this.hits_in_five, other.hits_in_five),
        ece_difference=calibrated[run].error - calibrated[against].error,
        ece_interval=difference_interval(calibrated[run], calibrated[against]),
        same_best=_same_best(this, other),
    )


def _difference(this: NDArray[np.bool_], other: NDArray[np.bool_]) -> Difference:
    both, gained, lost = (
        int(np.count_nonzero(right)) for right in (this & other, this & ~other, other & ~this)
    )
    images = len(this)
    return Difference(
        (gained - lost) / images,
        paired_difference(both, gained, lost, images - both - gained - lost),
        gained,
        lost,
        mcnemar(gained, lost),
    )


def _same_best(this: Predictions, other: Predictions) -> float:
    """By what the classes are called: two models may number them differently."""
    if this.model.labels == other.model.labels:
        return float(np.mean(this.best[:, 0] == other.best[:, 0]))
    names, others = (
        [_key(run.model.labels[index]) for index in run.best[:, 0].tolist()]
        for run in (this, other)
    )
    return float(np.mean([name == other for name, other in zip(names, others, strict=True)]))


def _key(label: Label) -> str:
    return label.wordnet_id or label.name
