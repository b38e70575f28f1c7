"""Bodies that are packed: each coding at each endpoint, and what is no such body."""

import asyncio
import base64
import gzip
import json
import random
import socket
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
import httpx2
import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from service.errors import BodyTooLarge, RequestMalformed
from service.http.routes import compression
from tests.support.images import image
from tests.support.servers import Live, serving, until

MAX_BODY = 2_000_000
IMAGE = image()
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="cat.jpg"\r\n\r\n'
    + IMAGE
    + b"\r\n--b--\r\n"
)
TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES"}
JSON = json.dumps({"inputs": [{**TENSOR, "data": [base64.b64encode(IMAGE).decode()]}]}).encode()
LENGTH = "Inference-Header-Content-Length"
REQUESTS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "v1": ("/v1/predict", IMAGE, {"Content-Type": "image/jpeg"}),
    "form": ("/v1/predict", FORM, {"Content-Type": "multipart/form-data; boundary=b"}),
    "torchserve": ("/predictions/alexnet", IMAGE, {}),
    "torchserve's form": (
        "/predictions/alexnet",
        FORM,
        {"Content-Type": "multipart/form-data; boundary=b"},
    ),
    "v2": ("/v2/models/alexnet_image/infer", JSON, {}),
    "v2 in binary": ("/v2/models/alexnet_image/infer", IMAGE, {LENGTH: "0"}),
}


def bare(data: bytes) -> bytes:
    """deflate without zlib's wrapping, as some senders have it."""
    return zlib.compress(data, wbits=-15)


def twice(data: bytes) -> bytes:
    return bytes(brotli.compress(gzip.compress(data)))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "DEFLATE": bare,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "identity": bytes,
    "gzip, br": twice,
    "identity,  gzip,,br": twice,
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
    "br,br,br,br,zstd": lambda data: zstd.compress(
        brotli.compress(brotli.compress(brotli.compress(brotli.compress(data))))
    ),
}
MEMBERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model, max_body=MAX_BODY) as server:
        yield server


def sent(live: Live, name: str, encoding: str, pack: Callable[[bytes], bytes]) -> httpx2.Response:
    path, body, headers = REQUESTS[name]
    headers = headers | {"Content-Encoding": encoding}
    return live.client.post(path, content=pack(body), headers=headers)


def posted(live: Live, body: bytes, encoding: str) -> httpx2.Response:
    """To the endpoint where a body is an image."""
    return live.client.post("/v1/predict", content=body, headers={"Content-Encoding": encoding})


def refused(answer: httpx2.Response, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "code"}
    assert text in answer.json()["error"]


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("encoding", PACKED)
def test_a_packed_body_is_answered_as_the_body_itself(live: Live, name: str, encoding: str) -> None:
    path, body, headers = REQUESTS[name]
    plain = live.client.post(path, content=body, headers=headers)

    packed = sent(live, name, encoding, PACKED[encoding])

    assert plain.status_code == 200, plain.text
    assert (packed.status_code, packed.content) == (200, plain.content)


def test_the_codings_of_several_fields_are_one_list(live: Live) -> None:
    """RFC 9110, section 5.3."""
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "br")]

    answer = live.client.post("/v1/predict", content=twice(IMAGE), headers=headers)

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", CODINGS)
def test_a_packed_body_may_come_byte_by_byte(coding: str) -> None:
    data = random.Random(0).randbytes(3000) + bytes(100_000)

    assert unpacked(CODINGS[coding](data), coding, size=1) == data


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("encoding", ["compress", "gzip, sdch", "utf-8", "aws-chunked"])
def test_an_unknown_coding_is_named_with_those_that_are_taken(
    live: Live, name: str, encoding: str
) -> None:
    """RFC 9110, section 12.5.3; a 415 for another reason has no such header."""
    answer = sent(live, name, encoding, bytes)

    refused(answer, 415, f"Content-Encoding {encoding.removeprefix('gzip, ')} is not taken here")
    assert answer.json()["code"] == "media_type_unsupported"
    assert answer.headers["accept-encoding"] == "gzip, deflate, br, zstd"
    other = live.client.post("/v1/predict", content=b"x", headers={"Content-Type": "text/html"})
    assert (other.status_code, "accept-encoding" in other.headers) == (415, False)


def test_more_codings_than_anybody_needs_are_refused(live: Live) -> None:
    answer = posted(live, IMAGE, ", ".join(["gzip"] * 6))

    refused(answer, 415, "names 6 codings, and 5 are the most")
    assert "accept-encoding" in answer.headers


