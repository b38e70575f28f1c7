"""
OpenAPI schemas of the protocol's requests and answers.
"""

from typing import Any, Final

from pydantic import BaseModel

from service.http.middleware.errors import ErrorAnswer
from service.http.routes.compression import OFFERED
from service.http.routes.open_inference import infer_request


class ServerLive(BaseModel):
    """Liveness probe."""

    live: bool


class ServerReady(BaseModel):
    """Readiness probe."""

    ready: bool


class ModelReady(ServerReady):
    """Whether a model answers."""

    name: str


class ServerMetadata(BaseModel):
    """What this is, and which extensions it speaks."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(BaseModel):
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(BaseModel):
    """An output: `data`, or `binary_data_size` among its parameters."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[float] | list[str] | None = None


class InferAnswer(BaseModel):
    """The protocol's `$inference_response`."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": ErrorAnswer, "description": "There is no such model, or no such version"}
}
BYTES: Final = {"schema": {"type": "string", "format": "binary"}}
PARAMETERS: Final = {"type": "object"}
REQUEST: Final = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": infer_request.LONGEST_ID},
        "parameters": PARAMETERS,
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string", "enum": ["UINT8", "BYTES"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "parameters": PARAMETERS,
                    "data": {"type": "array", "items": {}},
                },
            },
        },
        "outputs": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": PARAMETERS},
            },
        },
    },
}
REQUEST_BODY: Final = {
    "required": True,
    "description": "JSON; or JSON as long as Inference-Header-Content-Length says and then the "
    "tensor's bytes; or, where that header is 0, one row alone. Packed by "
    f"{OFFERED}, if Content-Encoding says so.",
    "content": {"application/json": {"schema": REQUEST}, "application/octet-stream": BYTES},
}
ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": InferAnswer,
        "description": "JSON, or where binary output is asked for JSON and then the bytes",
        "content": {"application/octet-stream": BYTES},
    }
}
