"""
A body to the encoded images in it.  It is one image, or a multipart form with one or more.

Both stay in memory: nothing is written to disk.  python-multipart finds a form's parts; which of
them are images is decided here, as clients send them:

    filename="cat.jpg"              an image, whatever its media type
    filename*=UTF-8''caf%C3%A9.jpg  likewise, as old clients write (RFC 5987)
    Content-Type: image/jpeg        likewise, without a name
    anything else                   an image if it is alone, else a text field, which is passed over

Its closing boundary alone says that a form is whole: cut short between two images, it would look
like one with fewer.
"""

import re
from binascii import a2b_qp
from collections.abc import AsyncGenerator, Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers

from service import errors
from service.http.routes.json_base64 import decoded
from service.inference.unsupported import unsupported
from service.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

OCTETS: Final = "application/octet-stream"
MOST_FIELDS: Final = 100  # text fields of a form; none of them is read
LONGEST_NAME: Final = 255  # bytes of a file's name, as Linux and macOS have it

# name=value or name="value", whose quote may be missing at the end.
PARAMETER: Final = re.compile(r';\s*([^\s=;]+)\s*=\s*("(?:[^"\\]|\\.)*(?:"|$)|[^;]*)')
STARRED: Final = "filename*"

# Of Content-Transfer-Encoding (RFC 2045, section 6).
TRANSFER_ENCODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "7bit": bytes,
    "8bit": bytes,
    "binary": bytes,
    "base64": decoded,
    "quoted-printable": a2b_qp,
}

UNKNOWN_BOUNDARY: Final = "it does not begin with the boundary that its Content-Type names"
USE_A_CLIENT: Final = (
    "let the client write the Content-Type and the boundary itself, as curl -F file=@picture.jpg "
    "does"
)


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
    kind = media_type(headers)
    if kind == "multipart/form-data":
        return await read_form(headers["content-type"], chunks, settings.max_files)
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


def media_type(headers: Headers) -> str:
    """The Content-Type in small letters, without its parameters; nothing if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_form(
    content_type: str, chunks: AsyncGenerator[bytes, None], max_files: int
) -> list[Upload]:
    """The images of a form, in their order; raises `RequestError`."""
    _, parameters = parse_options_header(content_type)
    form = _Form(parameters.get(b"charset", b"utf-8").decode("latin-1"), max_files)
    parser = _parser(parameters.get(b"boundary", b""), form)
    async for chunk in chunks:
        try:
            parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error) if form.parts else UNKNOWN_BOUNDARY) from error
    return form.uploads()


def _parser(boundary: bytes, form: "_Form") -> MultipartParser:
    if not boundary:
        raise _malformed("its Content-Type names no boundary")
    callbacks: MultipartCallbacks = {
        "on_part_begin": form.part_begins,
        "on_header_field": form.header_name_read,
        "on_header_value": form.header_value_read,
        "on_header_end": form.header_ends,
        "on_headers_finished": form.headers_end,
        "on_part_data": form.data_read,
        "on_part_end": form.part_ends,
        "on_end": form.ends,
    }
    try:
        return MultipartParser(boundary, callbacks)
    except FormParserError as error:
        raise _malformed(str(error)) from error


def _malformed(reason: str) -> errors.RequestMalformed:
    return errors.RequestMalformed(f"the form cannot be read: {reason}; {USE_A_CLIENT}")


class _Part:
    """What is known of one part of a form."""

    def __init__(self) -> None:
        self.headers: dict[str, bytes] = {}
        self.filename: str | None = None
        self.is_image = False
        self.content = BytesIO()

    @property
    def data(self) -> bytes:
        """The part's bytes before its Content-Transfer-Encoding."""
        data = self.content.getvalue()
        name = _word(self.headers.get("content-transfer-encoding", b"binary"))
        if name not in TRANSFER_ENCODINGS:
            raise errors.RequestMalformed(
                f"the Content-Transfer-Encoding {name[:64]} of {self} is not taken here; send the "
                "file as it is, without that header"
            )
        try:
            return TRANSFER_ENCODINGS[name](data)
        except ValueError as error:
            raise errors.RequestMalformed(
                f"{self} is not {name}, as its Content-Transfer-Encoding says ({error}); send the "
                "file as it is, without that header"
            ) from error

    def __str__(self) -> str:
        return "a part of the form" if self.filename is None else f"the file {self.filename!r}"


