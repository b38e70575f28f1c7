"""
TLS: a connection from accept to its handshake's end.  It is counted and timed like any other.
Whether the certificate can be used is checked here too.

A server of the event loop that speaks TLS hides a connection until the handshake is done.  So the
server accepts without TLS, and each connection is then given to the loop's TLS by itself.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from uvicorn.config import Config, create_ssl_context

from service.errors import SettingsInvalid
from service.http.server.connection import Connection

RENEW = "have it renewed, and send SIGHUP to a server that runs"


def accept_tls_within_limits(config: Config) -> "TlsAcceptor | None":
    """Count and time connections from their accept on, not from the end of the TLS handshake on;
    for a `config` that is loaded, and has the protocol of this package.  None if it has no TLS."""
    if config.ssl is None:
        return None
    acceptor = TlsAcceptor(config, config.ssl)
    config.http_protocol_class = cast(type[asyncio.Protocol], acceptor)
    config.ssl = None  # otherwise the event loop would make handshakes of its own, of up to 60 s
    return acceptor


def valid_until(file: Path, key: Path | None) -> str:
    """The end of a certificate, `Jun  1 12:00:00 2030 GMT`; `SettingsInvalid` for one that is not
    valid today, `OSError`, `ssl.SSLError` among them, for one that cannot be used."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Its signer is not asked for: the question is whether it is valid today.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.load_cert_chain(file, key, password="")  # not to be asked for one
    client.load_verify_locations(file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(to_client, to_server)
    answers = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for side in (asks, answers, asks):  # a handshake in memory
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise SettingsInvalid(f"{file}: {error.verify_message}; {RENEW}") from error
    return str((asks.getpeercert() or {})["notAfter"])


class TlsAcceptor:
    """Makes the handshake of each connection with the certificate that was read last."""

    def __init__(self, config: Config, context: ssl.SSLContext) -> None:
        self._config = config
        self._kind = cast(type[Connection], config.http_protocol_class)
        self._context = context

    def __call__(self, **arguments: Any) -> "TlsHandshake":
        """A connection, as uvicorn asks for one."""
        return TlsHandshake(self._kind, self._context, **arguments)

    def renew(self) -> None:
        """Read the certificate and its key again, from any thread; raises `OSError`, `ssl.SSLError`
        among them."""
        config = self._config
        # A new context: one that fails to load a pair keeps the half of it.
        self._context = create_ssl_context(
            certfile=str(config.ssl_certfile),
            keyfile=config.ssl_keyfile,
            password=config.ssl_keyfile_password,
            ssl_version=config.ssl_version,
            cert_reqs=config.ssl_cert_reqs,
            ca_certs=config.ssl_ca_certs,
            ciphers=config.ssl_ciphers,
        )


class TlsHandshake(asyncio.Protocol):
    """
    A connection until TLS is agreed on; then its `Connection` takes over.

    The server accepts without TLS.  Then the transport is replaced by one with TLS, on a duplicate
    descriptor of the same socket, before it has read anything.
    """

    def __init__(self, kind: type[Connection], context: ssl.SSLContext, **arguments: Any) -> None:
        self._connection = kind(**arguments, established=False)
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake, if there is room for the connection."""
        connection, plain = self._connection, cast(asyncio.Transport, transport)
        try:
            duplicate = socket.socket(fileno=os.dup(plain.get_extra_info("socket").fileno()))
        except OSError:  # no file is left: the limit of connections leaves some, others took them
            return
        finally:
            plain.abort()
        handshake = Handshake(duplicate)
        connection.connection_made(handshake)
        if handshake.is_closing():
            duplicate.close()
            connection.connection_lost(None)
            return
        handshake.task = connection.loop.create_task(self._agree_on_tls(duplicate))
        handshake.task.add_done_callback(partial(self._end, handshake, duplicate))

    async def _agree_on_tls(self, duplicate: socket.socket) -> None:
        connection = self._connection
        duplicate.setblocking(False)
        with suppress(OSError):  # ssl.SSLError and TimeoutError among them
            await connection.loop.connect_accepted_socket(
                lambda: connection,
                duplicate,
                ssl=self._context,
                ssl_handshake_timeout=connection.limits.header_timeout,
                ssl_shutdown_timeout=connection.limits.linger,
            )

    def _end(
        self, handshake: "Handshake", duplicate: socket.socket, task: asyncio.Task[None]
    ) -> None:
        if self._connection.transport is handshake:  # it came to no end, or was broken off
            duplicate.close()
            self._connection.connection_lost(None)


class Handshake(asyncio.Transport):
    """What a connection has for a transport until TLS is agreed on: it can only be broken off."""

    def __init__(self, duplicate: socket.socket) -> None:
        super().__init__({"socket": duplicate})
        self.task: asyncio.Task[None] | None = None
        self._closing = False

    def abort(self) -> None:
        """Break off."""
        self._closing = True
        if self.task is not None:
            self.task.cancel()

    close = abort

    def is_closing(self) -> bool:
        """Whether it is broken off."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Nothing is written yet."""
        return 0
