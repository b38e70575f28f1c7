"""
Paths, addresses, bytes and files -> an image's bytes.

Each is read once and whole, so that a request can be sent again.  A download has connections of
its own, to which neither the API key nor what else is meant for the server is given.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, Protocol
from urllib.parse import unquote

import httpx2

from alexnet_client.errors import ClientError, DownloadFailed, FileUnreadable, TimedOut
from alexnet_client.transport import AGENT, Deadline

MAX_DOWNLOAD: Final = 20 * 2**20  # bytes; what the server takes as it comes
REDIRECTS: Final = 5
HEADERS: Final = {
    "User-Agent": AGENT,
    "Accept": "image/*, */*;q=0.1",
    "Accept-Encoding": "identity",
}
INSTEAD: Final = "correct the address, or give the image's bytes"


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


class Reader:
    """Reads images, and keeps the connections of downloads; any number of threads may share one."""

    def __init__(self, timeout: float | None) -> None:
        """`timeout` is for one download, in seconds; None sets no limit."""
        self._timeout = timeout
        self._lock = threading.Lock()
        self._http: httpx2.Client | None = None

    def read(self, image: ImageInput) -> Upload:
        """The bytes of an image; `FileUnreadable` if its file or its address cannot be read."""
        if isinstance(image, bytes | bytearray | memoryview):
            return Upload(bytes(image), None)
        if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
            return self._download(image)
        return _file(image)

    def read_or_error(self, image: ImageInput) -> Entry:
        """The same, for an image among many: the error takes its place."""
        try:
            return self.read(image)
        except FileUnreadable as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._http is not None:
                self._http.close()

    def _connected(self) -> httpx2.Client:
        with self._lock:  # only for those who download: to read the authorities takes 50 ms
            if self._http is None:
                self._http = httpx2.Client(
                    headers=HEADERS, follow_redirects=True, max_redirects=REDIRECTS
                )
            return self._http

    def _download(self, url: str) -> Upload:
        shown, filename = _shown(url)
        deadline = Deadline(shown, self._timeout)
        with (
            _told(shown, filename),
            self._connected().stream("GET", url, timeout=deadline.timeouts()) as response,
        ):
            if response.status_code != 200:
                answer = f"{response.status_code} {response.reason_phrase}".rstrip()
                raise _failed(shown, f"the answer is {answer}", INSTEAD, filename)
            data = bytearray()
            for chunk in deadline.watch(response.iter_bytes()):
                data += chunk
                if len(data) > MAX_DOWNLOAD:
                    reason = f"it is larger than {MAX_DOWNLOAD >> 20} MiB"
                    raise _failed(shown, reason, "give the bytes of a smaller one", filename)
        return Upload(bytes(data), filename)


def _shown(url: str) -> tuple[str, str | None]:
    """An address without what may be secret in it, and the name of the file there."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise _failed("the address", str(error), INSTEAD, None) from error
    shown = str(parsed.copy_with(userinfo=b"", query=None, fragment=None))
    return shown, PurePath(unquote(parsed.path)).name or None


@contextmanager
def _told(shown: str, filename: str | None) -> Iterator[None]:
    """Raise what a download raises as `DownloadFailed`."""
    try:
        yield
    except (TimedOut, httpx2.TimeoutException) as error:
        remedy = "allow more with timeout=, or give the image's bytes"
        raise _failed(shown, "it did not come in time", remedy, filename) from error
    except httpx2.TooManyRedirects as error:
        raise _failed(shown, f"more than {REDIRECTS} redirects", INSTEAD, filename) from error
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise _failed(shown, str(error).rstrip("."), INSTEAD, filename) from error


def _failed(shown: str, reason: str, remedy: str, filename: str | None) -> DownloadFailed:
    return DownloadFailed(f"{shown} cannot be fetched: {reason}; {remedy}", filename=filename)


def _file(image: str | os.PathLike[str] | Readable) -> Upload:
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


def _contents(image: str | os.PathLike[str] | Readable) -> object:
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            return file.read()
    if not hasattr(image, "read"):
        kind = type(image).__name__
        raise TypeError(f"an image is a path, bytes or a file opened in binary mode, not {kind}")
    return image.read()
