"""
POST /v1/predict: images in, their best classes out.

There are two ways to upload: the raw body is one image and fast, a multipart form carries one or
more and is convenient.  Both keep the upload in memory, within ALEXNET_MAX_BODY and
ALEXNET_MAX_UPLOADS, and both drop the work when the client hangs up.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_json

from service import errors
from service.http.middleware.errors import STATUSES, documented, refusal
from service.http.routes.compression import OFFERED
from service.http.routes.details import ClassAnswer, Heatmap, ViewAnswer, extra
from service.http.routes.parameters import (
    CLASSES_PARAMETER,
    DETAILS_PARAMETER,
    Classes,
    Crops,
    Details,
    DirectRoute,
    Renormalise,
    Threshold,
    Top,
    check_names,
    details_in,
)
from service.http.routes.request import accept, write_answer
from service.http.routes.uploads import Upload, uploads
from service.inference.limits import DEFAULT_TOP
from service.inference.predictions import (
    Detail,
    Result,
    Selection,
    answer,
    class_indices,
    entry,
    select_of_each,
)
from service.telemetry.request_record import record_of

PATHS: Final = ("/v1/predict",)  # that a full queue refuses
# How many times as long as a class takes to write what belongs to it, and the features of an image.
SIZES: Final = {"classes": 1, "views": 10, "heatmap": 10}
FEATURES: Final = 150
# Classes in an answer with details: as many as 64 images, the default of ALEXNET_MAX_FILES, have
# without.  Each takes about 1 kB of memory while it is written.
MOST_IN_ANSWER: Final = 64_000


class ModelAnswer(BaseModel):
    """Which model answered."""

    name: str
    variant: str
    precision: str
    version: str


class FileAnswer(BaseModel):
    """The best classes of one image, the most probable first."""

    filename: str | None
    classes: list[ClassAnswer]
    # Left out, not null: who asks for no details reads none.
    views: list[ViewAnswer] | SkipJsonSchema[None] = Field(
        default=None, description="With details=views."
    )
    heatmap: Heatmap | SkipJsonSchema[None] = Field(
        default=None, description="With details=heatmap."
    )
    features: list[float] | SkipJsonSchema[None] = Field(
        default=None, description="With details=features: float32, the mean over the views."
    )


class FileRefusal(BaseModel):
    """Why one image of several has no answer."""

    filename: str | None
    error: str
    code: str


class PredictAnswer(BaseModel):
    """An answer for each image, in the order they came."""

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


IMAGE: Final = {"schema": {"type": "string", "format": "binary"}}
FORM: Final = {
    "schema": {
        "type": "object",
        "properties": {
            "file": {"type": "array", "items": IMAGE["schema"], "minItems": 1},
        },
        "required": ["file"],
    }
}
REQUEST_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "One image as the body itself, or any number of file parts of a form; packed "
    f"by {OFFERED}, if Content-Encoding says so.",
    "content": {
        "multipart/form-data": FORM,
        "image/*": IMAGE,
        "application/octet-stream": IMAGE,
    },
}


router = APIRouter(route_class=DirectRoute)


@router.post(
    PATHS[0],
    tags=["predict"],
    summary="Classify one image or several",
    response_model=PredictAnswer,
    responses=documented(*STATUSES),
    openapi_extra={
        "requestBody": REQUEST_BODY,
        "parameters": [CLASSES_PARAMETER, DETAILS_PARAMETER],
    },
)
async def predict(
    request: Request,
    top: Top = DEFAULT_TOP,
    crops: Crops = "ten",
    threshold: Threshold = 0.0,
    renormalise: Renormalise = False,
    classes: Classes = None,
    details: Details = None,
) -> Response:
    """Bytes -> `top` classes for each image; one bad image does not spoil the others."""
    check_names([name for name, _ in request.query_params.multi_items()])
    chosen = details_in(details)
    async with accept(request, crops, details=chosen) as accepted:
        record_of(request).answered_as = accepted.engine.model.name
        if "heatmap" in chosen and not accepted.settings.heatmaps:
            raise errors.ParameterInvalid(
                "details=heatmap is switched off here; leave it out, or have ALEXNET_HEATMAPS set"
            )
        labels = accepted.engine.model.labels
        indices = None if classes is None else class_indices(classes, labels)
        selection = Selection(min(top, len(indices or labels)), threshold, indices, renormalise)
        files = await accepted.read(
            lambda chunks: uploads(request.headers, chunks, accepted.settings)
        )
        size = _size(len(files), selection.top, chosen)
        results = await accepted.classify([file.data for file in files], chosen)
    if refused := _all_refused(files, results):
        return refused
    engine = accepted.engine

    def body() -> bytes:
        best = select_of_each(results, labels, selection)
        predictions = [
            entry(file.filename, outcome) for file, outcome in zip(files, best, strict=True)
        ]
        if chosen:
            for prediction, result in zip(predictions, results, strict=True):
                if isinstance(result, Result):
                    prediction.update(extra(engine, result, selection))
        return to_json(answer(engine.model, crops, predictions), inf_nan_mode="null")

    return Response(await write_answer(size, body), media_type="application/json")


def _size(images: int, top: int, details: Collection[Detail]) -> int:
    """How long an answer is, in classes; `ParameterInvalid` if its details make it too long."""
    of_class = sum(SIZES.get(part, 0) for part in ("classes", *details))
    size = images * (top * of_class + FEATURES * ("features" in details))
    if details and size > MOST_IN_ANSWER:
        raise errors.ParameterInvalid(
            f"an answer for {images} images with top={top} and details={','.join(details)} "
            f"would be as long as {size} classes, and {MOST_IN_ANSWER} are the most; send fewer "
            "images in a request, or ask for a lower top"
        )
    return size


def _all_refused(
    files: Sequence[Upload], results: Sequence[Result | errors.ServiceError]
) -> Response | None:
    refused = [result for result in results if isinstance(result, errors.ServiceError)]
    if len(refused) < len(results):
        return None
    if len(refused) == 1:
        return refusal(refused[0])
    first = f"the first, {files[0].filename}: {refused[0]}"
    return refusal(refused[0], f"none of the {len(refused)} files could be classified; {first}")
