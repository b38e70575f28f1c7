"""
The load generator: images to a server, in a closed or an open loop.

    closed_loop     so many requests in flight, each answer sends the next: what can it do?
    open_loop       requests at times of their own, whatever is answered: what does a client
                    wait at that rate?

A request of the open loop has an intended time, and its latency counts from there: when the
server stalls, or too much is outstanding to send more, those that had to wait tell of it.  (A
generator that sends late and measures from then on omits exactly the slow part.)

The client is aiohttp on uvloop, since it shares the cores of the server that it measures: 0.08 ms
of CPU a request of 60 kB.  (With asyncio's own loop 0.12, http.client in threads 0.16, httpx 0.52;
libcurl's 0.04 would take an event loop of its own.)  Whether there is anything to measure, the
service's client asks.
"""

import asyncio
import io
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp

from service.client import AsyncClient, ClientError, Refused, Unauthorized
from service.errors import ServiceError
from service.loadtest.statistics import Figures, Tally

__all__ = ["Figures", "LoadImpossible", "Tally", "closed_loop", "open_loop", "probe", "run"]

T = TypeVar("T")
Observer = Callable[[Tally], None]

TIMEOUT: Final = 30.0  # seconds
MOST_OUTSTANDING: Final = 512  # of the open loop: twice what our server's queue takes by default
PAUSE: Final = 0.05  # seconds; a client that is refused and comes back at once measures refusals
IDLE: Final = 4.0  # seconds; uvicorn closes after 5, and a request sent just then would be lost
LARGE: Final = 2**20  # bytes; aiohttp warns of larger bodies and wants them as a file
LOOK: Final = 0.25  # seconds between two looks of an observer


class LoadImpossible(ServiceError):
    """There is nothing to measure: no server, not ours, or it refuses what we would send."""

    code = "load_impossible"


async def closed_loop(
    url: str,
    images: Sequence[bytes],
    *,
    in_flight: int,
    seconds: float = math.inf,
    requests: int | None = None,
    crops: str | None = None,
    key: str | None = None,
    warm_up: float = 1.0,
    timeout: float = TIMEOUT,
    observe: Observer | None = None,
) -> Figures:
    """
    Keep `in_flight` requests outstanding until `seconds` or `requests` are over.

    The images go round in order.  Times are in seconds; `seconds` begin after the warm-up.
    Nothing is raised for what the server does: it is counted.
    """
    if requests is None and math.isinf(seconds):
        raise ValueError("neither seconds nor requests are given: when would it end?")
    tally = Tally(began=time.perf_counter() + warm_up)
    rotation = itertools.cycle(images)
    left = math.inf if requests is None else requests

    async def ask_on(client: "_Client") -> None:
        nonlocal left
        while (due := time.perf_counter()) < tally.began + seconds and left > 0:
            if due >= tally.began:
                left -= 1
            outcome = await client.ask(next(rotation), due, timeout)
            tally.add(due, time.perf_counter(), outcome)
            if outcome != 200:
                await asyncio.sleep(PAUSE)
        tally.full_until = min(tally.full_until, time.perf_counter())

    async with _connected(url, crops, key) as client, _measured(tally, observe) as finish:
        await asyncio.gather(*(ask_on(client) for _ in range(in_flight)))
        return finish()


