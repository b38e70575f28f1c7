"""
Raw bytes at a real server, and what RFC 9112 (HTTP/1.1) and RFC 9110 (its semantics) say of them.

A row names the section, and where the server departs from it on purpose, it says why.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from service.http.server.parser import FIELDS
from tests.support.servers import PATIENCE, InThread, serving

GET = b"GET /livez HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
END = b"\r\n"
POST = b"POST /v1/predict HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n" + END
LAST = b"0\r\n\r\n"
LIVEZ = GET + HOST + END
KEPT, CLOSED = True, False
READ = 415  # three letters are no image: the body was read, up to where it ends

NO_WORD = (
    "SHOULD be 501: the parser has a list of methods, and what is not one is noise to it, as TLS is"
)
NO_CODING = "SHOULD be 501: 400 is what all framing that is not taken is answered with"
ONE_LIMIT = "MUST be 414: one limit is for the first line and the fields, so both are 431"


@dataclass(frozen=True)
class Row:
    """What is sent on a new connection, and how it is answered."""

    name: str
    sent: bytes
    statuses: int | tuple[int, ...]
    kept: bool
    section: str  # of RFC 9112, unless it says 9110
    departs: str = ""  # on purpose, and why


def line(first: bytes) -> bytes:
    """A request with this first line."""
    return first + b"\r\n" + HOST + END


def field(*fields: bytes) -> bytes:
    """A request with these fields after Host."""
    return GET + HOST + b"".join(line + b"\r\n" for line in fields) + END


def host(*hosts: bytes) -> bytes:
    """A request with these Host fields."""
    return GET + b"".join(b"Host: " + line + b"\r\n" for line in hosts) + END


def body(*fields: bytes, then: bytes = b"abc") -> bytes:
    """A POST with these fields, and a body."""
    return POST + b"".join(line + b"\r\n" for line in fields) + END + then


ROWS = [
    # The first line
    Row("a request", LIVEZ, 200, KEPT, "3"),
    Row("an empty line before it", b"\r\n" + LIVEZ, 200, KEPT, "2.2"),
    Row("several of them", b"\r\n\r\n\r\n" + LIVEZ, 200, KEPT, "2.2"),
    Row("a space before it", b" " + LIVEZ, 400, CLOSED, "2.2"),
    Row("a line feed alone at its end", GET[:-2] + b"\n" + HOST + END, 400, CLOSED, "2.2"),
    Row("a carriage return alone", GET[:-1] + HOST + END, 400, CLOSED, "2.2"),
    Row("a space after the first line", GET + b" " + HOST + END, 400, CLOSED, "2.2"),
    Row("two spaces before the target", line(b"GET  /livez HTTP/1.1"), 400, CLOSED, "3"),
    Row("two spaces after the target", line(b"GET /livez  HTTP/1.1"), 400, CLOSED, "3"),
    Row("a space at the end", line(b"GET /livez HTTP/1.1 "), 400, CLOSED, "3"),
    Row("a tab for a space", line(b"GET\t/livez HTTP/1.1"), 400, CLOSED, "3"),
    Row("a method in small letters", line(b"get /livez HTTP/1.1"), 400, CLOSED, "3.1", NO_WORD),
    Row("an unknown method", line(b"FOO /livez HTTP/1.1"), 400, CLOSED, "3.1", NO_WORD),
    Row("a method that is no word", line(b"G@T /livez HTTP/1.1"), 400, CLOSED, "3.1"),
    Row("a method that is not taken", line(b"DELETE /livez HTTP/1.1"), 405, KEPT, "9110, 15.5.6"),
    Row("TRACE", line(b"TRACE /livez HTTP/1.1"), 405, KEPT, "9110, 9.3.8"),
    Row("HTTP/0.9", b"GET /livez\r\n", 400, CLOSED, "2.3"),
    Row("HTTP/0.9, by name", line(b"GET /livez HTTP/0.9"), 400, CLOSED, "2.3"),
    Row("HTTP/1.0", line(b"GET /livez HTTP/1.0"), 200, CLOSED, "9.3"),
    Row(
        "HTTP/1.2",
        line(b"GET /livez HTTP/1.2"),
        400,
        CLOSED,
        "9110, 2.5",
        "SHOULD be read as HTTP/1.1: the parser does not, and there is none",
    ),
    Row(
        "HTTP/2.0",
        line(b"GET /livez HTTP/2.0"),
        400,
        CLOSED,
        "9110, 15.6.6",
        "may be 505: as every first line that is not one of HTTP/1",
    ),
    Row("HTTP/2's handshake", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, CLOSED, "2.3"),
    Row("a version in small letters", line(b"GET /livez http/1.1"), 400, CLOSED, "2.3"),
    Row("a version of two digits", line(b"GET /livez HTTP/1.10"), 400, CLOSED, "2.3"),
    Row("RTSP", line(b"OPTIONS /livez RTSP/1.0"), 400, CLOSED, "2.3"),
    Row("RTSP with a method of HTTP", line(b"GET /livez RTSP/1.0"), 400, CLOSED, "2.3"),
    Row("ICE", line(b"SOURCE /livez ICE/1.0"), 400, CLOSED, "2.3"),
    Row("a method of ICE", line(b"SOURCE /livez HTTP/1.1"), 405, KEPT, "9110, 15.5.6"),
    Row("RTSP, second", LIVEZ + line(b"GET /livez RTSP/1.0"), (200, 400), CLOSED, "2.3"),
    Row("RTSP, after chunks", CHUNKED + LAST + line(b"GET / RTSP/1.0"), (400, 400), CLOSED, "2.3"),
    Row("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, CLOSED, "3"),
    # The target
    Row("a query", line(b"GET /livez? HTTP/1.1"), 200, KEPT, "3.2.1"),
    Row("a target without a slash", line(b"GET livez HTTP/1.1"), 400, CLOSED, "3.2.1"),
    Row("a fragment", line(b"GET /livez#a HTTP/1.1"), 400, CLOSED, "3.2"),
    Row("a fragment of nothing", line(b"GET /livez# HTTP/1.1"), 400, CLOSED, "3.2"),
    Row("a space in the target", line(b"GET /liv ez HTTP/1.1"), 400, CLOSED, "3.2"),
    Row("a target beyond ASCII", line(b"GET /\xc3\xa4 HTTP/1.1"), 400, CLOSED, "3.2"),
    Row("a NUL in the target", line(b"GET /\x00 HTTP/1.1"), 400, CLOSED, "3.2"),
    Row("a long target", line(b"GET /%s HTTP/1.1" % (b"a" * 2**15)), 431, CLOSED, "3", ONE_LIMIT),
    Row("a full address", line(b"GET http://a/livez HTTP/1.1"), 200, KEPT, "3.2.2"),
    Row("another host's", line(b"GET http://b:80/livez HTTP/1.1"), 200, KEPT, "3.2.2"),
    Row("a scheme in capitals", line(b"GET HTTP://a/livez HTTP/1.1"), 200, KEPT, "3.2.2"),
    Row("a full address alone", line(b"GET http://a HTTP/1.1"), 200, KEPT, "3.2.1"),
    Row("one without Host", b"GET http://a/livez HTTP/1.1\r\n\r\n", 400, CLOSED, "3.2"),
    Row("one of HTTP/1.0", b"GET http://a/livez HTTP/1.0\r\n\r\n", 200, CLOSED, "3.2.2"),
    Row(
        "https:// without TLS",
        line(b"GET https://a/livez HTTP/1.1"),
        200,
        KEPT,
        "9110, 7.4",
        "MUST be refused, but from a trusted gateway: who ended TLS is not known here",
    ),
    Row("ftp://", line(b"GET ftp://a/livez HTTP/1.1"), 400, CLOSED, "9110, 7.4"),
    Row("a user in it", line(b"GET http://b@a/livez HTTP/1.1"), 400, CLOSED, "9110, 4.2.4"),
    Row("no host in it", line(b"GET http:///livez HTTP/1.1"), 400, CLOSED, "9110, 4.2.1"),
    Row("only a port in it", line(b"GET http://:80/livez HTTP/1.1"), 400, CLOSED, "9110, 4.2.1"),
    Row("CONNECT", line(b"CONNECT a:80 HTTP/1.1"), 400, CLOSED, "3.2.3"),
    Row("a host for CONNECT", line(b"GET a:80 HTTP/1.1"), 400, CLOSED, "3.2.3"),
    Row("an asterisk", line(b"GET * HTTP/1.1"), 400, CLOSED, "3.2.4"),
    Row(
        "OPTIONS for the server",
        line(b"OPTIONS * HTTP/1.1"),
        400,
        CLOSED,
        "3.2.4",
        "allowed for a server that has OPTIONS: ours has it for CORS alone, which is about paths",
    ),
    # Host
    Row("no host", GET + END, 400, CLOSED, "3.2"),
    Row("no host in HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n", 200, CLOSED, "3.2"),
    Row("two hosts", host(b"a", b"b"), 400, CLOSED, "3.2"),
    Row("one host twice", host(b"a", b"a"), 400, CLOSED, "3.2"),
    Row("two hosts in HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST * 2 + END, 400, CLOSED, "3.2"),
    Row("an empty host", host(b""), 200, KEPT, "3.2"),
    Row("a port", host(b"a:80"), 200, KEPT, "3.2"),
    Row("an empty port", host(b"a:"), 200, KEPT, "9110, 7.2"),
    Row("IPv6", host(b"[::1]:80"), 200, KEPT, "9110, 7.2"),
    Row("a list of hosts", host(b"a, b"), 400, CLOSED, "3.2"),
    Row("a host with a path", host(b"a/b"), 400, CLOSED, "3.2"),
    Row("a host with a user", host(b"b@a"), 400, CLOSED, "3.2"),
    Row("a host with a scheme", host(b"http://a"), 400, CLOSED, "3.2"),
    Row("a port that is no number", host(b"a:b"), 400, CLOSED, "3.2"),
    Row("half an IPv6 address", host(b"[::1"), 400, CLOSED, "3.2"),
    Row("a host beyond ASCII", host(b"\xc3\xa4"), 400, CLOSED, "3.2"),
    # Fields
    Row("an empty value", field(b"X:"), 200, KEPT, "5"),
    Row("spaces and tabs around a value", field(b"X: \t a \t "), 200, KEPT, "5"),
    Row("a value beyond ASCII", field(b"X: \xc3\xa4"), 200, KEPT, "9110, 5.5"),
    Row("a space before the colon", field(b"X : a"), 400, CLOSED, "5.1"),
    Row("a value that is folded", field(b"X: a", b" b"), 400, CLOSED, "5.2"),
    Row("no colon", field(b"X"), 400, CLOSED, "5"),
    Row("no name", field(b": a"), 400, CLOSED, "5"),
    Row("a name that is no word", field(b"X(: a"), 400, CLOSED, "5.1"),
    Row("a NUL", field(b"X: a\0b"), 400, CLOSED, "9110, 5.5"),
    Row("a carriage return in a value", field(b"X: a\rb"), 400, CLOSED, "2.2"),
    Row("a line feed after a value", field(b"X: a\nY: b"), 400, CLOSED, "2.2"),
    Row("another control character", field(b"X: a\x01b"), 400, CLOSED, "9110, 5.5"),
    Row("many fields", field(*[b"a:"] * (FIELDS - 1)), 200, KEPT, "9110, 5.4"),
    Row("too many", field(*[b"a:"] * FIELDS), 431, CLOSED, "9110, 5.4"),
    Row("too large ones", field(b"X: " + b"a" * 2**15), 431, CLOSED, "9110, 5.4"),
    # The length of the body
    Row("a length", body(b"Content-Length: 3"), READ, KEPT, "6.3"),
    Row("zeros before it", body(b"Content-Length: 0003"), READ, KEPT, "6.3"),
    Row("a space after it", body(b"Content-Length: 3 "), READ, KEPT, "6.3"),
    Row("no body", body(then=b""), 400, KEPT, "6.3"),
    Row("a body of GET", field(b"Content-Length: 3") + b"abc", 200, KEPT, "9110, 9.3.1"),
    Row("two lengths", body(b"Content-Length: 3", b"Content-Length: 4"), 400, CLOSED, "6.3"),
    Row("one length twice", body(*[b"Content-Length: 3"] * 2), 400, CLOSED, "6.3"),
    Row("a list of one length", body(b"Content-Length: 3, 3"), 400, CLOSED, "6.3"),
    Row("two numbers", body(b"Content-Length: 3 3"), 400, CLOSED, "6.3"),
    Row("a negative length", body(b"Content-Length: -3"), 400, CLOSED, "6.3"),
    Row("a signed length", body(b"Content-Length: +3"), 400, CLOSED, "6.3"),
    Row("a hexadecimal length", body(b"Content-Length: 0x3"), 400, CLOSED, "6.3"),
    Row("an empty length", body(b"Content-Length:"), 400, CLOSED, "6.3"),
    Row("a length over 64 bits", body(b"Content-Length: " + b"9" * 20), 400, CLOSED, "6.3"),
    Row(
        "length and chunked",
        body(b"Content-Length: 5", b"Transfer-Encoding: chunked", then=LAST),
        400,
        CLOSED,
        "6.1",
    ),
    Row(
        "chunked and length",
        body(b"Transfer-Encoding: chunked", b"Content-Length: 5", then=LAST),
        400,
        CLOSED,
        "6.1",
    ),
    # Transfer codings
    Row("chunked in capitals", body(b"Transfer-Encoding: CHUNKED", then=LAST), 400, KEPT, "7"),
    Row(
        "compressed chunks",
        body(b"Transfer-Encoding: gzip, chunked", then=LAST),
        400,
        CLOSED,
        "6.1",
        NO_CODING,
    ),
    Row(
        "the same in two fields",
        body(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", then=LAST),
        400,
        CLOSED,
        "6.1",
        NO_CODING,
    ),
    Row("compressed alone", body(b"Transfer-Encoding: gzip"), 400, CLOSED, "6.3"),
    Row(
        "chunks that are compressed", body(b"Transfer-Encoding: chunked, gzip"), 400, CLOSED, "6.3"
    ),
    Row("chunked twice", body(b"Transfer-Encoding: chunked, chunked"), 400, CLOSED, "6.1"),
    Row("in two fields", body(*[b"Transfer-Encoding: chunked"] * 2), 400, CLOSED, "6.1"),
    Row("chunked with a parameter", body(b"Transfer-Encoding: chunked;a=b"), 400, CLOSED, "7"),
    Row("identity", body(b"Transfer-Encoding: identity"), 400, CLOSED, "6.3"),
    Row("no coding", body(b"Transfer-Encoding:"), 400, CLOSED, "6.3"),
    Row("nearly chunked", body(b"Transfer-Encoding: xchunked"), 400, CLOSED, "6.3"),
    Row("a space before its colon", body(b"Transfer-Encoding : chunked"), 400, CLOSED, "5.1"),
    Row("chunked in HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + LAST, 400, CLOSED, "6.1"),
    # Chunks
    Row("a chunk", CHUNKED + b"3\r\nabc\r\n" + LAST, READ, KEPT, "7.1"),
    Row("two chunks", CHUNKED + b"1\r\na\r\n2\r\nbc\r\n" + LAST, READ, KEPT, "7.1"),
    Row("an empty line in a chunk", CHUNKED + b"7\r\na\r\n\r\nbc\r\n" + LAST, READ, KEPT, "7.1"),
    Row("capitals", CHUNKED + b"A\r\n0123456789\r\n" + LAST, READ, KEPT, "7.1"),
    Row("zeros before a size", CHUNKED + b"0003\r\nabc\r\n" + LAST, READ, KEPT, "7.1"),
    Row("zeros for the end", CHUNKED + b"3\r\nabc\r\n000\r\n\r\n", READ, KEPT, "7.1"),
    Row("an extension", CHUNKED + b"3;a=b\r\nabc\r\n" + LAST, READ, KEPT, "7.1.1"),
    Row("a quoted one", CHUNKED + b'3;a="b;\\"c"\r\nabc\r\n' + LAST, READ, KEPT, "7.1.1"),
    Row("a trailer", CHUNKED + b"3\r\nabc\r\n0\r\nX: a\r\n\r\n", READ, KEPT, "7.1.2"),
    Row(
        "a length as a trailer",
        CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n",
        400,
        CLOSED,
        "9110, 6.5.1",
        "may be ignored: the parser takes it for a second length",
    ),
    Row("a space after a size", CHUNKED + b"3 \r\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("a line feed after a size", CHUNKED + b"3\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("a prefix of a size", CHUNKED + b"0x3\r\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("a negative size", CHUNKED + b"-3\r\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("no size", CHUNKED + b"\r\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("a size over 64 bits", CHUNKED + b"f" * 17 + b"\r\nabc\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("more than its size", CHUNKED + b"3\r\nabcd\r\n" + LAST, 400, CLOSED, "7.1"),
    Row("a line feed after a chunk", CHUNKED + b"3\r\nabc\n" + LAST, 400, CLOSED, "7.1"),
    Row("a line feed in an extension", CHUNKED + b"3;a\nb\r\nabc\r\n" + LAST, 400, CLOSED, "7.1.1"),
    # The connection
    Row("close", field(b"Connection: close"), 200, CLOSED, "9.6"),
    Row("close among others", field(b"Connection: a, Close"), 200, CLOSED, "9.6"),
    Row("keep-alive", field(b"Connection: keep-alive"), 200, KEPT, "9.3"),
    Row(
        "keep-alive in HTTP/1.0",
        b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        200,
        CLOSED,
        "9.3",
    ),
    Row("a pipeline", LIVEZ * 3, (200, 200, 200), KEPT, "9.3.2"),
    Row("one after chunks", CHUNKED + LAST + LIVEZ, (400, 200), KEPT, "9.3.2"),
    Row("one after a body", body(b"Content-Length: 3") + LIVEZ, (READ, 200), KEPT, "9.3.2"),
    Row("one after close", field(b"Connection: close") + LIVEZ, 200, CLOSED, "9.6"),
    Row("another protocol", field(b"Connection: upgrade", b"Upgrade: b"), 200, KEPT, "9110, 7.8"),
    Row(
        "another protocol, and chunks",
        body(
            b"Connection: upgrade",
            b"Upgrade: b",
            b"Transfer-Encoding: chunked",
            then=b"3\r\nabc\r\n" + LAST,
        ),
        READ,
        KEPT,
        "9110, 7.8",
    ),
    Row(
        "another protocol in HTTP/1.0",
        field(b"Connection: upgrade", b"Upgrade: b").replace(b"1.1", b"1.0"),
        200,
        CLOSED,
        "9110, 7.8",
    ),
    # 100 Continue
    Row(
        "an expectation",
        body(b"Expect: 100-continue", b"Content-Length: 3"),
        (100, READ),
        KEPT,
        "9110, 10.1.1",
    ),
    Row(
        "an expectation of HTTP/1.0",
        body(b"Expect: 100-continue", b"Content-Length: 3").replace(b"1.1", b"1.0"),
        READ,
        CLOSED,
        "9110, 10.1.1",
    ),
    Row("an unknown expectation", field(b"Expect: more"), 200, KEPT, "9110, 10.1.1"),
    Row(
        "an expectation before a bad chunk",
        body(b"Expect: 100-continue", b"Transfer-Encoding: chunked", then=b"x\r\n"),
        400,
        CLOSED,
        "9110, 10.1.1",
    ),
    # HEAD
    Row("HEAD", LIVEZ.replace(b"GET", b"HEAD"), 200, KEPT, "9110, 9.3.2"),
    Row("HEAD of nothing", line(b"HEAD /nothing HTTP/1.1"), 404, KEPT, "9110, 9.3.2"),
    Row("HEAD without Host", b"HEAD /livez HTTP/1.1\r\n\r\n", 400, CLOSED, "9110, 9.3.2"),
    Row("HEAD of HTTP/2.0", line(b"HEAD /livez HTTP/2.0"), 400, CLOSED, "9110, 9.3.2"),
    Row(
        "HEAD with too many fields",
        field(*[b"a:"] * FIELDS).replace(b"GET", b"HEAD"),
        431,
        CLOSED,
        "9110, 9.3.2",
    ),
    Row(
        "HEAD, then noise",
        LIVEZ.replace(b"GET", b"HEAD") + b"noise\r\n\r\n",
        (200, 400),
        CLOSED,
        "9110, 9.3.2",
    ),
]


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[InThread]:
    """One server for all rows; afterwards its log has no fault of the service."""
    with serving(tiny_model) as server:
        yield server
        log = "".join(server.log)
        assert "Traceback" not in log, log
        assert " ERROR " not in log, log


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bytes_are_answered_as_the_rfc_says(live: InThread, row: Row) -> None:
    """With these statuses, and then the connection is good for another request, or closed."""
    statuses = row.statuses if isinstance(row.statuses, tuple) else (row.statuses,)
    with (
        socket.create_connection(live.address, PATIENCE) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(row.sent)
        heads = [row.sent.startswith(b"HEAD") and place == 0 for place in range(len(statuses))]
        answered = tuple(answer(stream, has_no_body=head) for head in heads)
        assert answered == statuses
        if row.kept:
            connection.sendall(LIVEZ)
            assert answer(stream) == 200
        else:
            assert stream.read() == b""


def answer(stream: BinaryIO, *, has_no_body: bool = False) -> int:
    """Read one answer, which is one of HTTP/1.1; a refusal has the one shape."""
    version, status, _ = stream.readline().split(b" ", 2)
    assert version == b"HTTP/1.1"
    headers = dict[bytes, bytes]()
    while (field_line := stream.readline()) != b"\r\n":
        name, _, value = field_line.strip().partition(b":")
        headers[name.lower()] = value.strip()
    if int(status) < 200:
        return int(status)
    assert b"date" in headers
    answer_body = b"" if has_no_body else stream.read(int(headers[b"content-length"]))
    if int(status) >= 400 and not has_no_body:
        assert set(json.loads(answer_body)) == {"error", "code"}
    if int(status) == 405:
        assert b"allow" in headers
    return int(status)


def test_every_row_has_a_name_of_its_own() -> None:
    """A failure names its row."""
    assert len({row.name for row in ROWS}) == len(ROWS)
