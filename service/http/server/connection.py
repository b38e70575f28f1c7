"""
One connection: its requests in turn, its deadlines, its end.

A connection whose request waits, or is not answered and has not asked for its body, holds up to
314 KiB of that, 320 KiB on asyncio's own loop, outside of ALEXNET_MAX_UPLOADS: reading stops after
64 KiB (uvicorn's HIGH_WATER_LIMIT), but one read more may bring 256,000 bytes (uvloop), or 256 KiB.
TLS holds up to 256 KiB more, not yet decrypted.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from service.errors import HeadersTooSlow, Overloaded, RequestMalformed, ServiceError
from service.http.access import network_of
from service.http.server.connection_limits import ConnectionLimiter, Limits
from service.http.server.parser import Phase, Request, Requests
from service.http.server.pipeline import Cycle, Flow, Headers, Pipeline, error_response

logger = logging.getLogger("service")

# A client that only stopped sending hears this; one that left resets the connection.  Seconds
# between the attempts; an interim answer may come at any time (RFC 9110, section 15.2).
INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
PROBES: Final = (0.02, 0.2, 1.0)


class Connection(asyncio.Protocol):
    """One client's connection.  The cycles write and close through it, as their transport."""

    limits: ClassVar[Limits]
    headers: ClassVar[Headers]  # of what is answered here
    limiter: ClassVar[ConnectionLimiter]
    admin_limiter: ClassVar[ConnectionLimiter]
    admin_port: ClassVar[int | None]

    transport: asyncio.Transport
    flow: Flow
    scheme: str

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        established: bool = True,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.pipeline = Pipeline(config.loaded_app, self.loop, server_state.tasks)
        self._state = server_state
        self._app_state = app_state
        self._established = established  # False if TLS is not agreed on yet: nothing can be said
        self._entered = False
        self._requests = Requests(self, self.limits.max_headers)
        self._unread: bytes | None = None  # while the pipeline is full
        self._reading_paused = False  # nothing more is parsed: refused, or closing
        self._ended = False  # the client has stopped sending
        self._idle = False  # between two requests
        self._error_response: bytes | None = None  # of a refusal, until those before are answered
        self._timer: asyncio.TimerHandle | None = None  # for what the client sends
        self._lingered = 0

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the newcomer in, if there is room; with TLS, this is called again once agreed on."""
        self._speak_through(cast(asyncio.Transport, transport))
        if self._entered:
            return
        self._entered = True
        self.server, self.client = get_local_addr(self.transport), get_remote_addr(self.transport)
        self._state.connections.add(cast(Any, self))
        if self.admin_port is not None and self.server and self.server[1] == self.admin_port:
            self._limiter = self.admin_limiter
        else:
            self._limiter = self.limiter
        try:
            self._limiter.enter(self, network_of(self.client[0]) if self.client else "")
        except Overloaded as error:
            if self._established and self._limiter.may_refuse(self):
                self._refuse(error)
            else:
                self.abort()
        else:
            self._wait(self.limits.header_timeout, self._headers_too_slow)

    def _speak_through(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.flow = Flow(transport, self.loop, self.limits.write_timeout)
        self.scheme = "https" if is_ssl(transport) else "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that is done for this client."""
        self._stop_waiting()
        self.flow.end()
        self._state.connections.discard(cast(Any, self))
        self._limiter.leave(self)
        self.pipeline.leave()
        self._unread = None
        self.transport.close()
        self._requests.end()

    def data_received(self, data: bytes) -> None:
        """Parse, unless there is too much already."""
        if self._reading_paused:
            self._discard(len(data))
        elif self._unread is not None:
            self._unread += data
        else:
            self._read(memoryview(data))
            self._await_headers()

    def eof_received(self) -> bool:
        """The client sends nothing more.  It may have left, or only be done: see `PROBES`."""
        self._ended = True
        if not self.transport.can_write_eof():  # TLS knows no half-closed connections
            self._close()
            return False
        if not self._reading_paused and self._requests.phase is not Phase.BETWEEN:
            self._refuse(RequestMalformed("the connection ended before the request did"))
        elif self.pipeline.running is None:
            self._close()
        if self.pipeline.running is not None:
            self._stop_waiting()
            self._probe(PROBES)
        return True

    def pause_writing(self) -> None:
        """More is written than the client reads."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """It reads on."""
        self.flow.resume_writing()

    # The server's, the limiter's and the cycle's side; for a cycle this is the transport

    def shutdown(self) -> None:
        """The server stops: close after the answer that is under way."""
        if self.pipeline.running is None:
            self._close()
        else:
            self.pipeline.newest.keep_alive = False

    def abort(self) -> None:
        """Make room at once; to close could take long."""
        self.transport.abort()

    def is_closing(self) -> bool:
        """Whether writing is in vain."""
        return self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send to the client, if it is still there."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close after an answer; while the body is still being sent, only later."""
        running = self.pipeline.running
        if running is not None and not running.response_complete:  # it broke off
            self.pipeline.abandon()
        if self._requests.phase is Phase.BODY and not self._ended:
            self._linger()
        else:
            self._close()

    # What is read

    def _read(self, data: memoryview) -> None:
        begin = 0
        while begin < len(data):
            if self._reading_paused:
                self._discard(len(data) - begin)
                return
            if self.flow.held:
                self._unread = bytes(data[begin:])
                return
            try:
                begin += self._requests.read(data[begin:])
            except ServiceError as error:
                self._refuse(error)

    def request_begins(self) -> None:
        """The connection is no longer idle."""
        if self._idle:
            self._idle = False
            self._stop_waiting()

    def request_read(self, request: Request) -> None:
        """Pass it to the application, or let it wait for its turn."""
        self._stop_waiting()
        cycle = Cycle(request, self, self._state.default_headers, self._app_state.copy())
        self.pipeline.add(cycle)
        self._tell_limiter()
        if cycle is not self.pipeline.running:
            self._hold_or_read()

    def body_read(self, body: bytes) -> None:
        """Add it to the request, or discard it if that is answered."""
        cycle = self.pipeline.newest
        if cycle.response_complete:
            self._discard(len(body))
            return
        cycle.body += body
        cycle.message_event.set()
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.held = self.pipeline.full
            self.flow.pause_reading()

    def request_ends(self) -> None:
        """Its body is here in full."""
        cycle = self.pipeline.newest
        cycle.more_body = False
        cycle.message_event.set()
        if cycle.response_complete:  # the connection lingered for this
            self._rest()
        else:
            self._tell_limiter()

    def _tell_limiter(self) -> None:
        """Tell whether the request that is worked on waits for its client, or its client for it."""
        cycle = self.pipeline.running
        if cycle is self.pipeline.newest and cycle.more_body:
            self._limiter.send(self)
        else:
            self._limiter.work(self)

    # From one request to the next

    def _hold_or_read(self) -> None:
        """Stop reading while as many requests wait, or as much of a body, as may."""
        self.flow.held = self.pipeline.full
        if self.flow.held:
            self.flow.pause_reading()
            self._stop_waiting()  # it is the service that is slow now
        else:
            self.flow.resume_reading()

    def answered(self) -> None:
        """An answer is written: the next request, or rest."""
        self._state.total_requests += 1
        self.pipeline.finish()
        if self.transport.is_closing():
            return
        if self.pipeline and not self._lingering:
            self.pipeline.run_next()
            self._tell_limiter()
            self._hold_or_read()
            if self._unread is not None and not self.flow.held:
                unread, self._unread = self._unread, None
                self._read(memoryview(unread))
            self._await_headers()
            return
        self.flow.held = False
        self.flow.resume_reading()
        self._limiter.rest(self)
        if self._error_response is not None:
            self._send_error_response(self._error_response)
        elif self._lingering:
            pass
        elif self._ended:
            self._close()
        elif self._requests.phase is Phase.BODY:
            self._wait(self.limits.linger, self._close)
        elif self._requests.phase is Phase.BETWEEN:
            self._rest()

    def _rest(self) -> None:
        """Nothing to do: until the client asks again, or long enough."""
        self._lingered = 0
        self._idle = True
        self._wait(self.limits.keep_alive, self._close)

    def _await_headers(self) -> None:
        """A request has begun: the time of its headers runs, if it does not already."""
        waiting = self._requests.phase is Phase.HEADERS and self._timer is None
        if waiting and not (self._reading_paused or self._ended or self.flow.held):
            self._wait(self.limits.header_timeout, self._headers_too_slow)

    # Deadlines and departures

    def _wait(self, seconds: float, then: Callable[..., None], *arguments: object) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, then, *arguments)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _headers_too_slow(self) -> None:
        self._timer = None
        if self._requests.phase is Phase.HEADERS:
            self._refuse(
                HeadersTooSlow(
                    f"the headers did not arrive within {self.limits.header_timeout:g} s; "
                    "send them in one go, or raise ALEXNET_HEADER_TIMEOUT on the server"
                )
            )
        elif self.pipeline.running is None:
            self._close()  # it has sent no request, and would take an answer for another one's

    def _probe(self, delays: tuple[float, ...]) -> None:
        """Write something, to learn whether a client that stopped sending still listens."""
        cycle = self.pipeline.running
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
        self._reading_paused = True
        self._stop_waiting()
        if self._requests.phase is Phase.BODY:
            if self.pipeline.newest.response_started:
                self._close()
                return
            self.pipeline.withdraw()
        headers = [*self._state.default_headers, *self.headers]
        response = error_response(error, headers, method=self._requests.method)
        if self.pipeline.running is None:
            self._send_error_response(response)
        else:
            self._error_response = response

    def _send_error_response(self, response: bytes) -> None:
        self._error_response = None
        self.write(response)
        if self._ended:
            self._close()
        else:
            self._linger()

    @property
    def _lingering(self) -> bool:
        return self._reading_paused and self._error_response is None

    def _linger(self) -> None:
        """Write nothing more; the client may finish, within bounds, so that it is not reset."""
        self._reading_paused = True
        self._unread = None
        self.flow.held = False
        self.flow.resume_reading()
        self._limiter.rest(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._wait(self.limits.linger, self._close)

    def _discard(self, size: int) -> None:
        self._lingered += size
        if self._lingered > self.limits.linger_bytes:
            self._close()

    def _close(self) -> None:
        """Close, and see to it that what is written is also read."""
        self._reading_paused = True
        self._stop_waiting()
        self.transport.close()
        self.flow.watch_draining()
