"""
Reaching a server: its address, deadlines, retries and errors.  What httpx2 raises becomes one of
this package's errors.

Proxies are taken from the environment (HTTP_PROXY, NO_PROXY, ...) as elsewhere, but not for a
server on this machine, which no proxy could reach.

What is tried again is `ClientError.retried`, since to classify twice harms nobody: a lost
connection, 429, 502 and 503.  The pause is what the server asks for in Retry-After, and a little
more, so that not all clients come back at once; without it, a random one below 0.1 s that doubles
with each try.  A pause that would not end in time is not begun: the error is raised.
"""

import asyncio
import ipaddress
import itertools
import logging
import os
import platform
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx2
import stamina

from alexnet_client.errors import CertificateRefused, ClientError, ConnectionFailed, TimedOut
from alexnet_client.version import __version__

AGENT: Final = (
    f"alexnet-client/{__version__} httpx2/{httpx2.__version__} Python/{platform.python_version()}"
)
KEY: Final = re.compile(r"[!-~]+")
CONNECTIONS: Final = 100  # at once; threads beyond them wait for one
FIRST: Final = 0.1  # seconds, the longest first pause
LONGEST: Final = 5.0  # seconds
SPREAD: Final = 0.25  # of Retry-After: at most so much more
CONNECT: Final = 5.0  # seconds for a connection: a host that drops packets would take all the time
IDLE: Final = 4.0  # seconds; the server closes after 5, and a request sent just then would be lost

# Else each retry would be a bare line on the standard error of a program that sets up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Deadline:
    """A time for all the tries together; without `seconds`, none."""

    def __init__(self, url: str, seconds: float | None) -> None:
        self.url = url
        self.seconds = seconds
        self._until = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds from now, more than 0; `TimedOut` if there are none."""
        if self._until is None:
            return None
        if (left := self._until - time.monotonic()) <= 0:
            raise self.passed()
        return left

    def allows(self, pause: float) -> bool:
        """Whether there is time for a pause and for something after it."""
        return self._until is None or time.monotonic() + pause < self._until

    def at_most(self, seconds: float) -> "Deadline":
        """This one, or one in so many seconds if that is sooner."""
        left = self.left()
        return Deadline(self.url, seconds if left is None else min(seconds, left))

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as they come; `TimedOut` if they still come when the time is over."""
        for chunk in chunks:
            self.left()
            yield chunk

    def timeouts(self) -> httpx2.Timeout:
        """How long each step of one try may take."""
        left = self.left()
        return httpx2.Timeout(left, connect=CONNECT if left is None else min(CONNECT, left))

    def passed(self) -> TimedOut:
        """The error to raise."""
        return TimedOut(
            f"{self.url} did not answer within {self.seconds:g} s; allow more with timeout=, "
            "or send less at once"
        )


def attempts(deadline: Deadline, retries: int) -> Any:
    """Blocks to try, with the pauses between them, until one succeeds, `retries` times again at
    most; then the last error is raised.  To be iterated over as stamina's, `async` or not."""
    rising = (random.uniform(0, min(LONGEST, FIRST * 2**n)) for n in itertools.count())

    def again(error: Exception) -> bool | float:
        if not isinstance(error, ClientError) or not error.retried:
            return False
        pause = next(rising)
        if error.retry_after:
            pause = error.retry_after * random.uniform(1, 1 + SPREAD)
        return pause if deadline.allows(pause) else False

    return stamina.retry_context(again, attempts=retries + 1, timeout=None)


def address(url: str) -> httpx2.URL:
    """The server's address, with http:// if it has no scheme; `ValueError` if it is not one."""
    try:
        parsed = httpx2.URL(url if "://" in url else f"http://{url}")
    except httpx2.InvalidURL as error:
        raise ValueError(f"{url!r} is not an address ({error}); try http://HOST:PORT") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or "%20" in parsed.host:
        raise ValueError(f"{url!r} is not an address; try http://HOST:PORT")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ValueError("the address holds more than http://HOST:PORT/PATH; a key is api_key=")
    return parsed


def options(
    address: httpx2.URL, api_key: str | None, verify: bool | ssl.SSLContext
) -> dict[str, Any]:
    """What httpx2's clients take; `ValueError` for a key that no header can hold."""
    if api_key is not None and not KEY.fullmatch(api_key):  # it is not shown
        raise ValueError("api_key: a key is visible ASCII characters without spaces")
    if address.scheme == "http":
        verify = False  # nothing to verify, and to read the authorities takes 50 ms
    elif verify is True:  # httpx2's own passes over SSL_CERT_FILE without trust_env
        verify = httpx2.create_ssl_context()
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {
        "base_url": address,
        "headers": {"User-Agent": AGENT, "Accept": "application/json", **key},
        "limits": httpx2.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=IDLE,
        ),
        "trust_env": not _is_this_machine(address.host),
        "verify": verify,
    }


@contextmanager
def translated(deadline: Deadline) -> Iterator[None]:
    """Raise what httpx2 raises as a `ClientError`."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        deadline.left()  # `TimedOut`, where it was the call's own time that ended
        raise ConnectionFailed(
            f"nothing answers at {deadline.url}: no connection within {CONNECT:g} s"
        ) from error
    except (httpx2.TimeoutException, asyncio.TimeoutError) as error:
        raise deadline.passed() from error
    except httpx2.RequestError as error:
        raise _failed(deadline.url, error) from error


def _failed(url: str, error: httpx2.RequestError) -> ClientError:
    causes = list(_causes(error))
    system = (cause for cause in causes if isinstance(cause, OSError) and cause.errno)
    reason = next(map(_message, system), error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return CertificateRefused(
            f"the certificate of {url} is not trusted here ({reason}); name its signer's in "
            "SSL_CERT_FILE, or give it as verify=ssl.create_default_context(cafile=...)"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return ConnectionFailed(
            f"what listens at {url} does not speak TLS as this client does ({reason}); try http://"
        )
    if isinstance(error, httpx2.ConnectError):
        return ConnectionFailed(
            f"nothing answers at {url} ({reason}); start a server with `alexnet serve`, or correct "
            "the address"
        )
    if isinstance(error, httpx2.RemoteProtocolError):
        return ConnectionFailed(
            f"what listens at {url} did not answer in HTTP to the end "
            f"({str(reason).rstrip('.')}); if it speaks TLS, try https://"
        )
    # A server that speaks TLS closes unencrypted connections, with or without a reset.
    remedy = "; if it speaks TLS, try https://" if url.startswith("http:") else ""
    return ConnectionFailed(f"the connection to {url} was lost ({reason}){remedy}")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _message(error: OSError) -> str | None:
    """The system's own for its numbers: asyncio says "Connect call failed"."""
    if error.errno is None or isinstance(error, socket.gaierror | ssl.SSLError):
        return error.strerror
    return os.strerror(error.errno)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
