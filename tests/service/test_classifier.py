"""The whole road with a real model, no HTTP in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from service.classifier import Classifier, Prediction
from service.engine import Engine
from service.errors import (
    DeadlineExceeded,
    ImageTypeUnsupported,
    NotReady,
    Overloaded,
    ParameterInvalid,
    ServiceError,
)

T = TypeVar("T")
CAT = (Path(__file__).parents[1] / "pictures" / "cat.jpg").read_bytes()


def play(model: Path, scene: Callable[[Classifier], Awaitable[T]], max_queue: int = 8) -> T:
    """Run a scene with a started classifier and stop it."""

    async def whole() -> T:
        classifier = Classifier(
            Engine.load(model, device="cpu"),
            max_batch=4,
            max_queue=max_queue,
            max_delay=0.0,
            max_pixels=1_000_000,
            max_aspect_ratio=10.0,
        )
        async with classifier:
            return await scene(classifier)

    return asyncio.run(whole())


def test_a_cat_is_among_the_best_five_of_the_bundled_model(bundled_model: Path) -> None:
    best = play(bundled_model, lambda classifier: classifier.classify(CAT))

    assert [p.probability for p in best] == sorted((p.probability for p in best), reverse=True)
    assert {"n02123045", "n02123159"} <= {p.wordnet_id for p in best}


def test_ten_crops_and_one_are_different_questions(bundled_model: Path) -> None:
    async def scene(classifier: Classifier) -> tuple[list[Prediction], list[Prediction]]:
        return await classifier.classify(CAT), await classifier.classify(CAT, crops="one")

    ten, one = play(bundled_model, scene)

    assert ten != one


def test_a_bad_picture_leaves_its_error_in_its_place(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> list[list[Prediction] | ServiceError]:
        return await classifier.classify_many([CAT, b"not a picture", CAT], top=2)

    first, second, third = play(tiny_model, scene)

    assert first == third
    assert isinstance(first, list)
    assert len(first) == 2
    assert isinstance(second, ImageTypeUnsupported)


def test_a_request_larger_than_the_queue_is_refused_whole(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> int:
        with pytest.raises(Overloaded):
            await classifier.classify_many([CAT] * 3)
        return classifier.batcher.pending

    assert play(tiny_model, scene, max_queue=2) == 0


def test_an_unknown_choice_of_crops_names_those_there_are(tiny_model: Path) -> None:
    with pytest.raises(ParameterInvalid, match="ten, one, dense"):
        play(tiny_model, lambda classifier: classifier.classify(CAT, crops="six"))


def test_a_deadline_that_has_passed_frees_its_place(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> int:
        with pytest.raises(DeadlineExceeded):
            await classifier.classify(CAT, timeout=0.0)
        return classifier.batcher.pending

    assert play(tiny_model, scene) == 0


def test_who_comes_after_the_stop_is_told_to_come_back(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> None:
        await classifier.stop()
        with pytest.raises(NotReady):
            await classifier.classify(CAT)

    play(tiny_model, scene)
