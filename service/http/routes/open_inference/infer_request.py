"""
The body of an inference request to its images.  It says too how they are to be answered.

    JSON                                  tensors in it, as `data`
    JSON | bytes                          Inference-Header-Content-Length says where the JSON ends
    bytes                                 that header is 0: one row of the only input

What is wrong is a `RequestError`.  Pixels are views of the body, not copies.

What JSON may cost to parse is limited (`json_base64`); measured, one image takes 10 ms in one list
and 30 ms nested.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
)

from service.errors import (
    BodyEmpty,
    BodyTooLarge,
    ParameterInvalid,
    RequestMalformed,
    TooManyFiles,
)
from service.http.middleware.admission import INFERENCE_HEADER
from service.http.routes.json_base64 import decoded, too_costly
from service.http.routes.open_inference.served_models import FEATURES, Served
from service.http.routes.request import DEFAULT_CROPS
from service.inference.predictions import Detail
from service.inference.queue import Pixels

LENGTH: Final = re.compile(r"[0-9]{1,10}")
BINARY_SIZE: Final = "binary_data_size"
LONGEST_ID: Final = 1024  # characters; it is sent back

BYTES: Final = "BYTES"  # the datatype; the other is UINT8

Rows = Sequence[bytes | Pixels]
Name = Annotated[str, Field(max_length=256)]
Parameters = dict[str, Any]


def _or(default: object) -> BeforeValidator:
    """Typed clients send null for what they leave out."""
    return BeforeValidator(lambda value: default if value is None else value)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)

    parameters: Annotated[Parameters, _or({})] = {}


class InputTensor(_Part):
    """An input, as the protocol's `$request_input`."""

    name: Name
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8), FailFast()]
    datatype: Name
    data: list[Any] | None = None


class OutputWanted(_Part):
    """An output that is asked for, as `$request_output`."""

    name: Name


class InferRequest(_Part):
    """`$inference_request`; what it holds beyond these is not looked at."""

    id: Annotated[str, Field(max_length=LONGEST_ID), _or("")] = ""
    inputs: Annotated[list[InputTensor], Field(max_length=8), FailFast()]
    outputs: Annotated[list[OutputWanted], Field(max_length=8), FailFast(), _or([])] = []


@dataclass(frozen=True)
class Output:
    """An output that is asked for."""

    name: str
    binary: bool = False  # whether it comes back as bytes
    classes: int | None = None  # as many as the model answers with by itself


@dataclass(frozen=True)
class Query:
    """What a request holds: encoded images, or views of uint8 `(256, 256, 3)`."""

    rows: Rows
    outputs: Sequence[Output]  # in the order of the answer
    id: str = ""
    crops: str = DEFAULT_CROPS

    @property
    def details(self) -> frozenset[Detail]:
        """What has to come out of the network beside the probabilities."""
        asked = any(output.name == FEATURES for output in self.outputs)
        return frozenset[Detail](["features"] if asked else [])


def read(body: bytes, header: str | None, served: Served, max_rows: int) -> Query:
    """Read a whole body, whose JSON is as long as `header` says, or all of it."""
    if header is None:
        return _query(body, memoryview(b""), served, max_rows)
    if not LENGTH.fullmatch(header) or int(header) > len(body):
        raise RequestMalformed(
            f"{INFERENCE_HEADER} is {header[:32]!r}, but must be the length of the JSON, at most "
            f"the {len(body)} bytes of the body"
        )
    if length := int(header):
        return _query(body[:length], memoryview(body)[length:], served, max_rows)
    if not body:
        raise BodyEmpty("the body is empty; send one row of the input in it")
    if served.input.datatype == BYTES:  # without its length, which is the body's
        rows: Rows = [body]
    else:
        rows = _from_bytes(memoryview(body), served.input.datatype, (1, *served.input.row))
    return Query(rows, [Output(served.output, binary=True)])


