"""
A body to the encoded images in it.

The raw body is one image and fast; a multipart form carries one or more and is convenient.  Both
stay in memory: nothing is written to disk.
"""

import math
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service import errors
from service.settings import Settings

OCTETS: Final = "application/octet-stream"
MOST_FIELDS: Final = 100  # text fields of a form; we read none of them


class Upload(NamedTuple):
    """One image as it came; a raw body has no file name."""

    filename: str | None
    data: bytes


async def uploads(
    headers: Headers,
    chunks: AsyncGenerator[bytes, None],
    settings: Settings,
    *,
    any_type: bool = False,
) -> list[Upload]:
    """
    Read the images, raw or from a form as the Content-Type says, or raise `RequestError`.

    With `any_type` whatever is no form is an image, whatever it is called.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(headers, chunks, settings)
    if not (any_type or not kind or kind.startswith("image/") or kind == OCTETS):
        raise errors.MediaTypeUnsupported(
            f"Content-Type {kind} is not taken here; send the image itself with "
            "-H 'Content-Type: image/jpeg' (or application/octet-stream), "
            "or a form with -F file=@picture.jpg"
        )
    data = b"".join([chunk async for chunk in chunks])
    if not data:
        raise errors.BodyEmpty("the body is empty; send an image's bytes in it")
    return [Upload(None, data)]


class _FormParser(MultiPartParser):
    """Starlette's parser, with every file kept in memory and counted against our limit."""

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], max_files: int, max_body: int
    ) -> None:
        super().__init__(headers, stream, max_files=math.inf, max_fields=MOST_FIELDS)
        self.spool_max_size = max_body + 1  # never reached, so nothing goes to disk
        self._most_files = max_files

    def on_part_end(self) -> None:
        super().on_part_end()
        if self._current_files > self._most_files:
            raise errors.TooManyFiles(
                f"the form has more than {self._most_files} files; send them in several "
                "requests, or raise ALEXNET_MAX_FILES on the server"
            )


async def _form(
    headers: Headers, chunks: AsyncGenerator[bytes, None], settings: Settings
) -> list[Upload]:
    parser = _FormParser(headers, chunks, settings.max_files, settings.max_body)
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # the latter for a charset that is none
        reason = getattr(error, "message", error)
        raise errors.RequestMalformed(
            f"the form cannot be read: {str(reason).rstrip('.')}; let the client write the "
            "Content-Type and the boundary itself, as curl -F file=@picture.jpg does"
        ) from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise errors.RequestMalformed(
                "the form has no file; send one as -F file=@picture.jpg (the @ makes it a file)"
            )
        return [Upload(_printable(file.filename), await file.read()) for file in files]
    finally:
        await form.close()


def _printable(name: str | None) -> str | None:
    """A file's name without the halves of characters that no answer could hold."""
    return name and name.encode("utf-8", "replace").decode()
