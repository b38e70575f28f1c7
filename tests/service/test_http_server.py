"""
Hostile clients, on real sockets.

Against a real server that has much patience, or very little: then only with what is answered alike
however slow the machine is.  Where it matters what comes before a deadline and what after it,
against an application behind our protocol alone, whose clock stands still until it is told.
"""

import asyncio
import errno
import json
import logging
import math
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

from robustness import chaos
from service.http.middleware.access_log import SECURITY_HEADERS
from service.http.server import PIPELINE, REFUSED, Connection, Limits, protocol
from service.http.server.pipeline import DRAIN
from tests.support.images import image
from tests.support.servers import PATIENCE, ROOT, InThread, Live, certified, serving, until

AT_ONCE = 0.05  # seconds: a limit that is to show
NEVER = 10 * PATIENCE  # seconds: one that is not
PATIENT: dict[str, Any] = dict.fromkeys(
    ("header_timeout", "body_timeout", "keep_alive", "timeout"), NEVER
)
CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The word of a refusal; it has the one shape, or this fails."""
        refusal = json.loads(self.body)
        assert set(refusal) == {"error", "code"}
        return str(refusal["code"])


class Client:
    """A connection that says what it is told to."""

    def __init__(
        self, port: int, context: ssl.SSLContext | None = None, *, source: str = "127.0.0.1"
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        if context is not None:
            self.socket = context.wrap_socket(self.socket)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Hang up, as the system does for a program that ends."""
        with suppress(OSError):
            self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, interim: list[int] | None = None) -> Answer | None:
        """The next final answer; None if the connection is closed without one."""
        while line := self._file.readline():
            status = int(line.split()[1])
            headers = {}
            while (line := self._file.readline().strip()) != b"":
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if status >= 200:
                return Answer(status, headers, self._file.read(int(headers["content-length"])))
            if interim is not None:
                interim.append(status)
        return None

    def asked(self, data: bytes) -> Answer:
        """Send, and read an answer."""
        self.send(data)
        answer = self.answer()
        assert answer is not None, "closed without an answer"
        return answer

    def closed(self) -> bool:
        """Whether the server closes, without another word."""
        return self._file.read() == b""


def refused(client: Client, data: bytes, status: int, code: str) -> Answer:
    """Assert that this is refused in full dress, and the connection closed."""
    answer = client.asked(data)
    assert (answer.status, answer.code) == (status, code), answer
    secured = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
    assert answer.headers.items() >= secured.items()
    assert answer.headers["connection"] == "close"
    assert client.closed()
    return answer


def port_of(live: Live) -> int:
    return int(live.url.rpartition(":")[2])


@contextmanager
def patient(model: Path, **settings: Any) -> Iterator[InThread]:
    """A server that waits as long as a test takes, but for these settings."""
    with (
        serving(model, **(PATIENT | settings)) as server,
        limited(server, linger=NEVER, write_timeout=NEVER),
    ):
        yield server


@contextmanager
def limited(server: InThread, **limits: Any) -> Iterator[None]:
    """Give a server's connections other limits for what begins in the block."""
    kind: Any = server.server.config.http_protocol_class
    kind = getattr(kind, "_kind", kind)  # behind TLS
    before: Limits = kind.limits
    kind.limits = replace(before, **limits)
    try:
        yield
    finally:
        kind.limits = before


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[InThread]:
    """One server for all that must not harm it; afterwards its log has no fault of the service."""
    with patient(tiny_model, max_body=200_000, max_connections=1000) as server, faultless(server):
        yield server


@contextmanager
def faultless(server: Live) -> Iterator[None]:
    """What is logged in the block is no fault of the service."""
    yield
    log = "".join(server.log)
    assert "Traceback" not in log, log
    assert not re.search(r" (ERROR|WARNING) ", log), log


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    """A connection to it."""
    with Client(port_of(live)) as opened:
        yield opened


@dataclass
class Timer:
    """What a connection asked to be called for."""

    when: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Clock:
    """What connections take for the event loop, whose time passes when it is told to."""

    now: float = 0.0
    timers: list[Timer] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)

    def call_later(self, seconds: float, then: Callable[..., None], *arguments: object) -> Timer:
        timer = Timer(self.now + seconds, partial(then, *arguments))
        self.timers.append(timer)
        return timer

    async def pass_by(self, seconds: float) -> None:
        """Call for what becomes due, in its order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= end]:
            next_one = min(due, key=lambda timer: timer.when)
            self.timers.remove(next_one)
            self.now = next_one.when
            next_one.call()
        self.now = end


class Heard:
    """How many connections a server has accepted, and how many bytes it has read from each."""

    def __init__(self, config: uvicorn.Config, clock: Clock | None = None) -> None:
        self.accepted = 0
        self._read: dict[int, int] = {}  # by the client's port
        self._kind = cast(type[Connection], config.http_protocol_class)
        self._clock = clock
        config.http_protocol_class = cast(type[asyncio.Protocol], self._accept)

    def _accept(self, **arguments: Any) -> Connection:
        connection = self._kind(**(arguments | {"_loop": self._clock}))
        made, received, total = connection.connection_made, connection.data_received, 0

        def accepted(transport: asyncio.BaseTransport) -> None:
            made(transport)
            self.accepted += 1

        def read(data: bytes) -> None:
            nonlocal total
            received(data)
            total += len(data)
            assert connection.client
            self._read[connection.client[1]] = total

        connection.connection_made = accepted  # type: ignore[method-assign]
        connection.data_received = read  # type: ignore[method-assign]
        return connection

    def until_read(self, client: Client, size: int) -> None:
        """Wait until so many bytes of this client have been dealt with."""
        port = client.socket.getsockname()[1]
        until(lambda: self._read.get(port, 0) == size)


@pytest.fixture(scope="module")
def heard(live: InThread) -> Heard:
    """What the server for all has read."""
    return Heard(live.server.config)


@dataclass
class Carried:
    """An application behind our protocol, in this process, where one can look inside."""

    server: uvicorn.Server
    port: int
    heard: Heard
    clock: Clock | None

    @property
    def connections(self) -> list[Connection]:
        return list(cast(set[Connection], self.server.server_state.connections))

    @property
    def unsent(self) -> int:
        """Bytes that are written and that the system has not taken."""
        return sum(each.transport.get_write_buffer_size() for each in self.connections)

    def pass_by(self, seconds: float) -> None:
        """Let so much time pass."""
        assert self.clock is not None
        passing, loop = self.clock.pass_by(seconds), self.server.servers[0].get_loop()
        asyncio.run_coroutine_threadsafe(passing, loop).result(PATIENCE)

    def until_cut_off(self, every: float) -> None:
        """Let so much time pass again and again, until nobody is connected."""

        def cut_off() -> bool:
            self.pass_by(every)
            return not self.connections

        until(cut_off)


class Caller(Client):
    """A client whose words have been read once they are sent."""

    def __init__(self, carried: Carried) -> None:
        super().__init__(carried.port)
        self._heard, self._sent = carried.heard, 0

    def send(self, data: bytes) -> None:
        super().send(data)
        self._sent += len(data)
        self._heard.until_read(self, self._sent)


Application = Callable[[Scope, Receive, Send], Any]


@contextmanager
def carrying(
    app: Application, *, clock: Clock | None = None, admin: bool = False, **limits: Any
) -> Iterator[Carried]:
    """Carry an application, with these limits, on what is the main port or the admin port."""
    waits = ("header_timeout", "keep_alive", "linger", "write_timeout")
    patience = dict.fromkeys(waits, NEVER if clock is None else math.inf)
    defaults = {**patience, "max_headers": 4096, "max_connections": 100}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        kind = protocol(
            Limits(**(defaults | limits)),
            headers=SECURITY_HEADERS,
            admin_port=port if admin else None,
        )
        config = uvicorn.Config(
            app,
            http=kind,
            lifespan="off",
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=int(PATIENCE),
        )
        config.load()
        heard = Heard(config, clock)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started)
            yield Carried(server, port, heard, clock)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


async def say(send: Send, body: bytes = b"well", **headers: str) -> None:
    """Answer 200."""
    length = {"content-length": str(len(body))} | headers
    pairs = [(name.encode(), value.encode()) for name, value in length.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def polite(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the path."""
    await say(send, scope["path"].encode())


