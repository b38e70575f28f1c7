"""
Probabilities to the body of an answer: JSON, or JSON and then bytes.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic_core import to_json

from service.http.routes.open_inference.infer_request import BINARY_SIZE, Query
from service.http.routes.open_inference.served_models import Served
from service.inference.model_file import Label
from service.inference.predictions import Probabilities, top_k
from service.telemetry.request_record import VERSION

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"


class Output(NamedTuple):
    """One tensor: its values row by row, or their bytes, as it was asked for."""

    datatype: str
    shape: list[int]
    data: list[Any] | bytes


class Answer(NamedTuple):
    """A body, and the length of the JSON before its bytes, if there are any."""

    body: bytes
    media_type: str
    header: int | None


def write(
    served: Served, query: Query, rows: Sequence[Probabilities], labels: Sequence[Label]
) -> Answer:
    """Answer a query whose rows are float32 `(classes,)` each, in their order."""
    classes = query.classes or served.default_classes
    if classes is None:
        output = _probabilities(rows, query.binary)
    else:
        output = _classes(rows, labels, classes, query.binary)
    tensor: dict[str, Any] = {
        "name": served.output,
        "datatype": output.datatype,
        "shape": output.shape,
    }
    if isinstance(output.data, bytes):
        tensor["parameters"] = {BINARY_SIZE: len(output.data)}
    else:
        tensor["data"] = output.data
    answer: dict[str, Any] = {"model_name": served.name, "model_version": VERSION}
    if query.id:
        answer["id"] = query.id
    head = to_json(answer | {"outputs": [tensor]}, inf_nan_mode="null")
    if isinstance(output.data, bytes):
        return Answer(head + output.data, BINARY, len(head))
    return Answer(head, JSON, None)


def _probabilities(rows: Sequence[Probabilities], binary: bool) -> Output:
    values = np.stack(rows).astype("<f4", copy=False)
    data = values.tobytes() if binary else values.ravel().tolist()
    return Output("FP32", list(values.shape), data)


def _classes(
    rows: Sequence[Probabilities], labels: Sequence[Label], classes: int, binary: bool
) -> Output:
    """The classification extension's strings, the most probable first."""
    count = min(classes, len(labels))
    strings = [
        # Clients split them at the colons.
        f"{its.probability:f}:{its.index}:{its.label.replace(':', ';')}"
        for row in rows
        for its in top_k(row, labels, count)
    ]
    shape = [len(rows), count]
    if not binary:
        return Output("BYTES", shape, strings)
    elements = (struct.pack("<I", len(text)) + text for text in map(str.encode, strings))
    return Output("BYTES", shape, b"".join(elements))