class _Form:
    """Collects the images of a form as its parser comes by them."""

    def __init__(self, charset: str, max_files: int) -> None:
        self._charset = charset
        self._max_files = max_files
        self._images: list[_Part] = []
        self._first = self._part = _Part()
        self.parts = self._files = 0
        self._name, self._value = b"", b""
        self._whole = False

    def uploads(self) -> list[Upload]:
        """The images, once all bytes of the form were read."""
        if not self._whole:
            raise errors.RequestMalformed(
                "the form is cut short: its closing boundary is missing; send all of it, with a "
                f"Content-Length in bytes and not in characters, or {USE_A_CLIENT}"
            )
        images = self._images
        if self.parts == 1 and not images and not _is_a_name(self._first.data):
            images = [self._first]
        if not images:
            raise errors.RequestMalformed(
                "the form has no file; send one as -F file=@picture.jpg (the @ makes it a file)"
            )
        return [Upload(part.filename, part.data) for part in images]

    # What the parser calls

    def part_begins(self) -> None:
        """Another part; if the first was a text field, it is not alone."""
        self._part = _Part()
        self.parts += 1
        if self.parts == 1:
            self._first = self._part
        elif not self._first.is_image:
            self._first.content = BytesIO()

    def header_name_read(self, data: bytes, start: int, end: int) -> None:
        """A piece of a header's name."""
        self._name += data[start:end]

    def header_value_read(self, data: bytes, start: int, end: int) -> None:
        """A piece of its value."""
        self._value += data[start:end]

    def header_ends(self) -> None:
        """One header of a part."""
        self._part.headers[_word(self._name)] = self._value
        self._name, self._value = b"", b""

    def headers_end(self) -> None:
        """The part's data comes next: is it an image?"""
        part = self._part
        part.filename = self._filename(part.headers.get("content-disposition", b""))
        media_type = _word(part.headers.get("content-type", b""))
        part.is_image = part.filename is not None or media_type.startswith("image/")
        self._files += part.is_image
        if self._files > self._max_files:
            raise errors.TooManyFiles(
                f"the form has more than {self._max_files} files; send them in several "
                "requests, or raise ALEXNET_MAX_FILES on the server"
            )
        if self.parts - self._files > MOST_FIELDS:
            raise errors.RequestMalformed(
                f"the form has more than {MOST_FIELDS} text fields; leave them out, as none is read"
            )

    def data_read(self, data: bytes, start: int, end: int) -> None:
        """A piece of the part's data."""
        if self._part.is_image or self.parts == 1:
            self._part.content.write(memoryview(data)[start:end])

    def part_ends(self) -> None:
        """The part is here in full."""
        if self._part.is_image:
            self._images.append(self._part)

    def ends(self) -> None:
        """The closing boundary is here."""
        self._whole = True

    def _filename(self, disposition: bytes) -> str | None:
        _, parameters = parse_options_header(disposition)
        if (name := parameters.get(b"filename")) is not None:
            return _printable(self._text(name))
        for name, value in PARAMETER.findall(disposition.decode("latin-1")):
            if name.lower() == STARRED:
                return _printable(_extended(value.strip().strip('"')))
        return None

    def _text(self, name: bytes) -> str:
        """A name in the form's charset."""
        try:
            return name.decode(self._charset)
        except (UnicodeDecodeError, LookupError):
            return name.decode("latin-1")
        except ValueError as error:
            raise errors.RequestMalformed(
                f"the form's charset {self._charset[:64]!r} is none; leave it out, or send utf-8"
            ) from error


def _word(value: bytes) -> str:
    """A header's value in small letters, without its parameters."""
    return value.decode("latin-1").partition(";")[0].strip().lower()


def _extended(value: str) -> str:
    """What `charset'language'text` stands for, in one of two charsets (RFC 5987, section 3.2)."""
    charset, mark, rest = value.partition("'")
    text = rest.partition("'")[2] if mark else value
    return unquote(text, "latin-1" if charset.lower() == "iso-8859-1" else "utf-8")


def _printable(name: str) -> str:
    """A file's name without the halves of characters that no answer could hold."""
    return name.encode("utf-8", "replace").decode()


def _is_a_name(data: bytes) -> bool:
    """Whether a part's data is a name of a file, sent where the file was meant, or nothing."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return len(data) <= LONGEST_NAME and text.isprintable() and unsupported(data) is None
