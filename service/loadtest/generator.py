"""
The load generator: a closed or an open loop.  It sends requests to a server, and has images to
send.

    closed_loop     so many requests in flight, each answer sends the next: what can it do?
    open_loop       requests at times of their own, whatever is answered: what does a client
                    wait at that rate?

A request of the open loop has an intended time, and its latency counts from there: when the
server stalls, or too much is outstanding to send more, those that had to wait show it.  (A
generator that sends late and measures from then on omits exactly the slow part.)

The client is aiohttp on uvloop, since it shares the cores of the server that it measures: 0.08 ms
of CPU a request of 60 kB.  (With asyncio's own loop 0.12, http.client in threads 0.16, httpx 0.52;
libcurl's 0.04 would take an event loop of its own.)  Whether there is anything to measure, the
service's client asks.

Where no images are given, it sends synthetic ones that cost what photographs cost to send and
decode: their size and their entropy.  Photographs have spectra that fall with the frequency (Field
1987: amplitude ~ 1/f, out of focus steeper), so noise of such a spectrum over a gradient is
compressed to a photograph's size and decoded in its time: 500 x 375 at quality 88 in about 50 kB,
where 200 real ones took 48.
"""

import asyncio
import io
import itertools
import random
import sys
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_client import AsyncClient, ClientError, Refused, Unauthorized
from service.errors import ServiceError
from service.loadtest.statistics import Figures, LoadStatistics, Record

T = TypeVar("T")
Observer = Callable[[LoadStatistics], None]
Send = Callable[[float], Awaitable[bool]]  # when a request is due -> whether it was not refused

TIMEOUT: Final = 30.0  # seconds
MAX_OUTSTANDING: Final = 512  # of the open loop: twice what a server's queue takes by default
PAUSE: Final = 0.05  # seconds; a client that is refused and comes back at once measures refusals
IDLE: Final = 4.0  # seconds; uvicorn closes after 5, and a request sent just then would be lost
LARGE: Final = 2**20  # bytes; aiohttp warns of larger bodies and wants them as a file
LOOK: Final = 0.25  # seconds between two looks of an observer
JPEG: Final[Mapping[str, str]] = {"Content-Type": "image/jpeg"}

# Of the synthetic photographs.
WIDTH, HEIGHT, QUALITY = 500, 375, 88
FALL: Final = 1.4
CONTRAST: Final = (36.0, 12.0, 12.0)  # grey levels, one standard deviation: Y, Cb, Cr
SLOPE: Final = 60.0  # grey levels from one side to the other


class LoadImpossible(ServiceError):
    """There is nothing to measure: no server, another one, or it refuses what would be sent."""

    code = "load_impossible"


@dataclass(frozen=True)
class Request:
    """A request to classify."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JPEG)
    query: str = ""


class Client:
    """One server, over connections that are kept, as many as it takes."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def post(self, request: Request, due: float, timeout: float = TIMEOUT) -> Record:
        """Send it now, to be answered `timeout` seconds after `due`; nothing is raised for what the
        server does."""
        sent, status, reason, retry_after, body = time.perf_counter(), 0, "", "", b""
        large = len(request.body) >= LARGE
        try:
            async with (
                asyncio.timeout(due + timeout - sent),
                self._session.post(
                    self._address + request.query,
                    data=io.BytesIO(request.body) if large else request.body,
                    headers=request.headers,
                ) as answer,
            ):
                body = await answer.read()
                status, retry_after = answer.status, answer.headers.get("Retry-After", "")
        except TimeoutError:
            reason = f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            reason = type(error).__name__
        seconds = float(retry_after) if retry_after.isdecimal() else None
        return Record(due, sent, time.perf_counter(), status, reason, seconds, body)


@asynccontextmanager
async def connected(url: str, key: str | None = None) -> AsyncGenerator[Client]:
    """A client for `url`, until the block ends."""
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE),
        headers={"X-API-Key": key} if key else {},
        timeout=aiohttp.ClientTimeout(),  # none: `post` counts from the intended time
    ) as session:
        yield Client(session, f"{base}/v1/predict")


async def closed_loop(send: Send, *, in_flight: int, go_on: Callable[[float], bool]) -> None:
    """Keep `in_flight` requests outstanding while `go_on(time.perf_counter())`."""

    async def send_on() -> None:
        while go_on(due := time.perf_counter()):
            if not await send(due):
                await asyncio.sleep(PAUSE)

    await asyncio.gather(*(send_on() for _ in range(in_flight)))


async def open_loop(
    send: Send, due_times: Iterable[float], *, max_outstanding: int = sys.maxsize
) -> int:
    """
    Send a request at each of these times of `time.perf_counter()`, whatever is answered.

    Beyond `max_outstanding` requests wait here.  Returns how many were outstanding at most, when
    all have ended.
    """
    places = asyncio.Semaphore(max_outstanding)
    outstanding = most = 0

    async def send_one(due: float) -> None:
        nonlocal outstanding
        try:
            await send(due)
        finally:
            outstanding -= 1
            places.release()

    async with asyncio.TaskGroup() as group:
        for due in due_times:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await places.acquire()
            outstanding += 1
            most = max(most, outstanding)
            group.create_task(send_one(due))
    return most


