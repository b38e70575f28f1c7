"""What is sent in an image's place is told what it is, and what to do."""

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.inference.unsupported import BINARY, TEXTS, unsupported
from tests.support.images import image
from tests.support.servers import Live, serving

IMAGE = image()


def box(kind: bytes, *brands: bytes) -> bytes:
    """The first box of a file in boxes: its brand, and those that it is compatible with."""
    content = kind + bytes(4) + b"".join(brands)
    return (len(content) + 8).to_bytes(4, "big") + b"ftyp" + content + bytes(400)


def saved(kind: str) -> bytes:
    """As Pillow writes it."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("cat.jpg", IMAGE)
    return file.getvalue()


BASE64 = base64.b64encode(IMAGE)
FORM = b'--b7\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + IMAGE
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
PAGE = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
SENT: dict[str, tuple[str, bytes]] = {
    "HEIF of an unknown codec": ("HEIC", box(b"mif1", b"mif1")),
    "TIFF": ("a TIFF", saved("TIFF")),
    "TIFF of the other order": ("a TIFF", b"MM\0*" + bytes(100)),
    "BigTIFF": ("a TIFF", b"II+\0\x08\0\0\0" + bytes(100)),
    "JPEG 2000": ("JPEG 2000", saved("JPEG2000")),
    "JPEG 2000 codestream": ("JPEG 2000", b"\xff\x4f\xff\x51" + bytes(100)),
    "JPEG XL": ("JPEG XL", b"\xff\x0a" + bytes(100)),
    "JPEG XL in boxes": ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)),
    "PSD": ("a Photoshop document", b"8BPS\0\1" + bytes(100)),
    "ICO": ("an icon", saved("ICO")),
    "PDF": ("a PDF", saved("PDF")),
    "PDF after an empty line": ("a PDF", b"\r\n%PDF-1.7\n"),
    "MP4": ("a video", box(b"isom", b"isom", b"avc1", b"mp41")),
    "QuickTime": ("a video", box(b"qt  ")),
    "old QuickTime": ("a video", b"\0\0\0\x08wide\0\1\2\3mdat" + bytes(100)),
    "WebM": ("a video", b"\x1a\x45\xdf\xa3" + bytes(100)),
    "AVI": ("a video", b"RIFF\0\1\2\3AVI LIST" + bytes(100)),
    "MPEG": ("a video", b"\0\0\1\xba" + bytes(100)),
    "MPEG transport stream": ("a video", (b"G" + bytes(187)) * 3),
    "gzip": ("data packed by gzip", gzip.compress(IMAGE)),
    "zstd": ("data packed by zstd", b"\x28\xb5\x2f\xfd" + bytes(100)),
    "ZIP": ("an archive", archive()),
    "LFS": ("a Git LFS pointer", LFS),
    "form": ("a multipart form", FORM),
    "form after an empty line": ("a multipart form", b"\r\n" + FORM),
    "data URL": ("a data URL", b"data:image/jpeg;base64," + BASE64),
    "data URL in quotes": ("a data URL", b'"data:image/jpeg;base64,' + BASE64 + b'"'),
    "base64": ("base64 text", BASE64),
    "base64 in lines": ("base64 text", base64.encodebytes(IMAGE)),
    "base64, url-safe": ("base64 text", base64.urlsafe_b64encode(IMAGE)),
    "base64 of PNG": ("base64 text", base64.b64encode(image("PNG"))),
    "base64 of HEIC": ("base64 text", base64.b64encode(box(b"heic"))),
    "address": ("an address", b"https://example.com/cat.jpg\n"),
    "HTML": ("an HTML page", PAGE),
    "HTML with a mark before it": ("an HTML page", b"\xef\xbb\xbf\n" + PAGE),
    "HTML in UTF-16": ("an HTML page", PAGE.decode().encode("utf-16")),
    "HTML in capitals": ("an HTML page", b"<HTML><BODY>no</BODY></HTML>"),
    "HTML after a comment": ("an HTML page", b"<!-- a --> <!-- b -->" + PAGE),
    "XHTML": ("an HTML page", b'<?xml version="1.0"?>' + PAGE),
    "XML": ("XML", DENIED),
    "SVG": ("an SVG drawing", SVG),
    "SVG after its prologue": ("an SVG drawing", b'<?xml version="1.0"?><!-- made by -->' + SVG),
    "JSON": ("JSON", json.dumps({"image": BASE64.decode()}).encode()),
    "JSON, indented": ("JSON", json.dumps([{"error": "not found"}], indent=2).encode()),
}


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model, formats="jpeg,png") as server:
        yield server


@pytest.mark.parametrize("name", SENT)
def test_what_is_no_image_is_told_what_it_is(live: Live, name: str) -> None:
    """415, whatever its Content-Type says; all of it in two sentences."""
    what, data = SENT[name]

    answer = live.client.post("/v1/predict", content=data, headers={"Content-Type": "image/jpeg"})

    body = answer.json()
    assert (answer.status_code, body["code"]) == (415, "image_type_unsupported"), body
    assert body["error"].startswith(f"This is {what}"), body
    assert body["error"].endswith(".")
    assert body["error"].count(". ") >= 1, "what to do"


def test_every_row_has_its_example() -> None:
    rows = {id(unsupported(data)) for _, data in SENT.values()}

    assert rows == {id(row) for row in (*BINARY, *TEXTS)}


def test_the_formats_that_are_taken_are_named_where_one_must_be_chosen(live: Live) -> None:
    answer = live.client.post("/v1/predict", content=SENT["TIFF"][1])

    assert answer.json()["error"].endswith("Save it as one of JPEG, PNG.")


@pytest.mark.parametrize(
    "data",
    [
        b"only text, nothing else",
        b"the wide world",
        b"Go on" * 200,
        b"-- a signature\n",
        b"4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393",
        b"a < b",
        b"[section]\nkey = value\n",
        b"\xff\xfe\xff\xfe",
        b"\0" * 100,
        box(b"avif", b"avif", b"mif1", b"miaf"),
        bytes(range(256)),
        b"",
    ],
)
def test_what_nobody_knows_is_none_of_them(data: bytes) -> None:
    assert unsupported(data) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_no_image_that_is_read_is_in_the_table(kind: str) -> None:
    assert unsupported(image(kind)) is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!---->" * 1000, "XML"),
        (b"<?xml>" * 1000 + b"<", "XML"),
        (b"<!--" * 1000, "XML"),
        (b"<a:" * 1000, "XML"),
        (b"data:" * 1000, None),
        (b"--" * 1000, None),
        (b"[ " * 1000, "JSON"),
        (b" " * 100_000, None),
    ],
)
def test_texts_that_are_made_to_take_long_do_not(data: bytes, what: str | None) -> None:
    """Patterns that go back and forth would take years: this hangs, or holds."""
    row = unsupported(data)

    assert (row and row.what) == what
