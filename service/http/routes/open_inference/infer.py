"""
POST /v2/models/{model}/infer: images in, probabilities, classes or features out.
"""

import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic_core import to_json

from service.errors import ServiceError
from service.http.middleware.admission import INFERENCE_HEADER
from service.http.middleware.errors import STATUSES, documented, refusal
from service.http.routes import compression
from service.http.routes.open_inference import served_models
from service.http.routes.open_inference.infer_request import BINARY_SIZE, Output, Query, read
from service.http.routes.open_inference.schema import ANSWER, REQUEST_BODY
from service.http.routes.open_inference.served_models import FEATURES, Served
from service.http.routes.request import AcceptedRequest, Chunks, accept, write_answer
from service.inference.model_file import Label
from service.inference.predictions import Probabilities, Result, top_k
from service.telemetry.request_record import VERSION, ModelNames

VERSIONS: Final = ("", f"/versions/{VERSION}")
JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"


class Tensor(NamedTuple):
    """What an output is: its values row by row, or their bytes, as it was asked for."""

    datatype: str
    shape: list[int]
    data: list[Any] | bytes


class Answer(NamedTuple):
    """A body, and the length of the JSON before its bytes, if there are any."""

    body: bytes
    media_type: str
    header: int | None


def paths(name: str) -> tuple[str, ...]:
    """Where the models infer, and a full queue refuses."""
    names = ModelNames(name)
    return tuple(
        f"/v2/models/{model}{version}/infer"
        for model in (names.tensor, names.image)
        for version in VERSIONS
    )


def router(name: str) -> APIRouter:
    """The endpoints that infer, to be behind the keys."""
    routes = APIRouter(tags=["open inference"])
    models = served_models.models(name)
    for path in paths(name):
        served = models[path.split("/")[3]]
        routes.post(
            path,
            name=f"infer {served.name}",
            summary=f"Infer with {served.name}",
            include_in_schema=VERSIONS[1] not in path,
            response_class=Response,
            responses=documented(*STATUSES) | ANSWER,
            openapi_extra={"requestBody": REQUEST_BODY},
        )(_handler(served))
    return routes


def _handler(served: Served) -> Callable[[Request], Awaitable[Response]]:
    """What infers with one of the models."""

    async def infer(request: Request) -> Response:
        async with accept(request, None, model=served.name) as accepted:
            query = await accepted.read(lambda chunks: _query(request, chunks, served, accepted))
            accepted.crops = query.crops
            results = await accepted.classify(query.rows, query.details)
        rows = list[Result]()
        for number, result in enumerate(results):
            if isinstance(result, ServiceError):
                return refusal(result, f"row {number}: {result}" if len(results) > 1 else None)
            rows.append(result)
        labels = accepted.engine.model.labels
        size = len(rows) * sum(output.classes or len(labels) for output in query.outputs)
        answer = await write_answer(size, lambda: write(served, query, rows, labels))
        return await _response(request, answer)

    infer.__doc__ = (
        f"`{served.input.name}`, {served.input.datatype} {served.input.shape}, to "
        f"`{served.output}`; also at /versions/{VERSION}."
    )
    return infer


async def _query(
    request: Request, chunks: Chunks, served: Served, accepted: AcceptedRequest
) -> Query:
    body = b"".join([chunk async for chunk in chunks])
    header = request.headers.get(INFERENCE_HEADER)
    return read(body, header, served, accepted.settings.max_files)


async def _response(request: Request, answer: Answer) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if answer.header is not None:
        headers[INFERENCE_HEADER] = str(answer.header)
    body = answer.body
    encoding = compression.wanted(request.headers.get("accept-encoding", ""))
    if encoding and len(body) >= compression.WORTH:
        headers["Content-Encoding"] = encoding
        body = await compression.packed(body, encoding)
    return Response(body, media_type=answer.media_type, headers=headers)


def write(served: Served, query: Query, rows: Sequence[Result], labels: Sequence[Label]) -> Answer:
    """Answer a query whose rows have these results, in their order."""
    answer: dict[str, Any] = {"model_name": served.name, "model_version": VERSION}
    if query.id:
        answer["id"] = query.id
    answer["outputs"], after = [], []
    for output in query.outputs:
        tensor = _tensor(output, served, rows, labels)
        told: dict[str, Any] = {
            "name": output.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if isinstance(tensor.data, bytes):
            told["parameters"] = {BINARY_SIZE: len(tensor.data)}
            after.append(tensor.data)
        else:
            told["data"] = tensor.data
        answer["outputs"].append(told)
    head = to_json(answer, inf_nan_mode="null")
    if after:
        return Answer(b"".join([head, *after]), BINARY, len(head))
    return Answer(head, JSON, None)


def _tensor(
    output: Output, served: Served, rows: Sequence[Result], labels: Sequence[Label]
) -> Tensor:
    if output.name == FEATURES:
        return _floats([row.features for row in rows if row.features is not None], output.binary)
    probabilities = [row.probabilities for row in rows]
    classes = output.classes or served.default_classes
    if classes is None:
        return _floats(probabilities, output.binary)
    return _classes(probabilities, labels, classes, output.binary)


def _floats(rows: Sequence[NDArray[np.float32]], binary: bool) -> Tensor:
    values = np.stack(rows).astype("<f4", copy=False)
    data = values.tobytes() if binary else values.ravel().tolist()
    return Tensor("FP32", list(values.shape), data)


def _classes(
    rows: Sequence[Probabilities], labels: Sequence[Label], classes: int, binary: bool
) -> Tensor:
    """The classification extension's strings, the most probable first."""
    count = min(classes, len(labels))
    strings = [
        # Clients split them at the colons.
        f"{its.probability:f}:{its.index}:{its.label.replace(':', ';')}"
        for row in rows
        for its in top_k(row, labels, count)
    ]
    shape = [len(rows), count]
    if not binary:
        return Tensor("BYTES", shape, strings)
    elements = (struct.pack("<I", len(text)) + text for text in map(str.encode, strings))
    return Tensor("BYTES", shape, b"".join(elements))
