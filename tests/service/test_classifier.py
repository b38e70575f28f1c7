"""The whole road with a real model, no HTTP in between."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import (
    DeadlineExceeded,
    ImageTooCostly,
    ImageTypeUnsupported,
    NotReady,
    Overloaded,
    ParameterInvalid,
    ServiceError,
)
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.inference.image import EncodedImage, open_image
from service.inference.limits import DecodeLimits, Limits
from service.inference.predictions import Prediction
from tests.support.classifying import classify, classify_many
from tests.support.images import image
from tests.support.servers import PATIENCE

T = TypeVar("T")
CAT = (Path(__file__).parents[1] / "pictures" / "cat.jpg").read_bytes()


def play(
    model: Path,
    scene: Callable[[Classifier], Awaitable[T]],
    max_queue: int = 8,
    max_decoding_pixels: int = 10_000_000,
) -> T:
    """Run a scene with a started classifier and stop it."""

    async def whole() -> T:
        classifier = Classifier(
            Engine.load(model, device="cpu"),
            Limits(
                max_batch=4,
                max_queue=max_queue,
                max_delay=0.0,
                decoding=DecodeLimits(max_pixels=1_000_000, max_aspect_ratio=10.0),
                max_decoding_pixels=max_decoding_pixels,
            ),
        )
        async with classifier:
            return await scene(classifier)

    return asyncio.run(whole())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  threads know no events of the loop's
            await asyncio.sleep(0.01)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pixels of each image that was opened, from 10,000 on a large one."""
    found: list[int] = []

    def noting(*given: Any, **limits: Any) -> EncodedImage:
        its = open_image(*given, **limits)
        found.append(its.pixels)
        return its

    monkeypatch.setattr("service.inference.decoding_pool.open_image", noting)
    monkeypatch.setattr("service.inference.decoding_pool.LARGE", 10_000)
    return found


def test_a_cat_is_among_the_best_five_of_the_bundled_model(bundled_model: Path) -> None:
    best = play(bundled_model, lambda classifier: classify(classifier, CAT))

    assert [p.probability for p in best] == sorted((p.probability for p in best), reverse=True)
    assert {"n02123045", "n02123159"} <= {p.wordnet_id for p in best}


def test_ten_crops_and_one_are_different_questions(bundled_model: Path) -> None:
    async def scene(classifier: Classifier) -> tuple[list[Prediction], list[Prediction]]:
        return await classify(classifier, CAT), await classify(classifier, CAT, crops="one")

    ten, one = play(bundled_model, scene)

    assert ten != one


