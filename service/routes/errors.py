"""
Error -> status and body: the only place where the two meet.

Every refusal, from whichever layer, is `{"error": sentence, "code": word}`.  Clients
branch on the code; people read the sentence.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from service import errors

STATUSES: Final[Mapping[type[errors.ServiceError], int]] = {
    errors.RequestMalformed: 400,
    errors.BodyEmpty: 400,
    errors.Unauthorized: 401,
    errors.BodyTooSlow: 408,
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
    errors.Overloaded: 503,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
}

# Refusals by the framework, before any code of ours has run.
FRAMEWORK: Final[Mapping[int, tuple[str, str]]] = {
    400: (errors.RequestMalformed.code, "the request cannot be read as HTTP should be written"),
    404: ("not_found", "there is nothing at {path}; GET /docs lists what there is"),
    405: (
        "method_not_allowed",
        "{path} does not take {method}; the Allow header says what it does",
    ),
    413: (errors.BodyTooLarge.code, "the body is too large; see ALEXNET_MAX_BODY"),
}

INTERNAL: Final = ("internal_error", "something went wrong on our side; the server's log has it")


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: str = Field(description="What is wrong and what to do, for people.")
    code: str = Field(description="One word for it, for programs; it does not change.")


def status_of(error: errors.ServiceError) -> int:
    """The status of an error; 500 for what should not happen while serving."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def refusal(error: errors.ServiceError, text: str | None = None) -> JSONResponse:
    """Answer a request with an error, in `text` or in its own words."""
    if (status := status_of(error)) == 500:
        raise error  # to the last resort below, which tells nothing and logs all
    headers = {}
    if isinstance(error, errors.ComeBackLater):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(status, error.code, text or str(error), headers)


def documented(*kinds: type[errors.ServiceError]) -> dict[int | str, dict[str, object]]:
    """OpenAPI's `responses` for these errors, with one example for each."""
    documents: dict[int | str, dict[str, object]] = {}
    for status in sorted({STATUSES[kind] for kind in kinds}):
        examples = {
            kind.code: {
                "summary": _first_line(kind),
                "value": {"error": _first_line(kind), "code": kind.code},
            }
            for kind in kinds
            if STATUSES[kind] == status
        }
        documents[status] = {
            "model": ErrorAnswer,
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"examples": examples}},
        }
    return documents


def install(app: FastAPI) -> None:
    """Give every refusal of this application the one shape."""

    @app.exception_handler(errors.ServiceError)
    async def ours(request: Request, error: errors.ServiceError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        code, text = FRAMEWORK.get(error.status_code, (_word(error.status_code), error.detail))
        text = text.replace("{path}", request.url.path).replace("{method}", request.method)
        return _answer(error.status_code, code, text, error.headers)

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        text = "; ".join(
            f"{problem['loc'][-1]}={problem.get('input')!r}: {problem['msg']}"
            for problem in error.errors()
        )
        kind = errors.ParameterInvalid
        return _answer(STATUSES[kind], kind.code, text)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error anew once this is sent, and uvicorn logs the traceback.
        return _answer(500, *INTERNAL)


def _answer(
    status: int, code: str, text: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": text, "code": code}, status, headers=headers)


def _word(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")


def _first_line(kind: type[errors.ServiceError]) -> str:
    return (kind.__doc__ or kind.code).strip().splitlines()[0]
