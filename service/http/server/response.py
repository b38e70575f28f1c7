"""
The response to one request: the application's, or an error response for what is not a request.

Error responses have the shape and the headers of all other answers.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.errors import ServiceError
from service.http.middleware.errors import internal_error, refusal
from service.http.server.flow import Flow
from service.http.server.parser import Request

logger = logging.getLogger("uvicorn.error")

Headers = Sequence[tuple[bytes, bytes]]


class Carrier(Protocol):
    """Whose request it is, and who carries its answer: a connection."""

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
    """One request and its answer; our own words for what is our own fault."""

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
        self.waiting_for_100_continue = False  # all has been said, or nobody is there
        self.message_event.set()
