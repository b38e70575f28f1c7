"""
The body of an inference request to its images, and how they are to be answered.

    JSON                                  tensors in it, as `data`
    JSON | bytes                          Inference-Header-Content-Length says where the JSON ends
    bytes                                 that header is 0: one row of the only input

What is wrong is a `RequestError`.  Pixels are views of the body, not copies.

What JSON may cost to parse is limited (`json_cost`); measured, one image takes 10 ms in one list
and 30 ms nested.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

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
from service.http.routes.json_cost import too_costly
from service.http.routes.open_inference import tensors
from service.http.routes.open_inference.served_models import Served

LENGTH: Final = re.compile(r"[0-9]{1,10}")
BINARY_SIZE: Final = "binary_data_size"
DEFAULT_CROPS: Final = "ten"

LONGEST_ID: Final = 1024  # characters; it is sent back

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
class Query:
    """What a request holds: encoded images, or views of uint8 `(256, 256, 3)`."""

    rows: tensors.Rows
    id: str = ""
    crops: str = DEFAULT_CROPS
    classes: int | None = None  # as many as the model answers with by itself
    binary: bool = False  # whether the output comes back as bytes


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
    if served.input.datatype == tensors.BYTES:  # without its length, which is the body's
        return Query([body], binary=True)
    row = tensors.from_bytes(memoryview(body), served.input.datatype, (1, *served.input.row))
    return Query(row, binary=True)


def _query(text: bytes, after: memoryview, served: Served, max_rows: int) -> Query:
    request = _parsed(text)
    its = _only_input(request, served)
    rows = _rows(its, after, _shape(its, served, max_rows))
    wanted = _only_output(request, served)
    binary = _flag(request.parameters, "binary_data_output", False)
    crops = request.parameters.get("crops", DEFAULT_CROPS)
    if not isinstance(crops, str):
        raise ParameterInvalid(f'parameters.crops must be a string, such as "{DEFAULT_CROPS}"')
    return Query(
        rows,
        request.id,
        crops[:64],
        classes=_classification(wanted),
        binary=_flag(wanted, "binary_data", binary),
    )


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


def _only_output(request: InferRequest, served: Served) -> Parameters:
    """The parameters of the output, if it is asked for by its name."""
    if not request.outputs:
        return {}
    names = [output.name for output in request.outputs]
    if names != [served.output]:
        raise RequestMalformed(
            f"{served.name} has one output, {served.output!r}; the request asks for {names}"
        )
    [output] = request.outputs
    _no_shared_memory(output)
    return output.parameters


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
    alone = served.input.datatype == tensors.BYTES and not rest  # one value a row: [N] will do
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


def _rows(its: InputTensor, after: memoryview, shape: tuple[int, ...]) -> tensors.Rows:
    """The data of the only input: in the JSON, or all that is after it."""
    size = its.parameters.get(BINARY_SIZE)
    if (its.data is None) == (size is None):
        raise RequestMalformed(
            f"input {its.name!r} must have either data in the JSON or {BINARY_SIZE} in its "
            "parameters"
        )
    if its.data is not None and not after:
        return tensors.from_json(its.data, its.datatype, shape)
    if its.data is not None:
        raise RequestMalformed(f"{len(after)} bytes follow the JSON, but no input is in binary")
    if type(size) is not int or size != len(after):
        raise RequestMalformed(
            f"{BINARY_SIZE} of input {its.name!r} must be the number of bytes that follow the "
            f"JSON, {len(after)}; the header {INFERENCE_HEADER} says where it ends"
        )
    return tensors.from_bytes(after, its.datatype, shape)
