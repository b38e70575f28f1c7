"""
POST /v1/predict: pictures in, their best classes out.

Two doors to one road: the raw body is one picture and the fast door; a multipart form
carries one or more and is the convenient one.  Both keep the upload in memory, within
ALEXNET_MAX_BODY and ALEXNET_MAX_UPLOADS, and both drop the work when the client hangs up.

What can be refused without the body is refused before it is read; while it is read it holds no
place in the queue, lest slow senders fill it.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service import errors
from service.classifier import Prediction, views
from service.engine import Engine
from service.routes import Running, doors, running
from service.routes.errors import STATUSES, documented, refusal
from service.settings import Settings

T = TypeVar("T")
Hold = Callable[[int], None]

PATH: Final = "/v1/predict"
MOST_CLASSES: Final = 1000
SMALL_BODY: Final = 2**20  # bytes
LARGE_SHARE: Final = 0.75  # of ALEXNET_MAX_UPLOADS
MOST_FIELDS: Final = 100  # text fields of a form; we read none of them
CLIENT_LEFT: Final = 499  # for the access log only: nobody is there to read it


class Upload(NamedTuple):
    """One picture as it came; a raw body has no file name."""

    filename: str | None
    data: bytes


class ModelAnswer(BaseModel):
    """Which model answered."""

    name: str
    variant: str
    precision: str
    version: str


class ClassAnswer(BaseModel):
    """One class and how probable it is."""

    index: int
    wordnet_id: str | None  # a network of one's own may have none
    label: str
    probability: float


class FileAnswer(BaseModel):
    """The best classes of one picture, the most probable first."""

    filename: str | None
    classes: list[ClassAnswer]


class FileRefusal(BaseModel):
    """Why one picture of several has no answer."""

    filename: str | None
    error: str
    code: str


class PredictAnswer(BaseModel):
    """An answer for each picture, in the order they came."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": {
                        "name": "alexnet",
                        "variant": "owt",
                        "precision": "int8",
                        "version": "3f9a1c",
                    },
                    "crops": "ten",
                    "predictions": [
                        {
                            "filename": "cat.jpg",
                            "classes": [
                                {
                                    "index": 281,
                                    "wordnet_id": "n02123045",
                                    "label": "tabby, tabby cat",
                                    "probability": 0.61,
                                }
                            ],
                        }
                    ],
                }
            ]
        }
    )

    model: ModelAnswer
    crops: str
    predictions: list[FileAnswer | FileRefusal]


PICTURE: Final = {"schema": {"type": "string", "format": "binary"}}
FORM: Final = {
    "schema": {
        "type": "object",
        "properties": {
            "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
        },
        "required": ["file"],
    }
}
REQUEST_BODY: Final = {
    "required": True,
    "description": "One picture as the body itself, or any number of file parts of a form.",
    "content": {
        "multipart/form-data": FORM,
        "image/*": PICTURE,
        "application/octet-stream": PICTURE,
    },
}


def _whole_number(value: object) -> object:
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 4) or not (
        1 <= int(text) <= MOST_CLASSES
    ):
        raise PydanticCustomError("top", f"must be a whole number from 1 to {MOST_CLASSES}")
    return value


router = APIRouter()


@router.post(
    PATH,
    tags=["predict"],
    summary="Classify one picture or several",
    response_model=PredictAnswer,
    responses=documented(*STATUSES),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def predict(
    request: Request,
    top: Annotated[
        int,
        BeforeValidator(_whole_number),
        Query(
            description="How many classes to answer with.",
            # Not ge= and le=: behind a validator of our own they would stand here as they are.
            json_schema_extra={"minimum": 1, "maximum": MOST_CLASSES},
        ),
    ] = 5,
    crops: Annotated[
        str,
        Query(
            description="ten: the paper's ten views; one: the centre; dense: ten views cut from "
            "the maps of the whole picture, where the model offers it."
        ),
    ] = "ten",
) -> Response:
    """Bytes -> `top` classes for each picture; one bad picture does not spoil the others."""
    service = running(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + service.settings.timeout
    with service.accepted(), _memory(service) as hold:
        engine = service.engine  # the one that answers, even if it is replaced meanwhile
        views(engine, crops)
        service.classifier.batcher.admit()
        try:
            uploads = await _in_time(_uploads(request, service.settings, hold), service.settings)
            doors.charge(request, len(uploads))
            work = service.classifier.classify_many(
                [upload.data for upload in uploads],
                crops=crops,
                top=top,
                timeout=deadline - loop.time(),
                engine=engine,
            )
            outcomes = await _unless_client_leaves(request, work)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
    if refused := _all_refused(uploads, outcomes):
        return refused
    answer = answer_for(engine, crops, [upload.filename for upload in uploads], outcomes)
    return Response(answer.model_dump_json(), media_type="application/json")


def answer_for(
    engine: Engine,
    crops: str,
    filenames: Sequence[str | None],
    outcomes: Sequence[list[Prediction] | errors.ServiceError],
) -> PredictAnswer:
    """The answer's JSON shape; the command `alexnet predict --json` prints the same."""
    model = engine.model
    return PredictAnswer(
        model=ModelAnswer(
            name=model.name,
            variant=model.variant,
            precision=model.precision,
            version=model.version,
        ),
        crops=crops,
        predictions=[
            FileRefusal(filename=name, error=str(outcome), code=outcome.code)
            if isinstance(outcome, errors.ServiceError)
            else FileAnswer(filename=name, classes=[_class(best) for best in outcome])
            for name, outcome in zip(filenames, outcomes, strict=True)
        ],
    )


def _class(best: Prediction) -> ClassAnswer:
    return ClassAnswer(
        index=best.index,
        wordnet_id=best.wordnet_id,
        label=best.label,
        probability=best.probability,
    )


def _all_refused(
    uploads: Sequence[Upload], outcomes: Sequence[list[Prediction] | errors.ServiceError]
) -> Response | None:
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.ServiceError)]
    if len(refused) < len(outcomes):
        return None
    if len(refused) == 1:
        return refusal(refused[0])
    first = f"the first, {uploads[0].filename}: {refused[0]}"
    return refusal(refused[0], f"none of the {len(refused)} files could be classified; {first}")


