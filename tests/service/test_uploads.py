"""Forms as clients really send them, and as they arrive when they are cut short."""

import base64
import socket
from binascii import b2a_qp
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.images import image
from tests.support.servers import PATIENCE, Live, serving

PREDICT, TORCHSERVE = "/v1/predict", "/predictions/alexnet"
KIND = {"Content-Type": "multipart/form-data; boundary=frontier"}
CLOSING = b"--frontier--\r\n"
FILE = b'form-data; name="file"; filename="cat.jpg"'
FIELD = b'form-data; name="file"'
IMAGE = image()
MAX_BODY = 4_000_000


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model, max_files=3, max_body=MAX_BODY) as server:
        yield server


def part(disposition: bytes, data: bytes, *headers: bytes) -> bytes:
    """One part of a form, as in RFC 7578."""
    lines = [b"--frontier", b"Content-Disposition: " + disposition, *headers, b"", data]
    return b"\r\n".join(lines) + b"\r\n"


def posted(live: Live, *parts: bytes, closing: bytes = CLOSING) -> httpx2.Response:
    return live.client.post(PREDICT, content=b"".join(parts) + closing, headers=KIND)


def names(answer: httpx2.Response) -> list[str | None]:
    """Of the images that were answered."""
    assert answer.status_code == 200, answer.text
    return [its["filename"] for its in answer.json()["predictions"] if "classes" in its]


def refusal(answer: httpx2.Response, status: int, code: str = "request_malformed") -> str:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    return str(body["error"])


@pytest.mark.parametrize("path", [PREDICT, TORCHSERVE])
def test_a_form_that_is_cut_short_is_refused_wherever_it_ends(live: Live, path: str) -> None:
    """But for the line break after the closing boundary, without which it is whole."""
    whole = part(FILE, IMAGE) + (part(FILE, IMAGE) if path == PREDICT else b"") + CLOSING

    for short in range(1, 101):
        answer = live.client.post(path, content=whole[:-short], headers=KIND)
        if short <= len(b"\r\n"):
            assert answer.status_code == 200, short
        else:
            text = refusal(answer, 400)
            assert text.startswith("the form is cut short: its closing boundary is missing"), short
            assert "the @ makes it a file" not in text


@pytest.mark.parametrize("end", ["in the headers", "between two images", "at once"])
def test_a_chunked_form_that_ends_early_is_cut_short(live: Live, end: str) -> None:
    """Complete as HTTP sees it; it also looks like a form with one image between two parts."""
    first, second = part(FILE, IMAGE), part(FILE, IMAGE)
    sent = {"in the headers": first + second[:40], "between two images": first, "at once": b""}

    answer = live.client.post(PREDICT, content=iter([sent[end], b""]), headers=KIND)

    assert "content-length" not in answer.request.headers
    assert "the form is cut short" in refusal(answer, 400)


def test_a_content_length_counted_in_characters_cuts_the_form_short(live: Live) -> None:
    name = "照片一.jpg"
    body = part(f'form-data; name="file"; filename="{name}"'.encode(), IMAGE) + CLOSING
    length = len(body) - len(name.encode()) + len(name)
    head = (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
        f"Content-Type: {KIND['Content-Type']}\r\n\r\n"
    )
    with closing(socket.create_connection(live.address, PATIENCE)) as sender:
        sender.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: sender.recv(2**16), b""))

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"a Content-Length in bytes and not in characters" in answer


@pytest.mark.parametrize("closing", [CLOSING, CLOSING[:-2], CLOSING + b"an epilogue\r\n--frontier"])
def test_what_comes_after_the_closing_boundary_does_not_matter(live: Live, closing: bytes) -> None:
    """RFC 2046, section 5.1.1."""
    assert names(posted(live, part(FILE, IMAGE), closing=closing)) == ["cat.jpg"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (b"filename*=UTF-8''caf%C3%A9.jpg", "café.jpg"),
        (b"filename*=utf-8'de'caf%C3%A9.jpg", "café.jpg"),
        (b"filename*=ISO-8859-1''caf%E9.jpg", "café.jpg"),
        (b"FileName* = \"utf-8''caf%c3%a9; two.jpg\"", "café; two.jpg"),
        (b"filename*=cat.jpg", "cat.jpg"),
        (b"filename=cat.jpg; filename*=UTF-8''caf%C3%A9.jpg", "cat.jpg"),
        (b"filename*=undefined''%FF.jpg", "\ufffd.jpg"),
        (b"filename*=UTF-8''", ""),
    ],
)
def test_a_name_may_come_in_the_extended_notation_alone(
    live: Live, written: bytes, name: str
) -> None:
    """RFC 5987, as old versions of requests send it; a plain name beside it counts (RFC 7578)."""
    answer = posted(live, part(FIELD + b"; " + written, IMAGE), part(FIELD, b"a text"))

    assert names(answer) == [name]


def test_an_extended_name_within_a_quoted_one_is_none(live: Live) -> None:
    quoted = b"form-data; name=\"a; filename*=UTF-8''cat.jpg\""

    answer = posted(live, part(quoted, b"a text"), part(FIELD, IMAGE, b"Content-Type: image/jpeg"))

    assert names(answer) == [None]


