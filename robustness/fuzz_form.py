"""
Fuzz the uploads to POST /v1/predict.  Arbitrary headers, and a body in arbitrary pieces.

An input's first line is the Content-Type, the next byte says into how many pieces the rest is
cut.  Only `service.errors` may come out, and no more files or bytes than the limits allow.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import atheris

with atheris.instrument_imports(include=["service.http.routes", "python_multipart"]):
    from service.http.routes.uploads import uploads

from starlette.datastructures import Headers

from service.errors import ServiceError
from service.http.routes.request import limited

from . import harness

MAX_FILES = 4
MAX_BODY = 4096
LOOP = asyncio.new_event_loop()
SETTINGS: Any = SimpleNamespace(max_files=MAX_FILES, max_body=MAX_BODY)


def part(
    name: bytes, body: bytes, filename: bytes | None = b"cat.jpg", extra: bytes = b""
) -> bytes:
    """One part of a form whose boundary is b."""
    place = b"" if filename is None else b'; filename="' + filename + b'"'
    head = b'--b\r\nContent-Disposition: form-data; name="' + name + b'"' + place
    return head + b"\r\n" + extra + b"\r\n" + body + b"\r\n"


FORM = b"multipart/form-data; boundary=b\n\x03"
SEEDS = {
    "raw": b"image/jpeg\n\x02\xff\xd8\xff",
    "no-type": b"\n\x00abc",
    "text": b"text/plain\n\x00abc",
    "form": FORM + part(b"file", b"\xff\xd8\xff") + b"--b--\r\n",
    "two": FORM + part(b"file", b"one") + part(b"file", b"two") + b"--b--\r\n",
    "many": FORM + part(b"file", b"x") * (MAX_FILES + 1) + b"--b--\r\n",
    "field": FORM + part(b"top", b"5", None) + part(b"file", b"one") + b"--b--\r\n",
    "fields": FORM + part(b"f", b"", None) * 101 + b"--b--\r\n",
    "typed": FORM + part(b"file", b"one", extra=b"Content-Type: image/png\r\n") + b"--b--\r\n",
    "typed only": FORM
    + part(b"top", b"5", None)
    + part(b"file", b"one", None, b"Content-Type: image/png\r\n")
    + b"--b--",
    "alone": FORM + part(b"file", b"\xff\xd8\xff", None) + b"--b--",
    "a name": FORM + part(b"file", b"cat.jpg", None) + b"--b--",
    "extended": FORM + part(b"a\"; filename*=\"UTF-8''%c3%a9", b"one", None) + b"--b--",
    "base64": FORM
    + part(b"file", b"YWJj", extra=b"Content-Transfer-Encoding: base64\r\n")
    + b"--b--",
    "quoted-printable": FORM
    + part(b"file", b"=41=\r\nb", extra=b"Content-Transfer-Encoding: Quoted-Printable\r\n")
    + b"--b--",
    "in a charset": FORM.replace(b"\n", b"; charset=utf-16\n")
    + part(b"file", b"1", b"\xe4")
    + b"--b--",
    "undefined": FORM.replace(b"\n", b"; charset=undefined\n") + part(b"file", b"1") + b"--b--",
    "half": FORM + part(b"file", b"one")[:60],
    "no-boundary": b"multipart/form-data\n\x01abc",
    "quoted": b'multipart/form-data; boundary="b"\n\x01' + part(b"file", b"one") + b"--b--\r\n",
    "long": FORM + part(b"file", bytes(MAX_BODY)) + b"--b--\r\n",
    "preamble": FORM + b"before\r\n" + part(b"file", b"one") + b"--b--\r\nafter",
}


class Request:
    """As much of a request as the endpoints read."""

    def __init__(self, kind: bytes, body: bytes, pieces: int) -> None:
        self.headers = Headers(raw=[(b"content-type", kind)])
        self._body = body
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        chance = random.Random(self._pieces)
        cuts = sorted(chance.randrange(len(self._body) + 1) for _ in range(self._pieces))
        for start, end in zip([0, *cuts], [*cuts, len(self._body)], strict=True):
            yield self._body[start:end]
        yield b""


def rule(data: bytes) -> None:
    """Images within the limits, or one of our errors."""
    kind, _, rest = data.partition(b"\n")
    request: Any = Request(kind, rest[1:], rest[0] if rest else 0)
    held: list[int] = []
    try:
        chunks = limited(request, MAX_BODY, held.append)
        parts = LOOP.run_until_complete(uploads(request.headers, chunks, SETTINGS))
    except ServiceError:
        return
    finally:
        if sum(held) > MAX_BODY:
            raise harness.RuleBroken(f"{sum(held)} bytes were taken in")
    size = sum(len(upload.data) for upload in parts)
    if not 0 < len(parts) <= MAX_FILES or size > MAX_BODY:
        raise harness.RuleBroken(f"{len(parts)} files of {size} bytes")


if __name__ == "__main__":
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each broken form
    harness.main(rule, SEEDS)
