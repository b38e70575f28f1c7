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
from threading import TIMEOUT_MAX
from typing import Any, Final

import httpx2

from service import __version__
from service.client.errors import CertificateRefused, ClientError, ConnectionFailed, TimedOut
from service.client.retry import CONNECT, IDLE, Deadline

AGENT: Final = (
    f"alexnet-client/{__version__} httpx2/{httpx2.__version__} Python/{platform.python_version()}"
)
KEY: Final = re.compile(r"[!-~]+")
LOOK: Final = 5.0  # seconds for a look whether it is ready
CONNECTIONS: Final = 100  # at once; threads beyond them wait for one


class Place:
    """One server: `url` without a slash at its end, `options` for httpx2's clients."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout: float | None,
        retries: int,
        verify: bool | ssl.SSLContext,
    ) -> None:
        address = _address(url)
        if api_key is not None and not KEY.fullmatch(api_key):  # it is not shown
            raise ValueError("api_key: a key is visible ASCII characters without spaces")
        if timeout is not None and not 0 < timeout <= TIMEOUT_MAX:
            raise ValueError(
                f"timeout={timeout}: must be more than 0 seconds, or None for no limit"
            )
        if retries < 0:
            raise ValueError(f"retries={retries}: must be at least 0")
        self.url = str(address).rstrip("/")
        self.timeout = timeout
        self.retries = retries
        if address.scheme == "http":
            verify = False  # nothing to verify, and to read the authorities takes 50 ms
        elif verify is True:  # httpx2's own passes over SSL_CERT_FILE without trust_env
            verify = httpx2.create_ssl_context()
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.options: dict[str, Any] = {
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

    def deadline(self, seconds: float | None) -> Deadline:
        """From now on."""
        return Deadline(self.url, seconds)

    @contextmanager
    def translated(self, deadline: Deadline) -> Iterator[None]:
        """Raise what went wrong on the way as a `ClientError`."""
        try:
            yield
        except httpx2.ConnectTimeout as error:
            deadline.left()  # `TimedOut`, where it was the call's own time that ended
            raise ConnectionFailed(
                f"nothing answers at {self.url}: no connection within {CONNECT:g} s"
            ) from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise deadline.passed() from error
        except httpx2.RequestError as error:
            raise self._failed(error) from error

    def check_that(self, deadline: Deadline, *, allows: float, after: ClientError) -> None:
        """`TimedOut` if there is no time for such a pause after such a look."""
        if not deadline.allows(allows):
            raise TimedOut(
                f"{self.url} was not ready within {deadline.seconds:g} s: {after}"
            ) from after

    def _failed(self, error: httpx2.RequestError) -> ClientError:
        causes = list(_causes(error))
        reason = next((_words(it) for it in causes if isinstance(it, OSError) and it.errno), error)
        if any(isinstance(it, ssl.SSLCertVerificationError) for it in causes):
            return CertificateRefused(
                f"the certificate of {self.url} is not trusted here ({reason}); name its signer's "
                "in SSL_CERT_FILE, or give it as verify=ssl.create_default_context(cafile=...)"
            )
        if any(isinstance(it, ssl.SSLError) for it in causes):
            return ConnectionFailed(
                f"what listens at {self.url} does not speak TLS as we do ({reason}); try http://"
            )
        if isinstance(error, httpx2.ConnectError):
            return ConnectionFailed(
                f"nothing answers at {self.url} ({reason}); start a server with `alexnet serve`, "
                "or mend the address"
            )
        if isinstance(error, httpx2.RemoteProtocolError):
            return ConnectionFailed(
                f"what listens at {self.url} did not answer in HTTP to the end "
                f"({str(reason).rstrip('.')}); if it speaks TLS, try https://"
            )
        return ConnectionFailed(f"the connection to {self.url} was lost ({reason})")


def timeouts(deadline: Deadline) -> httpx2.Timeout:
    """How long each step of one try may take."""
    left = deadline.left()
    return httpx2.Timeout(left, connect=CONNECT if left is None else min(CONNECT, left))


def may_become_ready(error: ClientError) -> bool:
    """Whether a server that answers so, or not at all, is only not ready."""
    return error.retried or isinstance(error, TimedOut)


def _address(url: str) -> httpx2.URL:
    try:
        address = httpx2.URL(url if "://" in url else f"http://{url}")
    except httpx2.InvalidURL as error:
        raise ValueError(f"{url!r} is no address ({error}); try http://HOST:PORT") from error
    if address.scheme not in ("http", "https") or not address.host or "%20" in address.host:
        raise ValueError(f"{url!r} is no address; try http://HOST:PORT")
    if address.userinfo or address.query or address.fragment:
        raise ValueError("the address holds more than http://HOST:PORT/PATH; a key is api_key=")
    return address


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _words(error: OSError) -> str | None:
    """The system's own for its numbers: asyncio says "Connect call failed"."""
    if error.errno is None or isinstance(error, socket.gaierror | ssl.SSLError):
        return error.strerror
    return os.strerror(error.errno)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
