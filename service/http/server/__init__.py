"""
HTTP/1.1 below the routes: bytes to requests, within limits.  The bytes come from untrusted clients.

uvicorn's HTTP protocol, rewritten where it trusts its clients: it waits for ever for headers,
for the rest of a body that was answered early, and for a client that does not read; it holds any
number of connections and of pipelined requests; and it answers what is not HTTP in plain text.

    accept ---> headers ---> body ---> answer ---> rest ---> headers ...
           header_timeout    the routes'       keep_alive
                             deadlines         linger, if the body goes on after the answer

Nothing here waits without a deadline: one timer for what the client sends, one for what it reads.

* connection_limits   what all may take together: connections, open files
* tls                 from the accept to the end of the TLS handshake; the certificate
* connection          one client: its deadlines and its end
* parser              bytes to requests, or an error
* pipeline            its requests in turn, their answers, reading paused, writing watched
* reload              SIGHUP
"""

from collections.abc import Sequence

from service.http.server.connection import Connection
from service.http.server.connection_limits import (
    REFUSED,
    ConnectionLimiter,
    Limits,
    within_file_limit,
)
from service.http.server.pipeline import PIPELINE
from service.http.server.tls import accept_tls_within_limits

__all__ = [
    "PIPELINE",
    "REFUSED",
    "Connection",
    "Limits",
    "accept_tls_within_limits",
    "protocol",
    "within_file_limit",
]


def protocol(
    limits: Limits, *, headers: Sequence[tuple[bytes, bytes]], admin_port: int | None = None
) -> type[Connection]:
    """
    The protocol class for one server: for `uvicorn.Config(http=...)`.

    `headers` go with what is answered here; what the application answers has its own.
    """

    class LimitedConnection(Connection):
        pass

    LimitedConnection.limits = limits
    LimitedConnection.headers = tuple(headers)
    LimitedConnection.limiter = ConnectionLimiter(
        limits.max_connections,
        "try again in 1 s, or raise ALEXNET_MAX_CONNECTIONS on the server",
        limits.max_connections_per_address,
    )
    LimitedConnection.admin_limiter = ConnectionLimiter(
        limits.admin_connections, "this is the admin port, for few; try again in 1 s"
    )
    LimitedConnection.admin_port = admin_port
    return LimitedConnection