def _query(text: bytes, after: memoryview, served: Served, max_rows: int) -> Query:
    request = _parsed(text)
    its = _only_input(request, served)
    rows = _rows(its, after, _shape(its, served, max_rows))
    crops = request.parameters.get("crops", DEFAULT_CROPS)
    if not isinstance(crops, str):
        raise ParameterInvalid(f'parameters.crops must be a string, such as "{DEFAULT_CROPS}"')
    return Query(rows, _outputs(request, served), request.id, crops[:64])


def _parsed(text: bytes) -> InferRequest:
    if too_costly(text):
        raise BodyTooLarge(
            "the JSON holds more values than one or two images have, and would take too long to "
            f"read; send the tensor in binary, with {BINARY_SIZE} and {INFERENCE_HEADER}, which "
            "tritonclient does by itself"
        )
    try:
        return InferRequest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise RequestMalformed(
            f"the inference request cannot be read: {place and place + ': '}{problem['msg']}; it "
            "is JSON, and bytes may follow only if the header "
            f"{INFERENCE_HEADER} says where it ends"
        ) from error


def _only_input(request: InferRequest, served: Served) -> InputTensor:
    expected = f"{served.name} takes one input, {served.input.name!r}"
    if len(request.inputs) != 1:
        raise RequestMalformed(f"{expected}; the request has {len(request.inputs)}")
    [its] = request.inputs
    if its.name != served.input.name:
        raise RequestMalformed(f"{expected}; the request has {its.name!r}")
    if its.datatype != served.input.datatype:
        raise RequestMalformed(
            f"input {its.name!r} is {served.input.datatype}; the request has {its.datatype!r}"
        )
    _no_shared_memory(its)
    return its


def _outputs(request: InferRequest, served: Served) -> list[Output]:
    """The outputs that are asked for, by default the model's usual one."""
    binary = _flag(request.parameters, "binary_data_output", False)
    if not request.outputs:
        return [Output(served.output, binary)]
    names = [output.name for output in request.outputs]
    if not set(names) <= {served.output, FEATURES} or len(set(names)) < len(names):
        raise RequestMalformed(
            f"{served.name} has the outputs {served.output!r} and {FEATURES!r}, each to be asked "
            f"for once; the request asks for {names}"
        )
    return [_output(output, binary) for output in request.outputs]


def _output(wanted: OutputWanted, binary: bool) -> Output:
    _no_shared_memory(wanted)
    classes = _classification(wanted.parameters)
    if wanted.name == FEATURES and classes is not None:
        raise RequestMalformed(f"parameters.classification is not for {FEATURES}; leave it out")
    return Output(wanted.name, _flag(wanted.parameters, "binary_data", binary), classes)


def _no_shared_memory(part: _Part) -> None:
    if "shared_memory_region" in part.parameters:
        raise RequestMalformed("there is no shared memory here; send and ask for tensors in binary")


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    if not isinstance(value := parameters.get(name, default), bool):
        raise RequestMalformed(f"parameters.{name} must be true or false")
    return value


def _classification(parameters: Parameters) -> int | None:
    if (count := parameters.get("classification")) is None:
        return None
    if type(count) is not int or count < 1:
        raise RequestMalformed("parameters.classification must be a number of classes, 1 or more")
    return count


def _shape(its: InputTensor, served: Served, max_rows: int) -> tuple[int, ...]:
    """The shape of the only input, checked before anything of its size is made."""
    rows, *rest = its.shape or [0]
    alone = served.input.datatype == BYTES and not rest  # one value a row: [N] will do
    if tuple(rest) != served.input.row and not alone:
        given = its.shape if max(its.shape, default=0) < 2**63 else "one that is out of all bounds"
        raise RequestMalformed(
            f"input {its.name!r} has the shape {served.input.shape}, with the number of rows for "
            f"-1; the request has {given}"
        )
    if not rows:
        raise BodyEmpty(f"input {its.name!r} has no rows; send one or more")
    if rows > max_rows:
        raise TooManyFiles(
            f"input {its.name!r} has more than {max_rows} rows; send them in several requests, "
            "or raise ALEXNET_MAX_FILES on the server"
        )
    return rows, *rest


