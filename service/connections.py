"""
Bytes from strangers -> requests for the application, within limits.

uvicorn's HTTP protocol, mended where it trusts its clients: it waits for ever for headers, for
the rest of a body that was answered early, and for a client that does not read; it holds any
number of connections and of pipelined requests; and it answers what is not HTTP in plain text.

    accept ---> headers ---> body ---> answer ---> rest ---> headers ...
           header_timeout    the routes'       keep_alive
                             deadlines         linger, if the body goes on after the answer

Nothing here waits without a deadline: one timer for what the client sends, one for what it reads.
"""

import asyncio
import ipaddress
import logging
import re
import resource
import ssl
import urllib.parse
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, ClassVar, Final, cast

import httptools
from fastapi.responses import JSONResponse
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.errors import HeadersTooLarge, HeadersTooSlow, Overloaded, RequestMalformed, ServiceError
from service.routes.errors import INTERNAL, refusal

logger = logging.getLogger("service")

# What is read from us must go on by so many bytes in every `write_timeout`.
DRAIN: Final = 16 * 2**10
PIPELINE: Final = 16  # requests of one connection that wait for their turn
# Bytes parsed in one go, so that one segment of tiny requests does not become thousands at once.
STEP: Final = 1024
REFUSED: Final = 64  # connections over the limit that are told so, at a time; others are cut off
SPARE_FILES: Final = 256  # open files beside the connections: sockets, logs, libraries, the refused
# A client that only stopped sending hears this; one that left resets the connection.  Seconds
# between the attempts; an interim answer may come at any time (RFC 9110, section 15.2).
INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBES: Final = (0.02, 0.2, 1.0)

HOST: Final = re.compile(rb"(\[[0-9A-Za-z:.%]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]{0,5})?")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    What one client, and all of them together, may take; seconds, bytes, connections.

    A client that is still sending when it is answered may go on for `linger` seconds and
    `linger_bytes`: closing at once would reset the connection, and the answer could be lost.  nginx
    lingers as long.  One that reads nothing for `write_timeout` is cut off.
    """

    header_timeout: float
    keep_alive: float
    max_headers: int
    max_connections: int
    linger: float = 5.0
    linger_bytes: int = 64 * 2**20
    write_timeout: float = 30.0


class Phase(Enum):
    """Where in the stream of requests the parser is."""

    BETWEEN = "between"
    HEADERS = "headers"
    BODY = "body"


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol class for one server: for `uvicorn.Config(http=...)`."""
    names = {"limits": limits, "crowd": Crowd()}
    return cast(type[HttpToolsProtocol], type("LimitedConnection", (Connection,), names))


def greet_within_limits(config: Config) -> None:
    """Count and time connections from their accept on, not from the end of the TLS handshake on;
    for a `config` that is loaded, and has our protocol."""
    if config.ssl is not None:
        kind = cast(type[Connection], config.http_protocol_class)
        greeting = partial(Greeting, kind, config.ssl)
        config.http_protocol_class = cast(type[asyncio.Protocol], greeting)
        config.ssl = None  # else the event loop would greet, 60 s long, whoever connects


