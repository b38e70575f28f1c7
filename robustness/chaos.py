"""
Hostile clients against a running server; Linux or macOS.  It takes one to three minutes.

    scripts/chaos http://127.0.0.1:8000 [--only NAME] [--idle 3000] [--leave 200] [--patience 60]

Each attack is bounded in count and time and says what the server must do.  Meanwhile a prober asks
/livez, and sends an image; after each attack an image must be classified, and nothing may be left
in the queue.  Exits with 1 if the server fails in any of it.  Plain sockets, since a proper HTTP
client would not do these things.

Attack a server of your own only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

IMAGE: Final = Path(__file__).parents[1] / "tests" / "pictures" / "cat.jpg"
DRIP: Final = 0.3  # seconds between two bytes of a slow client
FLOOD: Final = 50 * 2**20  # bytes, sent unless the server stops reading earlier
STALLED: Final = 2.0  # seconds without a byte taken: the server has stopped reading
LIVE: Final = 2.0  # seconds in which /livez must answer, whatever goes on
TOGETHER: Final = 100  # connections opened at a time


class Failed(Exception):
    """The server did what it must not, or not what it must."""


@dataclass(frozen=True)
class Target:
    """The server, and how hard to try."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)
    image: bytes = b""
    patience: float = 60.0  # seconds in which the server must lose it
    idle: int = 3000  # connections
    leave: int = 200  # clients


