"""
An answer as it came -> values, or the error that it is.

pydantic checks it against our own dataclasses; fields that we do not know are let be, so that a
later server can tell more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from service.client.errors import AnswerUnreadable, ClientError, NotReady, refusal_of
from service.client.inputs import Upload
from service.client.response_types import ClassProbability, Health, Heatmap, Model, Prediction, View
from service.client.retry import seconds_until

Outcome = Prediction | ClientError

TIMING: Final = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


class Reply(NamedTuple):
    """An answer as it came."""

    url: str  # of the server
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _Found:
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
    predictions: tuple[_Found | _Refusal, ...]


@cache
def _body() -> TypeAdapter[_Body]:
    return TypeAdapter(_Body)


@cache
def _refusal() -> TypeAdapter[_Refusal]:
    return TypeAdapter(_Refusal)


@cache
def _health() -> TypeAdapter[Health]:
    return TypeAdapter(Health)


def outcomes(reply: Reply, uploads: Sequence[Upload]) -> list[Outcome]:
    """What became of each upload, in order."""
    if reply.status != 200:
        raise _refused(reply, uploads[0].filename if len(uploads) == 1 else None)
    try:
        body = _body().validate_json(reply.body)
    except ValidationError as error:
        raise _stranger(reply) from error
    if len(body.predictions) != len(uploads):
        raise _stranger(reply)
    request_id = reply.headers.get("x-request-id")
    timing = {
        name: float(ms) for name, ms in TIMING.findall(reply.headers.get("server-timing", ""))
    }
    return [
        refusal_of(it.code, None)(
            it.error, code=it.code, request_id=request_id, filename=upload.filename
        )
        if isinstance(it, _Refusal)
        else Prediction(
            filename=upload.filename,
            classes=it.classes,
            views=it.views,
            heatmap=it.heatmap,
            model=body.model,
            crops=body.crops,
            request_id=request_id,
            timing=timing,
        )
        for it, upload in zip(body.predictions, uploads, strict=True)
    ]


def health(reply: Reply) -> Health:
    """Ready or not, both are answers."""
    try:
        if reply.status in (200, 503):
            return _health().validate_json(reply.body)
    except ValidationError as error:
        if reply.status == 200:
            raise _stranger(reply) from error
    raise _refused(reply)


def readiness(reply: Reply) -> None:
    """`NotReady` is raised where an image sent now would not be classified."""
    if reply.status == 503:
        raise NotReady(f"{reply.url} is not ready", code="not_ready", status=503)
    if reply.status != 200:
        raise _refused(reply)


def _refused(reply: Reply, filename: str | None = None) -> ClientError:
    """The error for a status other than 200."""
    try:
        said = _refusal().validate_json(reply.body)
    except ValidationError:  # a proxy's own page
        said = None
    if said is None and reply.status < 400:
        return _stranger(reply)
    kind = refusal_of(said.code if said else None, reply.status)
    return kind(
        said.error if said else _strange(reply),
        code=said.code if said else None,
        status=reply.status,
        retry_after=seconds_until(reply.headers.get("retry-after"), reply.headers.get("date")),
        request_id=reply.headers.get("x-request-id"),
        filename=filename,
    )


def _stranger(reply: Reply) -> AnswerUnreadable:
    request_id = reply.headers.get("x-request-id")
    return AnswerUnreadable(_strange(reply), status=reply.status, request_id=request_id)


def _strange(reply: Reply) -> str:
    if place := reply.headers.get("location"):
        return f"{reply.url} says that it is now at {place}; use that address"
    return (
        f"{reply.url} answered {reply.status}, not in our server's words; is a proxy between, or "
        "is it another server?"
    )
