"""
An answer as it came -> values, or the error that it is.

pydantic checks it against the client's own dataclasses.  Unknown fields are ignored: a later server
may add some.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from service.client.errors import AnswerUnreadable, ClientError, NotReady, refusal_of
from service.client.inputs import Upload
from service.client.response_types import ClassProbability, Health, Heatmap, Model, Prediction, View
from service.client.retry import seconds_until

Outcome = Prediction | ClientError
T = TypeVar("T")

TIMING: Final = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


class Response(NamedTuple):
    """An answer as it came."""

    url: str  # of the server
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _Classified:
    classes: tuple[ClassProbability, ...]
    views: tuple[View, ...] = ()
    heatmap: Heatmap | None = None


@dataclass(frozen=True)
class _Refusal:
    error: str
    code: str


@dataclass(frozen=True)
class _Body:
    model: Model
    crops: str
    predictions: tuple[_Classified | _Refusal, ...]


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _parsed(kind: type[T], body: bytes) -> T:
    value: T = _adapter(kind).validate_json(body)
    return value


def outcomes(response: Response, uploads: Sequence[Upload]) -> list[Outcome]:
    """What became of each upload, in order."""
    if response.status != 200:
        raise _refused(response, uploads[0].filename if len(uploads) == 1 else None)
    try:
        body = _parsed(_Body, response.body)
    except ValidationError as error:
        raise _unreadable(response) from error
    if len(body.predictions) != len(uploads):
        raise _unreadable(response)
    request_id = response.headers.get("x-request-id")
    timing = {
        name: float(ms) for name, ms in TIMING.findall(response.headers.get("server-timing", ""))
    }
    return [
        refusal_of(result.code, None)(
            result.error, code=result.code, request_id=request_id, filename=upload.filename
        )
        if isinstance(result, _Refusal)
        else Prediction(
            filename=upload.filename,
            classes=result.classes,
            views=result.views,
            heatmap=result.heatmap,
            model=body.model,
            crops=body.crops,
            request_id=request_id,
            timing=timing,
        )
        for result, upload in zip(body.predictions, uploads, strict=True)
    ]


def health(response: Response) -> Health:
    """Ready or not, both are answers."""
    try:
        if response.status in (200, 503):
            return _parsed(Health, response.body)
    except ValidationError as error:
        if response.status == 200:
            raise _unreadable(response) from error
    raise _refused(response)


def readiness(response: Response) -> None:
    """`NotReady` is raised where an image sent now would not be classified."""
    if response.status == 503:
        raise NotReady(f"{response.url} is not ready", code="not_ready", status=503)
    if response.status != 200:
        raise _refused(response)


def _refused(response: Response, filename: str | None = None) -> ClientError:
    """The error for a status other than 200."""
    status, headers = response.status, response.headers
    try:
        refusal = _parsed(_Refusal, response.body)
    except ValidationError:  # a proxy's own page
        if status < 400:
            return _unreadable(response)
        refusal = None
    code = refusal.code if refusal else None
    return refusal_of(code, status)(
        refusal.error if refusal else _description(response),
        code=code,
        status=status,
        retry_after=seconds_until(headers.get("retry-after"), headers.get("date")),
        request_id=headers.get("x-request-id"),
        filename=filename,
    )


def _unreadable(response: Response) -> AnswerUnreadable:
    request_id = response.headers.get("x-request-id")
    return AnswerUnreadable(_description(response), status=response.status, request_id=request_id)


def _description(response: Response) -> str:
    if address := response.headers.get("location"):
        return f"{response.url} says that it is now at {address}; use that address"
    return (
        f"{response.url} answered {response.status}, not in our server's words; is a proxy "
        "between, or is it another server?"
    )
