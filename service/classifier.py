"""
The road on one page: bytes -> pixels -> batch -> probabilities -> the best classes.

`image`, `batching` and `engine` are the steps; none of them knows another; here they meet.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.batching import Batcher, Places
from service.budget import Budget
from service.cores import usable_cores
from service.engine import Engine, Label
from service.errors import (
    DeadlineExceeded,
    ImageError,
    NotReady,
    ParameterInvalid,
    RequestError,
    RunFailed,
    ServiceError,
)
from service.image import FORMAT_NAMES, LARGE, Picture, open_picture
from service.steps import Steps
from service.waiting import Pixels, Probabilities

log = logging.getLogger(__name__)


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
    views: int
    turns: Budget  # to be decoded: the pictures of one request do not fill the pool's line


class Classifier:
    """Classifies encoded pictures with one engine; start it before, stop it after."""

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
        when no picture can be classified any more.
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
        self._open = partial(
            open_picture,
            max_pixels=limits.max_pixels,
            max_aspect_ratio=limits.max_aspect_ratio,
            scaled_decoding=limits.scaled_decoding,
            formats=limits.formats,
            decode_timeout=limits.decode_timeout,
        )
        self._cores = usable_cores()
        # Large pictures may keep all cores busy, but one thread remains for the small ones.
        self._large = Budget(self._cores)
        self._large_pixels = Budget(limits.max_decoding_pixels)
        # Our own pool: the event loop's default one is shared with everything synchronous.
        self._decoders = ThreadPoolExecutor(
            max_workers=self._cores + 1, thread_name_prefix="alexnet-decode"
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

    def _run(self, images: NDArray[np.uint8], crops: int) -> NDArray[np.float32]:
        """With whichever engine is current; the batcher keeps none alive."""
        return self.engine.run(images, crops)

    async def classify(
        self, data: bytes, *, crops: str = "ten", top: int = 5, timeout: float | None = None
    ) -> list[Prediction]:
        """
        Classify one encoded picture, as a client uploads it; the best class comes first.

        `timeout` is in seconds, decoding and waiting included.  Raises any `ServiceError` that
        is not a `StartError`.
        """
        outcome = (await self.classify_many([data], crops=crops, top=top, timeout=timeout))[0]
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    async def classify_many(
        self,
        pictures: Sequence[bytes],
        *,
        crops: str = "ten",
        top: int = 5,
        timeout: float | None = None,
        engine: Engine | None = None,
    ) -> list[list[Prediction] | ServiceError]:
        """`probabilities`, and of each picture the `top` best classes."""
        engine = engine or self.engine
        outcomes = await self.probabilities(pictures, crops=crops, timeout=timeout, engine=engine)
        return best_of_each(outcomes, engine.model.labels, top)

    async def probabilities(
        self,
        pictures: Sequence[bytes | Pixels],
        *,
        crops: str = "ten",
        timeout: float | None = None,
        engine: Engine | None = None,
        steps: Sequence[Steps] = (),
    ) -> list[Probabilities | ServiceError]:
        """
        Pictures of one request, encoded or as uint8 `(256, 256, 3)`, to float32 `(classes,)` each.

        They are accepted whole or not at all, and answered in order.  A picture that is at fault
        leaves its error in its place; what concerns the request as a whole (overload, deadline, an
        unknown parameter) is raised.  `timeout` is in seconds, decoding and waiting included;
        `engine` is the one that was current when the request came; into `steps`, one for each
        picture, goes when it passed which step.
        """
        engine = engine or self.engine
        ask = _Question(engine, views(engine, crops), Budget(self._cores))
        written = steps or [Steps() for _ in pictures]
        async with self._admitted(len(pictures), timeout) as (places, deadline):
            work = [
                self._one_or_error(picture, ask, places, deadline, its)
                for picture, its in zip(pictures, written, strict=True)
            ]
            if len(work) == 1:  # the common case, spared a task
                return [await work[0]]
            tasks = [asyncio.create_task(one) for one in work]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # when one raised, nobody waits for the others
                    task.cancel()

    async def _one(
        self,
        picture: bytes | Pixels,
        ask: _Question,
        places: Places,
        deadline: float | None,
        steps: Steps,
    ) -> Probabilities:
        """The road itself."""
        steps.began = time.monotonic()
        if isinstance(picture, bytes):
            try:
                async with ask.turns.taken(1):
                    picture = await self._decode(picture)
            except (ImageError, RequestError):
                places.give_up()
                raise
        return await places.submit(
            picture, ask.views, run=ask.engine.run, deadline=deadline, steps=steps
        )

    async def _decode(self, data: bytes) -> NDArray[np.uint8]:
        """Small pictures at once, large ones within the budget."""
        # The pool's line would keep the bytes of those who have left.
        box = [data]
        del data
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._decoders, self._decode_if_small, box
            )
        finally:
            box.clear()
        if not isinstance(found, Picture):
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

    async def _decode_large(self, picture: Picture, turn: AsyncExitStack) -> NDArray[np.uint8]:
        """Decode, and give the budget back when the thread is done: not when the client leaves."""
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, picture.decode)

    def _decode_if_small(self, box: list[bytes]) -> Picture | NDArray[np.uint8]:
        """In a thread: the square of a small picture, or a large one as it is."""
        picture = self._open(box.pop())
        return picture if picture.pixels > LARGE else picture.decode()

    async def _one_or_error(
        self,
        picture: bytes | Pixels,
        ask: _Question,
        places: Places,
        deadline: float | None,
        steps: Steps,
    ) -> Probabilities | ServiceError:
        """The road, where a picture's own fault is an answer too, or ours with this picture."""
        try:
            return await self._one(picture, ask, places, deadline, steps)
        except (ImageError, RequestError) as error:
            steps.refused = time.monotonic()
            return error
        except ServiceError:
            raise
        except Exception:
            log.exception("A picture could not be classified")
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


def views(engine: Engine, crops: str) -> int:
    """The number that the model file gives to a choice of crops, or `ParameterInvalid`."""
    offered = engine.model.crops
    if crops not in offered:
        raise ParameterInvalid(f"crops={crops!r}: must be one of {', '.join(offered)}")
    return offered[crops]


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
    """`best`, where a picture's error stays in its place."""
    return [
        outcome if isinstance(outcome, ServiceError) else best(outcome, labels, top)
        for outcome in outcomes
    ]
