"""SIGINT and SIGTERM ask a training to stop.  It does so itself, between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from model_training.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While it is entered, the first signal asks to stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
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
        if self._signal is not None:
            raise Stopped("stopped; the same command goes on from here", self._signal)

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask the training to stop, as a signal would."""
        self._signal = number

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.request(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
