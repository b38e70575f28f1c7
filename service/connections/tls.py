"""
A connection from its accept to the end of the TLS handshake: counted and timed like any other.

The event loop's own handshake hides a connection from us until it is done, and allows it 60 s.
"""

import asyncio
import ssl
from functools import partial
from typing import Any, cast

from uvicorn.config import Config

from service.connections.connection import Connection


def greet_within_limits(config: Config) -> None:
    """Count and time connections from their accept on, not from the end of the TLS handshake on;
    for a `config` that is loaded, and has our protocol."""
    if config.ssl is not None:
        kind = cast(type[Connection], config.http_protocol_class)
        greeting = partial(Greeting, kind, config.ssl)
        config.http_protocol_class = cast(type[asyncio.Protocol], greeting)
        config.ssl = None  # else the event loop would greet, 60 s long, whoever connects


class Greeting(asyncio.Protocol):
    """A connection until TLS is agreed on; then its `Connection` takes over."""

    def __init__(self, kind: type[Connection], context: ssl.SSLContext, **given: Any) -> None:
        self._connection = kind(**given, greeted=False)
        self._context = context
        self._early = bytearray()  # what comes with the last bytes of the handshake
        self._task: asyncio.Task[None] | None = None

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
        """It left before it was greeted."""
        self._connection.connection_lost(exc)
