"""
Details of an answer beyond its classes: `details=views`, `details=heatmap`, `details=features`.

docs/explain.md and docs/features.md say what they show, and what they do not.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypedDict

import numpy as np
from pydantic import BaseModel, Field

from service.inference import occlusion
from service.inference.engine import Engine
from service.inference.model_file import CENTRE, View
from service.inference.predictions import Prediction, Result, Selection, select

DIGITS: Final = 6  # of a cell; what comes after them is rounding


class ClassAnswer(BaseModel):
    """One class and how probable it is."""

    index: int
    wordnet_id: str | None  # a network of one's own may have none
    label: str
    probability: float


class Box(BaseModel):
    """Where a view lies in the prepared square of 256 x 256 pixels."""

    left: int
    top: int
    side: int


class ViewAnswer(BaseModel):
    """The best classes of one view alone."""

    name: str
    mirrored: bool = Field(description="Whether it is its box seen in a mirror.")
    box: Box | None = Field(description="Pixels; null where the model file does not say.")
    classes: list[ClassAnswer]


class ClassMap(BaseModel):
    """Where the evidence for one class lies."""

    index: int
    values: list[list[float]] = Field(
        description="Row by row from the top left: how much less probable the class is while that "
        "part of the image is hidden; negative where it is more probable."
    )


class Heatmap(BaseModel):
    """Cells that cover the prepared square evenly."""

    method: Literal["occlusion"]
    rows: int
    columns: int
    classes: list[ClassMap]


class Extra(TypedDict, total=False):
    """The fields of an image's answer that were asked for."""

    views: list[ViewAnswer]
    heatmap: Heatmap
    features: list[float]


def extra(engine: Engine, result: Result, selection: Selection) -> Extra:
    """The details of one result, of the classes selected."""
    details = Extra()
    if result.views is not None:
        details["views"] = [
            ViewAnswer(
                name=view.name,
                mirrored=view.mirrored,
                box=Box(left=view.left, top=view.top, side=view.side) if view.side else None,
                classes=classes(select(probabilities, engine.model.labels, selection)),
            )
            for view, probabilities in zip(
                _views(engine, len(result.views)), result.views, strict=True
            )
        ]
    if result.occluded is not None:
        indices, _ = selection.best(result.probabilities)
        evidence = occlusion.evidence(
            result.probabilities[indices], result.occluded[:, indices]
        ).astype(np.float64)  # which a float32 in JSON would have the digits of
        details["heatmap"] = Heatmap(
            method="occlusion",
            rows=occlusion.CELLS,
            columns=occlusion.CELLS,
            classes=[
                ClassMap(index=index, values=np.round(evidence[..., column], DIGITS).tolist())
                for column, index in enumerate(indices.tolist())
            ],
        )
    if result.features is not None:
        details["features"] = result.features.tolist()
    return details


def classes(predictions: Sequence[Prediction]) -> list[ClassAnswer]:
    """Predictions as an answer has them."""
    return [ClassAnswer(**vars(prediction)) for prediction in predictions]


def _views(engine: Engine, count: int) -> Sequence[View]:
    """All views, or the centre alone."""
    views = engine.model.views
    return views if count == len(views) else views[CENTRE : CENTRE + 1]
