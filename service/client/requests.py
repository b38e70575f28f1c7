"""
Images as callers have them -> the request that classifies them; nothing here sends.

A file or file object is read once and whole, so that a request can be sent again.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Generic, Protocol, TypeVar

from service.client import responses
from service.client.errors import ClientError, FileUnreadable
from service.client.responses import Outcome, Response

T = TypeVar("T")

OCTETS: Final = "application/octet-stream"  # the server looks at the bytes themselves
UNNAMED: Final = "picture"  # a part of a form without a name would be no file


class Readable(Protocol):
    """A file opened in binary mode, or anything else that gives bytes."""

    def read(self) -> bytes: ...


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable


@dataclass(frozen=True, slots=True)
class Upload:
    """An image's bytes, and its name without folders if it has one."""

    data: bytes
    filename: str | None


Entry = Upload | ClientError  # of a batch; an error is one that was met while reading


def read(image: ImageInput) -> Upload:
    """The bytes of an image; `FileUnreadable` if its file cannot be read."""
    if isinstance(image, bytes | bytearray | memoryview):
        return Upload(bytes(image), None)
    if isinstance(image, str | os.PathLike):
        name: object = os.fspath(image)
    else:
        name = getattr(image, "name", None)  # a number, of a file opened by its descriptor
    filename = PurePath(name).name if isinstance(name, str) else None
    try:
        data = _contents(image)
    except OSError as error:
        shown = "the file" if filename is None else name
        reason = f"{shown} cannot be read: {error.strerror or error}"
        raise FileUnreadable(reason, filename=filename) from error
    if not isinstance(data, bytes):
        raise TypeError("the image's file is opened as text; open it with mode 'rb'")
    return Upload(data, filename)


def read_or_error(image: ImageInput) -> Entry:
    """The same, for an image among many: the error takes its place."""
    try:
        return read(image)
    except FileUnreadable as error:
        return error


def _contents(image: str | os.PathLike[str] | Readable) -> object:
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            return file.read()
    if not hasattr(image, "read"):
        kind = type(image).__name__
        raise TypeError(f"an image is a path, bytes or a file opened in binary mode, not {kind}")
    return image.read()


@dataclass(frozen=True)
class Request(Generic[T]):
    """A request, and what its answer means; `read` raises `ClientError`."""

    path: str
    read: Callable[[Response], T]
    options: Mapping[str, Any]  # method, query, headers and body, as httpx2 takes them


HEALTH: Final = Request("health", responses.health, {"method": "GET"})
READINESS: Final = Request("readyz", responses.readiness, {"method": "GET"})


def predict(
    uploads: Sequence[Upload], top: int, crops: str, details: Sequence[str]
) -> Request[list[Outcome]]:
    """Classify the images: one is the body itself, which is faster; several are a form."""
    params: dict[str, str | int] = {"top": top, "crops": crops}
    if names := details if isinstance(details, str) else ",".join(details):
        params["details"] = names
    body: dict[str, Any]
    if len(uploads) == 1:
        body = {"content": uploads[0].data, "headers": {"Content-Type": OCTETS}}
    else:
        body = {
            "files": [
                # Without the halves of characters, which no form could hold.
                ("file", ((name or UNNAMED).encode("utf-8", "replace").decode(), data, OCTETS))
                for data, name in ((upload.data, upload.filename) for upload in uploads)
            ]
        }
    return Request(
        "v1/predict",
        lambda response: responses.outcomes(response, [upload.filename for upload in uploads]),
        {"method": "POST", "params": params, **body},
    )
