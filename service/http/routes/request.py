"""
What all endpoints that classify share.  Limits of the body, deadline, rate, clients that leave.

    async with accept(request, crops) as accepted:
        images = await accepted.read(parse)        # parse(chunks) -> what the body holds
        results = await accepted.classify(images)

What can be refused without the body is refused before it is read.  While the body is read it holds
no place in the queue, so that slow senders cannot fill it.  Both steps raise any `ServiceError`
that is not a `StartError`, and `ClientDisconnect`; middleware/errors.py answers them.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from service import errors
from service.http.middleware import auth
from service.http.routes.compression import codings, unpacked
from service.http.state import ServiceState, state_of
from service.inference.engine import Engine
from service.inference.predictions import Detail, Result
from service.inference.queue import Pixels, StageTimings
from service.settings import Settings
from service.telemetry.request_record import record_of

T = TypeVar("T")
Hold = Callable[[int], None]
Chunks = AsyncGenerator[bytes, None]

LONG_ANSWER: Final = 5000  # classes, which take some 10 ms to write
SMALL_BODY: Final = 2**20  # bytes
DEFAULT_CROPS: Final = "ten"
LARGE_SHARE: Final = 0.75  # of ALEXNET_MAX_UPLOADS
UNWATCHED: Final = 0.05  # seconds; most answers come sooner, and are not worth a watch's 0.1 ms


async def write_answer(size: int, write: Callable[[], T]) -> T:
    """What `write` returns; in a thread if it is about so many classes that others would wait."""
    return await asyncio.to_thread(write) if size > LONG_ANSWER else write()


class AcceptedRequest:
    """A request to classify images; `accept` makes it."""

    def __init__(
        self, request: Request, state: ServiceState, crops: str, deadline: float, hold: Hold
    ) -> None:
        self.settings = state.settings
        self.engine: Engine = state.engine  # that answers, even if it is replaced meanwhile
        self.crops = crops
        self.hold = hold  # counts bytes that the request takes in memory, or raises `Overloaded`
        self._request = request
        self._classifier = state.classifier
        self._deadline = deadline
        self._record = record_of(request)

    async def read(self, parse: Callable[[Chunks], Awaitable[T]]) -> T:
        """
        What `parse` makes of the body's chunks, which are limited in bytes and time.

        They are the body before its Content-Encoding, whose bytes count too.
        """
        limit = self.settings.max_body
        chunks = limited(self._request, limit, self.hold)
        if packed := self._request.headers.getlist("content-encoding"):
            chunks = unpacked(chunks, codings(packed), limit, self.hold)
        parsed = await _in_time(parse(chunks), self.settings)
        self._record.read = time.monotonic()
        return parsed

    async def classify(
        self, images: Sequence[bytes | Pixels], details: Collection[Detail] = ()
    ) -> list[Result | errors.ServiceError]:
        """
        `Classifier.classify` for this request.

        What counts against the client's rate is how often the network has to run.  The images
        leave the queue when the client hangs up.
        """
        self._charge(len(images), details)
        timings = self._record.images = [StageTimings() for _ in images]
        work = self._classifier.classify(
            images,
            crops=self.crops,
            details=details,
            timeout=self._deadline - asyncio.get_running_loop().time(),
            engine=self.engine,
            timings=timings,
        )
        results = await _unless_client_leaves(self._request, work)
        self._record.outcomes = [
            result.code if isinstance(result, errors.ServiceError) else None for result in results
        ]
        self._record.confidences = [
            float(result.probabilities.max()) for result in results if isinstance(result, Result)
        ]
        return results

    def _charge(self, images: int, details: Collection[Detail]) -> None:
        """Count the runs of the network against the client's rate."""
        rows = self._classifier.rows(images, details)
        try:
            auth.charge(self._request, rows)
        except (errors.RateLimited, errors.TooManyFiles) as error:
            if rows == images:
                raise
            counts = f"details=heatmap counts as {rows // images} images for each"
            if isinstance(error, errors.RateLimited):
                text = f"{error} ({counts})"
                raise errors.RateLimited(text, retry_after=error.retry_after) from error
            if images > 1:
                raise errors.TooManyFiles(f"{error} ({counts})") from error
            raise errors.ParameterInvalid(
                f"{counts}, more than the rate allows at once; leave it out, or have "
                "ALEXNET_RATE_LIMIT raised"
            ) from error


@asynccontextmanager
async def accept(
    request: Request,
    crops: str | None,
    *,
    details: Collection[Detail] = (),
    model: str | None = None,
) -> AsyncIterator[AcceptedRequest]:
    """A request in flight, unless it would be refused whatever is in its body; `model` is by
    default the one that takes encoded images."""
    state = state_of(request)
    record_of(request).model = model or state.names.image
    deadline = asyncio.get_running_loop().time() + state.settings.timeout
    with state.accepted(), _memory(state) as hold:
        accepted = AcceptedRequest(request, state, crops or DEFAULT_CROPS, deadline, hold)
        if crops is not None:  # otherwise they are in the body
            accepted.engine.model.crops_number(crops)
        accepted.engine.model.check_details(details)
        state.classifier.rows(1, details)
        yield accepted


@contextmanager
def _memory(state: ServiceState) -> Iterator[Hold]:
    """Yields what counts the bytes that this request holds until the block ends."""
    limit, held = state.settings.max_uploads, 0

    def hold(size: int) -> None:
        nonlocal held
        # Large bodies leave a quarter to the small ones, so that a few slow senders do not shut
        # out all others.
        small = held + size <= SMALL_BODY
        share = limit if small else max(LARGE_SHARE * limit, state.settings.max_body)
        if size > 0 and state.held + size > share:
            raise errors.Overloaded(
                f"the bodies of all requests together reach {limit} bytes; try again shortly, or "
                "have ALEXNET_MAX_UPLOADS raised",
                retry_after=1,
            )
        held += size
        state.held += size

    try:
        yield hold
    finally:
        state.held -= held


async def _in_time(reading: Awaitable[T], settings: Settings) -> T:
    """What is read, unless its sender is too slow."""
    seconds = min(settings.body_timeout, settings.timeout)
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            return await reading
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise errors.BodyTooSlow(
            f"the body did not arrive within {seconds:g} s; send it faster, or a smaller one"
        ) from error


async def limited(request: Request, limit: int, hold: Hold) -> AsyncGenerator[bytes, None]:
    """The body's chunks, up to `limit` bytes; a length announced is believed at once."""
    too_large = errors.BodyTooLarge(
        f"the body is larger than {limit} bytes; send a smaller one, "
        "or raise ALEXNET_MAX_BODY on the server"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        hold(len(chunk))
        yield chunk


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """`work`'s result; if the client hangs up first, `work` is cancelled."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    watching: list[asyncio.Task[None]] = []
    left = False

    async def watch() -> None:
        nonlocal left
        await _departure(request)
        left = True
        task.cancel()

    timer = loop.call_later(UNWATCHED, lambda: watching.append(loop.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if left and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watcher in watching:
            watcher.cancel()


async def _departure(request: Request) -> None:
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await request.receive()
