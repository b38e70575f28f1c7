"""
The server's answers as frozen values, or as errors.

An answer is checked against the dataclasses; unknown fields are ignored, since a later server may
add some.  Sequences are tuples, so that a prediction can be kept, compared and hashed.
"""

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Final, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from alexnet_client.errors import AnswerUnreadable, ClientError, NotReady, refusal_of

T = TypeVar("T")

TIMING: Final = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which model answered; `version` is of the file, and changes with it."""

    name: str
    variant: str
    precision: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassProbability:
    """A class and how probable it is, 0 to 1."""

    index: int
    wordnet_id: str | None  # a network of one's own may have none
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A square in the prepared image of 256 x 256; pixels, from the top left."""

    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One of the views that the mean is taken over, and its own best classes."""

    name: str
    mirrored: bool
    box: Box | None  # None where the model file does not say
    classes: tuple[ClassProbability, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassHeatmap:
    """
    How much a class's probability falls when a part of the image is hidden.

    `values[row][column]`, from the top left; below 0 where hiding makes it more probable.
    """

    index: int
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Where the evidence lies, for each class of the answer."""

    method: str
    rows: int
    columns: int
    classes: tuple[ClassHeatmap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The best classes of one image, the most probable first, and who says so."""

    filename: str | None  # the image's own, without folders
    classes: tuple[ClassProbability, ...]
    views: tuple[View, ...] = ()  # only with details="views"
    heatmap: Heatmap | None = None  # only with details="heatmap"
    features: tuple[float, ...] = ()  # float32; only with details="features"
    model: Model
    crops: str
    request_id: str | None = field(compare=False)  # the X-Request-ID that the server's log has
    # Milliseconds that the request was in each step: read, decode, queue, run, total.
    timing: Mapping[str, float] = field(compare=False)

    @property
    def best(self) -> ClassProbability:
        """The most probable class; `IndexError` if `threshold` has left none."""
        if not self.classes:
            raise IndexError("no class is as probable as the threshold; lower it, or look first")
        return self.classes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Images that wait, and how many may."""

    pending: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What runs, where it runs, and how full the queue is."""

    status: str  # "ready"; or why it is not
    model: Model
    provider: str
    device_requested: str
    warning: str | None
    queue: Queue

    @property
    def ready(self) -> bool:
        """Whether an image sent now would be classified."""
        return self.status == "ready"


Outcome = Prediction | ClientError


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
    features: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Refusal:
    error: str
    code: str


@dataclass(frozen=True)
class _Body:
    model: Model
    crops: str
    predictions: tuple[_Classified | _Refusal, ...]


def outcomes(response: Response, filenames: Sequence[str | None]) -> list[Outcome]:
    """What became of each image, in order."""
    if response.status != 200:
        raise _refused(response, filenames[0] if len(filenames) == 1 else None)
    body = _parsed(_Body, response)
    if len(body.predictions) != len(filenames):
        raise _unreadable(response)
    timing = TIMING.findall(response.headers.get("server-timing", ""))
    return [
        _error(result, response, filename)
        if isinstance(result, _Refusal)
        else Prediction(
            filename=filename,
            classes=result.classes,
            views=result.views,
            heatmap=result.heatmap,
            features=result.features,
            model=body.model,
            crops=body.crops,
            request_id=response.headers.get("x-request-id"),
            timing={name: float(milliseconds) for name, milliseconds in timing},
        )
        for result, filename in zip(body.predictions, filenames, strict=True)
    ]


def health(response: Response) -> Health:
    """Ready or not, both are answers."""
    if response.status == 200:
        return _parsed(Health, response)
    with suppress(AnswerUnreadable):
        if response.status == 503:
            return _parsed(Health, response)
    raise _refused(response)


def readiness(response: Response) -> None:
    """`NotReady` is raised where an image sent now would not be classified."""
    if response.status == 503:
        raise NotReady(f"{response.url} is not ready", code="not_ready", status=503)
    if response.status != 200:
        raise _refused(response)


def _parsed(kind: type[T], response: Response) -> T:
    """The body as this kind of value; raises `AnswerUnreadable`."""
    try:
        return cast(T, _checked(kind, json.loads(response.body)))
    except (TypeError, ValueError, RecursionError) as error:
        raise _unreadable(response) from error


def _checked(kind: Any, value: Any) -> Any:
    """JSON's value as a `kind`, with its dataclasses and tuples; `TypeError` if it is not one."""
    if isinstance(kind, UnionType):
        return _first_of(get_args(kind), value)
    if get_origin(kind) is tuple and isinstance(value, list):
        of_each = get_args(kind)[0]
        return tuple(_checked(of_each, each) for each in value)
    if is_dataclass(kind) and isinstance(value, dict):
        fields = {name: each for name, each in _fields(kind).items() if name in value}
        # What has no default and is missing is a `TypeError` too.
        return cast(Any, kind)(**{name: _checked(fields[name], value[name]) for name in fields})
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # True is not 1
        raise TypeError(f"{value!r} is no {kind}")
    return value


def _first_of(kinds: Sequence[Any], value: Any) -> Any:
    for kind in kinds:
        with suppress(TypeError):
            return _checked(kind, value)
    raise TypeError(f"{value!r} is none of {kinds}")


_fields: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _refused(response: Response, filename: str | None = None) -> ClientError:
    """The error for a status other than 200."""
    status = response.status
    try:
        refusal = _parsed(_Refusal, response)
    except AnswerUnreadable as error:  # a proxy's own page
        if status < 400:
            return error
        refusal = _Refusal(str(error), code="")
    return _error(refusal, response, filename, status)


def _error(
    refusal: _Refusal, response: Response, filename: str | None, status: int | None = None
) -> ClientError:
    """The error that a refusal is; without `status` it is one image's of several."""
    headers = response.headers
    return refusal_of(refusal.code, status)(
        refusal.error,
        code=refusal.code,
        status=status,
        retry_after=seconds_until(headers.get("retry-after"), headers.get("date")),
        request_id=headers.get("x-request-id"),
        filename=filename,
    )


def _unreadable(response: Response) -> AnswerUnreadable:
    message = (
        f"{response.url} answered {response.status}, but not as this service does; is a proxy "
        "between, or is it another server?"
    )
    if address := response.headers.get("location"):
        message = f"{response.url} says that it is now at {address}; use that address"
    request_id = response.headers.get("x-request-id")
    return AnswerUnreadable(message, status=response.status, request_id=request_id)


def seconds_until(
    text: str | None, date: str | None = None, clock: Callable[[], float] = time.time
) -> float | None:
    """
    Retry-After in seconds, whether it is a number of them or a time; None for anything else.

    A time counts from the answer's own Date: the two clocks may differ.
    """
    text = text or ""
    if re.fullmatch(r"\s*\d{1,9}\s*", text):
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    now = clock()
    with suppress(ValueError):
        now = email.utils.parsedate_to_datetime(date or "").timestamp()
    return max(0.0, then - now)
