"""Classify with a `Classifier` and take the best classes, as endpoints do."""

from collections.abc import Sequence
from typing import Any

from service.errors import ServiceError
from service.inference.classifier import Classifier
from service.inference.predictions import Prediction, Selection, select_of_each


async def classify_many(
    classifier: Classifier, images: Sequence[bytes], *, top: int = 5, **arguments: Any
) -> list[list[Prediction] | ServiceError]:
    """Each image's best classes, or its error."""
    engine = arguments.get("engine") or classifier.engine
    results = await classifier.classify(images, **arguments)
    return select_of_each(results, engine.model.labels, Selection(top))


async def classify(
    classifier: Classifier, image: bytes, *, top: int = 5, **arguments: Any
) -> list[Prediction]:
    """One image's best classes; raises its error."""
    (outcome,) = await classify_many(classifier, [image], top=top, **arguments)
    if isinstance(outcome, ServiceError):
        raise outcome
    return outcome
