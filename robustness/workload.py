"""
Photographs -> requests as services get them, and their answers.

Mostly single images with ten crops, some with one, some forms, a bad image now and then, by
itself or among good ones.  What the good ones show is asked once, while nothing else happens.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image

from benchmarks import photographs
from service.inference.limits import DecodeLimits
from service.loadtest.generator import JPEG, Request, Send, arrivals, open_loop
from service.loadtest.statistics import Record

CHOICES: Final = ("ten", "one")
CLOSE: Final = 1e-3  # of probability: classes this near to the best may change places
FILES: Final = (2, 8)  # images in a form
SPOILT: Final = 0.2  # the share of forms that have a bad image

BOUNDARY: Final = "7d1f0c1e9a3b45c8"
HEADERS: Final[Mapping[str, str]] = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

# Seconds from the intended time; more than the server's own limit of 30, so that its 504 is seen.
TIMEOUT: Final = 40.0
REFUSED: Final = (0, 429, 503)  # statuses after which a client in a closed loop pauses

# Where a client left: in the middle of the upload, or while it waited.
UPLOADING, WAITING, CUT_OFF = WAYS = ("in the upload", "waiting", "cut off by the server")
AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass(frozen=True)
class Question:
    """A request, its kind in a word, and its right answer."""

    kind: str
    request: Request
    status: int = 200
    # The classes that may be the best, of each image; empty for one that is refused.
    expected: tuple[frozenset[int], ...] = ()


class Mix:
    """Draws questions; weights are shares of the requests."""

    def __init__(
        self, images: Sequence[bytes], known: dict[str, list[frozenset[int]]], seed: int = 0
    ) -> None:
        """`known[crops]` has the best classes of each image."""
        self.chance = random.Random(seed)
        self._images = images
        self._known = known
        self._bad = bad(images[0])
        self._kinds: dict[Callable[[], Question], float] = {
            self.ten: 0.70,
            self.one: 0.12,
            self.form: 0.10,
            self.refused: 0.08,
        }

    def draw(self) -> Question:
        """The next one."""
        return self.chance.choices(list(self._kinds), list(self._kinds.values()))[0]()

    def ten(self) -> Question:
        """A single image, ten crops."""
        return self._single("ten")

    def one(self) -> Question:
        """A single image, one crop."""
        return self._single("one")

    def form(self) -> Question:
        """Two to eight images, one of them bad at times."""
        places = [self._place() for _ in range(self.chance.randint(*FILES))]
        files = [(f"{place}.jpg", self._images[place]) for place in places]
        expected = [self._known["ten"][place] for place in places]
        if self.chance.random() < SPOILT:
            spoilt = self.chance.randrange(len(files))
            files[spoilt], expected[spoilt] = ("bad.jpg", self._bad[0].request.body), frozenset()
        body, headers = form(files)
        return Question("form", Request(body, headers, "?crops=ten"), expected=tuple(expected))

    def refused(self) -> Question:
        """Something that is no image, or asks for what there is not."""
        return self.chance.choice(self._bad)

    def _single(self, crops: str) -> Question:
        place = self._place()
        request = Request(self._images[place], query=f"?crops={crops}")
        return Question(crops, request, expected=(self._known[crops][place],))

    def _place(self) -> int:
        return self.chance.randrange(len(self._images))


def bad(image: bytes) -> list[Question]:
    """Requests that a server refuses; the first of them has a body that a form can hold too."""
    giant = io.BytesIO()
    side = math.isqrt(DecodeLimits.max_pixels) + 1
    Image.new("1", (side, side)).save(giant, "PNG")  # in a few kilobytes
    return [
        Question("bad", Request(image[: len(image) // 2]), 422),
        Question("bad", Request(b"this is no image"), 415),
        Question("bad", Request(b""), 400),
        Question("bad", Request(image, {"Content-Type": "text/plain"}), 415),
        Question("bad", Request(image, JPEG, "?crops=eleven"), 422),
        Question("bad", Request(giant.getvalue(), {"Content-Type": "image/png"}), 413),
    ]


def best(body: bytes) -> list[frozenset[int]]:
    """An answer's predictions: the classes that may be called the best, none for a refusal."""
    predictions: list[Any] = json.loads(body)["predictions"]
    return [
        frozenset(
            row["index"]
            for row in prediction.get("classes", ())
            if row["probability"] >= prediction["classes"][0]["probability"] - CLOSE
        )
        for prediction in predictions
    ]


