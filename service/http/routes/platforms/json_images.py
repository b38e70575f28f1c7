"""
A body to its images: JSON with base64 in it, in any form that one of the platforms uses, or the
image itself.

    {"instances": [IMAGE, ...]}         or {"inputs": IMAGE}, and perhaps "parameters" beside it
    IMAGE                               "BASE64", {"b64": IMAGE} or {"image_bytes": IMAGE}

No image format begins with a brace, so no Content-Type is needed to tell JSON from an image.
What is wrong is a `RequestError`.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic_core import from_json

from service.errors import (
    BodyEmpty,
    BodyTooLarge,
    ParameterInvalid,
    RequestMalformed,
    TooManyFiles,
)
from service.http.routes.base64_text import decoded
from service.http.routes.json_cost import too_costly
from service.http.routes.parameters import MOST_CLASSES
from service.http.routes.platforms.contracts import Contract

NAMES: Final = ("image_bytes", "b64")  # the usual name of the input, TensorFlow Serving's for bytes
PARAMETERS: Final = {"top": "top", "top_k": "top", "crops": "crops"}
SHOWN: Final = 64  # characters of a name that is sent back


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
    for name in NAMES:
        if isinstance(value, dict) and list(value) == [name]:
            value = value[name]
    if not isinstance(value, str):
        raise RequestMalformed(
            f"{place} must be an encoded image in base64: a string, or an object with it as "
            f"{' or '.join(NAMES)}"
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
    if name not in PARAMETERS:
        raise ParameterInvalid(
            f"there is no parameter {name[:SHOWN]!r} here; there are {', '.join(PARAMETERS)}"
        )
    if PARAMETERS[name] == "top":
        # JSON tells no 5.0 from 5; Python takes true for 1.
        if type(value) not in (int, float) or value not in range(1, MOST_CLASSES + 1):
            raise ParameterInvalid(
                f"parameters.{name} must be a whole number from 1 to {MOST_CLASSES}"
            )
        return replace(query, top=int(value))
    if not isinstance(value, str):
        raise ParameterInvalid('parameters.crops must be a string, such as "ten"')
    return replace(query, crops=value[:SHOWN])
