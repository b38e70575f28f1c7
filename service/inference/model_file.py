"""
The record inside a model file.  It says what the network is, the names of its classes, what it
answers.

`alexnet-export` writes it into the file's metadata, and ends the file with its own checksum: the
last 78 bytes are one more metadata entry, so that any ONNX reader still accepts the file, and
hold the SHA-256 of all bytes before them.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelUnusable, ParameterInvalid

FORMAT = "1"  # the version of the contract with alexnet-export
# Protobuf: field 14 of ModelProto, 76 bytes; its key, "checksum"; its value, 64 bytes of hex.
MARK = b"\x72\x4c\x0a\x08checksum\x12\x40"
TAIL = len(MARK) + 64
CHUNK = 2**20  # bytes hashed at a time, so that a large file never lies in memory twice

# The order of `view_probabilities`: these, then their mirror images.
PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
CENTRE = PLACES.index("centre")

NO_FEATURES = (
    "the model file has no output of this name; export it again with alexnet-export, which adds it "
    "to any AlexNet"
)

SIDE = 256  # pixels; the square that goes into the network
THUMB = 32  # pixels; the golden image's side before each of its pixels becomes 8 x 8


@dataclass(frozen=True)
class Label:
    """A class's name, and its WordNet id where it is one of ImageNet's."""

    wordnet_id: str | None
    name: str


@dataclass(frozen=True)
class View:
    """
    A square of `side` pixels at `left`, `top` of the 256 x 256, mirrored or not.

    Files older than the entry `views` do not say where it is: `side` is 0.
    """

    name: str
    mirrored: bool
    left: int = 0
    top: int = 0
    side: int = 0


@dataclass(frozen=True)
class Model:
    """The record of a model file, and where the file is."""

    name: str
    variant: str
    precision: str
    sha256: str  # the file's checksum, 64 hex digits
    labels: tuple[Label, ...]
    crops: dict[str, int]  # a client's choice -> what the graph's input takes
    weights: dict[str, Any]
    accuracy: list[dict[str, Any]]
    exporter: dict[str, Any]
    golden: dict[str, Any]
    views: tuple[View, ...]  # ten; the choice of a single crop is that at `CENTRE`
    features: int  # how many an image has; 0 where the graph does not give them
    path: Path
    size_bytes: int

    @property
    def version(self) -> str:
        """The first 12 digits of the checksum, for answers."""
        return self.sha256[:12]

    def facts(self, name: str = "name") -> dict[str, str]:
        """What answers, metrics and logs call it: its name, under this key, and what tells it from
        others of that name."""
        others = {"variant": self.variant, "precision": self.precision, "version": self.version}
        return {name: self.name, **others}

    def crops_number(self, choice: str) -> int:
        """The number that the graph takes for a choice of crops; raises `ParameterInvalid`."""
        if choice not in self.crops:
            raise ParameterInvalid(f"crops={choice!r}: must be one of {', '.join(self.crops)}")
        return self.crops[choice]

    def check_details(self, details: Collection[str]) -> None:
        """`ParameterInvalid` unless the graph gives what these details of an answer need."""
        if "features" in details and not self.features:
            raise ParameterInvalid(f"details=features: {NO_FEATURES}")

    def golden_image(self) -> NDArray[np.uint8]:
        """The start-up image, `(1, 256, 256, 3)`: a thumb with every pixel repeated 8 x 8."""
        try:
            pixels = base64.b64decode(self.golden["pixels"], validate=True)
            thumb = np.frombuffer(pixels, np.uint8).reshape(THUMB, THUMB, 3)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise _bad_entry(self.path, "golden") from error
        return np.ascontiguousarray(thumb.repeat(8, axis=0).repeat(8, axis=1)[np.newaxis])


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """`ModelUnusable` if the file is replaced or written to during the block."""
    before = _stamp(path)
    yield
    if _stamp(path) != before:
        raise ModelUnusable(
            f"The model file {path} has changed while it was loaded; write the new one beside it, "
            "rename it into place, and try again."
        )


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs between two states of a file; empty if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def checksum(path: Path) -> str:
    """The file's SHA-256, 64 hex digits; `ModelUnusable` if the file does not end with it."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            remaining = path.stat().st_size - TAIL
            while remaining > 0 and (chunk := file.read(min(CHUNK, remaining))):
                digest.update(chunk)
                remaining -= len(chunk)
            tail = file.read()
    except OSError as error:
        raise ModelUnusable(
            f"The model file {path} cannot be read ({error.strerror}); check ALEXNET_MODEL / "
            "--model, or write one with alexnet-export."
        ) from error
    if len(tail) != TAIL or not tail.startswith(MARK):
        raise ModelUnusable(
            f"The model file {path} was not made by alexnet-export, or was cut short; export it "
            "again, or copy it again."
        )
    if tail[len(MARK) :] != digest.hexdigest().encode():
        raise ModelUnusable(
            f"The model file {path} is damaged: its bytes do not match its checksum; copy it "
            "again, or export it again."
        )
    return digest.hexdigest()


