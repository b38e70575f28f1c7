"""
The data of one tensor, in binary or in JSON, to its rows.  What does not fit is
`RequestMalformed`.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from service.errors import RequestMalformed
from service.http.routes.base64_text import decoded
from service.inference.queue import Pixels

Rows = Sequence[bytes | Pixels]

BYTES: Final = "BYTES"  # the datatype; the other is UINT8


def from_bytes(tensor: memoryview, datatype: str, shape: tuple[int, ...]) -> Rows:
    """A binary tensor: UINT8 row by row, or BYTES, each after its length."""
    return _elements(tensor, shape[0]) if datatype == BYTES else _pixels(tensor, shape)


def from_json(data: list[Any], datatype: str, shape: tuple[int, ...]) -> Rows:
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
