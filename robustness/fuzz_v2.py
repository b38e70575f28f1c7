"""
Fuzz the endpoint of the Open Inference Protocol.  Arbitrary JSON and tensors, packed or not.

An input's first byte chooses the model, the Content-Encoding and how the length of the JSON is
told; where a tensor follows the JSON, NUL bytes come before it.  Only `service.errors` may come
out, and no more rows or bytes than the limits allow; what is accepted can be answered.
"""

import asyncio
import gzip
import json
import random
import sys
import zlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import atheris
import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

with atheris.instrument_imports(include=["service.http.routes"]):
    from service.http.routes import compression
    from service.http.routes.open_inference import infer, infer_request
    from service.http.routes.open_inference.served_models import models

import numpy as np

from service.errors import RequestError
from service.http.middleware.errors import STATUSES
from service.inference.model_file import Label
from service.inference.predictions import Result

from . import harness

MAX_ROWS = 4
MAX_BODY = 2**20
ENCODINGS = ("", "gzip", "deflate", "br", "zstd", "gzip, br", "zstd, zstd", "sdch")
LABELS = [Label(None, name) for name in ("a:b", "c", "d")]
ROW = (2, 2, 3)  # instead of 256 x 256: all that matters of it fits into a few kilobytes
MODELS = models("alexnet")
NETWORK = MODELS["alexnet"]
SERVED = (
    replace(NETWORK, input=replace(NETWORK.input, row=ROW)),
    MODELS["alexnet_image"],
)
BREAK = b"\0\0\0\0"  # between a JSON and its tensor
LOOP = asyncio.new_event_loop()


def asking(name: str, datatype: str, **fields: Any) -> dict[str, Any]:
    """A request of one input."""
    return {"inputs": [{"name": name, "datatype": datatype, **fields}]}


def seed(first: int, request: object, tensor: bytes | None = None) -> bytes:
    """An input: the first byte, JSON, and a tensor."""
    text = json.dumps(request).encode()
    return bytes([first]) + text + (b"" if tensor is None else BREAK + tensor)


IMAGE = asking("image", "BYTES", shape=[1], parameters={"binary_data_size": 7})
BASE64 = asking("image", "BYTES", shape=[2], data=["YWJj", "YQ=="])
SEEDS = {
    "element": seed(1, IMAGE, b"\3\0\0\0abc"),
    "elements": seed(
        1,
        asking("image", "BYTES", shape=[2, 1], parameters={"binary_data_size": 9}),
        b"\1\0\0\0a\0\0\0\0",
    ),
    "base64": seed(1, BASE64),
    "base64 as people send it": seed(
        1, asking("image", "BYTES", shape=[2], data=["data:;base64,YW\nI_", "YQ"])
    ),
    "columns": seed(1, asking("image", "BYTES", shape=[2, 1], data=[["YWJj"], ["YQ=="]])),
    "pixels": seed(0, asking("images", "UINT8", shape=[1, *ROW], data=[*range(12)])),
    "nested": seed(0, asking("images", "UINT8", shape=[1, *ROW], data=[[[[0, 1, 255]] * 2] * 2])),
    "binary": seed(
        0,
        asking("images", "UINT8", shape=[1, *ROW], parameters={"binary_data_size": 12}),
        b"twelve bytes",
    ),
    "outputs": seed(
        1,
        IMAGE
        | {
            "outputs": [
                {"name": "classes", "parameters": {"classification": 2, "binary_data": True}}
            ]
        }
        | {"id": "7", "parameters": {"crops": "one", "binary_data_output": False}},
        b"\3\0\0\0abc",
    ),
    "memory": seed(
        0, asking("images", "UINT8", shape=[1, *ROW], parameters={"shared_memory_region": "r"})
    ),
    "raw": b"\x11abc",
    "raw pixels": b"\x10twelve bytes",
    "header": b"\x2012",
    "packed otherwise": b"\x4cabc",
    "gzip": b"\x05" + gzip.compress(json.dumps(BASE64).encode()),
    "members": b"\x05" + gzip.compress(b'{"inputs":') + gzip.compress(b"[]}"),
    "deflate": b"\x09" + zlib.compress(json.dumps(BASE64).encode()),
    "bare deflate": b"\x09" + zlib.compress(json.dumps(BASE64).encode(), wbits=-15),
    "br": b"\x0d" + brotli.compress(json.dumps(BASE64).encode()),
    "zstd": b"\x41" + zstd.compress(json.dumps(BASE64).encode()),
    "frames": b"\x41" + zstd.compress(b'{"inputs":') + zstd.compress(b"[]}"),
    "gzip in br": b"\x45" + brotli.compress(gzip.compress(json.dumps(BASE64).encode())),
    "brotli bomb": b"\x0d" + brotli.compress(bytes(4 * MAX_BODY)),
    "zstd bombs": b"\x49" + zstd.compress(zstd.compress(bytes(4 * MAX_BODY))),
    "bomb": b"\x09" + zlib.compress(bytes(4 * MAX_BODY)),
    "deep": b"\0" + b'{"inputs":' + b"[" * 300,
    "long": b"\0"
    + b'{"inputs":[{"name":"images","datatype":"UINT8","shape":['
    + b"9" * 500
    + b"]}]}",
    "surrogate": b'\1{"id":"\xed\xa0\x80","inputs":[]}',
}


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 256, 12, 2**63, 0.5, "", "YWJj", "image", "images", "UINT8",
    "BYTES",
    "classes", "probabilities", [], {}, [1], [[1]], ["YWJj"], {"name": "classes"},
    {"name": "features"},
    {"binary_data_size": 7}, {"binary_data": True}, {"classification": 2}, {"crops": "one"},
)  # fmt: skip
KEYS = ("id", "inputs", "outputs", "name", "shape", "datatype", "data", "parameters")