def within_file_limit(connections: int) -> int:
    """Raise the soft limit of open files as far as needed; returns the connections that it allows,
    at least one, and warns if these are fewer."""
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):  # macOS refuses some values below its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return connections
    # With few files, half of them are spare.
    allowed = max(1, soft - min(SPARE_FILES, soft // 2))
    logger.warning(
        "only %d files may be open, so at most %d connections are held instead of %d; "
        "raise the limit (ulimit -n, LimitNOFILE, --ulimit nofile) to %d",
        soft,
        allowed,
        connections,
        needed,
    )
    return allowed


class Crowd:
    """The connections of one server that nobody waits on, the longest idle first."""

    def __init__(self) -> None:
        self.idle: OrderedDict[Connection, None] = OrderedDict()
        self.refused: set[Connection] = set()


class Flow(FlowControl):
    """Reading that stays paused while `held`, whoever wants to resume it."""

    held = False

    def resume_reading(self) -> None:
        """Read on, unless the connection has as much as it may have."""
        if not self.held:
            super().resume_reading()


class Cycle(RequestResponseCycle):
    """One request and its answer; our own words for what is our own fault."""

    async def send_500_response(self) -> None:
        """What uvicorn says when the application raised before it answered."""
        code, text = INTERNAL
        answer = JSONResponse({"error": text, "code": code}, 500, {"Connection": "close"})
        await self.send(
            {"type": "http.response.start", "status": 500, "headers": answer.raw_headers}
        )
        await self.send(
            {"type": "http.response.body", "body": bytes(answer.body), "more_body": False}
        )

    def leave(self) -> None:
        """Tell the application that its client is gone."""
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()


class Connection(HttpToolsProtocol):
    """One client's connection.  The cycles write and close through it, as their transport."""

    limits: ClassVar[Limits]
    crowd: ClassVar[Crowd]

    def __init__(self, *args: Any, greeted: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._greeted = greeted  # False until TLS is agreed on: nothing can be said
        self._phase = Phase.BETWEEN
        self._flow: Flow  # the same as `flow`
        self._running: Cycle | None = None  # the application works on it; `cycle` is the newest
        self._unread: bytes | None = None  # while the pipeline is full
        self._deaf = False  # nothing more is parsed: refused, or closing
        self._ended = False  # the client has stopped sending
        self._resting = False  # between two requests
        self._last_words: bytes | None = None  # a refusal, once the requests before it are answered
        self._timer: asyncio.TimerHandle | None = None  # for what the client sends
        self._drain_timer: asyncio.TimerHandle | None = None  # for what it reads
        self._undrained = 0
        self._lingered = 0
        # Bytes of the headers so far, as parsed and as received; and of a body's chunk headers and
        # trailers beyond what honest ones need.
        self._head = self._head_received = self._excess = 0
        self._began = False
        self._body_left: int | None = None  # None for a chunked one
        self._body_bytes = self._chunks = 0

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the newcomer in, in the place of the longest idle one if need be."""
        super().connection_made(transport)
        self.flow = self._flow = Flow(transport)
        crowd, limits = self.crowd, self.limits
        while len(self.connections) - len(crowd.refused) > limits.max_connections and crowd.idle:
            oldest, _ = crowd.idle.popitem(last=False)
            self.connections.discard(oldest)
            oldest.transport.abort()  # close() could wait for it, uncounted
        if len(self.connections) - len(crowd.refused) > limits.max_connections:
            if not self._greeted or len(crowd.refused) >= REFUSED:
                transport.abort()
                return
            crowd.refused.add(self)
            self._refuse(
                Overloaded(
                    f"all {limits.max_connections} connections are busy; try again in 1 s, or "
                    "raise ALEXNET_MAX_CONNECTIONS on the server",
                    retry_after=1,
                )
            )
            return
        crowd.idle[self] = None
        self._wait(limits.header_timeout, self._headers_too_slow)

    def greeted(self, transport: asyncio.Transport) -> None:
        """TLS is agreed on: what follows goes through this transport."""
        self._greeted = True
        self.transport = transport
        self.flow = self._flow = Flow(transport)
        self.scheme = "https"

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who works for this client."""
        self._stop_waiting()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self.crowd.idle.pop(self, None)
        self.crowd.refused.discard(self)
        for cycle in (self._running, self.cycle):
            if cycle is not None:
                cast(Cycle, cycle).leave()
        self.pipeline.clear()
        self._unread = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless there is too much already."""
        if self._deaf:
            self._discard(len(data))
        elif self._unread is not None:
            self._unread += data
        else:
            self._parse(memoryview(data))
            self._await_headers()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more.  It may have left, or only be done: see `PROBES`."""
        self._ended = True
        if not self.transport.can_write_eof():  # TLS knows no half-closed connections
            self._close()
            return False
        if not self._deaf and self._phase is not Phase.BETWEEN:
            self._refuse(RequestMalformed("the connection ended before the request did"))
        elif self._running is None:
            self._close()
        if self._running is not None:
            self._stop_waiting()
            self._probe(PROBES)
        return True

    def pause_writing(self) -> None:
        """More is written than the client reads."""
        super().pause_writing()
        self._watch_draining()

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        if self._drain_timer is not None and not self.transport.is_closing():
            self._drain_timer.cancel()
            self._drain_timer = None

    def shutdown(self) -> None:
        """The server stops: close after the answer that is under way."""
        if self._running is None:
            self._close()
        else:
            self.cycle.keep_alive = False

    # The cycle's side: what it takes for its transport

    def is_closing(self) -> bool:
        """Whether writing is in vain."""
        return self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send to the client, if it is still there."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close after an answer; while the body is still being sent, only later."""
        if self._phase is Phase.BODY and not self._ended:
            self._linger()
        else:
            self._close()

    # The parser's side

    def _parse(self, data: memoryview) -> None:
        begin = 0
        while begin < len(data):
            if self._deaf:
                self._discard(len(data) - begin)
                return
            if self._flow.held:
                self._unread = bytes(data[begin:])
                return
            piece = data[begin : begin + self._step()]
            self._began, self._body_bytes, self._chunks = False, 0, 0
            try:
                self.parser.feed_data(piece)
                begin += len(piece)
                self._count(len(piece))
            except httptools.HttpParserUpgrade as upgrade:
                begin += upgrade.args[0]
                self._parse_without_upgrade()
            except httptools.HttpParserError as error:
                self._refuse(_fault(error))
            except ServiceError as error:
                self._refuse(error)

    def _step(self) -> int:
        """How many bytes may be parsed without too many requests in them."""
        if self._phase is Phase.BODY:
            return 4 * STEP if self._body_left is None else max(1, self._body_left)
        return STEP

    def _count(self, size: int) -> None:
        """After `size` bytes: raise `HeadersTooLarge` if they only surround what is to come."""
        if self._phase is Phase.HEADERS and not self._began:
            self._head_received += size
            self._check_headers(self._head_received)
        elif self._phase is Phase.BODY and self._body_left is None:
            # As Go's net/http allows: 16 bytes for each chunk, and twice what it carries.
            excess = self._excess + size - 2 * self._body_bytes - 16 * self._chunks
            self._excess = max(0, excess)
            self._check_headers(self._excess)

    def _check_headers(self, size: int) -> None:
        if size > self.limits.max_headers:
            raise HeadersTooLarge(
                f"the request line and headers, or what surrounds a body's chunks, are larger than "
                f"{self.limits.max_headers} bytes; send fewer, or raise ALEXNET_MAX_HEADERS on the "
                "server"
            )

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._resting:
            self._resting = False
            self._stop_waiting()
        self._phase = Phase.HEADERS
        self._began = True
        self._head = self._head_received = self._excess = 0
        self._body_left = None

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        super().on_url(url)
        self._head += len(url)
        self._check_headers(self._head)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer; the application has no use for the latter."""
        self._head += len(name) + len(value) + 4  # a colon, a space, CR and LF
        self._check_headers(self._head)
        if self._phase is Phase.HEADERS:
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """One chunk of a body."""
        self._chunks += 1

    def on_headers_complete(self) -> None:
        """A request has begun: to the application with it, or into the queue."""
        if self.parser.should_upgrade():
            return  # the parser stops here; what it said so far is said again
        version = self.parser.get_http_version()
        self._scope_from_headers(version)
        self._phase = Phase.BODY
        self._stop_waiting()
        self.cycle = Cycle(
            scope=self.scope,
            transport=cast(asyncio.Transport, self),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version == "1.1",
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self._start(self.cycle)
        else:
            self.pipeline.appendleft((self.cycle, self.app))
            self._hold_or_read()

    def _scope_from_headers(self, version: str) -> None:
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not all(map(_host_is_valid, hosts)):
            raise RequestMalformed("the Host header must be there once, and name a host")
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._body_left = int(lengths[0]) if lengths else None
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError as error:
            raise RequestMalformed("the request's target is not one of HTTP") from error
        if not (raw_path := url.path or b"/").startswith(b"/"):  # such as the * of OPTIONS
            raise RequestMalformed("the request's target must begin with /")
        path = raw_path.decode("ascii")  # the parser lets nothing else through
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = self.root_path + urllib.parse.unquote(path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = url.query or b""

    def on_body(self, body: bytes) -> None:
        """A part of the body; nobody wants it once the request is answered."""
        self._body_bytes += len(body)
        if self._body_left is not None:
            self._body_left -= len(body)
        if self.cycle.response_complete:
            self._discard(len(body))
            return
        self.cycle.body += body
        self.cycle.message_event.set()
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._flow.held = self.cycle is not self._running
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The request is here in full."""
        if self.parser.should_upgrade():
            return
        self._phase = Phase.BETWEEN
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if self.cycle.response_complete:  # we lingered for this
            self._rest()

    def _parse_without_upgrade(self) -> None:
        """
        Take a request that asks for another protocol for one that does not: a server may.

        The parser gives up on what follows the headers, body included, so a new one reads the same
        request without its Upgrade header.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(RequestMalformed("this is no proxy: CONNECT has no meaning here"))
            return
        request = [method, b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                request += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(b"".join([*request, b"\r\n"]))
        except httptools.HttpParserError as error:
            self._refuse(_fault(error))

    # From one request to the next

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cast(Cycle, cycle)
        self.crowd.idle.pop(self, None)
        self._start_asgi_task(cycle, self.app)

    def _hold_or_read(self) -> None:
        """Stop reading while as many requests wait, or as much of a body, as may."""
        waits_long = self.cycle is not self._running and len(self.cycle.body) > HIGH_WATER_LIMIT
        self._flow.held = len(self.pipeline) >= PIPELINE or waits_long
        if self._flow.held:
            self.flow.pause_reading()
            self._stop_waiting()  # it is we who are slow now
        else:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """An answer is written: the next request, or rest."""
        self.server_state.total_requests += 1
        self._running = None
        if self.transport.is_closing():
            return
        if self.pipeline and not self._lingering:
            self._start(self.pipeline.pop()[0])
            self._hold_or_read()
            if self._unread is not None and not self._flow.held:
                unread, self._unread = self._unread, None
                self._parse(memoryview(unread))
            self._await_headers()
            return
        self._flow.held = False
        self.flow.resume_reading()
        self.crowd.idle[self] = None
        if self._last_words is not None:
            self._say_last(self._last_words)
        elif self._lingering:
            pass
        elif self._ended:
            self._close()
        elif self._phase is Phase.BODY:
            self._wait(self.limits.linger, self._close)
        elif self._phase is Phase.BETWEEN:
            self._rest()

    def _rest(self) -> None:
        """Nothing to do: until the client asks again, or long enough."""
        self._lingered = 0
        self._resting = True
        self._wait(self.limits.keep_alive, self._close)

    def _await_headers(self) -> None:
        """A request has begun: the time of its headers runs, if it does not already."""
        waiting = self._phase is Phase.HEADERS and self._timer is None
        if waiting and not (self._deaf or self._ended or self._flow.held):
            self._wait(self.limits.header_timeout, self._headers_too_slow)

    # Deadlines and departures

    def _wait(self, seconds: float, then: Any, *arguments: Any) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, then, *arguments)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _headers_too_slow(self) -> None:
        self._timer = None
        if self._phase is Phase.HEADERS:
            self._refuse(
                HeadersTooSlow(
                    f"the headers did not arrive within {self.limits.header_timeout:g} s; "
                    "send them in one go, or raise ALEXNET_HEADER_TIMEOUT on the server"
                )
            )
        elif self._running is None:
            self._close()  # it never asked, and would take an answer for another request's

    def _probe(self, delays: tuple[float, ...]) -> None:
        """Write something, to learn whether a client that stopped sending still listens."""
        cycle = self._running
        if cycle is None or cycle.response_started:
            return
        if cycle.scope["http_version"] != "1.1":
            self._close()
            return
        self.write(INTERIM)
        self._wait(delays[0], self._probe, delays[1:] or delays)

    def _refuse(self, error: ServiceError) -> None:
        """Answer what cannot become a request, after those before it, and listen no more."""
        logger.debug("%s: refused: %s", self.client, error)
        self._deaf = True
        self._stop_waiting()
        if self._phase is Phase.BODY:
            faulty = cast(Cycle, self.cycle)
            if faulty.response_started:
                self._close()
                return
            faulty.leave()
            if faulty is self._running:
                self._running = None
            elif self.pipeline and self.pipeline[0][0] is faulty:
                self.pipeline.popleft()
        answer = refusal(error)
        lines = [STATUS_LINE[answer.status_code]]
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        lines += [b"%s: %s\r\n" % header for header in headers]
        words = b"".join([*lines, b"connection: close\r\n\r\n", bytes(answer.body)])
        if self._running is None:
            self._say_last(words)
        else:
            self._last_words = words

    def _say_last(self, words: bytes) -> None:
        self._last_words = None
        self.write(words)
        if self._ended:
            self._close()
        else:
            self._linger()

    @property
    def _lingering(self) -> bool:
        return self._deaf and self._last_words is None

    def _linger(self) -> None:
        """Nothing more is written; let the client finish, within bounds, lest it be reset."""
        self._deaf = True
        self._unread = None
        self._flow.held = False
        self.flow.resume_reading()
        if self not in self.crowd.refused:
            self.crowd.idle.setdefault(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(self.limits.linger, self._close)

    def _discard(self, size: int) -> None:
        self._lingered += size
        if self._lingered > self.limits.linger_bytes:
            self._close()

    def _close(self) -> None:
        """Close, and see to it that what is written is also read."""
        self._deaf = True
        self._stop_waiting()
        self.transport.close()
        self._watch_draining()

    def _watch_draining(self) -> None:
        if self._drain_timer is None:
            self._undrained = self.transport.get_write_buffer_size()
            self._drain_timer = self.loop.call_later(self.limits.write_timeout, self._check_drain)

    def _check_drain(self) -> None:
        self._drain_timer = None
        if self._undrained - self.transport.get_write_buffer_size() < DRAIN:
            self.transport.abort()
        else:
            self._watch_draining()


class Greeting(asyncio.Protocol):
    """A connection until TLS is agreed on; then its `Connection` takes over."""

    def __init__(self, kind: type[Connection], context: ssl.SSLContext, **given: Any) -> None:
        self._connection = kind(**given, greeted=False)
        self._context = context
        self._early = bytearray()  # what comes with the last bytes of the handshake
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet whom there is room for."""
        connection, plain = self._connection, cast(asyncio.Transport, transport)
        connection.connection_made(plain)
        if not plain.is_closing():
            plain.pause_reading()  # the greeting is for TLS; start_tls() reads on
            self._task = connection.loop.create_task(self._greet(plain))

    async def _greet(self, transport: asyncio.Transport) -> None:
        connection = self._connection
        agreeing = asyncio.ensure_future(
            connection.loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=connection.limits.header_timeout,
                ssl_shutdown_timeout=connection.limits.linger,
            )
        )
        await asyncio.sleep(0)  # now start_tls() has begun
        await asyncio.sleep(0)  # now its protocol knows its transport, and has read nothing yet
        # uvloop reads on despite the pause: the greeting may have come already.
        while self._early and not transport.is_closing():
            tls = cast(asyncio.BufferedProtocol, transport.get_protocol())
            buffer = memoryview(tls.get_buffer(len(self._early)))
            size = min(len(buffer), len(self._early))
            buffer[:size] = self._early[:size]
            del self._early[:size]
            tls.buffer_updated(size)
        try:
            async with asyncio.timeout(connection.limits.header_timeout):
                secure = await agreeing
        except OSError as error:  # ssl.SSLError, TimeoutError, and what the network raises
            transport.abort()
            self.connection_lost(error)
            return
        if secure is None or secure.is_closing():
            self.connection_lost(None)
            return
        connection.greeted(secure)
        secure.set_protocol(connection)
        if self._early:
            connection.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the handshake's end is noticed."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before it was greeted."""
        self._connection.connection_lost(exc)


def _fault(error: httptools.HttpParserError) -> ServiceError:
    """Ours, if a callback raised it; else the parser's, in its words."""
    if isinstance(error.__context__, ServiceError):
        return error.__context__
    if error.__context__ is not None:
        logger.error("a request could not be taken", exc_info=error.__context__)
    return RequestMalformed(f"the request cannot be read as HTTP should be written: {error}")


def _host_is_valid(host: bytes) -> bool:
    if not (match := HOST.fullmatch(host)):
        return False
    name = match[1].decode("ascii")
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return False
    return True