class Slow:
    """An application that answers when it is let go, and knows which clients left."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.left: list[str] = []
        self.free = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.append(scope["path"])
        message = await receive()
        while not self.free.is_set() and message["type"] != "http.disconnect":
            with suppress(TimeoutError):
                message = await asyncio.wait_for(receive(), 0.01)
        if self.free.is_set():
            await say(send, scope["path"].encode())
        else:
            self.left.append(scope["path"])


def get(path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    first = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
    return "\r\n".join([*first, "Content-Type: image/jpeg", *lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def strict(tiny_model: Path) -> Iterator[InThread]:
    """A server for attacks that its deadlines end, long enough for decent clients beside them."""
    limits: dict[str, Any] = {"header_timeout": 2, "body_timeout": 2, "max_connections": 1000}
    with patient(tiny_model, **limits) as server, faultless(server):
        yield server


SLOW = ("slow_headers", "slow_bodies", "idle_connections")


@pytest.mark.parametrize("name", chaos.ATTACKS)
def test_the_server_stands_the_attack(
    live: InThread, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What scripts/chaos does, smaller; the docstring of each attack says what must happen."""
    monkeypatch.setattr(chaos, "STALLED", 0.5 if name == "never_reading" else PATIENCE)
    monkeypatch.setattr(chaos, "LIVE", PATIENCE)
    monkeypatch.setattr(chaos, "emptied", partial(chaos.emptied, seconds=PATIENCE))
    server: InThread = request.getfixturevalue("strict") if name in SLOW else live
    target = chaos.aimed(server.url, image=image(), patience=PATIENCE, idle=300, leave=50)

    fine, seen, _ = asyncio.run(chaos.run(name, target))

    assert fine, seen


# Headers


def test_bytes_that_are_not_http_are_400_in_the_one_shape(client: Client) -> None:
    """uvicorn alone answers in plain text, and logs a warning for each."""
    answer = refused(client, b"\x16\x03\x01 hello\r\n\r\n", 400, "request_malformed")

    assert b"send HTTP/1.1" in answer.body


def test_a_silent_connection_is_closed_without_a_word(tiny_model: Path) -> None:
    """Browsers open connections ahead of need; a 408 would pass for the next request's answer."""
    with (
        patient(tiny_model, header_timeout=AT_ONCE) as server,
        Client(port_of(server)) as client,
    ):
        assert client.closed()


@pytest.fixture
def deadlines() -> Iterator[Carried]:
    """10 s for headers, 4 s of rest."""
    with carrying(polite, clock=Clock(), header_timeout=10, keep_alive=4) as carried:
        yield carried


@pytest.fixture
def caller(deadlines: Carried) -> Iterator[Caller]:
    """Who talks to it."""
    with Caller(deadlines) as opened:
        yield opened


def test_headers_that_take_too_long_are_408(deadlines: Carried) -> None:
    """From the accept, to the end of the headers."""
    with Caller(deadlines) as quick, Caller(deadlines) as slow:
        until(lambda: deadlines.heard.accepted == 2)
        deadlines.pass_by(5)
        for each in (quick, slow):
            each.send(LIVEZ[:-2])
        deadlines.pass_by(4)
        assert quick.asked(LIVEZ[-2:]).status == 200

        deadlines.pass_by(1)

        refused(slow, b"", 408, "headers_too_slow")


def test_the_second_requests_headers_have_a_deadline_too(
    deadlines: Carried, caller: Caller
) -> None:
    """uvicorn forgets its keep-alive timer at the first byte, and then waits for ever."""
    assert caller.asked(LIVEZ).status == 200
    caller.send(LIVEZ[:-2])

    deadlines.pass_by(10)

    refused(caller, b"", 408, "headers_too_slow")


def test_headers_that_begin_with_the_last_bytes_of_a_body_have_a_deadline_too(
    deadlines: Carried, caller: Caller
) -> None:
    """In one segment, after an early answer."""
    data = post("/nothing", bytes(100_000))
    assert caller.asked(data[:-10]).status == 200
    caller.send(data[-10:] + LIVEZ[:-2])

    deadlines.pass_by(10)

    refused(caller, b"", 408, "headers_too_slow")