def mutate(data: bytes, limit: int, number: int) -> bytes:
    """Now and then a value of the JSON is another one, else the bytes are."""
    chance = random.Random(number)
    text, mark, tensor = data[1:].partition(BREAK)
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or chance.random() < 0.4:
        mutated: bytes = atheris.Mutate(data, limit)
        return mutated
    place: Any = request
    while place and chance.random() < 0.8:
        inner = list(place.values()) if isinstance(place, dict) else place
        inner = [part for part in inner if isinstance(part, dict | list)]
        if not inner:
            break
        place = chance.choice(inner)
    if isinstance(place, dict):
        place[chance.choice([*KEYS, *place])] = chance.choice(VALUES)
    elif place and chance.random() < 0.7:
        place[chance.randrange(len(place))] = chance.choice(VALUES)
    else:
        place.append(chance.choice(VALUES))
    return (data[:1] + json.dumps(request).encode() + mark + tensor)[:limit]


async def unpacked(body: bytes, encoding: str, held: list[int]) -> bytes:
    """A body that comes in two pieces."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body[: len(body) // 2]
        yield body[len(body) // 2 :]

    plain = compression.unpacked(chunks(), compression.codings([encoding]), MAX_BODY, held.append)
    return b"".join([chunk async for chunk in plain])


def rule(data: bytes) -> None:
    """Rows within the limits that can be answered, or one of the service's errors."""
    first, rest = data[:1], data[1:]
    choice = first[0] if first else 0
    served = SERVED[choice & 1]
    encoding = ENCODINGS[choice >> 2 & 3 | choice >> 4 & 4]
    text, mark, tensor = rest.partition(BREAK)
    header = "0" if choice & 16 else str(len(text)) if mark else None
    if choice & 32:
        header = text[:8].decode("latin-1")
    body = rest if encoding else text + tensor
    held: list[int] = []
    try:
        if encoding:
            body = LOOP.run_until_complete(unpacked(body, encoding, held))
        question = infer_request.read(body, header, served, MAX_ROWS)
    except RequestError as error:
        if type(error) not in STATUSES:
            raise harness.RuleBroken(f"{error!r} has no status") from error
        return
    finally:
        if sum(held) > MAX_BODY:
            raise harness.RuleBroken(f"{sum(held)} bytes were taken in")
    if not 0 < len(question.rows) <= MAX_ROWS:
        raise harness.RuleBroken(f"{len(question.rows)} rows")
    result = Result(np.full(len(LABELS), 1 / 3, np.float32), features=np.zeros(9, np.float32))
    answer = infer.write(served, question, [result] * len(question.rows), LABELS)
    json.loads(answer.body[: answer.header])


if __name__ == "__main__":
    harness.main(rule, SEEDS, mutate)
