"""
The road on one page: bytes -> pixels -> batch -> probabilities -> the best classes.

`image`, `batching` and `engine` are the steps, and `occlusion` is one more for who asks where the
evidence lies; none of them knows another; here they meet.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.cgroups import usable_cores
from service.errors import (
    DeadlineExceeded,
    ImageError,
    NotReady,
    ParameterInvalid,
    RequestError,
    RunFailed,
    ServiceError,
)
from service.inference import occlusion
from service.inference.batching import Batcher, Places
from service.inference.engine import Engine, Label
from service.inference.image import FORMAT_NAMES, LARGE, EncodedImage, open_image
from service.inference.queue import Pixels, Probabilities
from service.inference.semaphore import Budget
from service.inference.timings import Steps

Detail = Literal["views", "heatmap"]  # what a request may want beyond the classes

T = TypeVar("T")
log = logging.getLogger("service.classifier")


@dataclass(frozen=True)
class Answer:
    """What the network says of one image; the rest is there if it was asked for."""

    probabilities: Probabilities  # float32 (classes,), the mean over the views
    views: Probabilities | None = None  # (views, classes)
    hidden: Probabilities | None = None  # (windows, classes): the image with each one hidden


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, the mean over the views."""

    index: int
    wordnet_id: str | None
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one classifier may take; each is explained at the setting of the same name."""

    max_batch: int  # images
    max_queue: int  # images
    max_delay: float  # seconds
    max_pixels: int
    max_aspect_ratio: float  # long side over short side
    scaled_decoding: bool = False
    formats: Collection[str] = FORMAT_NAMES
    decode_timeout: float = 1.8  # seconds of CPU time
    max_decoding_pixels: int = 100_000_000
    run_timeout: float | None = None  # seconds


@dataclass(frozen=True)
class _Question:
    """What a request wants to know, and of which model."""

    engine: Engine
    crops: int  # as the model file numbers them
    details: Collection[Detail]
    turns: Budget  # to be decoded: the images of one request do not fill the pool's line


class Classifier:
    """Classifies encoded images with one engine; start it before, stop it after."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        *,
        on_run: Callable[[int, float], None] | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """
        `on_run` gets the images and seconds of each run of the network, `on_death` the reason
        when no image can be classified any more.
        """
        self.engine = engine
        self.batcher = Batcher(
            self._run,
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            max_delay=limits.max_delay,
            run_timeout=limits.run_timeout,
            check=lambda: self.engine.check(),
            on_run=on_run,
            on_death=on_death,
        )
        self.draining = False
        self._max_queue = limits.max_queue
        self._open = partial(
            open_image,
            max_pixels=limits.max_pixels,
            max_aspect_ratio=limits.max_aspect_ratio,
            scaled_decoding=limits.scaled_decoding,
            formats=limits.formats,
            decode_timeout=limits.decode_timeout,
        )
        self._cores = usable_cores()
        # Large images may keep all cores busy, but one thread remains for the small ones.
        self._large = Budget(self._cores)
        self._large_pixels = Budget(limits.max_decoding_pixels)
        # Our own pool: the event loop's default one is shared with everything synchronous.
        self._decoders = ThreadPoolExecutor(
            max_workers=self._cores + 1, thread_name_prefix="alexnet-decode"
        )

    @property
    def ready(self) -> bool:
        """Whether an image that comes now will be answered."""
        return self.batcher.alive and not self.draining

    async def start(self) -> None:
        """Begin to accept images."""
        await self.batcher.start()

    async def stop(self) -> None:
        """Refuse new images, finish the accepted ones, end the threads."""
        self.draining = True
        await self.batcher.stop()
        self._decoders.shutdown(wait=False)

    def replace(self, engine: Engine) -> None:
        """Classify with another engine from now on; what was asked of the old one, it finishes."""
        self.engine = engine

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _run(self, images: NDArray[np.uint8], crops: int) -> NDArray[np.float32]:
        """With whichever engine is current; the batcher keeps none alive."""
        return self.engine.run(images, crops)

    async def classify(
        self, data: bytes, *, crops: str = "ten", top: int = 5, timeout: float | None = None
    ) -> list[Prediction]:
        """
        Classify one encoded image, as a client uploads it; the best class comes first.

        `timeout` is in seconds, decoding and waiting included.  Raises any `ServiceError` that
        is not a `StartError`.
        """
        outcome = (await self.classify_many([data], crops=crops, top=top, timeout=timeout))[0]
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    async def classify_many(
        self,
        images: Sequence[bytes],
        *,
        crops: str = "ten",
        top: int = 5,
        timeout: float | None = None,
        engine: Engine | None = None,
    ) -> list[list[Prediction] | ServiceError]:
        """`probabilities`, and of each image the `top` best classes."""
        engine = engine or self.engine
        outcomes = await self.probabilities(images, crops=crops, timeout=timeout, engine=engine)
        return best_of_each(outcomes, engine.model.labels, top)

    async def probabilities(
        self,
        images: Sequence[bytes | Pixels],
        *,
        crops: str = "ten",
        timeout: float | None = None,
        engine: Engine | None = None,
        steps: Sequence[Steps] = (),
    ) -> list[Probabilities | ServiceError]:
        """`answers` without details: float32 `(classes,)` of each image."""
        outcomes = await self.answers(
            images, crops=crops, timeout=timeout, engine=engine, steps=steps
        )
        return probabilities_of(outcomes)

    async def answers(
        self,
        images: Sequence[bytes | Pixels],
        *,
        crops: str = "ten",
        details: Collection[Detail] = (),
        timeout: float | None = None,
        engine: Engine | None = None,
        steps: Sequence[Steps] = (),
    ) -> list[Answer | ServiceError]:
        """
        Images of one request, encoded or as uint8 `(256, 256, 3)`, to what is asked of each.

        They are accepted whole or not at all, and answered in order.  An image that is at fault
        leaves its error in its place; what concerns the request as a whole (overload, deadline, an
        unknown parameter) is raised.  `timeout` is in seconds, decoding and waiting included;
        `engine` is the one that was current when the request came; into `steps`, one for each
        image, goes when it passed which step.
        """
        engine = engine or self.engine
        ask = _Question(engine, views(engine, crops), details, Budget(self._cores))
        written = steps or [Steps() for _ in images]
        count = self.places(len(images), details)
        async with self._admitted(count, timeout) as (places, deadline):
            return await _together(
                [
                    self._one_or_error(image, ask, places, deadline, its)
                    for image, its in zip(images, written, strict=True)
                ]
            )

    def places(self, images: int, details: Collection[Detail] = ()) -> int:
        """How many places in the queue so many images take; `ParameterInvalid` if it never has
        as many."""
        count = images * _runs(details)
        if "heatmap" in details and count > self._max_queue:
            raise ParameterInvalid(
                f"details=heatmap takes {_runs(details)} places in the queue for each image, "
                f"{count} for {images}, and the queue has {self._max_queue}: send fewer images "
                "in a request, leave heatmap out, or have ALEXNET_MAX_QUEUE raised"
            )
        return count

    async def _one(
        self,
        image: bytes | Pixels,
        ask: _Question,
        places: Places,
        deadline: float | None,
        steps: Steps,
    ) -> Answer:
        """The road itself."""
        steps.began = time.monotonic()
        if isinstance(image, bytes):
            try:
                async with ask.turns.taken(1):
                    image = await self._decode(image)
            except (ImageError, RequestError):
                places.give_up(_runs(ask.details))
                raise
        submit = partial(places.submit, crops=ask.crops, deadline=deadline)
        run = ask.engine.run_views if "views" in ask.details else ask.engine.run
        if "heatmap" not in ask.details:
            return _answer(await submit(image, run=run, steps=steps))
        squares = await self._in_pool(occlusion.hide, image)
        found, *hidden = await _together(
            [
                submit(image, run=run, steps=steps),
                *(submit(square, run=ask.engine.run) for square in squares),
            ]
        )
        steps.answered = time.monotonic()  # for the image's client the run ends with the last
        return _answer(found, np.stack(hidden))

    async def _decode(self, data: bytes) -> NDArray[np.uint8]:
        """Small images at once, large ones within the budget."""
        # The pool's line would keep the bytes of those who have left.
        box = [data]
        del data
        try:
            found = await self._in_pool(self._decode_if_small, box)
        finally:
            box.clear()
        if not isinstance(found, EncodedImage):
            return found
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(self._large.taken(1))
            await turn.enter_async_context(self._large_pixels.taken(found.pixels))
            work = asyncio.create_task(self._decode_large(found, turn.pop_all()))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            found.give_up()
            raise

    async def _decode_large(self, image: EncodedImage, turn: AsyncExitStack) -> NDArray[np.uint8]:
        """Decode, and give the budget back when the thread is done: not when the client leaves."""
        async with turn:
            return await self._in_pool(image.decode)

    async def _in_pool(self, work: Callable[..., T], *arguments: object) -> T:
        """`work`'s result, from one of the threads that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work, *arguments)

    def _decode_if_small(self, box: list[bytes]) -> EncodedImage | NDArray[np.uint8]:
        """In a thread: the square of a small image, or a large one as it is."""
        image = self._open(box.pop())
        return image if image.pixels > LARGE else image.decode()

    async def _one_or_error(
        self,
        image: bytes | Pixels,
        ask: _Question,
        places: Places,
        deadline: float | None,
        steps: Steps,
    ) -> Answer | ServiceError:
        """The road, where an image's own fault is an answer too, or ours with this image."""
        try:
            return await self._one(image, ask, places, deadline, steps)
        except (ImageError, RequestError) as error:
            steps.refused = time.monotonic()
            return error
        except ServiceError:
            raise
        except Exception:
            log.exception("An image could not be classified")
            return RunFailed("Something went wrong on our side. The server's log has it.")

    @asynccontextmanager
    async def _admitted(
        self, count: int, timeout: float | None
    ) -> AsyncIterator[tuple[Places, float | None]]:
        """Places in the queue and a clock; yields them, and the deadline in the loop's time."""
        if not self.ready:
            raise NotReady("The service is starting or stopping. Try again shortly.")
        now = asyncio.get_running_loop().time()
        deadline = None if timeout is None else now + timeout
        with self.batcher.reserve(count) as places:
            clock = asyncio.timeout_at(deadline)
            try:
                async with clock:
                    yield places, deadline
            except TimeoutError as error:
                if not clock.expired():
                    raise
                raise DeadlineExceeded(
                    "There is no answer in the time allowed. Try again, or have ALEXNET_TIMEOUT "
                    "raised."
                ) from error