def _rows(its: InputTensor, after: memoryview, shape: tuple[int, ...]) -> Rows:
    """The data of the only input: in the JSON, or all that is after it."""
    size = its.parameters.get(BINARY_SIZE)
    if (its.data is None) == (size is None):
        raise RequestMalformed(
            f"input {its.name!r} must have either data in the JSON or {BINARY_SIZE} in its "
            "parameters"
        )
    if its.data is not None and not after:
        return _from_json(its.data, its.datatype, shape)
    if its.data is not None:
        raise RequestMalformed(f"{len(after)} bytes follow the JSON, but no input is in binary")
    if type(size) is not int or size != len(after):
        raise RequestMalformed(
            f"{BINARY_SIZE} of input {its.name!r} must be the number of bytes that follow the "
            f"JSON, {len(after)}; the header {INFERENCE_HEADER} says where it ends"
        )
    return _from_bytes(after, its.datatype, shape)


def _from_bytes(tensor: memoryview, datatype: str, shape: tuple[int, ...]) -> Rows:
    """A binary tensor: UINT8 row by row, or BYTES, each after its length."""
    return _elements(tensor, shape[0]) if datatype == BYTES else _pixels(tensor, shape)


def _from_json(data: list[Any], datatype: str, shape: tuple[int, ...]) -> Rows:
    """`data`, in one list or nested as in the shape: numbers, or strings of base64."""
    values = _flat(data, shape)
    return _decoded(values) if datatype == BYTES else _pixels(_grey_levels(values), shape)


def _pixels(tensor: bytes | memoryview, shape: tuple[int, ...]) -> Sequence[Pixels]:
    """Views, not copies."""
    if len(tensor) != math.prod(shape):
        raise RequestMalformed(
            f"{len(tensor)} bytes are not a UINT8 tensor of shape {list(shape)}, which has "
            f"{math.prod(shape)}"
        )
    return list(np.frombuffer(tensor, np.uint8).reshape(shape))


def _elements(tensor: memoryview, count: int) -> list[bytes]:
    """Before each element its length, 4 bytes, the least significant first."""
    elements = []
    for row in range(count):
        prefix, tensor = tensor[:4], tensor[4:]
        size = int.from_bytes(prefix, "little")
        if len(prefix) < 4 or size > len(tensor):
            raise RequestMalformed(
                f"row {row} is cut short: a BYTES element is its length in 4 bytes, little-endian, "
                "and then so many bytes"
            )
        elements.append(bytes(tensor[:size]))
        tensor = tensor[size:]
    if tensor:
        raise RequestMalformed(f"{len(tensor)} bytes follow the last of the {count} rows")
    return elements


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Values that come in one list, or in lists as deep as the shape."""
    wrong = RequestMalformed(
        f"data must be one list of {math.prod(shape)} values, or lists nested as in the shape "
        f"{list(shape)}"
    )
    if data and isinstance(data[0], list):
        if len(data) != shape[0]:
            raise wrong
        for size in shape[1:]:
            if not all(isinstance(inner, list) and len(inner) == size for inner in data):
                raise wrong
            data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape):
        raise wrong
    return data


def _grey_levels(values: list[Any]) -> bytes:
    try:
        if set(map(type, values)) == {int}:
            return bytes(values)
    except ValueError:
        pass
    raise RequestMalformed("data of UINT8 must be whole numbers from 0 to 255")


def _decoded(values: list[Any]) -> list[bytes]:
    try:
        return [decoded(value) for value in values]
    except (TypeError, ValueError) as error:
        raise RequestMalformed(
            "data of BYTES must be strings, each an encoded image in base64, since JSON cannot "
            "hold bytes; or send the tensor in binary"
        ) from error
