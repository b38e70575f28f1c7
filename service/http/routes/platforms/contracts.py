"""
Which platform sends encoded images where, how, and what it reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, RootModel

from service.http.routes.details import ClassAnswer, classes
from service.http.routes.parameters import MOST_CLASSES
from service.inference.predictions import Prediction
from service.settings import Settings


class InstanceAnswer(BaseModel):
    """The best classes of one instance, the most probable first."""

    classes: list[ClassAnswer]


class PredictionsAnswer(BaseModel):
    """An answer for each instance, in the order they came."""

    predictions: list[InstanceAnswer]


class LabelScore(BaseModel):
    """One class, as Hugging Face's clients read it."""

    label: str
    score: float


class LabelScores(RootModel[list[LabelScore]]):
    """The best classes of the image, the most probable first."""


def _predictions(images: Sequence[Sequence[Prediction]]) -> BaseModel:
    return PredictionsAnswer(
        predictions=[InstanceAnswer(classes=classes(predictions)) for predictions in images]
    )


def _label_scores(images: Sequence[Sequence[Prediction]]) -> BaseModel:
    [predictions] = images
    return LabelScores(
        [LabelScore(label=each.label, score=each.probability) for each in predictions]
    )


@dataclass(frozen=True)
class Contract:
    """What one platform's clients send, and what they read."""

    platform: str
    operation: str  # in the OpenAPI document
    path: Callable[[Settings], str | None]
    images: Literal["instances", "inputs"]  # JSON's member: a list of images, or one image
    raw: bool  # whether the body may be the image itself
    write: Callable[[Sequence[Sequence[Prediction]]], BaseModel]  # the best classes of each image
    answer: type[BaseModel]

    @property
    def request_body(self) -> dict[str, Any]:
        """As OpenAPI describes it."""
        member = _INSTANCES if self.images == "instances" else _IMAGE
        schema = {
            "type": "object",
            "required": [self.images],
            "properties": {self.images: member, "parameters": _PARAMETERS},
        }
        content: dict[str, Any] = {"application/json": {"schema": schema}}
        if self.raw:
            content |= {"image/*": _BYTES, "application/octet-stream": _BYTES}
        how = ", or the image itself" if self.raw else ""
        return {
            "required": True,
            "description": f"JSON with encoded images in base64{how}.",
            "content": content,
        }


_BASE64: Final = {
    "type": "string",
    "format": "byte",
    "minLength": 1,
    "description": "An encoded image in base64.",
}
_B64: Final = {
    "type": "object",
    "required": ["b64"],
    "properties": {"b64": _BASE64},
    "additionalProperties": False,
}
_IMAGE_BYTES: Final = {
    "type": "object",
    "required": ["image_bytes"],
    "properties": {"image_bytes": {"anyOf": [_BASE64, _B64]}},
    "additionalProperties": False,
}
_IMAGE: Final = {"anyOf": [_BASE64, _B64, _IMAGE_BYTES]}
_INSTANCES: Final = {"type": "array", "minItems": 1, "items": _IMAGE}
_TOP: Final = {"type": "integer", "minimum": 1, "maximum": MOST_CLASSES}
_PARAMETERS: Final = {
    "type": ["object", "null"],
    "description": "top (or top_k) and crops, as in the query; they win over it.",
    "properties": {
        "top": _TOP,
        "top_k": _TOP,
        "crops": {"type": "string"},
        "function_to_apply": {"const": "softmax"},
    },
    "additionalProperties": False,
}
_BYTES: Final = {"schema": {"type": "string", "format": "binary"}}

CONTRACTS: Final = (
    Contract(
        "KServe v1 and TensorFlow Serving",
        "kserve_v1_predict",
        lambda settings: f"/v1/models/{settings.model_name}:predict",
        "instances",
        False,
        _predictions,
        PredictionsAnswer,
    ),
    Contract(
        "SageMaker",
        "sagemaker_invocations",
        lambda settings: "/invocations",
        "instances",
        True,
        _predictions,
        PredictionsAnswer,
    ),
    Contract(
        "Vertex AI",
        "vertex_ai_predict",
        lambda settings: settings.predict_route,
        "instances",
        False,
        _predictions,
        PredictionsAnswer,
    ),
    Contract(
        "Hugging Face",
        "hugging_face_classify",
        lambda settings: f"/models/{settings.model_name}",
        "inputs",
        True,
        _label_scores,
        LabelScores,
    ),
)


def by_path(settings: Settings) -> dict[str, Contract]:
    """The contract of each path; of two that name one path, the first of the table."""
    found: dict[str, Contract] = {}
    for contract in CONTRACTS:
        if (path := contract.path(settings)) is not None:
            found.setdefault(path, contract)
    return found
