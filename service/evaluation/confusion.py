"""Predictions -> metrics by class, confusions, the worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.batch.files import text
from service.evaluation.intervals import Interval, wilson
from service.evaluation.predicted import Predictions

SHOWN: Final = 24  # of the worst mistakes


@dataclass(frozen=True)
class Class:
    """A class of one model, as people know it."""

    index: int
    wordnet_id: str | None
    label: str


@dataclass(frozen=True)
class Confusion:
    """The images of a class for which another one was predicted."""

    true: Class
    predicted: Class
    images: int
    confidence: float  # the mean probability of the predicted class


@dataclass(frozen=True)
class ClassMetrics:
    """Those of the images of one class."""

    true: Class
    images: int
    top1: float
    top1_interval: Interval
    top5: float
    confused_with: Class | None  # the class most often predicted wrongly, if there is one
    confused_images: int


@dataclass(frozen=True)
class ClassProbability:
    """A class that was predicted for an image."""

    predicted: Class
    probability: float


@dataclass(frozen=True)
class Mistake:
    """An image whose best class is wrong."""

    file: str
    row: int  # of the images that were measured
    true: Class
    probability: float  # of the right class
    classes: list[ClassProbability]  # the best five, the most probable first


def confusions(predictions: Predictions) -> list[Confusion]:
    """The most frequent first, and of equally frequent ones those of the highest confidence."""
    wrong = ~predictions.hits
    pairs = np.stack([predictions.labels[wrong], predictions.best[wrong, 0]], axis=1)
    if not len(pairs):
        return []
    kinds, kind, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    sums = np.bincount(kind.ravel(), weights=predictions.probabilities[wrong, 0])
    confidence = sums / counts
    order = np.lexsort((kinds[:, 1], kinds[:, 0], -confidence, -counts))
    return [
        Confusion(
            _class(predictions, int(kinds[i, 0])),
            _class(predictions, int(kinds[i, 1])),
            int(counts[i]),
            float(confidence[i]),
        )
        for i in order
    ]


def class_metrics(predictions: Predictions, confused: Sequence[Confusion]) -> list[ClassMetrics]:
    """
    Those of each class that has images, the surest failures first.

    They are in the order of the upper end of top-1's interval, so that a class with one wrong
    prediction of one does not stand above one with 48 of 50.  `confused` comes from `confusions`.
    """
    worst: dict[int, Confusion] = {}
    for confusion in confused:
        worst.setdefault(confusion.true.index, confusion)
    classes = len(predictions.model.labels)
    images, right, in_five = (
        np.bincount(predictions.labels[which], minlength=classes).tolist()
        for which in (slice(None), predictions.hits, predictions.hits_in_five)
    )
    metrics = [
        ClassMetrics(
            _class(predictions, index),
            images[index],
            right[index] / images[index],
            wilson(right[index], images[index]),
            in_five[index] / images[index],
            worst[index].predicted if index in worst else None,
            worst[index].images if index in worst else 0,
        )
        for index in np.flatnonzero(images).tolist()
    ]
    return sorted(metrics, key=lambda of: (of.top1_interval[1], of.top5, of.true.index))


def worst(predictions: Predictions, names: Sequence[bytes], limit: int = SHOWN) -> list[Mistake]:
    """The wrong predictions of the highest probabilities; `names` of the images."""
    wrong = np.flatnonzero(~predictions.hits)
    order = np.lexsort(
        (wrong, predictions.label_probabilities[wrong], -predictions.probabilities[wrong, 0])
    )
    return [
        Mistake(
            text(names[row]),
            row,
            _class(predictions, int(predictions.labels[row])),
            float(predictions.label_probabilities[row]),
            [
                ClassProbability(_class(predictions, index), probability)
                for index, probability in zip(
                    predictions.best[row].tolist(),
                    predictions.probabilities[row].tolist(),
                    strict=True,
                )
            ],
        )
        for row in wrong[order[:limit]].tolist()
    ]


def without_images(predictions: Predictions) -> list[Class]:
    """The model's classes of which there is no image."""
    seen = np.bincount(predictions.labels, minlength=len(predictions.model.labels))
    return [_class(predictions, index) for index in np.flatnonzero(seen == 0).tolist()]


def _class(predictions: Predictions, index: int) -> Class:
    label = predictions.model.labels[index]
    return Class(index, label.wordnet_id, label.name)
