"""
A connection's bytes to requests, or to an error.

httptools finds the parts.  Refused here is what it lets through: headers, or what surrounds the
chunks of a body, beyond a size or a number; first lines of other protocols; invalid hosts; targets
that are not paths; bodies in codings that are not decoded.  Range is ignored, as a
server may (RFC 9110, section 14.2): files are sent whole.  tests/service/test_rfc_9112.py has the
cases.
"""

import ipaddress
import logging
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol
from urllib.parse import unquote

import httptools

from service.errors import HeadersTooLarge, RequestMalformed, ServiceError

logger = logging.getLogger("service")

# Bytes parsed in one go; in no case more than one request, so that a segment of tiny ones does not
# become thousands at once.
STEP: Final = 1024
# The parser takes first lines of HTTP/0.9, HTTP/2.0, RTSP and ICE too, and does not tell which.
FIRST_LINE: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.[01]\r\n")
LINE_END: Final = re.compile(rb"\n")
EMPTY_LINE: Final = re.compile(rb"(?:\A|\n)\r?\n")  # each request ends with one, or a counted body
# Header fields of a request, trailers included.  Bytes do not bound what they cost: a field of
# five takes well over 100 here, and 600 connections with 16 MB of such took the process from 140 MB
# to 529 and held up /livez for 5.5 s.  Browsers send about 20 fields; Apache allows 100.
FIELDS: Final = 256
AUTHORITY: Final = re.compile(rb"https?://([^/?]+).*", re.IGNORECASE)
HOST: Final = re.compile(rb"(\[[0-9A-Za-z:.%]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]{0,5})?")