def read(path: Path, sha256: str, metadata: Mapping[str, str], *, features: int) -> Model:
    """
    The record in a file's metadata, checked; `ModelUnusable` names the entry at fault.

    `features` is how many the graph gives of an image.
    """
    if metadata.get("format") != FORMAT:
        raise ModelUnusable(
            f"The model file {path} has format {metadata.get('format', 'none')}, and this service "
            f"reads format {FORMAT}; upgrade alexnet-service, or export the model again."
        )
    golden = _entry(path, metadata, "golden", dict)
    if not golden.get("classes") or "tolerance" not in golden:
        raise _bad_entry(path, "golden")
    crops = _entry(path, metadata, "crops", dict)
    if not crops or not all(type(views) is int and 0 < views < 2**31 for views in crops.values()):
        raise _bad_entry(path, "crops")
    return Model(
        name=_name(path, metadata, "name"),
        variant=_name(path, metadata, "variant"),
        precision=_name(path, metadata, "precision"),
        sha256=sha256,
        labels=_labels(path, metadata),
        crops=crops,
        weights=_entry(path, metadata, "weights", dict),
        accuracy=_entry(path, metadata, "accuracy", list),
        exporter=_entry(path, metadata, "exporter", dict),
        golden=golden,
        views=_views(path, metadata),
        features=features,
        path=path,
        size_bytes=path.stat().st_size,
    )


def _views(path: Path, metadata: Mapping[str, str]) -> tuple[View, ...]:
    """The ten views in the order of the network's outputs."""
    if "views" not in metadata:
        return tuple(View(name, mirrored) for mirrored in (False, True) for name in PLACES)
    try:
        views = tuple(View(**view) for view in _entry(path, metadata, "views", list))
        numbers = [number for view in views for number in (view.left, view.top, view.side)]
    except TypeError as error:
        raise _bad_entry(path, "views") from error
    if [(view.name, view.mirrored) for view in views] != [
        (name, mirrored) for mirrored in (False, True) for name in PLACES
    ] or not all(type(number) is int and 0 <= number <= SIDE for number in numbers):
        raise _bad_entry(path, "views")
    return views


def _labels(path: Path, metadata: Mapping[str, str]) -> tuple[Label, ...]:
    """The classes in the order of the network's outputs."""
    try:
        labels = tuple(
            Label(None if wordnet_id is None else str(wordnet_id), str(name))
            for wordnet_id, name in _entry(path, metadata, "labels", list)
        )
    except (TypeError, ValueError) as error:
        raise _bad_entry(path, "labels") from error
    if not all(f"{label.wordnet_id}{label.name}".isprintable() for label in labels):
        raise _bad_entry(path, "labels")
    return labels


def _name(path: Path, metadata: Mapping[str, str], key: str) -> str:
    """An entry that terminals will show: they would obey control characters in it."""
    name = _text(path, metadata, key)
    if not name.isprintable():
        raise _bad_entry(path, key)
    return name


def _text(path: Path, metadata: Mapping[str, str], key: str) -> str:
    """An entry that must be there."""
    try:
        return metadata[key]
    except KeyError as error:
        raise _bad_entry(path, key) from error


def _entry(path: Path, metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """An entry that must be there and hold JSON of one kind."""
    try:
        entry = json.loads(_text(path, metadata, key))
    except (ValueError, RecursionError) as error:  # not JSON, a number too long, too deep
        raise _bad_entry(path, key) from error
    if not isinstance(entry, kind):
        raise _bad_entry(path, key)
    return entry


def _bad_entry(path: Path, key: str) -> ModelUnusable:
    return ModelUnusable(
        f"The model file {path} has no usable metadata entry {key!r}; export the model again."
    )