class Answer(NamedTuple):
    """One answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The word of a refusal."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(self.body)["code"])
        return ""

    def __str__(self) -> str:
        return f"{self.status} {self.code}".strip()


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Give bytes to the system, as fast as the server takes them."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer | None:
        """The next final answer, or None if the connection ends before one."""
        try:
            while True:
                head = await self._reader.readuntil(b"\r\n\r\n")
                first, *rest = head.decode("latin-1").split("\r\n")
                pairs = (line.partition(":") for line in rest if line)
                headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                if (status := int(first.split(" ")[1])) >= 200:
                    length = int(headers.get("content-length", "0"))
                    return Answer(status, headers, await self._reader.readexactly(length))
        except (EOFError, OSError):
            return None

    async def ended(self) -> bytes:
        """What is still read before the server closes."""
        with contextlib.suppress(OSError):
            return await self._reader.read()
        return b""

    def leave(self) -> None:
        """Hang up at once."""
        self.writer.transport.abort()


@asynccontextmanager
async def line(target: Target) -> AsyncIterator[Line]:
    """A connection that is gone when the block ends."""
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
    opened = Line(reader, writer)
    try:
        yield opened
    finally:
        opened.leave()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def request(
    target: Target, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """A request as a decent client writes it; with a body it is a POST."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {target.host}"]
    fields = dict(target.headers)
    if body is not None:
        fields |= {"Content-Type": "image/jpeg", "Content-Length": str(len(body))}
    lines += [f"{name}: {value}" for name, value in (fields | (headers or {})).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def head(target: Target, *lines: str) -> bytes:
    """A POST of an image, up to the end of its headers, with these lines."""
    own = [f"{name}: {value}" for name, value in target.headers.items()]
    first = ["POST /v1/predict HTTP/1.1", f"Host: {target.host}", "Content-Type: image/jpeg"]
    return "\r\n".join([*first, *own, *lines, "", ""]).encode("latin-1")


async def ask(target: Target, data: bytes) -> Answer:
    """Send, and read one answer."""
    async with line(target) as opened:
        with contextlib.suppress(OSError):
            await opened.send(data)
        if (answer := await opened.answer()) is None:
            raise Failed("the connection was closed without an answer")
        return answer


async def within(seconds: float, work: Awaitable[Any], what: str) -> Any:
    """`work`'s result, if it comes in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Failed(f"{what}: nothing happened for {seconds:g} s") from None


async def flood(target: Target, opened: Line, data: bytes) -> tuple[int, Answer | None]:
    """Send `data` again and again; the bytes given to the system, and the answer, if any."""
    sent = 0
    with contextlib.suppress(OSError, TimeoutError):
        while sent < FLOOD:
            async with asyncio.timeout(STALLED):
                await opened.send(data)
            sent += len(data)
    answer: Answer | None = await within(target.patience, opened.answer(), f"after {sent} bytes")
    return sent, answer


def expect(answer: Answer | None, *statuses: int) -> str:
    """What was seen, if it is one of these; a closed connection is not an answer."""
    if answer is None:
        raise Failed(f"closed without an answer, expected {statuses}")
    if answer.status not in statuses:
        raise Failed(f"answered {answer}, expected {statuses}")
    if answer.status >= 400 and not answer.code:
        raise Failed(f"answered {answer.status} without a code: {answer.body[:80]!r}")
    return str(answer)


async def pending(target: Target) -> int:
    """Images in the server's queue."""
    return int(json.loads((await ask(target, request(target, "/health"))).body)["queue"]["pending"])


async def emptied(target: Target, seconds: float = 10.0) -> str:
    """Wait until nothing is left in the queue."""
    began = time.perf_counter()
    while left := await pending(target):
        if time.perf_counter() - began > seconds:
            raise Failed(f"{left} images are still in the queue after {seconds:g} s")
        await asyncio.sleep(0.05)
    return f"queue empty after {time.perf_counter() - began:.1f} s"


Attack = Callable[[Target], Coroutine[Any, Any, str]]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Add an attack to the table; its docstring says what the server must do."""
    ATTACKS[function.__name__] = function
    return function


async def drip(opened: Line, data: bytes, seconds: float) -> Answer | None:
    """A byte now and then, until the server has an answer, or closes."""
    answering = asyncio.ensure_future(opened.answer())
    began = time.perf_counter()
    try:
        for place in range(len(data)):
            with contextlib.suppress(OSError):
                await opened.send(data[place : place + 1])
            done, _ = await asyncio.wait({answering}, timeout=DRIP)
            if done:
                return answering.result()
            if time.perf_counter() - began > seconds:
                raise Failed(f"still patient after {seconds:g} s")
        last: Answer | None = await within(seconds, answering, "all was sent")
        return last
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


@attack
async def slow_headers(target: Target) -> str:
    """Headers that drip in: 408, and closed."""

    async def attempt() -> str:
        async with line(target) as opened:
            endless = request(target, "/livez")[:-2] + b"X-Slow: " + b"a" * 100_000
            return expect(await drip(opened, endless, target.patience), 408)

    return (await asyncio.gather(*(attempt() for _ in range(20))))[0]


@attack
async def slow_bodies(target: Target) -> str:
    """Bodies that drip in: 408."""

    async def attempt() -> str:
        async with line(target) as opened:
            await opened.send(head(target, "Content-Length: 100000"))
            return expect(await drip(opened, target.image * 5, target.patience), 408)

    return (await asyncio.gather(*(attempt() for _ in range(20))))[0]


@attack
async def half_bodies(target: Target) -> str:
    """Clients that leave in the middle of their body: nothing is left of them."""

    async def attempt() -> None:
        async with line(target) as opened:
            await opened.send(request(target, "/v1/predict", target.image)[:-5000])
            await asyncio.sleep(random.random() / 5)

    await asyncio.gather(*(attempt() for _ in range(target.leave)))
    return await emptied(target)


@attack
async def length_too_long(target: Target) -> str:
    """A Content-Length beyond the body, and no more to come: 400 or 408."""
    if target.tls:
        return "not with TLS, which has no half-closed connections"
    async with line(target) as opened:
        await opened.send(head(target, f"Content-Length: {len(target.image) + 1000}"))
        await opened.send(target.image)
        opened.writer.write_eof()
        return expect(await within(target.patience, opened.answer(), "half closed"), 400, 408)


@attack
async def length_too_short(target: Target) -> str:
    """A Content-Length short of the body: the rest is no request, 400, and closed."""
    async with line(target) as opened:
        short = f"Content-Length: {len(target.image) - 1000}"
        await opened.send(head(target, short) + target.image)
        first = await within(target.patience, opened.answer(), "the first answer")
        second = await within(target.patience, opened.answer(), "the second answer")
        await within(target.patience, opened.ended(), "the end of the connection")
        return f"{expect(first, 200, 422)}, then {expect(second, 400, 431)}"


@attack
async def endless_chunks(target: Target) -> str:
    """A chunked body without an end: 413 once it is too large, or 408 once it is too slow."""
    async with line(target) as opened:
        await opened.send(head(target, "Transfer-Encoding: chunked"))
        sent, answer = await flood(target, opened, b"10000\r\n" + bytes(65536) + b"\r\n")
        return f"{expect(answer, 413, 408, 503)} after {sent >> 20} MiB"


@attack
async def chunk_extensions(target: Target) -> str:
    """A chunk whose header has no end: 431, and closed."""
    return await _endless(
        target, head(target, "Transfer-Encoding: chunked") + b"1;a=", b"b" * 65536
    )


@attack
async def endless_trailers(target: Target) -> str:
    """Trailers without an end: 431, and closed."""
    return await _endless(
        target,
        head(target, "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n",
        b"X-Trailer: 1\r\n" * 4096,
    )


@attack
async def many_headers(target: Target) -> str:
    """Headers without an end: 431, and closed."""
    return await _endless(target, request(target, "/livez")[:-2], b"X-Header: 1\r\n" * 4096)


@attack
async def one_long_header(target: Target) -> str:
    """One header without an end: 431, and closed."""
    return await _endless(target, request(target, "/livez")[:-2] + b"X-Header: ", b"a" * 65536)


async def _endless(target: Target, begin: bytes, piece: bytes) -> str:
    async with line(target) as opened:
        await opened.send(begin)
        sent, answer = await flood(target, opened, piece)
        return f"{expect(answer, 431)} after {sent >> 10} KiB"


@attack
async def idle_connections(target: Target) -> str:
    """Thousands of connections that say nothing: served around, and closed in time."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Line] = []
        for start in range(0, target.idle, TOGETHER):
            count = min(TOGETHER, target.idle - start)
            entering = (stack.enter_async_context(line(target)) for _ in range(count))
            opened += await asyncio.gather(*entering)
        ending = asyncio.gather(*(each.ended() for each in opened))
        await within(target.patience, ending, "idle connections")
    return f"{len(opened)} were closed"


@attack
async def leave_before(target: Target) -> str:
    """Clients that leave as soon as they have asked: the queue is soon empty."""
    return await _leave(target, lambda: 0.0)


@attack
async def leave_during(target: Target) -> str:
    """Clients that leave while they wait: the queue is soon empty."""
    return await _leave(target, lambda: random.random() / 2)


@attack
async def leave_after(target: Target) -> str:
    """Clients that leave once they are answered, and do not read it."""
    return await _leave(target, lambda: 1.0)


async def _leave(target: Target, delay: Callable[[], float]) -> str:
    async def attempt() -> None:
        async with line(target) as opened:
            await opened.send(request(target, "/v1/predict", target.image))
            await asyncio.sleep(delay())

    await asyncio.gather(*(attempt() for _ in range(target.leave)))
    return await emptied(target)


@attack
async def early_answers(target: Target) -> str:
    """A body that nobody wants: answered at once, and the answer arrives though we send on."""
    async with line(target) as opened:
        await opened.send(head(target, f"Content-Length: {2**40}"))
        sent, answer = await flood(target, opened, bytes(65536))
        return f"{expect(answer, 413)} after {sent >> 20} MiB"


@attack
async def pipelined(target: Target) -> str:
    """Many requests in one segment: answered in order."""
    paths = ["/livez", "/nothing", "/health"] * 20
    async with line(target) as opened:
        await opened.send(b"".join(request(target, path) for path in paths))
        for path in paths:
            answer = await within(target.patience, opened.answer(), path)
            body = answer.body if answer else b""
            known = {"/livez": b'"alive"', "/nothing": b'"not_found"', "/health": b'"queue"'}
            if known[path] not in body:
                raise Failed(f"{path} was answered {answer and answer.status} {body[:80]!r}")
    return f"{len(paths)} answers in order"


@attack
async def never_reading(target: Target) -> str:
    """Requests without end from who reads no answer: the server stops taking them, or closes."""

    async def attempt() -> int:
        async with line(target) as opened:
            opened.writer.transport.pause_reading()  # type: ignore[attr-defined]
            data, sent = request(target, "/openapi.json") * 100, 0
            with contextlib.suppress(OSError, TimeoutError):
                while sent < FLOOD:
                    async with asyncio.timeout(STALLED):
                        await opened.send(data)
                    sent += len(data)
            if sent >= FLOOD:
                raise Failed(f"{sent} bytes of requests were taken")
            return sent

    taken = await asyncio.gather(*(attempt() for _ in range(10)))
    return f"at most {max(taken) >> 10} KiB of requests taken"


@attack
async def random_bytes(target: Target) -> str:
    """Bytes that are no HTTP: 400, or closed."""

    async def attempt(seed: int) -> None:
        noise = random.Random(seed).randbytes(300) + b"\r\n\r\n"
        async with line(target) as opened:
            await opened.send(noise)
            answer = await within(target.patience, opened.answer(), f"noise {seed}")
            if answer is not None:
                expect(answer, 400, 408, 431)

    await asyncio.gather(*(attempt(seed) for seed in range(100)))
    return "100 refused"


@attack
async def half_closed(target: Target) -> str:
    """Clients that have no more to say, but listen: answered."""
    if target.tls:
        return "not with TLS, which has no half-closed connections"

    async def attempt(data: bytes) -> str:
        async with line(target) as opened:
            await opened.send(data)
            opened.writer.write_eof()
            return expect(await within(target.patience, opened.answer(), "half closed"), 200)

    image = request(target, "/v1/predict", target.image)
    return ", ".join(await asyncio.gather(attempt(request(target, "/livez")), attempt(image)))


@attack
async def wrong_protocol(target: Target) -> str:
    """A TLS greeting on a plain port, plain HTTP on one with TLS: refused or closed."""
    plain = Target(target.host, target.port)
    greeting = request(plain, "/livez")
    if not target.tls:
        outgoing = ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(
            ssl.MemoryBIO(), outgoing, server_hostname="localhost"
        )
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        greeting = outgoing.read()
    async with line(plain) as opened:
        await opened.send(greeting)
        answer = await within(target.patience, opened.answer(), "the greeting")
        return expect(answer, 400) if answer else "closed"


# Requests that two servers in a row could read differently, or that break careless code.
ODD: Final[dict[str, bytes]] = {
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": b"Content-Length: -5\r\n\r\nhello",
    "a signed length": b"Content-Length: +5\r\n\r\nhello",
    "a length over 64 bits": b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "a folded header": b"X-Folded: a\r\n b\r\n\r\n",
    "a bare line feed": b"X-Bare: a\nX-More: b\r\n\r\n",
    "a bare carriage return": b"X-Bare: a\rX-More: b\r\n\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "an unknown coding": b"Transfer-Encoding: gzip\r\n\r\nhello",
    "chunked, but not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a NUL in a header": b"X-Nul: a\0b\r\n\r\n",
    "two hosts": b"Host: b\r\n\r\n",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\nfg\r\nhello\r\n",
    "a chunk over 64 bits": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n",
}


@attack
async def smuggling(target: Target) -> str:
    """Requests that could be read in two ways: 400, and what follows is not read at all."""

    async def attempt(name: str, rest: bytes) -> None:
        async with line(target) as opened:
            first = f"POST /v1/predict HTTP/1.1\r\nHost: {target.host}\r\n".encode()
            headers = "".join(f"{key}: {value}\r\n" for key, value in target.headers.items())
            await opened.send(first + headers.encode() + rest + request(target, "/livez"))
            answer = await within(target.patience, opened.answer(), name)
            if answer is None or answer.status != 400 or answer.code != "request_malformed":
                raise Failed(f"{name} was answered {answer}")
            if await within(target.patience, opened.answer(), name):
                raise Failed(f"after {name}, what follows was answered, too")

    await asyncio.gather(*(attempt(name, rest) for name, rest in ODD.items()))
    return f"{len(ODD)} times 400"


@attack
async def odd_targets(target: Target) -> str:
    """Paths, queries and hosts that break careless code: an answer, but none with 5xx."""
    paths = [b"/%00", b"/%ff%fe", b"/%", b"/livez?%ff=%00", b"/v1/predict?top=%ff", b"*", b"//"]
    paths += [b"http://elsewhere/livez", b"/\xc3\xa9", b"/livez?\xff", b"/" + b"a" * 8000]
    hosts = [b"[", b"[::::]", b"a b", b"a/b", b"a@b", b"\xff", b""]
    lines = [(path, b"localhost") for path in paths] + [(b"/nothing", host) for host in hosts]

    async def attempt(path: bytes, host: bytes) -> None:
        data = b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        answer = await within(target.patience, ask(target, data), repr(path))
        if answer.status >= 500:
            raise Failed(f"{path!r} with Host {host!r} was answered {answer}")

    await asyncio.gather(*(attempt(path, host) for path, host in lines))
    return f"{len(lines)} answered"


class Probes:
    """How the server did for others, meanwhile."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.slowest = 0.0  # seconds
        self.classified = 0

    async def live(self) -> None:
        """Ask /livez again and again, each time on a new connection."""
        while True:
            began = time.perf_counter()
            asking = ask(self._target, request(self._target, "/livez"))
            expect(await within(LIVE, asking, "/livez"), 200)
            self.slowest = max(self.slowest, time.perf_counter() - began)
            await asyncio.sleep(0.1)

    async def classify(self) -> None:
        """Send an image again and again; while hundreds do, it may be refused."""
        while True:
            expect(await self.once(), 200, 503)
            await asyncio.sleep(0.5)

    async def once(self) -> Answer:
        """Send a good image."""
        sending = ask(self._target, request(self._target, "/v1/predict", self._target.image))
        answer: Answer = await within(self._target.patience, sending, "a good image")
        self.classified += answer.status == 200
        return answer


async def run(name: str, target: Target) -> tuple[bool, str, Probes]:
    """One attack, with the probes beside it and after it: whether all went well, and what."""
    probes = Probes(target)
    attacking = asyncio.ensure_future(ATTACKS[name](target))
    beside = [asyncio.ensure_future(probes.live()), asyncio.ensure_future(probes.classify())]
    try:
        await asyncio.wait({attacking, *beside}, return_when=asyncio.FIRST_COMPLETED)
        for probing in beside:
            if probing.done():
                probing.result()
        seen = await attacking
        for probing in beside:
            probing.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await emptied(target)
        expect(await probes.once(), 200)
        return True, seen, probes
    except (Failed, OSError) as failure:
        return False, f"{failure}" or repr(failure), probes
    finally:
        for task in (attacking, *beside):
            task.cancel()
        await asyncio.gather(attacking, *beside, return_exceptions=True)


async def run_all(names: list[str], target: Target) -> bool:
    """All attacks, one after the other, with a table of what happened."""
    well = True
    print(f"{'attack':18} {'':4} {'s':>6} {'livez ms':>8} {'pictures':>8}  what happened")
    for name in names:
        began = time.perf_counter()
        fine, seen, probes = await run(name, target)
        well = well and fine
        seconds = time.perf_counter() - began
        print(
            f"{name:18} {'ok' if fine else 'FAIL':4} {seconds:6.1f} {1000 * probes.slowest:8.0f} "
            f"{probes.classified:8}  {seen}",
            flush=True,
        )
    return well


def aimed(url: str, **choices: Any) -> Target:
    """The target at a URL; a certificate is taken as it is."""
    parts = urlsplit(url)
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    port = parts.port or (443 if tls else 80)
    return Target(parts.hostname or "127.0.0.1", port, tls, **choices)


def main() -> int:
    """Read the arguments, attack."""
    parser = argparse.ArgumentParser(description="Hostile clients against a server of your own.")
    parser.add_argument("url", help="the server, such as http://127.0.0.1:8000")
    parser.add_argument("--only", action="append", choices=ATTACKS, help="this attack alone")
    parser.add_argument("--idle", type=int, default=3000, help="idle connections")
    parser.add_argument("--leave", type=int, default=200, help="clients that leave")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for its deadlines")
    parser.add_argument("--key", help="an API key of the server's")
    parser.add_argument(
        "--picture", type=Path, default=IMAGE, dest="image", help="an image that is classified"
    )
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = arguments.idle + 512
    if soft != resource.RLIM_INFINITY and soft < files:
        with contextlib.suppress(OSError, ValueError):
            limit = files if hard == resource.RLIM_INFINITY else min(files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    target = aimed(
        arguments.url,
        headers={"Authorization": f"Bearer {arguments.key}"} if arguments.key else {},
        image=arguments.image.read_bytes(),
        patience=arguments.patience,
        idle=arguments.idle,
        leave=arguments.leave,
    )
    return 0 if asyncio.run(run_all(arguments.only or list(ATTACKS), target)) else 1


if __name__ == "__main__":
    sys.exit(main())