async def open_loop(
    url: str,
    images: Sequence[bytes],
    *,
    rate: float,
    seconds: float,
    poisson: bool = True,
    seed: int = 0,
    crops: str | None = None,
    key: str | None = None,
    warm_up: float = 1.0,
    timeout: float = TIMEOUT,
    most_outstanding: int = MOST_OUTSTANDING,
    observe: Observer | None = None,
) -> Figures:
    """
    Send `rate` requests a second, at times that are fixed beforehand, whatever is answered.

    Beyond `most_outstanding` requests wait here, and their latency grows; one that has no answer
    `timeout` after its intended time has failed, so that the end comes that late at most.
    """
    start = time.perf_counter()
    tally = Tally(began=start + warm_up, at_random=True)
    rotation = itertools.cycle(images)
    places = asyncio.Semaphore(most_outstanding)

    async def ask_once(client: "_Client", due: float) -> None:
        try:
            outcome = await client.ask(next(rotation), due, timeout)
        finally:
            places.release()
        tally.add(due, time.perf_counter(), outcome)

    async with _connected(url, crops, key) as client, _measured(tally, observe) as finish:
        async with asyncio.TaskGroup() as asked:
            for at in arrivals(rate, warm_up + seconds, seed=seed, poisson=poisson):
                await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
                await places.acquire()
                asked.create_task(ask_once(client, start + at))
            tally.full_until = max(time.perf_counter(), tally.began + seconds)
        return finish()


def arrivals(
    rate: float, seconds: float, *, seed: int = 0, poisson: bool = True
) -> Iterator[float]:
    """Times in `[0, seconds)`, `rate` per second: of a Poisson process, or at even distances."""
    chance = random.Random(seed)
    at = chance.expovariate(rate) if poisson else 0.0
    for number in itertools.count(1):
        if at >= seconds:
            return
        yield at
        # number / rate, not a sum: the error of a sum would grow.
        at = at + chance.expovariate(rate) if poisson else number / rate


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
            found = await client.classify(image, crops=crops or "ten")
    except Unauthorized as error:
        reason = f"{url} asks for a key; set ALEXNET_API_KEY to one that it knows"
        raise LoadImpossible(reason) from error
    except Refused as error:
        reason = f"{url} refuses our requests: {str(error).rstrip('.')} ({error.code})"
        if error.status == 404:
            reason = f"there is no /v1/predict at {url}; that is not our server"
        raise LoadImpossible(reason) from error
    except (ClientError, ValueError) as error:  # the latter for an address that is none
        raise LoadImpossible(str(error)) from error
    return {"model": asdict(found.model), "crops": found.crops}


def run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:  # not for this interpreter
        return asyncio.run(work)
    return uvloop.run(work)


class _Client:
    """One server, asked for one choice of crops."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def ask(self, image: bytes, due: float, timeout: float) -> int | str:
        """The answer's status, or why there is none; the deadline is `timeout` after `due`."""
        try:
            async with asyncio.timeout(due + timeout - time.perf_counter()):
                return (await self._post(image))[0]
        except TimeoutError:
            return f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return type(error).__name__

    async def _post(self, image: bytes) -> tuple[int, bytes]:
        body = image if len(image) < LARGE else io.BytesIO(image)
        async with self._session.post(self._address, data=body) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def _connected(url: str, crops: str | None, key: str | None) -> AsyncGenerator[_Client]:
    """A client for `url`; connections are kept, as many as it takes."""
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    query = f"?crops={quote(crops, safe='')}" if crops else ""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE),
        headers={"Content-Type": "image/jpeg"} | ({"X-API-Key": key} if key else {}),
        timeout=aiohttp.ClientTimeout(),  # none: we have our own, counted from the intended time
    ) as session:
        yield _Client(session, f"{base}/v1/predict{query}")


@asynccontextmanager
async def _measured(
    tally: Tally, observe: Observer | None
) -> AsyncGenerator[Callable[[], Figures]]:
    """Watch a load that has just started; what it yields sums the load up."""
    cpu = time.process_time()

    async def watch() -> None:
        nonlocal cpu
        while True:
            if (now := time.perf_counter()) < tally.began:
                cpu = time.process_time()
            if observe is not None:
                observe(tally)
            # Wakes at the end of the warm-up too, to read the CPU's clock there.
            rest = tally.began - now
            await asyncio.sleep(min(rest, LOOK) if rest > 0 else LOOK)

    watcher = asyncio.create_task(watch())
    try:
        yield lambda: tally.figures(time.perf_counter(), time.process_time() - cpu)
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
