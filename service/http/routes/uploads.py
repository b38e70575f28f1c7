"""
A body to the encoded images in it.

The raw body is one image and fast; a multipart form carries one or more and is convenient.  Both
stay in memory: nothing is written to disk.
"""

from collections.abc import AsyncGenerator
from typing import Final

from starlette.datastructures import Headers

from service import errors
from service.http.routes.forms import Upload, read_form
from service.settings import Settings

OCTETS: Final = "application/octet-stream"


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
    content_type = headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await read_form(content_type, chunks, settings.max_files)
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
