"""
Photographs -> requests at random as a service gets them, and what each should be answered.

Mostly single images with ten crops, some with one, some forms, a bad image now and then, by
itself or among good ones.  What the good ones show is asked once, while nothing else happens.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from .client import JPEG, Ask, Record
from .payloads import form

CHOICES: Final = ("ten", "one")
CLOSE: Final = 1e-3  # of probability: classes this near to the best may change places
FILES: Final = (2, 8)  # images in a form
SPOILT: Final = 0.2  # the share of forms that have a bad image


@dataclass(frozen=True)
class Question:
    """A request, its kind in a word, and its right answer."""

    kind: str
    ask: Ask
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
            files[spoilt], expected[spoilt] = ("bad.jpg", self._bad[0].ask.body), frozenset()
        body, headers = form(files)
        return Question("form", Ask(body, headers, "?crops=ten"), expected=tuple(expected))

    def refused(self) -> Question:
        """Something that is no image, or asks for what there is not."""
        return self.chance.choice(self._bad)

    def _single(self, crops: str) -> Question:
        place = self._place()
        ask = Ask(self._images[place], query=f"?crops={crops}")
        return Question(crops, ask, expected=(self._known[crops][place],))

    def _place(self) -> int:
        return self.chance.randrange(len(self._images))


def bad(image: bytes) -> list[Question]:
    """Requests that a server refuses; the first of them has a body that a form can hold too."""
    giant = io.BytesIO()
    Image.new("1", (8000, 8000)).save(giant, "PNG")  # 64 megapixels in a few kilobytes
    return [
        Question("bad", Ask(image[: len(image) // 2]), 422),
        Question("bad", Ask(b"this is no image"), 415),
        Question("bad", Ask(b""), 400),
        Question("bad", Ask(image, {"Content-Type": "text/plain"}), 415),
        Question("bad", Ask(image, JPEG, "?crops=eleven"), 422),
        Question("bad", Ask(giant.getvalue(), {"Content-Type": "image/png"}), 413),
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
        said = [
            prediction["classes"][0]["index"] if "classes" in prediction else None
            for prediction in json.loads(record.body)["predictions"]
        ]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"{question.kind}: an answer in another shape"
    if len(said) != len(question.expected):
        return f"{question.kind}: {len(said)} predictions instead of {len(question.expected)}"
    for index, expected in zip(said, question.expected, strict=True):
        if (index is None) != (not expected) or (expected and index not in expected):
            return f"{question.kind}: class {index} instead of {sorted(expected)}"
    return ""
