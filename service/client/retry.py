"""
How long to wait: for an answer, and between two tries.

What is tried again is `ClientError.retried`, since to classify twice harms nobody: a lost
connection, 429, 502 and 503.  The pause is what the server asks for in Retry-After, and a little
more, so that not all clients come back at once; without it, a random one below 0.1 s that doubles
with each try.  A pause that would not end in time is not begun: the error is raised.
"""

import email.utils
import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import stamina

from service.client.errors import ClientError, TimedOut

FIRST: Final = 0.1  # seconds, the longest first pause
LONGEST: Final = 5.0  # seconds
SPREAD: Final = 0.25  # of Retry-After: at most so much more
CONNECT: Final = 5.0  # seconds for a connection: a host that drops packets would take all the time
IDLE: Final = 4.0  # seconds; the server closes after 5, and a request sent just then would be lost

# Else each retry would be a bare line on the standard error of a program that sets up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Deadline:
    """A time for all the tries together; without `seconds`, none."""

    def __init__(self, url: str, seconds: float | None) -> None:
        self.url = url
        self.seconds = seconds
        self._until = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds from now, more than 0; `TimedOut` if there are none."""
        if self._until is None:
            return None
        if (left := self._until - time.monotonic()) <= 0:
            raise self.passed()
        return left

    def allows(self, pause: float) -> bool:
        """Whether there is time for a pause and for something after it."""
        return self._until is None or time.monotonic() + pause < self._until

    def at_most(self, seconds: float) -> "Deadline":
        """This one, or one in so many seconds if that is sooner."""
        left = self.left()
        return Deadline(self.url, seconds if left is None else min(seconds, left))

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as they come; `TimedOut` if they still come when the time is over."""
        for chunk in chunks:
            self.left()
            yield chunk

    def passed(self) -> TimedOut:
        """The error to raise."""
        return TimedOut(
            f"{self.url} did not answer within {self.seconds:g} s; allow more with timeout=, "
            "or send less at once"
        )


def attempts(deadline: Deadline, retries: int) -> Any:
    """Blocks to try, with the pauses between them, until one succeeds, `retries` times again at
    most; then the last error is raised.  To be iterated over as stamina's, `async` or not."""
    rising = (random.uniform(0, min(LONGEST, FIRST * 2**n)) for n in itertools.count())

    def again(error: Exception) -> bool | float:
        if not isinstance(error, ClientError) or not error.retried:
            return False
        pause = next(rising)
        if error.retry_after:
            pause = error.retry_after * random.uniform(1, 1 + SPREAD)
        return pause if deadline.allows(pause) else False

    return stamina.retry_context(again, attempts=retries + 1, timeout=None)


def seconds_until(
    text: str | None, date: str | None = None, clock: Callable[[], float] = time.time
) -> float | None:
    """
    Retry-After in seconds, whether it is a number of them or a time; None for anything else.

    A time counts from the answer's own Date: the two clocks may differ.
    """
    if text is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", text):
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    try:
        now = email.utils.parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        now = clock()
    return max(0.0, then - now)