def test_a_bad_image_leaves_its_error_in_its_place(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> list[list[Prediction] | ServiceError]:
        return await classify_many(classifier, [CAT, b"not an image", CAT], top=2)

    first, second, third = play(tiny_model, scene)

    assert first == third
    assert isinstance(first, list)
    assert len(first) == 2
    assert isinstance(second, ImageTypeUnsupported)


def test_a_request_larger_than_the_queue_is_refused_whole(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> int:
        with pytest.raises(Overloaded):
            await classify_many(classifier, [CAT] * 3)
        return classifier.batcher.pending

    assert play(tiny_model, scene, max_queue=2) == 0


def test_an_unknown_choice_of_crops_names_those_there_are(tiny_model: Path) -> None:
    with pytest.raises(ParameterInvalid, match="ten, one, dense"):
        play(tiny_model, lambda classifier: classify(classifier, CAT, crops="six"))


def test_a_deadline_that_has_passed_frees_its_place(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> int:
        with pytest.raises(DeadlineExceeded):
            await classify(classifier, CAT, timeout=0.0)
        return classifier.batcher.pending

    assert play(tiny_model, scene) == 0


def test_who_comes_after_the_stop_is_told_to_come_back(tiny_model: Path) -> None:
    async def scene(classifier: Classifier) -> None:
        await classifier.stop()
        with pytest.raises(NotReady):
            await classify(classifier, CAT)

    play(tiny_model, scene)


def test_large_images_are_decoded_within_their_budget_and_small_ones_pass_them(
    tiny_model: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 90,000 pixels and a budget of 100,000: one at a time; a small one waits for none."""
    order: list[tuple[str, int]] = []
    small_is_done = threading.Event()
    decode = EncodedImage.decode

    def decode_slowly(image: EncodedImage) -> NDArray[np.uint8]:
        order.append(("in", image.pixels))
        if image.pixels > 2500:
            assert small_is_done.wait(PATIENCE)
        square = decode(image)
        order.append(("out", image.pixels))
        if image.pixels == 2500:
            small_is_done.set()
        return square

    async def scene(classifier: Classifier) -> None:
        large = [asyncio.create_task(classify(classifier, image(size=(300, 300)))) for _ in "123"]
        await until(lambda: len(opened) == 3)
        await classify(classifier, image(size=(50, 50)))
        await asyncio.gather(*large)

    monkeypatch.setattr(EncodedImage, "decode", decode_slowly)
    play(tiny_model, scene, max_decoding_pixels=100_000)

    assert order.index(("out", 2500)) < order.index(("out", 90_000))
    assert [step for step, pixels in order if pixels == 90_000] == ["in", "out"] * 3


def test_a_large_image_keeps_its_budget_while_it_is_decoded_though_its_client_has_left(
    tiny_model: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    gate = threading.Event()
    decode = EncodedImage.decode

    def decode_at_the_gate(image: EncodedImage) -> NDArray[np.uint8]:
        begun.append(image.pixels)
        assert gate.wait(PATIENCE)
        return decode(image)

    async def scene(classifier: Classifier) -> None:
        first = asyncio.create_task(classify(classifier, image(size=(300, 300))))
        await until(lambda: begun == [90_000])
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(classify(classifier, image(size=(310, 300))))
        await until(lambda: len(opened) == 2)
        with pytest.raises(ImageTypeUnsupported):  # whatever waits for a decoder has had it by then
            await classify(classifier, b"not an image")
        assert begun == [90_000]
        gate.set()
        await second
        assert begun == [90_000, 93_000]

    monkeypatch.setattr(EncodedImage, "decode", decode_at_the_gate)
    play(tiny_model, scene, max_decoding_pixels=100_000)


def test_an_image_that_was_given_up_is_not_decoded_to_its_end() -> None:
    found = open_image(image(size=(3000, 3000)), DecodeLimits())
    found.stop()

    with pytest.raises(ImageTooCostly):
        found.decode()


def test_who_leaves_before_its_image_is_decoded_costs_no_decoding(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores have three threads that decode."""
    begun: list[int] = []
    decoded: list[int] = []
    gate = threading.Event()
    decode = EncodedImage.decode

    def decode_at_the_gate(image: EncodedImage) -> NDArray[np.uint8]:
        begun.append(image.pixels)
        assert gate.wait(PATIENCE)
        decoded.append(image.pixels)
        return decode(image)

    async def scene(classifier: Classifier) -> None:
        asked = [
            asyncio.create_task(classify(classifier, image(size=(50 + number, 50))))
            for number in range(8)
        ]
        await until(lambda: len(begun) == 3)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        assert classifier.batcher.pending == 0
        gate.set()
        await classify(classifier, CAT)

    monkeypatch.setattr(EncodedImage, "decode", decode_at_the_gate)
    monkeypatch.setattr("service.inference.classifier.cpu_quota", lambda: 2)
    play(tiny_model, scene)

    assert len(decoded) == 4  # those that had begun, and the cat


def test_an_engine_that_is_replaced_finishes_what_it_was_asked(
    tiny_model: Path, bundled_model: Path
) -> None:
    async def scene(classifier: Classifier) -> None:
        old, new = classifier.engine, Engine.load(bundled_model, device="cpu")
        before = await classify(classifier, CAT)
        classifier.engine = new

        assert await classify(classifier, CAT) != before
        assert await classify_many(classifier, [CAT], engine=old) == [before]
        gone = weakref.ref(old)
        del old
        for _ in range(3):  # the run ends just after its answers
            await asyncio.sleep(0)
        gc.collect()
        assert gone() is None

    play(tiny_model, scene)