class Phase(Enum):
    """Where in the stream of requests the parser is."""

    BETWEEN = "between"
    HEADERS = "headers"
    BODY = "body"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request up to the end of its headers, whose names are in lower case."""

    version: str
    method: str
    path: str  # as the application sees it
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    waits_to_continue: bool  # whether the body is held back until it is wanted


class Listener(Protocol):
    """Who hears of what was read, in this order."""

    def request_begins(self) -> None:
        """The first byte of a request is here."""

    def request_read(self, request: Request) -> None:
        """Its headers are here in full."""

    def body_read(self, body: bytes) -> None:
        """A part of its body is here."""

    def request_ends(self) -> None:
        """It is here in full."""


class Requests:
    """The requests in a stream of bytes."""

    def __init__(self, listener: Listener, max_headers: int) -> None:
        self.phase = Phase.BETWEEN
        self.method = b""  # of the request that is being read, once it is known
        self._listener = listener
        self._max_headers = max_headers
        self._parser = self._new_parser()
        self._line: bytearray | None = bytearray()  # the first line, until it is here in full
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # Bytes of the headers so far, as parsed and as received; and of a body's chunk headers and
        # trailers beyond what honest ones need.
        self._head = self._head_received = self._excess = 0
        self._fields = 0  # header fields so far, and trailers
        self._body_left: int | None = None  # None for a chunked one
        self._body_bytes = self._chunks = 0

    def read(self, data: memoryview) -> int:
        """Read as much of this as may be in one go, and return its size; raises `ServiceError`."""
        piece = self._piece(data)
        self._body_bytes, self._chunks = 0, 0
        try:
            self._feed(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade()
            return int(upgrade.args[0])
        self._count(len(piece))
        self._check_line(piece)
        return len(piece)

    def end(self) -> None:
        """Nothing more will be read: let go of each other, rather than wait to be collected."""
        del self._parser, self._listener

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request with `Connection: close` is not read in any case.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _feed(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise _fault(error) from error

    def _piece(self, data: memoryview) -> memoryview:
        """What may be parsed in one go: of one request, and of its first line or what follows."""
        if self.phase is Phase.BODY and self._body_left is not None:
            return data[: max(1, self._body_left)]
        piece = data[: 4 * STEP if self.phase is Phase.BODY else STEP]
        end = (EMPTY_LINE if self._line is None else LINE_END).search(piece)
        return piece[: end.end()] if end else piece

    def _check_line(self, piece: memoryview) -> None:
        """Raise `RequestMalformed` if a request's first line is another protocol's."""
        if self.phase is Phase.BETWEEN:  # no request has begun: empty lines may come before it
            self._line = bytearray()
        elif self._line is not None:
            self._line += piece
            if self._line.endswith(b"\n"):
                if not FIRST_LINE.fullmatch(self._line):
                    raise RequestMalformed(
                        "the first line is not one of HTTP/1.1 or HTTP/1.0; send a method, a "
                        "target and HTTP/1.1, with one space between them"
                    )
                self._line = None

    def _count(self, size: int) -> None:
        """After `size` bytes: raise `HeadersTooLarge` if they only surround what is to come."""
        if self.phase is Phase.HEADERS:
            self._head_received += size
            self._check_headers(self._head_received)
        elif self.phase is Phase.BODY and self._body_left is None:
            # As Go's net/http allows: 16 bytes for each chunk, and twice what it carries.
            excess = self._excess + size - 2 * self._body_bytes - 16 * self._chunks
            self._excess = max(0, excess)
            self._check_headers(self._excess)

    def _check_headers(self, size: int) -> None:
        if size > self._max_headers:
            raise HeadersTooLarge(
                f"the request line and headers, or what surrounds a body's chunks, are larger than "
                f"{self._max_headers} bytes; send fewer"
            )

    def _read_without_upgrade(self) -> None:
        """
        Take a request that asks for another protocol for one that does not: a server may.

        The parser gives up on what follows the headers, body included, so a new one reads the same
        request without its Upgrade header.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            raise RequestMalformed("this is no proxy: CONNECT has no meaning here")
        version = self._parser.get_http_version().encode()
        request = [method, b" ", self._url, b" HTTP/", version, b"\r\n"]
        for name, value in self._headers:
            if name != b"upgrade":
                request += [name, b": ", value, b"\r\n"]
        self._parser = self._new_parser()
        self._feed(b"".join([*request, b"\r\n"]))

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._listener.request_begins()
        self.phase = Phase.HEADERS
        self.method, self._url, self._headers = b"", b"", []
        self._head = self._head_received = self._excess = self._fields = 0
        self._body_left = None

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self.method = self._parser.get_method()
        self._url += url
        self._head += len(url)
        self._check_headers(self._head)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer; the application has no use for the latter."""
        self._head += len(name) + len(value) + 4  # a colon, a space, CR and LF
        self._check_headers(self._head)
        self._fields += 1
        if self._fields > FIELDS:
            raise HeadersTooLarge(
                f"the request has more than {FIELDS} header fields, trailers included; send fewer, "
                "such as one field whose values are separated by commas"
            )
        if self.phase is Phase.HEADERS:
            self._headers.append((name.lower(), value))

    def on_chunk_header(self) -> None:
        """One chunk of a body."""
        self._chunks += 1

    def on_headers_complete(self) -> None:
        """A request is here, but for its body."""
        if self._parser.should_upgrade():
            return  # the parser stops here; another one reads the same request again
        request = self._request()
        lengths = self._values(b"content-length")
        self._body_left = int(lengths[0]) if lengths else None
        self.phase = Phase.BODY
        self._listener.request_read(request)

    def _request(self) -> Request:
        version = self._parser.get_http_version()
        self._check_coding(version)
        hosts = self._values(b"host")
        if len(hosts) > 1 or not all(map(_host_is_valid, hosts)):
            raise RequestMalformed("the Host header must be there once, and name a host")
        if not hosts and version != "1.0":
            raise RequestMalformed("there is no Host header; send one, with the server's name")
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError as error:
            raise RequestMalformed("the request's target is not one of HTTP") from error
        if not (raw_path := url.path or b"/").startswith(b"/"):  # such as the * of OPTIONS
            raise RequestMalformed("the request's target must begin with /")
        if b"#" in self._url:
            raise RequestMalformed(
                "the request's target has a fragment; leave out the # and the rest"
            )
        headers = [header for header in self._headers if header[0] != b"range"]
        if url.schema is not None:
            host = _authority(self._url)
            headers = [(b"host", host), *(header for header in headers if header[0] != b"host")]
        expected = [value.lower() for value in self._values(b"expect")]
        return Request(
            version=version,
            method=self.method.decode("ascii"),
            path=unquote(raw_path.decode("ascii")),  # the parser lets nothing else through
            raw_path=raw_path,
            query=url.query or b"",
            headers=headers,
            keep_alive=version != "1.0" and self._parser.should_keep_alive(),
            waits_to_continue=version == "1.1" and b"100-continue" in expected,
        )

    def _values(self, header: bytes) -> list[bytes]:
        return [value for name, value in self._headers if name == header]

    def _check_coding(self, version: str) -> None:
        """Raise `RequestMalformed` for a body that is framed in a way that is not undone here."""
        if not (values := self._values(b"transfer-encoding")):
            return
        if version == "1.0":
            raise RequestMalformed("HTTP/1.0 has no Transfer-Encoding; send HTTP/1.1")
        codings = [coding.strip().lower() for coding in b",".join(values).split(b",")]
        if [coding for coding in codings if coding] != [b"chunked"]:
            raise RequestMalformed(
                "the body has a Transfer-Encoding other than chunked; send it as it is, chunked or "
                "with a Content-Length"
            )

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        if self._body_left is not None:
            self._body_left -= len(body)
        self._listener.body_read(body)

    def on_message_complete(self) -> None:
        """The request is here in full."""
        if not self._parser.should_upgrade():
            self.phase = Phase.BETWEEN
            self.method = b""
            self._listener.request_ends()


def _fault(error: httptools.HttpParserError) -> ServiceError:
    """The error that a callback raised; else the parser's, in its words."""
    if isinstance(error.__context__, ServiceError):
        return error.__context__
    if error.__context__ is not None:
        logger.error("a request could not be taken", exc_info=error.__context__)
    return RequestMalformed(
        f"the request cannot be read as HTTP should be written: {error}; send HTTP/1.1, and TLS "
        "only to an https:// address"
    )


def _authority(url: bytes) -> bytes:
    """The host, with its port, of a full address; it stands for the Host header's."""
    if not (match := AUTHORITY.fullmatch(url)) or b"@" in match[1] or not _host_is_valid(match[1]):
        raise RequestMalformed(
            "the request's target is a full address, but not http:// or https:// and a host; "
            "send the path alone"
        )
    return match[1]


def _host_is_valid(host: bytes) -> bool:
    if not (match := HOST.fullmatch(host)):
        return False
    name = match[1].decode("ascii")
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return False
    return True
