"""
POST /v2/models/{model}/infer: images in, probabilities or classes out.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter, Request, Response

from service.errors import ServiceError
from service.http.middleware.admission import INFERENCE_HEADER
from service.http.middleware.errors import STATUSES, documented, refusal
from service.http.routes import compression
from service.http.routes.open_inference import infer_request, infer_response, served_models
from service.http.routes.open_inference.schema import ANSWER, REQUEST_BODY
from service.http.routes.open_inference.served_models import Served
from service.http.routes.request import AcceptedRequest, Chunks, accept, write_answer
from service.telemetry.request_record import VERSION, ModelNames

VERSIONS: Final = ("", f"/versions/{VERSION}")


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
            results = await accepted.classify(query.rows)
        rows = []
        for number, result in enumerate(results):
            if isinstance(result, ServiceError):
                return refusal(result, f"row {number}: {result}" if len(results) > 1 else None)
            rows.append(result.probabilities)
        labels = accepted.engine.model.labels
        size = len(rows) * (query.classes or len(labels))
        answer = await write_answer(size, lambda: infer_response.write(served, query, rows, labels))
        return await _response(request, answer)

    infer.__doc__ = (
        f"`{served.input.name}`, {served.input.datatype} {served.input.shape}, to "
        f"`{served.output}`; also at /versions/{VERSION}."
    )
    return infer


async def _query(
    request: Request, chunks: Chunks, served: Served, accepted: AcceptedRequest
) -> infer_request.Query:
    body = b"".join([chunk async for chunk in chunks])
    header = request.headers.get(INFERENCE_HEADER)
    return infer_request.read(body, header, served, served_models.max_rows(accepted.settings))


async def _response(request: Request, answer: infer_response.Answer) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if answer.header is not None:
        headers[INFERENCE_HEADER] = str(answer.header)
    body = answer.body
    encoding = compression.wanted(request.headers.get("accept-encoding", ""))
    if encoding and len(body) >= compression.WORTH:
        headers["Content-Encoding"] = encoding
        body = await compression.packed(body, encoding)
    return Response(body, media_type=answer.media_type, headers=headers)