def arrivals(rate: float, seconds: float, *, seed: int = 0) -> Iterator[float]:
    """Times in `[0, seconds)` of a Poisson process, `rate` per second."""
    chance = random.Random(seed)
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


async def measure(
    url: str,
    images: Sequence[bytes],
    *,
    seconds: float,
    in_flight: int = 1,
    rate: float | None = None,
    seed: int = 0,
    crops: str | None = None,
    key: str | None = None,
    warm_up: float = 1.0,
    timeout: float = TIMEOUT,
    max_outstanding: int = MAX_OUTSTANDING,
    observe: Observer | None = None,
) -> Figures:
    """
    Send JPEGs, round and round, for `seconds` after the warm-up.

    In a closed loop with `in_flight` requests, or in an open one at `rate` a second, where one that
    has no answer `timeout` seconds after its intended time has failed, so that the end comes that
    late at most.  Nothing is raised for what the server does: it is counted.
    """
    query = f"?crops={quote(crops, safe='')}" if crops else ""
    rotation = itertools.cycle([Request(image, query=query) for image in images])
    start = time.perf_counter()
    statistics = LoadStatistics(began=start + warm_up, at_random=rate is not None)
    end = statistics.began + seconds

    async def send(due: float) -> bool:
        record = await client.post(next(rotation), due, timeout)
        statistics.add(record)
        return record.status == 200

    def go_on(now: float) -> bool:
        if now >= end:
            statistics.full_until = min(statistics.full_until, now)
        return now < end

    def due_times(rate: float) -> Iterator[float]:
        yield from (start + at for at in arrivals(rate, warm_up + seconds, seed=seed))
        statistics.full_until = max(time.perf_counter(), end)

    async with connected(url, key) as client, _observed(statistics, observe) as figures:
        if rate is None:
            await closed_loop(send, in_flight=in_flight, go_on=go_on)
        else:
            await open_loop(send, due_times(rate), max_outstanding=max_outstanding)
        return figures()


@asynccontextmanager
async def _observed(
    statistics: LoadStatistics, observe: Observer | None
) -> AsyncGenerator[Callable[[], Figures]]:
    """Watch a load that has just started; what it yields sums the load up."""
    cpu = time.process_time()

    async def watch() -> None:
        nonlocal cpu
        while True:
            if (now := time.perf_counter()) < statistics.began:
                cpu = time.process_time()
            if observe is not None:
                observe(statistics)
            # Wakes at the end of the warm-up too, to read the CPU's clock there.
            rest = statistics.began - now
            await asyncio.sleep(min(rest, LOOK) if rest > 0 else LOOK)

    watcher = asyncio.create_task(watch())
    try:
        yield lambda: statistics.figures(time.perf_counter(), time.process_time() - cpu)
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def probe(
    url: str,
    image: bytes,
    *,
    crops: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Which `model` and `crops` answer one image; `LoadImpossible` says why there is no point."""
    try:
        async with AsyncClient(url, api_key=key, timeout=timeout, retries=0) as client:
            prediction = await client.classify(image, crops=crops or "ten")
    except Unauthorized as error:
        reason = f"{url} asks for a key; set ALEXNET_API_KEY to one that it knows"
        raise LoadImpossible(reason) from error
    except Refused as error:
        reason = f"{url} refuses the requests: {str(error).rstrip('.')} ({error.code})"
        if error.status == 404:
            reason = f"there is no /v1/predict at {url}; give the address of an alexnet server"
        raise LoadImpossible(reason) from error
    except (ClientError, ValueError) as error:  # the latter for what is not an address
        raise LoadImpossible(str(error)) from error
    return {"model": asdict(prediction.model), "crops": prediction.crops}


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:  # not for this interpreter
        return asyncio.run(work)
    return uvloop.run(work)


def photographs(number: int) -> list[bytes]:
    """`number` distinct JPEGs of 500 x 375 pixels, the same ones each time."""
    chance = np.random.default_rng(0)
    height, width = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    spectrum = np.hypot(np.hypot(height, width), 1 / WIDTH) ** -FALL
    # Noise that goes round at its edges may be rolled: one field serves many images.
    white = chance.standard_normal((4, HEIGHT, WIDTH))
    fields = np.fft.irfft2(np.fft.rfft2(white) * spectrum, s=(HEIGHT, WIDTH))
    fields = (fields - fields.mean((1, 2), keepdims=True)) / fields.std((1, 2), keepdims=True)
    return [_photograph(fields, chance) for _ in range(number)]


def _photograph(fields: NDArray[np.float64], chance: np.random.Generator) -> bytes:
    down, right = chance.uniform(-SLOPE, SLOPE, 2)
    light = 128 + np.linspace(-down, down, HEIGHT)[:, None] + np.linspace(-right, right, WIDTH)
    planes = []
    for contrast, middle in zip(CONTRAST, (light, 128.0, 128.0), strict=True):
        rolled = np.roll(fields[chance.integers(len(fields))], chance.integers(0, WIDTH, 2), (0, 1))
        planes.append(np.clip(middle + contrast * rolled, 0, 255).astype(np.uint8))
    encoded = io.BytesIO()
    image = Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes])
    image.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()
