"""
The requests of one connection, pipelined.  The application works on one, a few wait.

And what is sent for each: the application's answer, or an error response for what is not a request,
in the shape and with the headers of all other answers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Protocol, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.errors import ServiceError
from service.http.middleware.errors import internal_error, refusal
from service.http.server.parser import Request

logger = logging.getLogger("uvicorn.error")

PIPELINE: Final = 16  # requests of one connection that wait for their turn
# Bytes that a client must read in every `write_timeout`, while there are as many.
DRAIN: Final = 16 * 2**10

Headers = Sequence[tuple[bytes, bytes]]


class Flow(FlowControl):
    """
    Reading that stays paused while `held`, whatever asks to resume it.

    Writing that ends with the connection if the client does not read: from when more is written
    than it reads, or from `watch_draining()` on, something must be read in every `write_timeout`
    seconds.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_timeout: float
    ) -> None:
        super().__init__(transport)
        self.held = False
        self._watched = transport
        self._loop = loop
        self._write_timeout = write_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._undrained = 0

    def resume_reading(self) -> None:
        """Read on, unless the connection has as much as it may have."""
        if not self.held:
            super().resume_reading()

    def pause_writing(self) -> None:
        """More is written than the client reads."""
        super().pause_writing()
        self.watch_draining()

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        if not self._watched.is_closing():
            self._stop_watching()

    def end(self) -> None:
        """The connection is lost: end what waits for it."""
        super().resume_writing()
        self._stop_watching()

    def watch_draining(self) -> None:
        """From now on what is written must be read, or the connection is cut off."""
        if self._timer is None:
            self._undrained = self._watched.get_write_buffer_size()
            self._timer = self._loop.call_later(self._write_timeout, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._undrained - self._watched.get_write_buffer_size() < DRAIN:
            self._watched.abort()
        else:
            self.watch_draining()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Carrier(Protocol):
    """The connection that a request came by, and that carries its answer."""

    headers: ClassVar[Headers]
    flow: Flow
    scheme: str
    server: tuple[str, int | None] | None
    client: tuple[str, int] | None

    def answered(self) -> None:
        """The answer is written."""


def error_response(error: ServiceError, headers: Headers, *, method: bytes = b"") -> bytes:
    """A refusal as it is sent, to be followed by nothing; HEAD is answered without a body."""
    answer = refusal(error)
    lines = [b"%s: %s\r\n" % header for header in (*answer.raw_headers, *headers)]
    body = b"" if method == b"HEAD" else bytes(answer.body)
    return b"".join([STATUS_LINE[answer.status_code], *lines, b"connection: close\r\n\r\n", body])


class Cycle(RequestResponseCycle):
    """One request and its answer, which is in the service's shape if the application fails."""

    def __init__(
        self,
        request: Request,
        connection: Carrier,
        default_headers: list[tuple[bytes, bytes]],
        state: dict[str, Any],
    ) -> None:
        super().__init__(
            scope={
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": request.version,
                "server": connection.server,
                "client": connection.client,
                "scheme": connection.scheme,
                "method": request.method,
                "root_path": "",
                "path": request.path,
                "raw_path": request.raw_path,
                "query_string": request.query,
                "headers": request.headers,
                "state": state,
            },
            transport=cast(asyncio.Transport, connection),
            flow=connection.flow,
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=request.waits_to_continue,
            keep_alive=request.keep_alive,
            on_response=connection.answered,
        )
        self._headers = connection.headers

    async def send_500_response(self) -> None:
        """What uvicorn says when the application raised before it answered."""
        answer = internal_error({"Connection": "close"})
        headers = [*answer.raw_headers, *self._headers]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send(
            {"type": "http.response.body", "body": bytes(answer.body), "more_body": False}
        )

    def leave(self) -> None:
        """Tell the application that its client is gone."""
        if not self.response_complete:
            self.disconnected = True
        self.waiting_for_100_continue = False  # it is too late for that
        self.message_event.set()


class Pipeline:
    """The requests of one client; its length is that of the queue."""

    newest: Cycle  # whose body is being read, or was the last to be; there once `add` was called

    def __init__(
        self, app: Any, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]
    ) -> None:
        self.running: Cycle | None = None
        self._queue: deque[Cycle] = deque()
        self._app = app
        self._loop = loop
        self._tasks = tasks

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether as many requests wait, or as much of a body, as may."""
        waits_long = self.newest is not self.running and len(self.newest.body) > HIGH_WATER_LIMIT
        return waits_long or len(self) >= PIPELINE

    def add(self, cycle: Cycle) -> None:
        """Run a request, or let it wait."""
        self.newest = cycle
        self._queue.append(cycle)
        if self.running is None:
            self.run_next()

    def run_next(self) -> None:
        """Run the one that has waited longest."""
        self.running = self._queue.popleft()
        task = self._loop.create_task(self.running.run_asgi(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finish(self) -> None:
        """The running one is answered; drop what it did not ask for of its body."""
        if self.running is not None:
            self.running.body = bytearray()
            self.running = None

    def withdraw(self) -> None:
        """The newest one turned out not to be a request."""
        self.newest.leave()
        if self.newest is self.running:
            self.running = None
        elif self.newest in self._queue:
            self._queue.remove(self.newest)

    def abandon(self) -> None:
        """The running one broke off its answer: nothing can follow that."""
        self.leave()
        self.finish()

    def leave(self) -> None:
        """The client is gone: end its requests."""
        for cycle in (self.running, *self._queue):
            if cycle is not None:
                cycle.leave()
        self._queue.clear()