@pytest.mark.parametrize("coding", CODINGS)
def test_a_packed_body_that_is_cut_short_is_refused(live: Live, coding: str) -> None:
    for short in (1, 9, 300):
        answer = posted(live, CODINGS[coding](IMAGE)[:-short], coding)
        refused(answer, 400, f"the body's {coding} data is cut short")
    refused(posted(live, b"", coding), 400, "cut short")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_not_packed_so_is_refused(live: Live, coding: str) -> None:
    for body in (IMAGE, CODINGS[coding](IMAGE) + b"x", CODINGS[coding](IMAGE) + IMAGE):
        refused(posted(live, body, coding), 400, f"the body is not {coding}, or not to its end")


def test_deflate_has_one_member(live: Live) -> None:
    refused(posted(live, zlib.compress(IMAGE) * 2, "deflate"), 400, "goes on after the end")


@pytest.mark.parametrize("coding", MEMBERS)
def test_gzip_may_have_several_members_and_zstd_several_frames(live: Live, coding: str) -> None:
    """As files that were put together have them (RFC 1952, RFC 8878)."""
    pack = MEMBERS[coding]
    halves = pack(IMAGE[:100]) + pack(IMAGE[100:])

    assert posted(live, halves, coding).status_code == 200
    for short in range(1, 5):
        refused(posted(live, halves + pack(b"")[:short], coding), 400, "cut short")


@pytest.mark.parametrize("coding", MEMBERS)
def test_a_body_of_nothing_but_empty_members_is_refused(coding: str) -> None:
    """Each costs microseconds, and a body has room for a million of them."""
    empty = MEMBERS[coding](b"")

    assert unpacked(empty * compression.MOST_MEMBERS, coding) == b""
    with pytest.raises(RequestMalformed, match="too many"):
        unpacked(empty * (compression.MOST_MEMBERS + 1), coding)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_body_unpacks_to_has_the_limit_of_a_body(live: Live, name: str, coding: str) -> None:
    answer = sent(live, name, coding, lambda body: CODINGS[coding](body + bytes(5 * MAX_BODY)))

    refused(answer, 413, f"larger than {MAX_BODY} bytes once it is unpacked")
    assert answer.json()["code"] == "body_too_large"


def test_a_bomb_within_a_bomb_has_the_limit_after_each_coding(live: Live) -> None:
    bomb = gzip.compress(gzip.compress(bytes(20 * MAX_BODY)))

    refused(posted(live, bomb, "gzip, gzip"), 413, "once it is unpacked")


def unpacked(
    body: bytes, encoding: str, held: list[int] | None = None, most: int = 10**6, size: int = 1000
) -> bytes:
    """What a body that comes in pieces of `size` unpacks to."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def joined() -> bytes:
        counts: list[int] = [] if held is None else held
        plain = compression.unpacked(chunks(), compression.codings([encoding]), most, counts.append)
        return b"".join([chunk async for chunk in plain])

    return asyncio.run(joined())


@pytest.mark.parametrize("coding", CODINGS)
def test_what_a_bomb_unpacks_to_is_counted_and_bounded(coding: str) -> None:
    """Each piece is told before the next is made, and two steps are the most beyond the limit."""
    held: list[int] = []
    bomb = CODINGS[coding](bytes(20_000_000))

    with pytest.raises(BodyTooLarge):
        unpacked(bomb, coding, held)

    assert 10**6 - 2 * compression.STEP < sum(held) <= 10**6
    assert max(held) <= 2 * compression.STEP


def test_a_zstd_frame_may_not_ask_for_more_memory_than_browsers_give() -> None:
    """RFC 9659: a window of 8 MiB."""
    for bits, taken in ((23, True), (24, False)):
        packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: bits})
        packed = packer.compress(bytes(100)) + packer.flush()
        if taken:
            assert unpacked(packed, "zstd") == bytes(100)
        else:
            with pytest.raises(RequestMalformed, match="too much memory"):
                unpacked(packed, "zstd")


def test_bytes_that_are_unpacked_count_against_all_bodies(tiny_model: Path) -> None:
    """ALEXNET_MAX_UPLOADS is of memory, not of what went over the wire; packed bytes are let go."""
    packed: dict[str, Any] = {
        "content": gzip.compress(random.Random(0).randbytes(1_000_000)),
        "headers": {"Content-Encoding": "gzip"},
    }
    with serving(
        tiny_model, max_body=1_100_000, max_uploads=1_200_000, body_timeout=600, timeout=600
    ) as server:
        alone = server.client.post("/v1/predict", **packed)
        with socket.create_connection(server.address) as slow:
            slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n")
            slow.sendall(bytes(250_000))
            held = "alexnet_uploads_held_bytes 250000.0"
            until(lambda: held in server.client.get("/metrics").text)
            beside = server.client.post("/v1/predict", **packed)

    refused(alone, 415, "Unsupported image format")
    refused(beside, 503, "ALEXNET_MAX_UPLOADS")
