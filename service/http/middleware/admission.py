"""
Refusals before routing: full queue, wrong port, CORS.

At ten times what the engine can do, nine requests of ten end here, before their bodies are read,
and each microsecond that one takes is missing for those that are served.  No place in the queue is
reserved yet: that happens once, when the body is there, so that slow senders cannot fill it.

The port is the one that the connection came in by; no header is believed for it.
"""

import re
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.http.middleware.access_log import QUIET
from service.http.middleware.errors import internal_error, missing, refusal
from service.http.state import ServiceState
from service.settings import spelled
from service.telemetry.request_record import record_of

METHODS: Final = ("POST", "PUT")

BOTH: Final = "both"  # ports
HEALTH: Final = ("/health", "/livez", "/readyz", "/ping")
DOCS: Final = ("/docs", "/openapi.json", "/static-offline-docs")

ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s@?#A-Z]+")

# The length of a JSON part before binary tensors; Triton's name for it.
INFERENCE_HEADER: Final = "Inference-Header-Content-Length"


class Admission:
    """
    ASGI middleware: 404 on a port that does not serve the path, 503 while the queue is full.

    And 500 for a fault of the service, without a word about it; uvicorn logs the traceback.
    Starlette's own stands outside every middleware, where its answer would lack their headers.
    """

    def __init__(self, app: ASGIApp, state: ServiceState, paths: Collection[str]) -> None:
        """`paths` are those that classify."""
        self._app = app
        self._state = state
        self._paths = frozenset(paths)
        settings = state.settings
        self._ports = (
            dict.fromkeys(HEALTH, BOTH)
            | dict.fromkeys(DOCS, settings.docs)
            | {"/metrics": settings.metrics}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await (self._refusal(scope) or self._app)(scope, receive, send)
        except Exception:
            if not record_of(scope).status:  # no answer has begun
                await internal_error()(scope, receive, send)
            raise

    def _refusal(self, scope: Scope) -> Response | None:
        first = "/" + scope["path"][1:].partition("/")[0]
        port = "admin" if came_by_admin_port(scope, self._state) else "main"
        if self._ports.get(first, "main") not in (port, BOTH):
            return missing(scope["path"])
        if scope["method"] in METHODS and scope["path"] in self._paths:
            try:
                self._state.classifier.batcher.check_room()
            except errors.ServiceError as error:
                if isinstance(error, errors.Overloaded):
                    scope[QUIET] = True
                return refusal(error)
        return None


class Cors(CORSMiddleware):
    """Lets pages of the origins in the settings send requests, on the main port, without
    cookies."""

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        super().__init__(
            app,
            allow_origins=state.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT"),
            allow_headers=(
                "Authorization",
                "X-API-Key",
                "X-Request-ID",
                "Content-Encoding",
                INFERENCE_HEADER,
            ),
            expose_headers=(
                "Accept-Encoding",
                "Retry-After",
                "WWW-Authenticate",
                "Allow",
                "X-Request-ID",
                "Server-Timing",
                INFERENCE_HEADER,
            ),
        )
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette does, but not on the admin port."""
        if scope["type"] == "http" and came_by_admin_port(scope, self._state):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """As Starlette does, but a refusal has the service's shape."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        text = bytes(response.body).decode()
        shaped = refusal(errors.RequestMalformed(f"{text}; see ALEXNET_CORS_ORIGINS on the server"))
        replaced = ("content-type", "content-length")
        shaped.headers.update(
            {name: value for name, value in response.headers.items() if name not in replaced}
        )
        return shaped


def check_origins(origins: tuple[str, ...]) -> None:
    """Raise `SettingsInvalid` for what no browser sends as an origin."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise errors.SettingsInvalid(
                f"{spelled('cors_origins')} has {origin!r}, which is not an origin; write it as "
                "browsers do, such as https://example.com: in small letters, with no path and no "
                "/ at its end."
            )


def came_by_admin_port(scope: Scope, state: ServiceState) -> bool:
    """Whether the request's connection is one to the admin port."""
    server = scope.get("server")
    return bool(server and state.admin_port and server[1] == state.admin_port)
