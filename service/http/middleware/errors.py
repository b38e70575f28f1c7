"""
Errors to status, body and headers, Retry-After among them, in this one place.

Every refusal, from whichever layer, is `{"error": sentence, "code": word}`.  Clients
branch on the code; people read the sentence.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service import errors
from service.telemetry.request_record import KEY, record_of

CLIENT_LEFT: Final = 499  # for the access log only: the client is gone

STATUSES: Final[Mapping[type[errors.ServiceError], int]] = {
    errors.RequestMalformed: 400,
    errors.BodyEmpty: 400,
    errors.Unauthorized: 401,
    errors.BodyTooSlow: 408,
    errors.HeadersTooSlow: 408,
    errors.BodyTooLarge: 413,
    errors.TooManyFiles: 413,
    errors.MediaTypeUnsupported: 415,
    errors.ParameterInvalid: 422,
    errors.ImageTypeUnsupported: 415,
    errors.ImageTooLarge: 413,
    errors.ImageTooElongated: 422,
    errors.ImageTooCostly: 422,
    errors.ImageUnreadable: 422,
    errors.RateLimited: 429,
    errors.HeadersTooLarge: 431,
    errors.RunFailed: 500,
    errors.Overloaded: 503,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
}

# Refusals by the framework, before any endpoint has run.
FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    400: (errors.RequestMalformed.code, "the request cannot be read as HTTP should be written"),
    404: ("not_found", "no such path: {path}; /docs, where it is on, lists all paths"),
    405: (
        "method_not_allowed",
        "{path} does not take {method}; it takes {allowed}",
    ),
    413: (errors.BodyTooLarge.code, "the body is too large; see ALEXNET_MAX_BODY"),
}

# What any request may meet, whatever it asks for.
ANYWHERE: Final = (
    errors.RequestMalformed,
    errors.BodyTooSlow,
    errors.HeadersTooSlow,
    errors.HeadersTooLarge,
    errors.Overloaded,
)

RESPONSE_HEADERS: Final[Mapping[int, Mapping[str, tuple[str, str]]]] = {
    401: {"WWW-Authenticate": ("string", "How to send a key: Bearer.")},
    405: {"Allow": ("string", "The methods that this path takes.")},
    429: {"Retry-After": ("integer", "Seconds after which there is room again.")},
    503: {"Retry-After": ("integer", "Seconds after which there should be room again.")},
}

INTERNAL: Final = ("internal_error", "internal error; see the server log")


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: str = Field(description="What is wrong and what to do, for people.")
    code: str = Field(description="One word for it, for programs; it does not change.")


def status_of(error: errors.ServiceError) -> int | None:
    """The status of an error; None for what should not happen while serving."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


def refusal(error: errors.ServiceError, text: str | None = None) -> JSONResponse:
    """Answer a request with an error, in `text` or in its own words."""
    if (status := status_of(error)) is None:
        raise error  # admission.py answers 500, and uvicorn logs the traceback
    headers = {}
    if isinstance(error, errors.ComeBackLater):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.NotReady):
        headers["Retry-After"] = "1"
    if isinstance(error, errors.MediaTypeUnsupported) and error.accept_encoding:
        headers["Accept-Encoding"] = error.accept_encoding  # RFC 9110, section 12.5.3
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(status, error.code, text or str(error), headers)


def documented(*kinds: type[errors.ServiceError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these errors and for those that any request may meet."""
    words = [
        (STATUSES[kind], kind.code, _first_line(kind)) for kind in dict.fromkeys(kinds + ANYWHERE)
    ]
    words += [(405, *FRAMEWORK[405]), (500, *INTERNAL)]
    return {
        status: {
            "model": ErrorAnswer,
            "description": HTTPStatus(status).phrase,
            "headers": {
                name: {"description": text, "schema": {"type": kind}}
                for name, (kind, text) in RESPONSE_HEADERS.get(status, {}).items()
            },
            "content": {
                "application/json": {
                    "examples": {
                        code: {"summary": text, "value": {"error": text, "code": code}}
                        for word_status, code, text in words
                        if word_status == status
                    }
                }
            },
        }
        for status in sorted({status for status, _, _ in words})
    }


def missing(path: str, text: str | None = None) -> JSONResponse:
    """Answer that there is nothing at this path, in `text` or in the usual words."""
    code, usual = FRAMEWORK[404]
    return _answer(404, code, text or usual.replace("{path}", path))


def install(app: FastAPI) -> None:
    """Give every refusal of this application the one shape; `Admission` adds 500."""

    @app.exception_handler(errors.ServiceError)
    async def refused(request: Request, error: errors.ServiceError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        record_of(request).code = "client_left"
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        code, text = FRAMEWORK.get(error.status_code, (_word(error.status_code), error.detail))
        text = text.replace("{path}", request.scope["path"]).replace("{method}", request.method)
        headers = error.headers
        if error.status_code == 405:
            headers = {"Allow": ", ".join(sorted(methods_of(request.app, request.scope["path"])))}
            text = text.replace("{allowed}", headers["Allow"])
        return _answer(error.status_code, code, text, headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        text = "; ".join(
            f"{problem['loc'][-1]}={problem.get('input')!r}: {problem['msg']}"
            for problem in error.errors()
        )
        kind = errors.ParameterInvalid
        return _answer(STATUSES[kind], kind.code, text)


def internal_error(headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Answer 500 for a fault of the service, without a word about it."""
    return _answer(500, *INTERNAL, headers)


def _answer(
    status: int, code: str, text: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return _Refusal(code, {"error": text, "code": code}, status, headers=headers)


class _Refusal(JSONResponse):
    """A refusal, whose code is written down in the request's record."""

    def __init__(
        self, code: str, content: Any, status: int, *, headers: Mapping[str, str] | None
    ) -> None:
        super().__init__(content, status, headers=headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if KEY in scope:  # a connection that has no request yet has none
            record_of(scope).code = self._code
        await super().__call__(scope, receive, send)


def methods_of(app: FastAPI, path: str) -> set[str]:
    """Every method that a path takes; the framework names those of the first of its routes."""
    methods = set[str]()
    for route in iter_route_contexts(app.routes):
        # Not what is mounted: files, which take what they take.
        if route.methods and route.path_regex.match(path):
            methods |= route.methods
    return methods


def _word(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def _first_line(kind: type[errors.ServiceError]) -> str:
    return (kind.__doc__ or kind.code).strip().splitlines()[0]
