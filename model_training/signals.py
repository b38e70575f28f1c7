"""SIGINT and SIGTERM as a wish that the work itself grants, between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from model_training.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Watch:
    """While it is entered, the first signal only asks; a second one ends the process at once."""

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._asked is not None:
            raise Stopped("stopped; the same command goes on from here", self._asked)

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask for the end, as a signal would."""
        self._asked = number

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.ask(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
