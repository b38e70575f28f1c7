"""
TorchServe's inference API: POST or PUT /predictions/{model}, GET /ping.

Answers have TorchServe's shape, refusals have this service's.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service import errors
from service.http.middleware.errors import STATUSES, documented
from service.http.routes.compression import OFFERED
from service.http.routes.health import check, report
from service.http.routes.parameters import Crops, DirectRoute, Top
from service.http.routes.request import accept
from service.http.routes.uploads import uploads
from service.http.routes.v1 import IMAGE, REQUEST_BODY
from service.http.state import state_of
from service.inference.limits import DEFAULT_TOP
from service.inference.predictions import Prediction, top_k

FORM: Final = {
    "schema": {"type": "object", "properties": {"file": IMAGE["schema"]}, "required": ["file"]}
}
DESCRIBED: Final[dict[str, Any]] = {
    "summary": "Classify one image, as TorchServe does",
    "response_model": dict[str, float],
    "responses": documented(*STATUSES),
    "openapi_extra": {
        "requestBody": REQUEST_BODY
        | {
            "description": "One image as the body itself, or as the only file of a form; packed "
            f"by {OFFERED}, if Content-Encoding says so.",
            "content": REQUEST_BODY["content"] | {"multipart/form-data": FORM},
        }
    },
}

about = APIRouter(tags=["torchserve"])  # open to all


class PingAnswer(BaseModel):
    """Whether the model is served."""

    status: str


@check(about, "/ping", PingAnswer, summary="Healthy, or not")
async def ping(request: Request) -> Response:
    """200 while an image sent now would be classified, 503 otherwise."""
    ready = state_of(request).ready
    return report(PingAnswer(status="Healthy" if ready else "Unhealthy"), ready)


def paths(name: str) -> tuple[str, str]:
    """Where a model of this name answers, and a full queue refuses."""
    return f"/predictions/{name}", f"/predictions/{name}/1.0"


def router(name: str) -> APIRouter:
    """The endpoints that classify with a model of this name, to be behind the keys."""
    routes = APIRouter(tags=["torchserve"], route_class=DirectRoute)
    path, with_version = paths(name)
    # `curl -T picture.jpg` sends a PUT, as TorchServe's own examples do.
    for method in (routes.post, routes.put):
        method(path, **DESCRIBED)(predictions)
        method(with_version, include_in_schema=False)(predictions)
    return routes


async def predictions(request: Request, top: Top = DEFAULT_TOP, crops: Crops = "ten") -> Response:
    """One image -> label and probability of the best classes, the most probable first."""
    async with accept(request, crops) as accepted:
        files = await accepted.read(
            # Its clients call images application/jpg, text/plain, or what curl does.
            lambda chunks: uploads(request.headers, chunks, accepted.settings, any_type=True)
        )
        if len(files) > 1:
            raise errors.RequestMalformed(
                f"the form has {len(files)} files, and this endpoint answers for one; send each by "
                "itself, or all together to /v1/predict"
            )
        [result] = await accepted.classify([files[0].data])
    if isinstance(result, errors.ServiceError):
        raise result
    return JSONResponse(by_label(top_k(result.probabilities, accepted.engine.model.labels, top)))


def by_label(best: Sequence[Prediction]) -> dict[str, float]:
    """Probabilities by label, with the WordNet id in the key where two classes share a label."""
    named = Counter(prediction.label for prediction in best)
    return {
        prediction.label
        if named[prediction.label] == 1
        else f"{prediction.label} ({prediction.wordnet_id or prediction.index})": (
            prediction.probability
        )
        for prediction in best
    }