def test_a_header_that_drips_is_408_all_the_same(deadlines: Carried, caller: Caller) -> None:
    """Each byte does not give a new term."""
    caller.send(LIVEZ[:-2] + b"X: ")

    for _ in range(10):
        caller.send(b"a")
        deadlines.pass_by(1)

    refused(caller, b"", 408, "headers_too_slow")


def test_empty_lines_do_not_keep_a_connection(deadlines: Carried, caller: Caller) -> None:
    """They may stand before a request (RFC 9112, section 2.2), but are not requests."""
    assert caller.asked(LIVEZ).status == 200

    for _ in range(4):
        caller.send(b"\r\n")
        deadlines.pass_by(1)

    assert caller.closed()


@pytest.fixture(scope="module")
def hurried(tiny_model: Path) -> Iterator[InThread]:
    """A server that closes what rests, and does not wait for a body."""
    limits = {"keep_alive": AT_ONCE, "body_timeout": AT_ONCE}
    with patient(tiny_model, **limits) as server, faultless(server):
        yield server


def test_a_connection_at_rest_is_closed_after_keep_alive(hurried: InThread) -> None:
    """Without a word: nothing was asked."""
    with Client(port_of(hurried)) as client:
        assert client.asked(LIVEZ).status == 200

        assert client.closed()


def test_a_connection_rests_as_long_as_keep_alive_says(deadlines: Carried, caller: Caller) -> None:
    """From answer to answer; the time is not what was left of the one before."""
    for _ in range(3):
        assert caller.asked(LIVEZ).status == 200
        deadlines.pass_by(3)
    deadlines.pass_by(1)

    assert caller.closed()