def _runs(details: Collection[Detail]) -> int:
    """How often the network runs for one image."""
    return 1 + (occlusion.WINDOWS if "heatmap" in details else 0)


def _answer(found: Probabilities, hidden: Probabilities | None = None) -> Answer:
    """Of a row of `Engine.run` or of `Engine.run_views`."""
    if found.ndim == 1:
        return Answer(found, hidden=hidden)
    return Answer(found[0], found[1:], hidden)


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All the results, in order; when one raises, nobody waits for the others."""
    if len(work) == 1:  # the common case, spared a task
        return [await work[0]]
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def views(engine: Engine, crops: str) -> int:
    """The number that the model file gives to a choice of crops, or `ParameterInvalid`."""
    offered = engine.model.crops
    if crops not in offered:
        raise ParameterInvalid(f"crops={crops!r}: must be one of {', '.join(offered)}")
    return offered[crops]


def probabilities_of(
    outcomes: Sequence[Answer | ServiceError],
) -> list[Probabilities | ServiceError]:
    """Of each answer, where an image's error stays in its place."""
    return [
        outcome if isinstance(outcome, ServiceError) else outcome.probabilities
        for outcome in outcomes
    ]


def best(probabilities: NDArray[np.float32], labels: Sequence[Label], top: int) -> list[Prediction]:
    """The `top` best of float32 `(classes,)`, the most probable first."""
    return [
        Prediction(
            int(index), labels[index].wordnet_id, labels[index].name, float(probabilities[index])
        )
        for index in order(probabilities, top)
    ]


def order(probabilities: NDArray[np.float32], top: int) -> NDArray[np.intp]:
    """Indices of the `top` best of float32 `(classes,)`; equal ones in the order of the classes."""
    return np.argsort(-probabilities, kind="stable")[: max(1, top)]


def best_of_each(
    outcomes: Sequence[Probabilities | ServiceError], labels: Sequence[Label], top: int
) -> list[list[Prediction] | ServiceError]:
    """`best`, where an image's error stays in its place."""
    return [
        outcome if isinstance(outcome, ServiceError) else best(outcome, labels, top)
        for outcome in outcomes
    ]