def fault(question: Question, record: Record) -> str:
    """What is wrong with an answer; nothing if it is right."""
    if record.status != question.status:
        return f"{question.kind}: {record.status or record.reason} instead of {question.status}"
    try:
        if record.status != 200:
            return "" if json.loads(record.body)["code"] else f"{question.kind}: no code"
        predicted = [
            prediction["classes"][0]["index"] if "classes" in prediction else None
            for prediction in json.loads(record.body)["predictions"]
        ]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"{question.kind}: an answer in another shape"
    if len(predicted) != len(question.expected):
        return f"{question.kind}: {len(predicted)} predictions instead of {len(question.expected)}"
    for index, expected in zip(predicted, question.expected, strict=True):
        if (index is None) != (not expected) or (expected and index not in expected):
            return f"{question.kind}: class {index} instead of {sorted(expected)}"
    return ""


def singles(folder: Path | None) -> tuple[list[bytes], str]:
    """
    The JPEGs of a folder in the order of their names, and what they are in words.

    Without a folder, the package's photographs at 500 x 375.
    """
    with tempfile.TemporaryDirectory(prefix="alexnet-images-") as work:
        if folder is None:
            prepared = photographs.prepare(None, Path(work) / "prepared")
            folder, about = prepared.typical, prepared.about
        else:
            about = f"the images of {folder.name}"
        bodies = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    if not bodies:
        raise SystemExit(f"{folder} holds no files *.jpg")
    return bodies, about


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, Mapping[str, str]]:
    """File names and bytes, each a part of its own."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n" % (BOUNDARY.encode(), name.encode(), data)
        for name, data in files
    ]
    return b"".join([*parts, b"--%b--\r\n" % BOUNDARY.encode()]), HEADERS


async def offer(
    send: Send, *, rate: float, seconds: float, seed: int = 0, alive: Callable[[], bool]
) -> dict[str, float]:
    """
    `rate` requests a second at random times, while the server lives, whatever is answered.

    Nothing limits how many are outstanding: a limit would hide an overload.  Returns how many there
    were at most, and the generator's share of one core, 0-1.
    """
    start, cpu = time.perf_counter(), time.process_time()

    def due_times() -> Iterator[float]:
        for at in arrivals(rate, seconds, seed=seed):
            if not alive():
                return
            yield start + at

    most = await open_loop(send, due_times())
    # The last arrival is a chance before the end.
    await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()) if alive() else 0.0)
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    return {"most_outstanding": most, "cpu": share}


async def leave(url: str, request: Request, chance: random.Random, patience: float) -> str:
    """
    Send a request and go at a random moment, at most `patience` seconds after sending; with a word
    (FIN) or without (RST).

    Returns which of `WAYS` it was, or the error that kept it from connecting.
    """
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return type(error).__name__
    lines = [
        f"POST /v1/predict{request.query} HTTP/1.1",
        f"Host: {host}:{port}",
        *(f"{name}: {value}" for name, value in request.headers.items()),
        f"Content-Length: {len(request.body)}",
    ]
    early = chance.random() < 1 / 3
    sent = request.body[: chance.randrange(len(request.body) + 1)] if early else request.body
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + sent)
        await writer.drain()
        # A client that is answered before the time is up leaves with the answer unread.
        await asyncio.sleep(chance.uniform(0, patience))
        if chance.random() < 0.5:
            if (connection := writer.get_extra_info("socket")) is None:
                return CUT_OFF
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    except OSError:
        return CUT_OFF
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return UPLOADING if early else WAITING
