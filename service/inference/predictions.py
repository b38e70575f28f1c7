"""What the network answers, its best classes, and their JSON."""

from collections import ChainMap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import ParameterInvalid, ServiceError
from service.inference.model_file import Label, Model

# What a request may ask for beyond the classes.
Detail = Literal["views", "heatmap", "features"]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """The network's answer for one image; the details are there if they were asked for."""

    probabilities: Probabilities  # (classes,), the mean over the views
    views: Probabilities | None = None  # (views, classes)
    features: NDArray[np.float32] | None = None  # (features,), the mean over the views
    occluded: Probabilities | None = None  # (windows, classes): the image with each one hidden


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, the mean over the views."""

    index: int
    wordnet_id: str | None
    label: str
    probability: float


Outcome = list[Prediction] | ServiceError  # the best classes of an image, or its own error


@dataclass(frozen=True)
class Selection:
    """Which classes an answer has, and their probabilities of what."""

    top: int  # classes at most
    threshold: float = 0.0  # the least probability
    indices: tuple[int, ...] | None = None  # of the classes that count, in order; None is all
    renormalise: bool = False  # so that the probabilities of `indices` sum to 1

    def best(self, probabilities: Probabilities) -> tuple[NDArray[np.intp], Probabilities]:
        """Of float32 `(classes,)`: indices and probabilities, the most probable first."""
        if self.indices is None:
            best = order(probabilities, self.top)
            shown = probabilities[best]
        else:
            chosen = np.array(self.indices, np.intp)
            shown = probabilities[chosen]
            if self.renormalise:
                shown = shown / max(shown.sum(), np.finfo(np.float32).tiny)
            first = order(shown, self.top)
            best, shown = chosen[first], shown[first]
        enough = shown >= self.threshold
        return best[enough], shown[enough]


def select(
    probabilities: Probabilities, labels: Sequence[Label], selection: Selection
) -> list[Prediction]:
    """The selected classes of float32 `(classes,)`, the most probable first."""
    return [
        Prediction(index, labels[index].wordnet_id, labels[index].name, probability)
        for index, probability in zip(
            *(each.tolist() for each in selection.best(probabilities)), strict=True
        )
    ]


def top_k(probabilities: Probabilities, labels: Sequence[Label], k: int) -> list[Prediction]:
    """The `k` best classes of float32 `(classes,)`, the most probable first."""
    return select(probabilities, labels, Selection(k))


def select_of_each(
    results: Sequence[Result | ServiceError], labels: Sequence[Label], selection: Selection
) -> list[Outcome]:
    """`select` of each image, where an image's error stays in its place."""
    return [
        result
        if isinstance(result, ServiceError)
        else select(result.probabilities, labels, selection)
        for result in results
    ]


def class_indices(values: Iterable[str], labels: Sequence[Label]) -> tuple[int, ...]:
    """
    The classes that `values` name, in order: each a WordNet id, an index, a label or a name in a
    label (`tabby` of `tabby, tabby cat`), or several with commas between.

    A name that several classes have means all of them.  Raises `ParameterInvalid`.
    """
    ids, numbers, whole, names = (dict[str, list[int]]() for _ in range(4))
    for index, label in enumerate(labels):
        ids.setdefault((label.wordnet_id or "").casefold(), []).append(index)
        numbers[str(index)] = [index]
        whole.setdefault(label.name.casefold(), []).append(index)
        for name in {name.strip().casefold() for name in label.name.split(",")}:
            names.setdefault(name, []).append(index)
    known = ChainMap(ids, numbers, whole, names)
    indices = set[int]()
    for value in values:
        words = [value] if value.strip().casefold() in known else value.split(",")
        for word in words:
            if not (key := word.strip().casefold()) or key not in known:
                raise ParameterInvalid(
                    f"classes={word.strip()!r}: the model has no such class; give a WordNet id, an "
                    f"index, or a label such as {labels[0].name!r}"
                )
            indices.update(known[key])
    return tuple(sorted(indices))


def order(probabilities: Probabilities, k: int) -> NDArray[np.intp]:
    """Indices of the `k` best of float32 `(classes,)`; equal ones in the order of the classes."""
    return np.argsort(-probabilities, kind="stable")[: max(1, k)]


def entry(filename: str | None, outcome: Outcome) -> dict[str, Any]:
    """An image's part of the answer: its best classes, or why it has none."""
    if isinstance(outcome, ServiceError):
        return {"filename": filename, "error": str(outcome), "code": outcome.code}
    return {"filename": filename, "classes": [vars(prediction) for prediction in outcome]}


def answer(model: Model, crops: str, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `POST /v1/predict` and of `alexnet predict --json`, of what `entry` returns."""
    return {"model": model.facts(), "crops": crops, "predictions": list(predictions)}
