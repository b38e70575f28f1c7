"""
Requests -> a record of each: when it was due, really sent and answered, and how.

    offer()   an open loop: at random times fixed beforehand, whatever is answered
    keep()    a closed loop: so many at a time, each answer sends the next

As `service.loadtest.generator`, on whose schedule of arrivals it runs, but every request is told
one by one, and nothing here limits how many are outstanding: a limit would hide an overload.  How
many there were at most is told instead.

HTTP is written by hand around uvicorn's own parser: at ten times the capacity of two cores the
load shares them with the server, and 0.12 ms of CPU a request of 36 kB is 4% of them, where
aiohttp's 0.30 is 10%.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httptools

from service.loadtest.generator import IDLE, PAUSE, arrivals

# Seconds from the intended time; more than the server's own limit of 30, so that its 504 is seen.
TIMEOUT: Final = 40.0
JPEG: Final[Mapping[str, str]] = {"Content-Type": "image/jpeg"}


class Record(NamedTuple):
    """What became of a request; times of time.perf_counter(), seconds."""

    due: float
    sent: float  # when it was handed to a kept connection, or a new one was asked for
    ended: float
    status: int  # 0: no answer
    reason: str = ""  # why there is none
    retry_after: float | None = None  # seconds
    body: bytes = b""


@dataclass(frozen=True)
class Ask:
    """A request."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JPEG)
    query: str = ""


@dataclass(frozen=True)
class Offered:
    """What the generator itself did."""

    most_outstanding: int
    cpu: float  # its share of one core, 0-1


Send = Callable[[float], Awaitable[Record | None]]  # due -> what became of it; None: not to tell


class Answer(NamedTuple):
    """Status, Retry-After in seconds, body."""

    status: int
    retry_after: float | None
    body: bytes


class Client:
    """One server, over connections that are kept, as many as it takes; plain HTTP."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: list[_Connection] = []  # the one used last is taken first

    async def post(self, ask: Ask, due: float, timeout: float = TIMEOUT) -> Record:
        """Send it now; nothing is raised for what the server does."""
        sent = time.perf_counter()
        try:
            answer = await self._exchange("POST", f"/v1/predict{ask.query}", ask, due + timeout)
        except TimeoutError:
            return Record(due, sent, time.perf_counter(), 0, f"no answer within {timeout:g} s")
        except OSError as error:
            return Record(due, sent, time.perf_counter(), 0, type(error).__name__)
        after = answer.retry_after
        return Record(due, sent, time.perf_counter(), answer.status, "", after, answer.body)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path, or an OSError."""
        ask = Ask(b"", {})
        answer = await self._exchange("GET", path, ask, time.perf_counter() + TIMEOUT)
        return dict(json.loads(answer.body))

    def close(self) -> None:
        """Close what is kept."""
        for connection in self._idle:
            connection.close()

    async def _exchange(self, method: str, path: str, ask: Ask, until: float) -> Answer:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            *(f"{name}: {value}" for name, value in ask.headers.items()),
            f"Content-Length: {len(ask.body)}",
        ]
        connection = None
        try:
            async with asyncio.timeout(until - time.perf_counter()):
                connection = self._kept() or await self._new()
                head = "\r\n".join([*lines, "", ""]).encode()
                answer = await connection.ask(head, ask.body)
        except BaseException:
            if connection:
                connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)
        return answer

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and time.perf_counter() < connection.used + IDLE:
                return connection
            connection.close()
        return None

    async def _new(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self._host, self._port))[1]


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.used = 0.0  # when the last answer was complete
        self.reusable = True
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._retry_after: float | None = None
        self._body: list[bytes] = []

    def ask(self, head: bytes, body: bytes) -> asyncio.Future[Answer]:
        """Send a request; the answer may come before all of it is sent."""
        self._answer = asyncio.get_running_loop().create_future()
        self._retry_after, self._body = None, []
        self._transport.writelines((head, body))
        return self._answer

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self._fail(error or ConnectionResetError("closed without an answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after = float(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.used = time.perf_counter()
        # What is left of the request in our buffer would be taken for the next one.
        if not self._parser.should_keep_alive() or self._transport.get_write_buffer_size():
            self.reusable = False
            self._transport.close()
        if self._answer and not self._answer.done():
            self._answer.set_result(Answer(status, self._retry_after, b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client, until the block ends."""
    client = Client(url)
    try:
        yield client
    finally:
        client.close()


async def offer(
    send: Send,
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    alive: Callable[[], bool] = lambda: True,
) -> Offered:
    """
    `rate` requests a second of a Poisson process, for so many seconds or while the server lives.

    Returns when all have ended.
    """
    start, cpu = time.perf_counter(), time.process_time()
    outstanding = most = 0

    async def one(due: float) -> None:
        nonlocal outstanding, most
        outstanding += 1
        most = max(most, outstanding)
        try:
            await send(due)
        finally:
            outstanding -= 1

    looked = start
    async with asyncio.TaskGroup() as asked:
        for at in arrivals(rate, seconds, seed=seed):
            await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
            asked.create_task(one(start + at))
            if time.perf_counter() > looked + 0.5:
                looked = time.perf_counter()
                if not alive():
                    break
        # The last arrival is a chance before the end.
        await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()) if alive() else 0.0)
        share = (time.process_time() - cpu) / (time.perf_counter() - start)
    return Offered(most, share)


async def keep(
    send: Send, *, in_flight: int, seconds: float, alive: Callable[[], bool] = lambda: True
) -> list[Record]:
    """Keep so many requests outstanding for so many seconds, or while the server lives."""
    until = time.perf_counter() + seconds
    records: list[Record] = []

    async def ask_on() -> None:
        while (due := time.perf_counter()) < until and alive():
            record = await send(due)
            if record is not None:
                records.append(record)
                if record.status in (0, 429, 503):
                    await asyncio.sleep(PAUSE)

    await asyncio.gather(*(ask_on() for _ in range(in_flight)))
    return sorted(records, key=lambda record: record.ended)
