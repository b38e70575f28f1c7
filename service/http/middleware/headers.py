"""Headers of every answer: security, and which other origins' pages may read it (CORS)."""

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RequestMalformed, SettingsInvalid
from service.http.middleware.errors import refusal
from service.http.middleware.ports import came_by_admin_port
from service.http.state import ServiceState
from service.settings import spelled

ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s@?#A-Z]+")

SECURITY_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

# The length of a JSON part before binary tensors; Triton's name for it.
INFERENCE_HEADER: Final = "Inference-Header-Content-Length"


class SecurityHeaders:
    """Gives every answer the strictest headers, where its endpoint has not chosen others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers that are missing."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                chosen = {name for name, _ in headers}
                headers += [header for header in SECURITY_HEADERS if header[0] not in chosen]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Cors(CORSMiddleware):
    """Lets pages of the origins in the settings send requests, on the main port, without
    cookies.  Raises `SettingsInvalid` for what is not an origin."""

    def __init__(self, app: ASGIApp, state: ServiceState) -> None:
        super().__init__(
            app,
            allow_origins=state.settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT"),
            allow_headers=("Authorization", "X-API-Key", "X-Request-ID", INFERENCE_HEADER),
            expose_headers=(
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
        shaped = refusal(RequestMalformed(f"{text}; see ALEXNET_CORS_ORIGINS on the server"))
        replaced = ("content-type", "content-length")
        shaped.headers.update(
            {name: value for name, value in response.headers.items() if name not in replaced}
        )
        return shaped


def check_origins(origins: tuple[str, ...]) -> None:
    """Raise `SettingsInvalid` for what no browser sends as an origin."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise SettingsInvalid(
                f"{spelled('cors_origins')} has {origin!r}, which is no origin; write it as "
                "browsers do, such as https://example.com: in small letters, with no path and no "
                "/ at its end."
            )
