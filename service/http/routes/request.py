"""
What every door that classifies has in common: admission, the body within its limits, the charge,
the deadline, the client who leaves.

    async with road(request, crops) as way:
        images = await way.read(parse)        # parse(chunks) -> whatever the door's body holds
        answers = await way.probabilities(images)

What can be refused without the body is refused before it is read; while it is read it holds no
place in the queue, lest slow senders fill it.  Both steps raise any `ServiceError` that is not a
`StartError`, and `ClientDisconnect`, which `errors` answers.
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
from service.http.middleware import headers
from service.http.state import Running, running
from service.inference.classifier import (
    Answer,
    Detail,
    Prediction,
    best_of_each,
    probabilities_of,
    views,
)
from service.inference.engine import Engine
from service.inference.queue import Pixels, Probabilities
from service.inference.timings import Steps
from service.settings import Settings
from service.telemetry.request_record import ROAD, journal

T = TypeVar("T")
Hold = Callable[[int], None]
Chunks = AsyncGenerator[bytes, None]

MOMENT: Final = 5000  # classes in an answer, which take some 10 ms
SMALL_BODY: Final = 2**20  # bytes
DEFAULT_CROPS: Final = "ten"
LARGE_SHARE: Final = 0.75  # of ALEXNET_MAX_UPLOADS


async def beside(size: int, work: Callable[[], T]) -> T:
    """What `work` returns; in a thread if it is about so many classes that others would wait."""
    return await asyncio.to_thread(work) if size > MOMENT else work()


class Way:
    """One request on its way; `road` makes it."""

    def __init__(
        self, request: Request, service: Running, crops: str, deadline: float, hold: Hold
    ) -> None:
        self.settings = service.settings
        self.engine: Engine = service.engine  # that answers, even if it is replaced meanwhile
        self.crops = crops
        self.hold = hold  # counts bytes that the request takes in memory, or raises `Overloaded`
        self._request = request
        self._classifier = service.classifier
        self._deadline = deadline
        self._journal = journal(request)

    async def read(self, parse: Callable[[Chunks], Awaitable[T]]) -> T:
        """What `parse` makes of the body's chunks, which are limited in bytes and time."""
        chunks = limited(self._request, self.settings.max_body, self.hold)
        parsed = await _in_time(parse(chunks), self.settings)
        self._journal.read = time.monotonic()
        return parsed

    async def probabilities(
        self, images: Sequence[bytes | Pixels]
    ) -> list[Probabilities | errors.ServiceError]:
        """
        Encoded images, or uint8 `(256, 256, 3)`, to float32 `(classes,)` or an error each.

        They count against the client's rate, and leave the queue when it hangs up.
        """
        return probabilities_of(await self.answers(images))

    async def answers(
        self, images: Sequence[bytes | Pixels], details: Collection[Detail] = ()
    ) -> list[Answer | errors.ServiceError]:
        """`probabilities`, and `details` of each; what counts against the client's rate is how
        often the network has to run."""
        self._charge(len(images), details)
        steps = [Steps() for _ in images]
        self._journal.images = steps
        work = self._classifier.answers(
            images,
            crops=self.crops,
            details=details,
            timeout=self._deadline - asyncio.get_running_loop().time(),
            engine=self.engine,
            steps=steps,
        )
        outcomes = await _unless_client_leaves(self._request, work)
        self._journal.outcomes = [
            outcome.code if isinstance(outcome, errors.ServiceError) else None
            for outcome in outcomes
        ]
        return outcomes

    def _charge(self, images: int, details: Collection[Detail]) -> None:
        """Count what they run against the client's rate."""
        runs = self._classifier.places(images, details)
        try:
            headers.charge(self._request, runs)
        except (errors.RateLimited, errors.TooManyFiles) as error:
            if runs == images:
                raise
            counts = f"details=heatmap counts as {runs // images} images for each"
            if isinstance(error, errors.RateLimited):
                told = f"{error} ({counts})"
                raise errors.RateLimited(told, retry_after=error.retry_after) from error
            if images > 1:
                raise errors.TooManyFiles(f"{error} ({counts})") from error
            raise errors.ParameterInvalid(
                f"{counts}, more than the rate allows at once; leave it out, or have "
                "ALEXNET_RATE_LIMIT raised"
            ) from error

    async def classes(
        self, images: Sequence[bytes], top: int
    ) -> list[list[Prediction] | errors.ServiceError]:
        """Encoded images to the `top` best classes or an error each."""
        outcomes = await self.probabilities(images)
        labels = self.engine.model.labels
        return await beside(len(outcomes) * top, lambda: best_of_each(outcomes, labels, top))


@asynccontextmanager
async def road(
    request: Request,
    crops: str | None,
    *,
    details: Collection[Detail] = (),
    model: str = ROAD,
) -> AsyncIterator[Way]:
    """A request that is accepted, unless it would be refused whatever is in its body."""
    journal(request).model = model
    service = running(request)
    deadline = asyncio.get_running_loop().time() + service.settings.timeout
    with service.accepted(), _memory(service) as hold:
        way = Way(request, service, crops or DEFAULT_CROPS, deadline, hold)
        if crops is not None:  # else they are told in the body
            views(way.engine, crops)
        service.classifier.batcher.admit(service.classifier.places(1, details))
        yield way


@contextmanager
def _memory(service: Running) -> Iterator[Hold]:
    """Yields what counts the bytes that this request holds until the block ends."""
    most, held = service.settings.max_uploads, 0

    def hold(size: int) -> None:
        nonlocal held
        # Large bodies leave a quarter to the small ones, lest a few slow senders shut all out.
        small = held + size <= SMALL_BODY
        share = most if small else max(LARGE_SHARE * most, service.settings.max_body)
        if size > 0 and service.held + size > share:
            raise errors.Overloaded(
                f"the bodies of all requests together reach {most} bytes; try again shortly, or "
                "have ALEXNET_MAX_UPLOADS raised",
                retry_after=1,
            )
        held += size
        service.held += size

    try:
        yield hold
    finally:
        service.held -= held


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


async def limited(request: Request, most: int, hold: Hold) -> AsyncGenerator[bytes, None]:
    """The body's chunks, up to `most` bytes; a length announced is believed at once."""
    too_large = errors.BodyTooLarge(
        f"the body is larger than {most} bytes; send a smaller one, "
        "or raise ALEXNET_MAX_BODY on the server"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        hold(len(chunk))
        yield chunk


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """`work`'s result; if the client hangs up first, `work` is cancelled."""
    result = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({result, departure}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect
    finally:
        result.cancel()
        departure.cancel()
        await asyncio.gather(result, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await request.receive()
