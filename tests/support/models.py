"""
The model files in tests/models, which `exported.py` makes, and copies of them with other metadata.

Tiny networks with the real front and back: what the exporter writes for its own networks, in a
hundred kilobytes.  Nothing here needs torch or onnx.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from service.inference.model_file import MARK, TAIL

MODELS = Path(__file__).parents[1] / "models"
TINY = MODELS / "tiny.onnx"  # ten crops, one and dense; ImageNet's 1000 classes
CAFFE = MODELS / "caffe.onnx"  # the same network prepared as the variant `caffe` is: ten and one
OWN = MODELS / "own.onnx"  # three classes of somebody's own
FAULTY = MODELS / "faulty.onnx"  # fails on images that begin with RAISES or HANGS
HANGING = MODELS / "hanging.onnx"  # never answers its own start-up image

RAISES, HANGS = 201, 202  # first values of an image: the run raises, or goes on for years

METADATA = b"\x72"  # protobuf: field 14 of ModelProto, which is length-delimited


def altered(path: Path, to: Path, **entries: str | None) -> Path:
    """A copy with other metadata (None removes an entry), and a checksum that is right again."""
    body = path.read_bytes()[:-TAIL]
    metadata = dict(_metadata(body)) | entries
    kept = b"".join(field for field in _fields(body) if not field.startswith(METADATA))
    kept += b"".join(_entry(key, value) for key, value in metadata.items() if value is not None)
    to.write_bytes(kept + MARK + hashlib.sha256(kept).hexdigest().encode())
    return to


def without_features(path: Path, to: Path) -> Path:
    """A copy whose graph calls its output `features` something else."""
    body = path.read_bytes()[:-TAIL].replace(b"features", b"hidden_4")
    to.write_bytes(body + MARK + hashlib.sha256(body).hexdigest().encode())
    return to


def entry(path: Path, key: str) -> str:
    """One entry of a file's metadata."""
    return dict(_metadata(path.read_bytes()))[key]


# Protocol Buffers' wire format, https://protobuf.dev/programming-guides/encoding/


def _metadata(body: bytes) -> Iterator[tuple[str, str]]:
    for field in _fields(body):
        if field.startswith(METADATA):
            key, value = (_value(part).decode() for part in _fields(_value(field)))
            yield key, value


def _fields(message: bytes) -> Iterator[bytes]:
    """The fields of a message one by one, each with its tag."""
    place = 0
    while place < len(message):
        start = place
        tag, place = _varint(message, place)
        length, place = _varint(message, place)  # the value itself where it is a number
        if tag & 7 == 2:
            place += length
        yield message[start:place]


def _value(field: bytes) -> bytes:
    """What a length-delimited field holds."""
    _, place = _varint(field, 0)
    _, place = _varint(field, place)
    return field[place:]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place


def _entry(key: str, value: str) -> bytes:
    pair = _delimited(b"\x0a", key.encode()) + _delimited(b"\x12", value.encode())
    return _delimited(METADATA, pair)


def _delimited(tag: bytes, value: bytes) -> bytes:
    length, number = b"", len(value)
    while number >= 0x80:
        length += bytes([number & 0x7F | 0x80])
        number >>= 7
    return tag + length + bytes([number]) + value
