"""What the network answers for an image, its best classes, and how they read as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError
from service.inference.model_file import Label, Model

Detail = Literal["views", "heatmap"]  # what a request may ask for beyond the classes
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Result:
    """The network's answer for one image; the details are there if they were asked for."""

    probabilities: Probabilities  # (classes,), the mean over the views
    views: Probabilities | None = None  # (views, classes)
    occluded: Probabilities | None = None  # (windows, classes): the image with each one hidden


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, the mean over the views."""

    index: int
    wordnet_id: str | None
    label: str
    probability: float


Outcome = list[Prediction] | ServiceError  # the best classes of an image, or its own error


def top_k(probabilities: Probabilities, labels: Sequence[Label], k: int) -> list[Prediction]:
    """The `k` best classes of float32 `(classes,)`, the most probable first."""
    return [
        Prediction(
            int(index), labels[index].wordnet_id, labels[index].name, float(probabilities[index])
        )
        for index in order(probabilities, k)
    ]


def top_k_of_each(
    results: Sequence[Result | ServiceError], labels: Sequence[Label], k: int
) -> list[Outcome]:
    """`top_k` of each image, where an image's error stays in its place."""
    return [
        result if isinstance(result, ServiceError) else top_k(result.probabilities, labels, k)
        for result in results
    ]


def order(probabilities: Probabilities, k: int) -> NDArray[np.intp]:
    """Indices of the `k` best of float32 `(classes,)`; equal ones in the order of the classes."""
    return np.argsort(-probabilities, kind="stable")[: max(1, k)]


def entry(filename: str | None, outcome: Outcome) -> dict[str, Any]:
    """An image's part of the answer: its best classes, or why it has none."""
    if isinstance(outcome, ServiceError):
        return {"filename": filename, "error": str(outcome), "code": outcome.code}
    return {"filename": filename, "classes": [asdict(prediction) for prediction in outcome]}


def answer(model: Model, crops: str, predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `POST /v1/predict` and of `alexnet predict --json`, of what `entry` returns."""
    about = {name: getattr(model, name) for name in ("name", "variant", "precision", "version")}
    return {"model": about, "crops": crops, "predictions": list(predictions)}
