"""
A connection from its accept to the end of the TLS handshake: counted and timed like any other.

The event loop's own handshake hides a connection from us until it is done, and allows it 60 s.
"""

import asyncio
import ssl
from typing import Any, cast

from uvicorn.config import Config, create_ssl_context

from service.http.server.connection import Connection


def greet_within_limits(config: Config) -> "Greeter | None":
    """Count and time connections from their accept on, not from the end of the TLS handshake on;
    for a `config` that is loaded, and has our protocol.  None if it has no TLS."""
    if config.ssl is None:
        return None
    greeter = Greeter(config, config.ssl)
    config.http_protocol_class = cast(type[asyncio.Protocol], greeter)
    config.ssl = None  # else the event loop would greet, 60 s long, whoever connects
    return greeter


class Greeter:
    """Greets each newcomer with the certificate that was read last."""

    def __init__(self, config: Config, context: ssl.SSLContext) -> None:
        self._config = config
        self._kind = cast(type[Connection], config.http_protocol_class)
        self._context = context

    def __call__(self, **given: Any) -> "Greeting":
        """A connection, as uvicorn asks for one."""
        return Greeting(self._kind, self._context, **given)

    def renew(self) -> None:
        """Read the certificate and its key again, from any thread; or `OSError`, `ssl.SSLError`
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


class Greeting(asyncio.Protocol):
    """A connection until TLS is agreed on; then its `Connection` takes over."""

    def __init__(self, kind: type[Connection], context: ssl.SSLContext, **given: Any) -> None:
        self._connection = kind(**given, greeted=False)
        self._context = context
        self._early = bytearray()  # what comes with the last bytes of the handshake
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet whom there is room for."""
        connection, plain = self._connection, cast(asyncio.Transport, transport)
        connection.connection_made(plain)
        if not plain.is_closing():
            plain.pause_reading()  # the greeting is for TLS; start_tls() reads on
            self._task = connection.loop.create_task(self._greet(plain))

    async def _greet(self, transport: asyncio.Transport) -> None:
        connection = self._connection
        agreeing = asyncio.ensure_future(
            connection.loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=connection.limits.header_timeout,
                ssl_shutdown_timeout=connection.limits.linger,
            )
        )
        await asyncio.sleep(0)  # now start_tls() has begun
        await asyncio.sleep(0)  # now its protocol knows its transport, and has read nothing yet
        # uvloop reads on despite the pause: the greeting may have come already.
        while self._early and not transport.is_closing():
            tls = cast(asyncio.BufferedProtocol, transport.get_protocol())
            buffer = memoryview(tls.get_buffer(len(self._early)))
            size = min(len(buffer), len(self._early))
            buffer[:size] = self._early[:size]
            del self._early[:size]
            tls.buffer_updated(size)
        try:
            async with asyncio.timeout(connection.limits.header_timeout):
                secure = await agreeing
        except OSError as error:  # ssl.SSLError, TimeoutError, and what the network raises
            transport.abort()
            self.connection_lost(error)
            return
        if secure is None or secure.is_closing():
            self.connection_lost(None)
            return
        connection.greeted(secure)
        secure.set_protocol(connection)
        if self._early:
            connection.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        """Keep what comes before the handshake's end is noticed."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """It left before it was greeted; the greeting and TLS may both say so."""
        if not self._lost:
            self._lost = True
            self._connection.connection_lost(exc)
