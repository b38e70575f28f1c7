"""
Flow control: reading can be paused, and what is written must be read in time.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

# What is read from us must go on by so many bytes in every `write_timeout`.
DRAIN: Final = 16 * 2**10


class Flow(FlowControl):
    """
    Reading that stays paused while `held`, whatever asks to resume it.

    Writing that ends with the connection if the client does not read: from when more is written
    than it reads, or from `watch_draining()` on, something must be read in every `write_timeout`
    seconds.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, write_timeout: float
    ) -> None:
        super().__init__(transport)
        self.held = False
        self._watched = transport
        self._loop = loop
        self._write_timeout = write_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._undrained = 0

    def resume_reading(self) -> None:
        """Read on, unless the connection has as much as it may have."""
        if not self.held:
            super().resume_reading()

    def pause_writing(self) -> None:
        """More is written than the client reads."""
        super().pause_writing()
        self.watch_draining()

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        if not self._watched.is_closing():
            self._stop_watching()

    def end(self) -> None:
        """The connection is lost: nobody need wait."""
        super().resume_writing()
        self._stop_watching()

    def watch_draining(self) -> None:
        """From now on what is written must be read, or the connection is cut off."""
        if self._timer is None:
            self._undrained = self._watched.get_write_buffer_size()
            self._timer = self._loop.call_later(self._write_timeout, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._undrained - self._watched.get_write_buffer_size() < DRAIN:
            self._watched.abort()
        else:
            self.watch_draining()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
