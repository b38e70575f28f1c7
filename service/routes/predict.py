"""
POST /v1/predict: pictures in, their best classes out.

Two doors to one road: the raw body is one picture and the fast door; a multipart form
carries one or more and is the convenient one.  Both keep the upload in memory, within
ALEXNET_MAX_BODY and ALEXNET_MAX_UPLOADS, and both drop the work when the client hangs up.
"""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from service import errors
from service.classifier import Prediction
from service.engine import Engine
from service.routes.errors import STATUSES, documented, refusal
from service.routes.parameters import Crops, Top
from service.routes.road import beside, road
from service.routes.uploads import Upload, uploads

PATHS: Final = ("/v1/predict",)  # that a full queue refuses


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


router = APIRouter()


@router.post(
    PATHS[0],
    tags=["predict"],
    summary="Classify one picture or several",
    response_model=PredictAnswer,
    responses=documented(*STATUSES),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def predict(request: Request, top: Top = 5, crops: Crops = "ten") -> Response:
    """Bytes -> `top` classes for each picture; one bad picture does not spoil the others."""
    async with road(request, crops) as way:
        found = await way.read(lambda chunks: uploads(request.headers, chunks, way.settings))
        outcomes = await way.classes([upload.data for upload in found], top)
    if refused := _all_refused(found, outcomes):
        return refused
    names = [upload.filename for upload in found]
    body = await beside(
        len(found) * top,
        lambda: answer_for(way.engine, crops, names, outcomes).model_dump_json(),
    )
    return Response(body, media_type="application/json")


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
    found: Sequence[Upload], outcomes: Sequence[list[Prediction] | errors.ServiceError]
) -> Response | None:
    refused = [outcome for outcome in outcomes if isinstance(outcome, errors.ServiceError)]
    if len(refused) < len(outcomes):
        return None
    if len(refused) == 1:
        return refusal(refused[0])
    first = f"the first, {found[0].filename}: {refused[0]}"
    return refusal(refused[0], f"none of the {len(refused)} files could be classified; {first}")