@contextmanager
def _memory(service: Running) -> Iterator[Hold]:
    """Yields what counts the bytes that this request holds until the block ends."""
    most, held = service.settings.max_uploads, 0

    def hold(size: int) -> None:
        nonlocal held
        # Large bodies leave a quarter to the small ones, lest a few slow senders shut all out.
        small = held + size <= SMALL_BODY
        share = most if small else max(LARGE_SHARE * most, service.settings.max_body)
        if service.held + size > share:
            raise errors.Overloaded(
                f"the bodies of all requests together reach {most} bytes; try again shortly, or "
                "have ALEXNET_MAX_UPLOADS raised",
                retry_after=1,
            )
        held += size
        service.held += size

    try:
        yield hold
    finally:
        service.held -= held


async def _in_time(reading: Awaitable[T], settings: Settings) -> T:
    """What is read, unless its sender is too slow."""
    seconds = min(settings.body_timeout, settings.timeout)
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            return await reading
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise errors.BodyTooSlow(
            f"the body did not arrive within {seconds:g} s; send it faster, or a smaller one"
        ) from error


async def _uploads(request: Request, settings: Settings, hold: Hold) -> list[Upload]:
    """Read the pictures through whichever door the Content-Type names."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = _limited(request, settings.max_body, hold)
    if kind == "multipart/form-data":
        return await _form(request.headers, chunks, settings)
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise errors.MediaTypeUnsupported(
            f"Content-Type {kind} is not taken here; send the picture itself with "
            "-H 'Content-Type: image/jpeg' (or application/octet-stream), "
            "or a form with -F file=@picture.jpg"
        )
    data = b"".join([chunk async for chunk in chunks])
    if not data:
        raise errors.BodyEmpty("the body is empty; send a picture's bytes in it")
    return [Upload(None, data)]


async def _limited(request: Request, most: int, hold: Hold) -> AsyncGenerator[bytes, None]:
    """The body's chunks, up to `most` bytes; a length announced is believed at once."""
    too_large = errors.BodyTooLarge(
        f"the body is larger than {most} bytes; send a smaller one, "
        "or raise ALEXNET_MAX_BODY on the server"
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        hold(len(chunk))
        yield chunk


class _FormParser(MultiPartParser):
    """Starlette's parser, with every file kept in memory and counted against our limit."""

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], max_files: int, max_body: int
    ) -> None:
        super().__init__(headers, stream, max_files=math.inf, max_fields=MOST_FIELDS)
        self.spool_max_size = max_body + 1  # never reached, so nothing goes to disk
        self._most_files = max_files

    def on_part_end(self) -> None:
        super().on_part_end()
        if self._current_files > self._most_files:
            raise errors.TooManyFiles(
                f"the form has more than {self._most_files} files; send them in several "
                "requests, or raise ALEXNET_MAX_FILES on the server"
            )


async def _form(
    headers: Headers, chunks: AsyncGenerator[bytes, None], settings: Settings
) -> list[Upload]:
    parser = _FormParser(headers, chunks, settings.max_files, settings.max_body)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # the latter for a charset that is none
        reason = getattr(error, "message", error)
        raise errors.RequestMalformed(
            f"the form cannot be read: {str(reason).rstrip('.')}; let the client write the "
            "Content-Type and the boundary itself, as curl -F file=@picture.jpg does"
        ) from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise errors.RequestMalformed(
                "the form has no file; send one as -F file=@picture.jpg (the @ makes it a file)"
            )
        return [Upload(_printable(file.filename), await file.read()) for file in files]
    finally:
        await form.close()


def _printable(name: str | None) -> str | None:
    """A file's name without the halves of characters that no answer could hold."""
    return name and name.encode("utf-8", "replace").decode()


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """`work`'s result; if the client hangs up first, `work` is cancelled."""
    result = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait({result, departure}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect
    finally:
        result.cancel()
        departure.cancel()
        await asyncio.gather(result, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    message: Any = None
    while message is None or message["type"] != "http.disconnect":
        message = await request.receive()
