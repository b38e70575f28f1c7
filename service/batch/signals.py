"""
How a job is ended early.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """The job was ended early; `status` is what the shell is to be told."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """
    SIGTERM ends the block as Ctrl-C does: with a `KeyboardInterrupt`, whose argument is the signal.

    A handler that is set for Ctrl-C meanwhile, as by asyncio, is called for SIGTERM too.
    """
    terminated = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(int(signal.SIGTERM if terminated else signal.SIGINT)) from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
