"""
Each platform's paths, bodies and answers, one row each.  A body is parsed to its images.

The body is JSON with base64 in it, in any form that one of the platforms uses, or the image itself:

    {"instances": [IMAGE, ...]}         or {"inputs": IMAGE}, and perhaps "parameters" beside it
    IMAGE                               "BASE64", {"b64": IMAGE} or {"image_bytes": IMAGE}

No image format begins with a brace, so no Content-Type is needed to tell JSON from an image.
What is wrong is a `RequestError`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import BaseModel, RootModel
from pydantic_core import from_json

from service.errors import (
    BodyEmpty,
    BodyTooLarge,
    ParameterInvalid,
    RequestMalformed,
    TooManyFiles,
)
from service.http.routes.details import ClassAnswer, classes
from service.http.routes.json_base64 import decoded, too_costly
from service.inference.limits import MOST_CLASSES
from service.inference.predictions import Prediction
from service.settings import Settings

# The usual name of the input, and TensorFlow Serving's for bytes.
IMAGE_NAMES: Final = ("image_bytes", "b64")
PARAMETER_NAMES: Final = {"top": "top", "top_k": "top", "crops": "crops"}
SHOWN: Final = 64  # characters of a name that is sent back


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


@dataclass(frozen=True)
class Query:
    """What a request holds: encoded images, and how they are to be answered."""

    images: tuple[bytes, ...]
    top: int
    crops: str


def read(
    body: bytes, contract: Contract, max_images: int, *, is_json: bool, top: int, crops: str
) -> Query:
    """Read a whole body; `top` and `crops` are the query's, `is_json` what its headers say."""
    if not body:
        what = " or an image's bytes" if contract.raw else ""
        raise BodyEmpty(f"the body is empty; send JSON such as {_example(contract)}{what} in it")
    if contract.raw and not is_json and not body[:64].lstrip().startswith(b"{"):
        return Query((body,), top, crops)
    request = _parsed(body, contract)
    texts = _texts(request, contract, max_images)
    images = tuple(_image(text, place) for place, text in texts.items())
    return _with_parameters(Query(images, top, crops), request.get("parameters"))


def _example(contract: Contract) -> str:
    return (
        '{"instances": [{"b64": "..."}]}' if contract.images == "instances" else '{"inputs": "..."}'
    )


def _parsed(body: bytes, contract: Contract) -> dict[str, Any]:
    if too_costly(body):
        raise BodyTooLarge(
            "the JSON holds so many values that it would take too long to read; send encoded "
            "images in base64, not pixels"
        )
    try:
        request = from_json(body)
    except ValueError as error:
        raise RequestMalformed(
            f"the body cannot be read as JSON: {error}; send such as {_example(contract)}"
        ) from error
    if not isinstance(request, dict) or contract.images not in request:
        raise RequestMalformed(
            f"the JSON must be an object with {contract.images!r}; send such as "
            f"{_example(contract)}"
        )
    return request


def _texts(request: dict[str, Any], contract: Contract, max_images: int) -> dict[str, str]:
    """The base64 of each image by its place in the JSON; no more than are allowed is looked at."""
    values = request[contract.images]
    if contract.images == "inputs":
        return {"inputs": _text(values, "inputs")}
    if not isinstance(values, list):
        raise RequestMalformed(f"instances must be a list; send such as {_example(contract)}")
    if not values:
        raise BodyEmpty("instances has no image; send one or more")
    texts = {
        place: _text(value, place)
        for number, value in enumerate(values[:max_images])
        for place in [f"instances[{number}]"]
    }
    if len(values) > max_images:
        raise TooManyFiles(
            f"instances has more than {max_images} images; send them in several requests, or raise "
            "ALEXNET_MAX_FILES on the server"
        )
    return texts


def _text(value: Any, place: str) -> str:
    """The base64 of one image; an object around it has one of two names, and no other."""
    for name in IMAGE_NAMES:
        if isinstance(value, dict) and list(value) == [name]:
            value = value[name]
    if not isinstance(value, str):
        raise RequestMalformed(
            f"{place} must be an encoded image in base64: a string, or an object with it as "
            f"{' or '.join(IMAGE_NAMES)}"
        )
    return value


def _image(text: str, place: str) -> bytes:
    try:
        image = decoded(text)
    except ValueError as error:
        raise RequestMalformed(
            f"{place} is not base64; send the encoded image's bytes as base64 makes them"
        ) from error
    if not image:
        raise BodyEmpty(f"{place} is empty; send an image's bytes as base64 in it")
    return image


def _with_parameters(query: Query, parameters: Any) -> Query:
    if parameters is None:
        return query
    if not isinstance(parameters, dict):
        raise RequestMalformed('parameters must be an object, such as {"top": 3}')
    for name, value in parameters.items():
        query = _with(query, name, value)
    return query


def _with(query: Query, name: str, value: Any) -> Query:
    if value is None or (name, value) == ("function_to_apply", "softmax"):
        return query
    if name == "function_to_apply":
        raise ParameterInvalid(
            "parameters.function_to_apply must be softmax, which is part of the model; leave it out"
        )
    if name not in PARAMETER_NAMES:
        raise ParameterInvalid(
            f"there is no parameter {name[:SHOWN]!r} here; there are {', '.join(PARAMETER_NAMES)}"
        )
    if PARAMETER_NAMES[name] == "top":
        # JSON tells no 5.0 from 5; Python takes true for 1.
        if type(value) not in (int, float) or value not in range(1, MOST_CLASSES + 1):
            raise ParameterInvalid(
                f"parameters.{name} must be a whole number from 1 to {MOST_CLASSES}"
            )
        return replace(query, top=int(value))
    if not isinstance(value, str):
        raise ParameterInvalid('parameters.crops must be a string, such as "ten"')
    return replace(query, crops=value[:SHOWN])
