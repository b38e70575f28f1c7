"""
Clients that leave without their answer: in the middle of the upload, while they wait, while the
network runs; with a word (FIN) or without (RST).
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from .client import Ask

UPLOADING, WAITING, CUT_OFF = WAYS = ("in the upload", "waiting", "cut off by the server")
AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


async def leave(url: str, ask: Ask, chance: random.Random, patience: float) -> str:
    """
    Send a request and go at a random moment, at most `patience` seconds after sending.

    Returns which of `WAYS` it was, or the error that kept it from connecting.
    """
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        return type(error).__name__
    lines = [
        f"POST /v1/predict{ask.query} HTTP/1.1",
        f"Host: {host}:{port}",
        *(f"{name}: {value}" for name, value in ask.headers.items()),
        f"Content-Length: {len(ask.body)}",
    ]
    early = chance.random() < 1 / 3
    sent = ask.body[: chance.randrange(len(ask.body) + 1)] if early else ask.body
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + sent)
        await writer.drain()
        # Whoever is answered before the time is up leaves with the answer unread.
        await asyncio.sleep(chance.uniform(0, patience))
        if chance.random() < 0.5:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    except OSError:
        return CUT_OFF
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return UPLOADING if early else WAITING
