"""
What stands before the routes, from the outside in: the security headers of every answer, pages
of other origins, what each port has; and, before what classifies alone, keys and limits.

The port is the one that the connection came in by.  No header is believed for it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, FastAPI, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RequestMalformed, SettingsInvalid, Unauthorized
from service.http.access import Keys, RateLimiter, network_of
from service.http.middleware.access_log import AccessLog, Observed
from service.http.middleware.errors import LastResort, missing, refusal
from service.http.middleware.tracing import Traced
from service.http.state import Running
from service.settings import Settings, spelled
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s@?#A-Z]+")

SECURITY_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

BOTH: Final = "both"
HEALTH: Final = ("/health", "/livez", "/readyz", "/ping")
DOCS: Final = ("/docs", "/openapi.json", "/static-offline-docs")

# The length of a JSON part before binary tensors; Triton's name for it.
INFERENCE_HEADER: Final = "Inference-Header-Content-Length"

BEARER: Final = HTTPBearer(
    scheme_name="bearer", description="Authorization: Bearer KEY", auto_error=False
)
HEADER: Final = APIKeyHeader(
    name="X-API-Key", scheme_name="header", description="X-API-Key: KEY", auto_error=False
)


@dataclass(frozen=True)
class Doors:
    """Who may come in, and how often; `app.state.doors`."""

    keys: Keys
    limiter: RateLimiter | None


def install(
    app: FastAPI, service: Running, metrics: Metrics, tracer: "TracerProvider | None" = None
) -> list[Dependency]:
    """
    Put the doors before an application that has no routes yet.

    Returns the dependencies of every router that classifies.  Raises `SettingsInvalid`.
    """
    settings = service.settings
    doors = _doors(settings)
    app.state.doors, app.state.metrics = doors, metrics
    # The last to be added is the outermost.
    app.add_middleware(LastResort)
    app.add_middleware(Ports, service=service)
    if settings.cors_origins:
        app.add_middleware(OtherOrigins, service=service)
    app.add_middleware(SecurityHeaders)
    if tracer is not None:
        app.add_middleware(Traced, made=tracer)
    app.add_middleware(Observed, observers=[metrics.count, AccessLog()])
    return [Depends(with_a_key if doors.keys else without_keys)]


def _doors(settings: Settings) -> Doors:
    if "api_keys" in settings.model_fields_set and not settings.api_keys:
        raise SettingsInvalid(
            f"{spelled('api_keys')} is set, but holds no key; write keys of it, separated by "
            "commas, or take it away, and everybody may ask."
        )
    for origin in settings.cors_origins:
        if not ORIGIN.fullmatch(origin):
            raise SettingsInvalid(
                f"{spelled('cors_origins')} has {origin!r}, which is no origin; write it as "
                "browsers do, such as https://example.com: in small letters, with no path and no "
                "/ at its end."
            )
    keys = Keys([key.get_secret_value() for key in settings.api_keys], settings.api_keys_file)
    limiter = RateLimiter(settings.rate_limit) if settings.rate_limit else None
    return Doors(keys, limiter)


async def with_a_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    plain: Annotated[str | None, Security(HEADER)],
) -> None:
    """Let in whoever shows one of our keys, before the body is read, and count an image."""
    keys = _doors_of(request).keys
    shown = [bearer.credentials.strip()] if bearer else []
    shown += [plain] if plain else []
    client = next(filter(None, map(keys.holds, shown)), None)
    if client is None:
        what = "the API key is not one of ours" if shown else "this needs an API key"
        raise Unauthorized(f"{what}; send it as -H 'Authorization: Bearer KEY'")
    _count_first(request, client)


async def without_keys(request: Request) -> None:
    """Let everybody in, and count an image of the address that it comes from."""
    _count_first(request, network_of(request.client.host) if request.client else "")


def charge(request: Request, images: int) -> None:
    """
    Count the images of a request, now that it is known how many there are.

    The first was counted at the door.  Raises `RateLimited` if they are too many.
    """
    limiter = _doors_of(request).limiter
    if limiter is not None:
        limiter.charge(request.state.client, images, counted=1)


def _count_first(request: Request, client: str) -> None:
    request.state.client = client
    limiter = _doors_of(request).limiter
    if limiter is not None:
        limiter.charge(client)


def _doors_of(request: Request) -> Doors:
    doors: Doors = request.app.state.doors
    return doors


class SecurityHeaders:
    """Gives every answer the strictest headers, where its route has not chosen others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add what is not there."""

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                chosen = {name for name, _ in headers}
                headers += [header for header in SECURITY_HEADERS if header[0] not in chosen]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, adding)


class Ports:
    """Hides what the port that a request came in by does not have."""

    def __init__(self, app: ASGIApp, service: Running) -> None:
        self._app = app
        self._service = service
        settings = service.settings
        self._places = (
            dict.fromkeys(HEALTH, BOTH)
            | dict.fromkeys(DOCS, settings.docs)
            | {"/metrics": settings.metrics}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404, or pass the request on."""
        if scope["type"] == "http":
            first = "/" + scope["path"][1:].partition("/")[0]
            here = "admin" if _by_admin_port(scope, self._service) else "main"
            if self._places.get(first, "main") not in (here, BOTH):
                await missing(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


class OtherOrigins(CORSMiddleware):
    """Lets pages of the origins in the settings ask, on the main port, without cookies."""

    def __init__(self, app: ASGIApp, service: Running) -> None:
        super().__init__(
            app,
            allow_origins=service.settings.cors_origins,
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
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As always, but not on the admin port."""
        if scope["type"] == "http" and _by_admin_port(scope, self._service):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """As always, but a refusal has our shape."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        text = bytes(answer.body).decode()
        shaped = refusal(RequestMalformed(f"{text}; see ALEXNET_CORS_ORIGINS on the server"))
        kept = ("content-type", "content-length")
        shaped.headers.update(
            {name: value for name, value in answer.headers.items() if name not in kept}
        )
        return shaped


def _by_admin_port(scope: Scope, service: Running) -> bool:
    server = scope.get("server")
    return bool(server and service.admin_port and server[1] == service.admin_port)
