"""
A server's address and how to reach it -> what httpx2 is told, once for both clients; and what
httpx2 raises -> our own errors.

Proxies are taken from the environment (HTTP_PROXY, NO_PROXY, ...) as elsewhere, but not for a
server on this machine, which no proxy could reach.
"""

import ipaddress
import os
import platform
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx2

from service import __version__
from service.client.errors import CertificateRefused, ClientError, ConnectionFailed
from service.client.retry import CONNECT, IDLE, Deadline

AGENT: Final = (
    f"alexnet-client/{__version__} httpx2/{httpx2.__version__} Python/{platform.python_version()}"
)
KEY: Final = re.compile(r"[!-~]+")
CONNECTIONS: Final = 100  # at once; threads beyond them wait for one


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
    except (httpx2.TimeoutException, TimeoutError) as error:
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
            f"what listens at {url} does not speak TLS as we do ({reason}); try http://"
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


def timeouts(deadline: Deadline) -> httpx2.Timeout:
    """How long each step of one try may take."""
    left = deadline.left()
    return httpx2.Timeout(left, connect=CONNECT if left is None else min(CONNECT, left))


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
