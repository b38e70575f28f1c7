"""
Answers -> how each class fares, which classes are taken for which, and the worst single answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.batch.files import text
from service.evaluation.intervals import Interval, wilson
from service.evaluation.predicted import Answers

SHOWN: Final = 24  # of the worst single answers


@dataclass(frozen=True)
class Class:
    """A class of one model, as people know it."""

    index: int
    wordnet_id: str | None
    label: str


@dataclass(frozen=True)
class Confusion:
    """So many images of one class whose best class was another."""

    true: Class
    said: Class
    images: int
    confidence: float  # the mean probability of what was said


@dataclass(frozen=True)
class ClassFigures:
    """How one class fares."""

    true: Class
    images: int
    top1: float
    top1_interval: Interval
    top5: float
    said_most: Class | None  # the most frequent wrong answer; None if there is none
    said_most_images: int


@dataclass(frozen=True)
class Said:
    """One of the answers about an image."""

    said: Class
    probability: float


@dataclass(frozen=True)
class Mistake:
    """An image whose best class is a wrong one."""

    file: str
    row: int  # of the images that were asked about
    true: Class
    probability: float  # of the right class
    classes: list[Said]  # the best five, the most probable first


def confusions(answers: Answers) -> list[Confusion]:
    """The most frequent first, and of equally frequent ones the surest."""
    wrong = ~answers.hits
    pairs = np.stack([answers.truth[wrong], answers.best[wrong, 0]], axis=1)
    if not len(pairs):
        return []
    kinds, kind, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    sums = np.bincount(kind.ravel(), weights=answers.probabilities[wrong, 0])
    confidence = sums / counts
    order = np.lexsort((kinds[:, 1], kinds[:, 0], -confidence, -counts))
    return [
        Confusion(
            _class(answers, int(kinds[i, 0])),
            _class(answers, int(kinds[i, 1])),
            int(counts[i]),
            float(confidence[i]),
        )
        for i in order
    ]


def class_figures(answers: Answers, confused: Sequence[Confusion]) -> list[ClassFigures]:
    """
    Those of each class that has images, the surest failures first.

    They are in the order of the upper end of top-1's interval, so that a class with one wrong
    answer of one does not stand above one with 48 of 50.  `confused` is what `confusions` gives.
    """
    worst: dict[int, Confusion] = {}
    for confusion in confused:
        worst.setdefault(confusion.true.index, confusion)
    classes = len(answers.model.labels)
    images, right, in_five = (
        np.bincount(answers.truth[which], minlength=classes).tolist()
        for which in (slice(None), answers.hits, answers.hits_in_five)
    )
    found = [
        ClassFigures(
            _class(answers, index),
            images[index],
            right[index] / images[index],
            wilson(right[index], images[index]),
            in_five[index] / images[index],
            worst[index].said if index in worst else None,
            worst[index].images if index in worst else 0,
        )
        for index in np.flatnonzero(images).tolist()
    ]
    return sorted(found, key=lambda one: (one.top1_interval[1], one.top5, one.true.index))


def worst(answers: Answers, names: Sequence[bytes], most: int = SHOWN) -> list[Mistake]:
    """The wrong answers that were given with the highest probabilities; `names` of the images."""
    wrong = np.flatnonzero(~answers.hits)
    order = np.lexsort((wrong, answers.of_truth[wrong], -answers.probabilities[wrong, 0]))
    return [
        Mistake(
            text(names[row]),
            row,
            _class(answers, int(answers.truth[row])),
            float(answers.of_truth[row]),
            [
                Said(_class(answers, index), probability)
                for index, probability in zip(
                    answers.best[row].tolist(), answers.probabilities[row].tolist(), strict=True
                )
            ],
        )
        for row in wrong[order[:most]].tolist()
    ]


def without_images(answers: Answers) -> list[Class]:
    """The model's classes of which there is no image."""
    seen = np.bincount(answers.truth, minlength=len(answers.model.labels))
    return [_class(answers, index) for index in np.flatnonzero(seen == 0).tolist()]


def _class(answers: Answers, index: int) -> Class:
    label = answers.model.labels[index]
    return Class(index, label.wordnet_id, label.name)
