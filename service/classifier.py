"""
The road on one page: bytes -> pixels -> batch -> probabilities -> the best classes.

`image`, `batching` and `engine` are the steps; none of them knows another; here they meet.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.batching import Batcher, Places
from service.cores import usable_cores
from service.engine import Engine, Label
from service.errors import (
    DeadlineExceeded,
    ImageError,
    NotReady,
    ParameterInvalid,
    RequestError,
    ServiceError,
)
from service.image import decode


@dataclass(frozen=True)
class Prediction:
    """One class and its probability, the mean over the views."""

    index: int
    wordnet_id: str | None
    label: str
    probability: float


@dataclass(frozen=True)
class _Question:
    """What a request wants to know, and of which model."""

    engine: Engine
    views: int
    top: int


class Classifier:
    """Classifies encoded pictures with one engine; start it before, stop it after."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch: int,
        max_queue: int,
        max_delay: float,
        max_pixels: int,
        max_aspect_ratio: float,
        scaled_decoding: bool = False,
        run_timeout: float | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """
        Limits are in images, images, seconds, pixels, long side over short side, seconds.

        `on_death` gets the reason when no picture can be classified any more.
        """
        self.engine = engine
        self.batcher = Batcher(
            engine.run,
            max_batch=max_batch,
            max_queue=max_queue,
            max_delay=max_delay,
            run_timeout=run_timeout,
            check=lambda: self.engine.check(),
            on_death=on_death,
        )
        self.draining = False
        self._decode = partial(
            decode,
            max_pixels=max_pixels,
            max_aspect_ratio=max_aspect_ratio,
            scaled_decoding=scaled_decoding,
        )
        # Our own pool: the event loop's default one is shared with everything synchronous.
        self._decoders = ThreadPoolExecutor(
            max_workers=usable_cores(), thread_name_prefix="alexnet-decode"
        )

    @property
    def ready(self) -> bool:
        """Whether a picture that comes now will be answered."""
        return self.batcher.alive and not self.draining

    async def start(self) -> None:
        """Begin to accept pictures."""
        await self.batcher.start()

    async def stop(self) -> None:
        """Refuse new pictures, finish the accepted ones, end the threads."""
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

    async def classify(
        self, data: bytes, *, crops: str = "ten", top: int = 5, timeout: float | None = None
    ) -> list[Prediction]:
        """
        Classify one encoded picture, as a client uploads it; the best class comes first.

        `timeout` is in seconds, decoding and waiting included.  Raises any `ServiceError` that
        is not a `StartError`.
        """
        ask = _Question(self.engine, views(self.engine, crops), top)
        async with self._admitted(1, timeout) as (places, deadline):
            return await self._one(data, ask, places, deadline)

    async def classify_many(
        self,
        pictures: Sequence[bytes],
        *,
        crops: str = "ten",
        top: int = 5,
        timeout: float | None = None,
        engine: Engine | None = None,
    ) -> list[list[Prediction] | ServiceError]:
        """
        Classify the pictures of one request, accepted whole or not at all, answers in order.

        A picture that is at fault leaves its error in its place; what concerns the request as a
        whole (overload, deadline, an unknown parameter) is raised.  `engine` is the one that was
        current when the request came.
        """
        engine = engine or self.engine
        ask = _Question(engine, views(engine, crops), top)
        async with self._admitted(len(pictures), timeout) as (places, deadline):
            work = [self._one_or_error(data, ask, places, deadline) for data in pictures]
            if len(work) == 1:  # the common case, spared a task
                return [await work[0]]
            tasks = [asyncio.create_task(one) for one in work]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # when one raised, nobody waits for the others
                    task.cancel()

    async def _one(
        self, data: bytes, ask: _Question, places: Places, deadline: float | None
    ) -> list[Prediction]:
        """The road itself."""
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(
                self._decoders, self._decode, data
            )
        except (ImageError, RequestError):
            places.give_up()
            raise
        engine = ask.engine
        probabilities = await places.submit(pixels, ask.views, run=engine.run, deadline=deadline)
        return best(probabilities, engine.model.labels, ask.top)

    async def _one_or_error(
        self, data: bytes, ask: _Question, places: Places, deadline: float | None
    ) -> list[Prediction] | ServiceError:
        """The road, where a picture at fault is an answer too."""
        try:
            return await self._one(data, ask, places, deadline)
        except (ImageError, RequestError) as error:
            return error

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
                    f"No answer within {timeout:.3g} s. Try again, or allow more time."
                ) from error


def views(engine: Engine, crops: str) -> int:
    """The number that the model file gives to a choice of crops, or `ParameterInvalid`."""
    offered = engine.model.crops
    if crops not in offered:
        raise ParameterInvalid(f"crops={crops!r}: must be one of {', '.join(offered)}")
    return offered[crops]


def best(probabilities: NDArray[np.float32], labels: Sequence[Label], top: int) -> list[Prediction]:
    """The `top` best of float32 `(classes,)`; equal ones in the order of the classes."""
    order = np.argsort(-probabilities, kind="stable")[: max(1, top)]
    return [
        Prediction(
            int(index), labels[index].wordnet_id, labels[index].name, float(probabilities[index])
        )
        for index in order
    ]
