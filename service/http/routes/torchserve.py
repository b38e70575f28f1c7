"""
TorchServe's door: POST or PUT /predictions/alexnet, GET /ping.

For clients that were written for it; what they get has its shape, refusals have ours.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service import errors
from service.http.middleware.errors import STATUSES, documented
from service.http.routes.health import report, unwell
from service.http.routes.parameters import Crops, Top
from service.http.routes.request import road
from service.http.routes.uploads import uploads
from service.http.routes.v1 import REQUEST_BODY
from service.http.state import running
from service.inference.classifier import Prediction

PATHS: Final = ("/predictions/alexnet", "/predictions/alexnet/1.0")  # that a full queue refuses

DESCRIBED: Final[dict[str, Any]] = {
    "summary": "Classify one image, as TorchServe does",
    "response_model": dict[str, float],
    "responses": documented(*STATUSES),
    "openapi_extra": {"requestBody": REQUEST_BODY},
}

router = APIRouter(tags=["torchserve"])  # behind the keys
about = APIRouter(tags=["torchserve"])  # open to all


class PingAnswer(BaseModel):
    """Whether the model is served."""

    status: str


@about.head("/ping", include_in_schema=False)
@about.get(
    "/ping",
    summary="Healthy, or not",
    response_model=PingAnswer,
    responses=unwell(PingAnswer, "Not ready: starting or draining"),
)
async def ping(request: Request) -> Response:
    """200 while an image sent now would be classified, 503 otherwise."""
    ready = running(request).ready
    return report(PingAnswer(status="Healthy" if ready else "Unhealthy"), ready)


# `curl -T picture.jpg` sends a PUT, as TorchServe's own examples do.
@router.put(PATHS[1], include_in_schema=False)
@router.post(PATHS[1], include_in_schema=False)
@router.put(PATHS[0], **DESCRIBED)
@router.post(PATHS[0], **DESCRIBED)
async def predictions(request: Request, top: Top = 5, crops: Crops = "ten") -> Response:
    """One image -> label and probability of the best classes, the most probable first."""
    async with road(request, crops) as way:
        found = await way.read(
            # Its clients call images application/jpg, text/plain, or whatever curl does.
            lambda chunks: uploads(request.headers, chunks, way.settings, any_type=True)
        )
        if len(found) > 1:
            raise errors.RequestMalformed(
                f"the form has {len(found)} files, and this door answers for one; send each by "
                "itself, or all together to /v1/predict"
            )
        [outcome] = await way.classes([found[0].data], top)
    if isinstance(outcome, errors.ServiceError):
        raise outcome
    return JSONResponse(by_label(outcome))


def by_label(best: Sequence[Prediction]) -> dict[str, float]:
    """The probabilities by label; of ImageNet's two cranes each has its WordNet id beside it."""
    named = Counter(prediction.label for prediction in best)
    return {
        prediction.label
        if named[prediction.label] == 1
        else f"{prediction.label} ({prediction.wordnet_id or prediction.index})": (
            prediction.probability
        )
        for prediction in best
    }