@pytest.mark.parametrize("kind", [b"image/jpeg", b"IMAGE/PNG; q=1", b"image/anything"])
def test_a_part_of_an_image_type_is_an_image_without_a_name(live: Live, kind: bytes) -> None:
    typed = part(FIELD, IMAGE, b"Content-Type: " + kind)

    assert names(posted(live, part(FIELD, b"a text"), typed)) == [None]


@pytest.mark.parametrize("disposition", [FIELD, b"form-data", b"attachment"])
def test_the_only_part_of_a_form_is_an_image_whatever_its_headers_are(
    live: Live, disposition: bytes
) -> None:
    assert names(posted(live, part(disposition, IMAGE, b"Content-Type: text/plain"))) == [None]


def test_the_only_part_is_told_what_it_is_instead_of_an_image(live: Live) -> None:
    answer = posted(live, part(FIELD, base64.b64encode(IMAGE)))

    assert "This is base64 text" in refusal(answer, 415, "image_type_unsupported")


@pytest.mark.parametrize("text", ["cat.jpg", "кошка.JPG", ""])
def test_a_name_in_place_of_the_file_is_told_of_the_at_sign(live: Live, text: str) -> None:
    """`curl -F file=cat.jpg`."""
    answer = posted(live, part(FIELD, text.encode()))

    assert "the @ makes it a file" in refusal(answer, 400)


def test_text_fields_are_no_images_beside_each_other(live: Live) -> None:
    answer = posted(live, part(FIELD, IMAGE), part(FIELD, IMAGE))

    assert "the form has no file" in refusal(answer, 400)


@pytest.mark.parametrize("disposition", [FILE, FIELD])
def test_a_part_may_be_as_large_as_the_body(live: Live, disposition: bytes) -> None:
    """With a name, or as the only one; what follows a JPEG's end is not read."""
    large = part(disposition, IMAGE + bytes(MAX_BODY - len(IMAGE) - 200))

    assert len(names(posted(live, large))) == 1


def test_a_text_field_may_be_large_too(live: Live) -> None:
    answer = posted(live, part(FIELD, b"x" * 3_000_000), part(FILE, IMAGE))

    assert names(answer) == ["cat.jpg"]


def test_more_than_a_hundred_text_fields_are_refused(live: Live) -> None:
    assert names(posted(live, part(FIELD, b"x") * 100, part(FILE, IMAGE))) == ["cat.jpg"]

    answer = posted(live, part(FIELD, b"x") * 101, part(FILE, IMAGE))

    assert "more than 100 text fields" in refusal(answer, 400)


def test_images_without_a_name_count_as_files(live: Live) -> None:
    answer = posted(live, part(FIELD, IMAGE, b"Content-Type: image/jpeg") * 4)

    assert "more than 3 files" in refusal(answer, 413, "too_many_files")


ENCODED = {
    "base64": base64.encodebytes(IMAGE).replace(b"\n", b"\r\n"),
    "BASE64 ": base64.b64encode(IMAGE),
    "quoted-printable": b2a_qp(IMAGE, istext=False),
    "binary": IMAGE,
    "8bit": IMAGE,
    "7bit": IMAGE,
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_a_content_transfer_encoding_is_undone(live: Live, encoding: str) -> None:
    """RFC 2045; RFC 7578 has done away with it, but mail libraries make such forms."""
    header = b"Content-Transfer-Encoding: " + encoding.encode()

    encoded = posted(live, part(FILE, ENCODED[encoding], header))
    plain = posted(live, part(FILE, IMAGE))

    assert encoded.status_code == 200, encoded.text
    assert encoded.json() == plain.json()


@pytest.mark.parametrize(
    ("encoding", "data", "said"),
    [
        (b"base64", base64.b64encode(IMAGE)[:-3] + b"!!!", "'cat.jpg' is not base64"),
        (b"base64", IMAGE, "'cat.jpg' is not base64"),
        (b"base64", b"QUJDR", "'cat.jpg' is not base64"),
        (b"uuencode", IMAGE, "Content-Transfer-Encoding uuencode of the file 'cat.jpg'"),
    ],
)
def test_a_content_transfer_encoding_that_is_none_is_refused(
    live: Live, encoding: bytes, data: bytes, said: str
) -> None:
    answer = posted(live, part(FILE, data, b"Content-Transfer-Encoding: " + encoding))

    assert said in refusal(answer, 400)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("multipart/form-data", "names no boundary"),
        ("multipart/form-data; boundary=other", "does not begin with the boundary that its"),
        ("multipart/form-data; boundary=" + "f" * 300, "exceeds maximum of 256"),
    ],
)
def test_a_boundary_that_does_not_fit_is_told(live: Live, kind: str, said: str) -> None:
    body: dict[str, Any] = {"content": part(FILE, IMAGE) + CLOSING}

    answer = live.client.post(PREDICT, **body, headers={"Content-Type": kind})

    text = refusal(answer, 400)
    assert said in text
    assert "as curl -F file=@picture.jpg does" in text