@pytest.mark.parametrize("lines", [1, 100])
def test_headers_may_take_32_kibibytes(live: Live, lines: int) -> None:
    """One long header, or many."""
    for size, statuses in ((32_000, {200}), (33_000, {431})):
        value = "a" * (size // lines - 8)
        with Client(port_of(live)) as client:
            answer = client.asked(get("/livez", *[f"X-A: {value}"] * lines))
            assert {answer.status} == statuses
            assert answer.status == 200 or answer.code == "headers_too_large"


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_a_request_may_have_256_header_fields(client: Client, more: int, status: int) -> None:
    """Each costs far more memory than its five bytes; Host is one of them."""
    fields = ["a:"] * (255 + more)

    answer = client.asked(get("/livez", *fields))

    assert answer.status == status
    assert status == 200 or (answer.code == "headers_too_large" and b"256" in answer.body)


@pytest.mark.parametrize(("more", "status"), [(0, 415), (1, 431)])
def test_trailers_count_as_header_fields(client: Client, more: int, status: int) -> None:
    """The two fields of the head, and 254 behind the body."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"a:\r\n" * (254 + more)

    answer = client.asked(head + b"1\r\na\r\n0\r\n" + trailers + b"\r\n")

    assert answer.status == status
    assert status == 415 or (answer.code == "headers_too_large" and b"256" in answer.body)


def test_the_next_requests_fields_are_counted_anew(client: Client) -> None:
    """200 and 200 of them on one connection."""
    data = get("/livez", *["a:"] * 200)

    assert [client.asked(data).status, client.asked(data).status] == [200, 200]


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (LIVEZ[:-2] + b"X: ", b"a" * 65536),
        (LIVEZ[:-2], b"X: a\r\n" * 10923),
        (b"GET /", b"a" * 65536),
        (CHUNKED + b"1;a=", b"a" * 65536),
        (
            CHUNKED + b"1\r\na\r\n0\r\n",
            b"X: a\r\n" * 10923,
        ),
        (
            CHUNKED + b"1\r\na\r\n0\r\nX: ",
            b"a" * 65536,
        ),
    ],
    ids=["a header", "headers", "a path", "a chunk's extension", "trailers", "a trailer"],
)
def test_what_has_no_end_is_refused_and_costs_no_memory(
    live: Live, start: bytes, more: bytes
) -> None:
    """50 MB of it: 431, and the server is as small as before."""
    before = memory()

    with Client(port_of(live)) as client:
        client.send(start)
        with suppress(OSError):  # once it has had enough
            for _ in range(50 * 2**20 // len(more)):
                client.send(more)
        grown = memory() - before
        answer = client.answer()

    assert answer is not None
    assert (answer.status, answer.code) == (431, "headers_too_large")
    assert grown < 8 * 2**20


def memory() -> int:
    """Resident bytes of this process, which is the server's."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("reads /proc")
    match = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    assert match
    return int(match[1]) * 1024


def test_a_body_does_not_count_as_the_next_requests_headers(client: Client) -> None:
    """They come in the same segments."""
    client.send(post("/nothing", bytes(100_000)) + LIVEZ)

    assert [answer and answer.status for answer in (client.answer(), client.answer())] == [404, 200]


def test_an_honest_chunked_body_has_no_excess(client: Client) -> None:
    """10,000 chunks of 10 bytes are surrounded by 50 kB, more than headers may have."""
    chunks = b"a\r\n0123456789\r\n" * 10_000 + b"0\r\n\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = client.asked(head + chunks)

    assert (answer.status, answer.code) == (415, "image_type_unsupported")


def test_trailers_do_not_become_headers() -> None:
    """They come after all that decides by the headers."""

    async def names(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await say(send, b" ".join(name for name, _ in scope["headers"]))

    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with carrying(names) as carried, Client(carried.port) as client:
        answer = client.asked(data + b"1\r\na\r\n0\r\nAuthorization: b\r\n\r\n")

    assert answer.body == b"host transfer-encoding"


# Requests that are odd


@pytest.mark.parametrize("name", chaos.ODD)
def test_a_request_that_can_be_read_in_two_ways_is_400(client: Client, name: str) -> None:
    """What follows it is not read as a request at all."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\n"

    refused(client, head + chaos.ODD[name] + LIVEZ, 400, "request_malformed")


@pytest.mark.parametrize("host", [b"[", b"[::::]", b"a b", b"a/b", b"a@b", b"\xff", b"a:b"])
def test_a_host_that_is_none_is_400(client: Client, host: bytes) -> None:
    """RFC 9112, section 3.2; Python's urlsplit raises for some of them."""
    refused(
        client, b"GET /nothing HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400, "request_malformed"
    )


@pytest.mark.parametrize("host", [b"a", b"a.b:80", b"[::1]:8000", b"127.0.0.1", b"a_b-c", b""])
def test_a_host_that_is_one_is_taken(client: Client, host: bytes) -> None:
    """Empty is allowed."""
    assert client.asked(b"GET /livez HTTP/1.1\r\nHost: " + host + b"\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "target", [b"*", b"http://elsewhere", b"elsewhere:80", b"/\xff", b"/?\xff"]
)
def test_a_target_is_a_path(client: Client, target: bytes) -> None:
    """Whatever else is written there does not reach the application, unless it means /."""
    answer = client.asked(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    assert answer.status == (405 if target == b"http://elsewhere" else 400)


def test_a_full_address_as_the_target_is_taken_for_its_path_and_host() -> None:
    """RFC 9112, section 3.2.2: a server must, whatever the Host header says."""

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        await say(send, b" ".join([scope["raw_path"], scope["query_string"], *hosts]))

    with carrying(seen) as carried, Client(carried.port) as client:
        assert client.asked(get("http://b:80/c?d=http://e")).body == b"/c d=http://e b:80"
        assert client.asked(get("HTTP://[::1]?d")).body == b"/ d [::1]"
        assert client.asked(get("/c")).body == b"/c  a"
        old = b"GET http://b/c HTTP/1.0\r\n\r\n"
        assert client.asked(old).body == b"/c  b"


def test_http_1_0_stays_what_it_is_if_it_asks_for_another_protocol() -> None:
    """RFC 9110, section 7.8: the wish must be ignored."""

    async def version(scope: Scope, receive: Receive, send: Send) -> None:
        names = [name for name, _ in scope["headers"]]
        await say(send, scope["http_version"].encode() + b" " + b" ".join(names))

    wish = ["Connection: Upgrade", "Upgrade: h2c"]
    with carrying(version) as carried, Client(carried.port) as client:
        assert client.asked(get("/", *wish)).body == b"1.1 host connection"
        assert client.asked(get("/", *wish, version="1.0")).body == b"1.0 host connection"
        assert client.closed()


@pytest.mark.parametrize("path", ["/%00", "/%ff%fe", "/%", "//", "/v1/predict?top=%ff"])
def test_what_a_path_hides_is_answered_in_the_one_shape(client: Client, path: str) -> None:
    """Never with 5xx."""
    answer = client.asked(get(path))

    assert answer.status in (404, 405)
    assert answer.code


@pytest.mark.parametrize("path", ["/static/page.js", "/static-offline-docs/swagger-ui.css"])
@pytest.mark.parametrize("part", ["bytes=x", "bytes=9999999-", "bytes=1-2", "bytes=1-2,4-5"])
def test_a_file_is_sent_whole_whatever_part_is_asked_for(
    client: Client, path: str, part: str
) -> None:
    """starlette alone refuses parts in plain text."""
    answer = client.asked(get(path, f"Range: {part}"))

    assert (answer.status, answer.body) == (200, client.asked(get(path)).body)


def test_connect_is_400(client: Client) -> None:
    """We are no proxy."""
    refused(client, b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request_malformed")


@pytest.mark.parametrize("other", ["h2c", "websocket"])
def test_the_wish_for_another_protocol_is_ignored_and_the_body_read(
    client: Client, heard: Heard, other: str
) -> None:
    """As `curl --http2` asks; uvicorn alone drops the body, or takes it for the next request."""
    wish = ["Connection: Upgrade", f"Upgrade: {other}"]
    data = post("/v1/predict", image(), *wish)
    client.send(data[:-100])
    heard.until_read(client, len(data) - 100)

    assert client.asked(data[-100:] + get("/livez", *wish)).status == 200
    answer = client.answer()
    assert answer is not None
    assert answer.body == b'{"status":"alive"}'


def test_http_1_0_is_answered_and_closed(client: Client) -> None:
    """It has no kept connections of its own."""
    answer = client.asked(get("/livez", version="1.0"))

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert client.closed()


def test_head_has_no_body(client: Client) -> None:
    """Only the headers; the connection is good for more."""
    client.send(LIVEZ.replace(b"GET", b"HEAD"))
    head = client._file.readline()
    while client._file.readline().strip():
        pass

    assert head.split()[1] == b"200"
    assert client.asked(LIVEZ).status == 200


@pytest.mark.parametrize(("path", "heard"), [("/v1/predict", [100]), ("/nothing", [])])
def test_a_client_is_told_to_continue_only_if_its_body_is_wanted(
    client: Client, path: str, heard: list[int]
) -> None:
    """`Expect: 100-continue`."""
    data = post(path, image(), "Expect: 100-continue")
    head, body = data[: -len(image())], data[-len(image()) :]
    client.send(head)
    interim: list[int] = []
    if heard:
        line = client._file.readline()
        assert line.startswith(b"HTTP/1.1 100 ")
        interim.append(100)
        client._file.readline()
        client.send(body)
    answer = client.answer(interim)

    assert interim == heard
    assert answer is not None
    assert answer.status == (200 if heard else 404)


def test_a_bad_chunk_behind_an_expectation_is_400_and_nothing_else() -> None:
    """In one segment: to say `100 Continue` after the refusal raised, and counted as a 500."""
    heard: list[str] = []

    async def hearing(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])

    head = (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    )
    with carrying(hearing) as carried, Client(carried.port) as client:
        refused(client, head.encode() + b"no chunk\r\n", 400, "request_malformed")
        until(lambda: not carried.server.server_state.tasks)

    assert heard == ["http.disconnect"]


# Bodies


def test_a_body_that_takes_too_long_is_408(hurried: InThread) -> None:
    """ALEXNET_BODY_TIMEOUT."""
    with Client(port_of(hurried)) as client:
        answer = client.asked(post("/v1/predict", image())[:-10])

    assert (answer.status, answer.code) == (408, "body_too_slow")


def test_a_body_that_ends_too_early_is_400(client: Client) -> None:
    """The client has stopped sending, and listens."""
    client.send(post("/v1/predict", image())[:-10])
    client.socket.shutdown(socket.SHUT_WR)

    answer = client.answer()

    assert answer is not None
    assert (answer.status, answer.code) == (400, "request_malformed")


@pytest.mark.parametrize("close", [False, True])
def test_who_is_answered_early_may_finish_sending(live: Live, close: bool) -> None:
    """And gets the answer; without `Connection: close` the connection is good for more."""
    lines = ["Connection: close"] * close
    data = post("/nothing", bytes(3_000_000), *lines)
    with Client(port_of(live)) as client:
        client.send(data[:1000])
        answer = client.answer()
        assert answer is not None
        assert answer.status == 404
        client.send(data[1000:])  # would be reset

        if close:
            assert client.closed()
        else:
            assert client.asked(LIVEZ).status == 200


def test_who_is_answered_early_and_does_not_finish_is_cut_off() -> None:
    """After a time."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    with carrying(polite, clock=Clock(), linger=5) as carried, Client(carried.port) as client:
        assert client.asked(head).status == 200
        carried.pass_by(4)
        assert carried.connections

        carried.pass_by(1)

        until(lambda: not carried.connections)


def test_who_is_answered_early_and_sends_too_much_is_cut_off() -> None:
    """Before that time."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
    with carrying(polite, linger_bytes=10_000) as carried, Client(carried.port) as client:
        assert client.asked(head).status == 200
        assert carried.connections
        with suppress(OSError):
            client.send(bytes(1_000_000))

        until(lambda: not carried.connections)


def test_what_nobody_asked_for_of_a_body_is_not_kept_once_it_is_answered() -> None:
    """A quarter of a MB for each connection that rests, else."""
    with carrying(polite) as carried, Client(carried.port) as client:
        assert client.asked(post("/", bytes(50_000))).status == 200

        [connection] = carried.connections
        until(lambda: not connection.pipeline.newest.body)


# Clients that do not read


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with 20 MB."""
    await say(send, bytes(20_000_000))


def test_who_does_not_read_is_cut_off() -> None:
    """While the connection is to be kept."""
    limits: dict[str, Any] = {"clock": Clock(), "write_timeout": 30}
    with carrying(large, **limits) as carried, Client(carried.port) as client:
        client.send(LIVEZ)
        until(lambda: carried.unsent > 0)

        carried.until_cut_off(every=30)


def test_who_does_not_read_the_last_of_it_is_cut_off() -> None:
    """While the connection is to be closed, with less unread than stops the application."""

    async def just_too_much(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not carried.unsent:
            await send({"type": "http.response.body", "body": bytes(4096), "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    limits: dict[str, Any] = {"clock": Clock(), "write_timeout": 30}
    with carrying(just_too_much, **limits) as carried, Client(carried.port) as client:
        client.send(LIVEZ)
        until(lambda: carried.unsent > 0)

        carried.until_cut_off(every=30)


def test_who_reads_slowly_is_not() -> None:
    """As long as it goes on: enough in each of the times."""
    limits: dict[str, Any] = {"clock": Clock(), "write_timeout": 30}
    with carrying(large, **limits) as carried, Client(carried.port) as client:
        client.send(LIVEZ)
        until(lambda: carried.unsent > 0)
        read = 0
        while left := carried.unsent:
            # While the system takes the rest, `unsent` still counts what has been read already.
            while carried.unsent > max(0, left - DRAIN) and read < 20_000_000:
                read += len(client.socket.recv(100_000))
            carried.pass_by(30)
        while read < 20_000_000 and (data := client.socket.recv(500_000)):
            read += len(data)

    assert read >= 20_000_000


# Pipelines


def test_pipelined_requests_are_answered_in_order() -> None:
    """A thousand of them, in one go."""
    paths = [f"/{number}" for number in range(1000)]
    with carrying(polite) as carried, Client(carried.port) as client:
        client.send(b"".join(get(path) for path in paths))
        answers = [client.answer() for _ in paths]

    assert [answer and answer.body.decode() for answer in answers] == paths


def test_few_pipelined_requests_are_held() -> None:
    """256 kB of the smallest ones are 11,000: what waits costs a hundred times what it sends."""
    slow = Slow()
    with carrying(slow) as carried, Client(carried.port) as client:
        client.socket.setblocking(False)
        with suppress(BlockingIOError):
            client.socket.send(b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * 11_000)
        until(lambda: any(each.flow.held for each in carried.connections))
        with Client(carried.port) as other:  # once more round the loop
            other.send(get("/other"))
            until(lambda: "/other" in slow.started)
        held = max(len(each.pipeline) for each in carried.connections)
        client.socket.setblocking(True)
        slow.free.set()
        client.socket.settimeout(PATIENCE)
        answers = sum(client.answer() is not None for _ in range(1000))

    assert held == PIPELINE
    assert answers == 1000


def test_what_is_no_request_is_refused_after_the_requests_before_it() -> None:
    """Each answer belongs to the request in the same place."""
    slow = Slow()
    with carrying(slow) as carried, Client(carried.port) as client:
        data = get("/1") + get("/2") + b"nonsense\r\n\r\n"
        client.send(data)
        carried.heard.until_read(client, len(data))
        until(lambda: bool(slow.started))
        slow.free.set()
        answers = [client.answer() for _ in range(3)]
        assert client.closed()

    assert [answer and answer.status for answer in answers] == [200, 200, 400]


# Clients that leave


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_application_learns_at_once_who_left(version: str) -> None:
    """A close looks like the end of the requests, until one answers."""
    slow = Slow()
    with carrying(slow) as carried:
        with Client(carried.port) as client:
            client.send(get("/mine", version=version))
            until(lambda: bool(slow.started))
        until(lambda: slow.left == ["/mine"])
        slow.free.set()


def test_who_pipelined_and_left_is_not_worked_for() -> None:
    """uvicorn tells only the newest request."""
    slow = Slow()
    with carrying(slow) as carried:
        with Client(carried.port) as client:
            client.send(get("/1") + get("/2"))
            carried.heard.until_read(client, len(get("/1") + get("/2")))
            until(lambda: bool(slow.started))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: slow.left == ["/1"] and not carried.connections)
        slow.free.set()
        with Client(carried.port) as client:
            assert client.asked(get("/3")).status == 200

    assert slow.started == ["/1", "/3"]


def test_who_only_stopped_sending_is_answered() -> None:
    """shutdown(SHUT_WR), as `nc -N` does; interim answers find out that it still listens."""
    slow = Slow()
    with carrying(slow) as carried, Client(carried.port) as client:
        client.send(get("/mine"))
        client.socket.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert client._file.readline().startswith(b"HTTP/1.1 100 ")
            assert client._file.readline() == b"\r\n"
        slow.free.set()
        interim: list[int] = []
        answer = client.answer(interim)
        assert client.closed()

    assert answer is not None
    assert answer.body == b"/mine"
    assert set(interim) <= {100}


def test_who_leaves_while_waiting_frees_the_place_and_is_not_worked_for(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten images wait for the engine; nobody stays, so they are not computed."""
    with patient(tiny_model) as server:
        engine, port = server.app.state.service.engine, port_of(server)
        run, sizes = engine.outputs, []

        def counted(names: Any, images: NDArray[np.uint8], *arguments: Any, **how: Any) -> Any:
            sizes.append(len(images))
            return run(names, images, *arguments, **how)

        monkeypatch.setattr(engine, "outputs", counted)
        with server.gate.closed() as gate, Client(port) as first:
            first.send(post("/v1/predict", image()))
            gate.until_held()
            clients = [Client(port) for _ in range(10)]
            for each in clients:
                each.send(post("/v1/predict", image()))
            until(lambda: pending(server) == 11)
            for each in clients:
                each.leave()

            until(lambda: pending(server) == 1)
            gate.open()
            answer = first.answer()
        assert answer is not None
        assert answer.status == 200
        with Client(port) as client:
            assert client.asked(post("/v1/predict", image())).status == 200

    assert sizes == [1, 1]


def pending(server: Live) -> int:
    return int(server.client.get("/health").json()["queue"]["pending"])


# Many connections


def test_for_one_connection_too_many_the_longest_idle_one_goes() -> None:
    """So that a probe gets through."""
    with carrying(polite, max_connections=3) as carried:
        old, busy, new = (Client(carried.port) for _ in range(3))
        try:
            until(lambda: len(carried.connections) == 3)
            busy.asked(get("/busy"))
            with Client(carried.port) as one_more:
                assert one_more.asked(get("/probe")).status == 200
                assert old.closed()
                assert busy.asked(get("/again")).status == 200
                assert new.asked(get("/new")).status == 200
        finally:
            for each in (old, busy, new):
                each.leave()


@pytest.mark.parametrize("limit", ["max_connections", "admin_connections"])
def test_if_no_connection_is_idle_the_newcomer_is_503(limit: str) -> None:
    """With Retry-After; some at a time are told so, others only cut off."""
    slow = Slow()
    limits: dict[str, Any] = {limit: 3}
    with carrying(slow, admin=limit == "admin_connections", **limits) as carried:
        busy = [Client(carried.port) for _ in range(3)]
        late: list[Client] = []
        try:
            for each in busy:
                each.send(get("/busy"))
            until(lambda: len(slow.started) == 3)
            with Client(carried.port) as newcomer:
                answer = refused(newcomer, get("/new"), 503, "overloaded")
                assert answer.headers["retry-after"] == "1"
            late = [Client(carried.port) for _ in range(REFUSED + 50)]
            until(lambda: carried.heard.accepted == 4 + len(late))
            until(lambda: len(carried.connections) <= 3 + REFUSED)
            slow.free.set()
            assert [each.answer() is not None for each in busy] == [True] * 3
        finally:
            slow.free.set()
            for each in busy + late:
                each.leave()


OTHER = "127.0.0.2"  # another client's address


@pytest.fixture
def greedy() -> Iterator[tuple[Carried, Slow, list[Client]]]:
    """All three connections are taken: two by one address, and before those one by another."""
    if sys.platform != "linux":
        pytest.skip("has one address for itself")  # all of 127.0.0.0/8 is Linux's
    slow = Slow()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (polite if scope["path"] == "/ahead" else slow)(scope, receive, send)

    with carrying(app, max_connections=3) as carried, ExitStack() as stack:
        clients = []
        for source in (OTHER, "127.0.0.1", "127.0.0.1"):
            clients.append(stack.enter_context(Client(carried.port, source=source)))
            until(lambda: carried.heard.accepted == len(clients))
        yield carried, slow, clients
        slow.free.set()


def begin(carried: Carried, client: Client, data: bytes) -> None:
    """Send, until it is read."""
    client.send(data)
    carried.heard.until_read(client, len(data))


def test_the_address_that_holds_most_loses_its_longest_idle_connection_first(
    greedy: tuple[Carried, Slow, list[Client]],
) -> None:
    """Though another has been idle for longer."""
    carried, slow, (alone, first, second) = greedy
    slow.free.set()

    with Client(carried.port, source=OTHER) as newcomer:
        assert newcomer.asked(get("/new")).status == 200

        assert first.closed()
        assert alone.asked(get("/alone")).status == 200
        assert second.asked(get("/second")).status == 200


@pytest.mark.parametrize("ahead", [b"", get("/ahead")], ids=["at once", "after a request"])
def test_one_address_that_never_ends_its_bodies_does_not_keep_others_out(
    greedy: tuple[Carried, Slow, list[Client]], ahead: bytes
) -> None:
    """As 200 empty POSTs did for 20 s; the longest of them goes."""
    carried, slow, (alone, first, second) = greedy
    alone.leave()
    until(lambda: len(carried.connections) == 2)
    with Client(carried.port) as third:
        for each in (first, second, third):
            begin(carried, each, ahead + post("/never", bytes(10))[:-1])
        if ahead:
            assert [each.answer() is not None for each in (first, second, third)] == [True] * 3
            until(lambda: slow.started.count("/never") == 3)
        with Client(carried.port, source=OTHER) as newcomer:
            newcomer.send(get("/new"))
            until(lambda: "/new" in slow.started)

            assert first.closed()


def test_uploads_do_not_push_out_those_of_an_address_that_holds_as_many(
    greedy: tuple[Carried, Slow, list[Client]],
) -> None:
    """Two, against one and the newcomer: it is refused, and so is one more of the other address."""
    carried, slow, clients = greedy
    for each in clients:
        begin(carried, each, post("/", bytes(10))[:-1])

    for source in (OTHER, "127.0.0.1"):
        with Client(carried.port, source=source) as newcomer:
            refused(newcomer, get("/new"), 503, "overloaded")
    slow.free.set()
    for each in clients:
        each.send(b"a")
        answer = each.answer()
        assert answer is not None
        assert answer.status == 200


def test_a_client_that_waits_for_an_answer_is_not_pushed_out(
    greedy: tuple[Carried, Slow, list[Client]],
) -> None:
    """Whatever its address holds."""
    carried, slow, (alone, first, second) = greedy
    alone.leave()
    until(lambda: len(carried.connections) == 2)
    with Client(carried.port) as third:
        for each in (first, second, third):
            begin(carried, each, post("/busy", bytes(10)))
        with Client(carried.port, source=OTHER) as newcomer:
            refused(newcomer, get("/new"), 503, "overloaded")
        slow.free.set()
        assert [each.answer() is not None for each in (first, second, third)] == [True] * 3


def test_one_address_may_hold_as_many_connections_as_the_setting_says(tiny_model: Path) -> None:
    """ALEXNET_MAX_CONNECTIONS_PER_ADDRESS: for one more its idle one goes, or it is refused."""
    if sys.platform != "linux":
        pytest.skip("has one address for itself")
    with patient(tiny_model, max_connections_per_address=2) as server, ExitStack() as stack:
        opened = [stack.enter_context(Client(port_of(server))) for _ in range(2)]
        for each in opened:
            assert each.asked(LIVEZ).status == 200
        third = stack.enter_context(Client(port_of(server)))
        assert third.asked(LIVEZ).status == 200
        assert opened[0].closed()
        for each in (opened[1], third):
            each.send(post("/v1/predict", image(), "Expect: 100-continue")[:-100])
            assert each._file.readline().startswith(b"HTTP/1.1 100 ")

        answer = refused(stack.enter_context(Client(port_of(server))), LIVEZ, 503, "overloaded")

        assert b"ALEXNET_MAX_CONNECTIONS_PER_ADDRESS" in answer.body
        others = stack.enter_context(Client(port_of(server), source=OTHER))
        assert others.asked(LIVEZ).status == 200


@pytest.fixture(scope="module")
def small(tiny_model: Path) -> Iterator[InThread]:
    """A server for three connections, and an admin port."""
    with patient(tiny_model, max_connections=3, admin_port=0) as server:
        yield server


@pytest.fixture
def crowded(small: InThread) -> Iterator[tuple[int, int]]:
    """Its main port and its admin port, to be left as they were."""
    yield port_of(small), small.app.state.service.admin_port
    until(lambda: not small.server.server_state.connections)


def test_probes_on_the_admin_port_get_through_while_the_main_port_is_full(
    crowded: tuple[int, int],
) -> None:
    """Its connections have a limit of their own."""
    main, admin = crowded
    with ExitStack() as stack:
        for _ in range(3):
            busy = stack.enter_context(Client(main))
            busy.send(post("/v1/predict", image(), "Expect: 100-continue")[:-100])
            assert busy._file.readline().startswith(b"HTTP/1.1 100 ")
        refused(stack.enter_context(Client(main)), LIVEZ, 503, "overloaded")

        for _ in range(10):
            assert stack.enter_context(Client(admin)).asked(LIVEZ).status == 200


def test_connections_of_the_admin_port_take_no_place_of_the_main_port(
    crowded: tuple[int, int],
) -> None:
    """Neither closes the idle ones of the other."""
    with ExitStack() as stack:
        mine = [stack.enter_context(Client(crowded[0])) for _ in range(3)]
        probes = [stack.enter_context(Client(crowded[1])) for _ in range(10)]

        for each in mine + probes + mine:
            assert each.asked(LIVEZ).status == 200


def test_the_admin_port_is_for_few_and_the_longest_idle_goes(crowded: tuple[int, int]) -> None:
    """64, as on the main port; anyone who reaches it could else take every open file."""
    with ExitStack() as stack:
        probes = [stack.enter_context(Client(crowded[1])) for _ in range(64)]
        for each in probes:
            assert each.asked(LIVEZ).status == 200

        assert stack.enter_context(Client(crowded[1])).asked(LIVEZ).status == 200

        assert probes[0].closed()
        assert probes[1].asked(LIVEZ).status == 200


def test_the_limit_of_open_files_is_raised_or_heeded() -> None:
    """1000 connections of two files: as far as the hard limit lets us, or with a warning."""
    program = (
        "import resource, logging, sys\n"
        "logging.basicConfig(stream=sys.stdout, format='%(levelname)s')\n"
        "from service.http.server import within_file_limit\n"
        "for hard in (4096, 300):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "    print(within_file_limit(1000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["1000 2384", "WARNING", "75 300"]


# Our own faults


def test_an_application_that_raises_is_500_in_the_one_shape(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn's own words would be plain text."""
    logger = logging.getLogger("uvicorn.error")  # apart from the servers that must have no fault
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("on purpose")

    with carrying(broken) as carried, Client(carried.port) as client:
        refused(client, LIVEZ, 500, "internal_error")
    assert "on purpose" in caplog.text


async def breaking_off(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that fails in the middle of its answer."""
    headers = [(b"content-length", b"100")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    raise RuntimeError("on purpose")


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Carried, Client]]:
    """A connection whose answer broke off while its body was being sent, with 5 s to linger."""
    logger = logging.getLogger("uvicorn.error")  # apart from the servers that must have no fault
    monkeypatch.setattr(logger, "propagate", False)
    with (
        carrying(breaking_off, clock=Clock(), linger=5) as carried,
        Client(carried.port) as client,
    ):
        client.send(post("/", bytes(1000))[:-10])
        assert client._file.readline().startswith(b"HTTP/1.1 200 ")
        until(lambda: not carried.server.server_state.tasks)
        yield carried, client


def test_who_is_answered_in_part_and_does_not_finish_is_cut_off(
    broken_off: tuple[Carried, Client],
) -> None:
    """As one that is answered in full."""
    carried, _ = broken_off
    carried.pass_by(4)
    assert carried.connections

    carried.pass_by(1)

    until(lambda: not carried.connections)


def test_who_is_answered_in_part_and_leaves_is_let_go_at_once(
    broken_off: tuple[Carried, Client],
) -> None:
    """Its end was taken for that of a client who waits, which had no deadline."""
    carried, client = broken_off

    client.leave()

    until(lambda: not carried.connections)


def test_what_was_sent_ahead_of_an_answer_that_broke_off_is_not_worked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer would pass for the rest of that one."""
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "propagate", False)
    started: list[str] = []

    async def breaking_off_late(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(scope["path"])
        await read.wait()
        await breaking_off(scope, receive, send)

    read = asyncio.Event()
    with carrying(breaking_off_late) as carried, Client(carried.port) as client:
        data = get("/1") + post("/2", bytes(1000))[:-10]
        client.send(data)
        carried.heard.until_read(client, len(data))
        carried.server.servers[0].get_loop().call_soon_threadsafe(read.set)
        assert client._file.readline().startswith(b"HTTP/1.1 200 ")
        while client._file.readline().strip():
            pass
        assert client.closed()

    assert started == ["/1"]


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    return certified(tmp_path_factory.mktemp("tls"))


def test_tls_connections_have_the_same_limits(
    tiny_model: Path, certificate: tuple[Path, Path]
) -> None:
    """An image, slow headers, large ones, an early answer, a departure."""
    with encrypted(tiny_model, certificate) as (server, context):
        port = port_of(server)
        with Client(port, context) as client:
            assert client.asked(post("/v1/predict", image())).status == 200
            assert client.asked(post("/nothing", bytes(300_000))).status == 404
            with limited(server, header_timeout=AT_ONCE):
                answer = client.asked(LIVEZ[:-2])
            assert (answer.status, answer.code) == (408, "headers_too_slow")
        with Client(port, context) as client:
            client.send(post("/v1/predict", image())[:-10])
        with limited(server, header_timeout=AT_ONCE), Client(port) as silent:  # no TLS handshake
            assert silent.closed()
        with Client(port, context) as client:
            answer = client.asked(get("/livez", "X-A: " + "a" * 33_000))
            assert (answer.status, answer.code) == (431, "headers_too_large")
        with Client(port, context) as client:
            assert client.asked(LIVEZ).status == 200
        server.terminate()
        assert server.wait() == 0
    log = "".join(server.log)
    assert "Traceback" not in log, log


@contextmanager
def encrypted(
    model: Path, certificate: tuple[Path, Path], **settings: Any
) -> Iterator[tuple[InThread, ssl.SSLContext]]:
    """A server that speaks TLS, and what its clients need."""
    context = ssl.create_default_context(cafile=str(certificate[0]))
    context.check_hostname = False
    files = {"ssl_certfile": certificate[0], "ssl_keyfile": certificate[1]}
    with patient(model, **files, **settings) as server:
        yield server, context


def test_who_leaves_right_after_the_tls_handshake_leaves_no_trace(
    tiny_model: Path, certificate: tuple[Path, Path]
) -> None:
    """With a goodbye, as most do; the handshake's end and the departure come at once."""
    with encrypted(tiny_model, certificate) as (server, context):
        began = len(server.log)
        for _ in range(50):
            with Client(port_of(server), context) as client:
                client.socket.setblocking(False)
                with suppress(ssl.SSLWantReadError):
                    cast(ssl.SSLSocket, client.socket).unwrap()
        with Client(port_of(server), context) as client:
            assert client.asked(LIVEZ).status == 200
        logged = server.log[began:]

    assert [line for line in logged if "Traceback" in line or " ERROR " in line] == []


def test_tls_handshakes_take_places_and_the_oldest_make_room(
    tiny_model: Path, certificate: tuple[Path, Path]
) -> None:
    """A client that connects and sends nothing; thirty at once, for three places."""
    with encrypted(tiny_model, certificate, max_connections=3) as (server, context):
        held, port = server.server.server_state.connections, port_of(server)
        began = len(server.log)
        with ExitStack() as stack:
            silent = [stack.enter_context(Client(port)) for _ in range(30)]
            with suppress(ConnectionResetError):
                assert silent[0].closed()

            with Client(port, context) as newcomer:
                assert newcomer.asked(LIVEZ).status == 200
                until(lambda: len(held) == 3)
        until(lambda: not held)
        logged = server.log[began:]

    assert [line for line in logged if "Traceback" in line or " ERROR " in line] == []


def test_who_leaves_within_the_tls_handshake_is_gone_at_once(
    tiny_model: Path, certificate: tuple[Path, Path]
) -> None:
    """Silently, after some bytes of it, or after what is not part of it."""
    with encrypted(tiny_model, certificate) as (server, context):
        began = len(server.log)
        for sent in (b"", b"\x16\x03\x01", LIVEZ):
            with Client(port_of(server)) as client:
                client.send(sent)
        with Client(port_of(server), context) as client:
            assert client.asked(LIVEZ).status == 200
        until(lambda: not server.server.server_state.connections)
        logged = server.log[began:]

    assert [line for line in logged if "Traceback" in line or " ERROR " in line] == []


def test_tls_without_a_file_left_is_closed_without_a_trace(
    tiny_model: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is served again."""

    def none_left(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with encrypted(tiny_model, certificate) as (server, context):
        began = len(server.log)
        with monkeypatch.context() as patched:
            patched.setattr(os, "dup", none_left)
            with Client(port_of(server)) as client, suppress(ConnectionResetError):
                assert client.closed()
        with Client(port_of(server), context) as client:
            assert client.asked(LIVEZ).status == 200
        logged = server.log[began:]

    assert [line for line in logged if "Traceback" in line or " ERROR " in line] == []
