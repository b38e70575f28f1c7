"""
What clients may take, one of them and all together: seconds, bytes, connections, open files.

Each port has a `Crowd` of its own, so that the probes on the admin port get through while every
connection of the main port is busy.
"""

import logging
import resource
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from service.errors import Overloaded

logger = logging.getLogger("service")

# Connections over the limit of a port that are told so, at a time; others are cut off.
REFUSED: Final = 64
# Open files of a connection: its socket, and the file that it is answered with, such as one of the
# page.  With one each, 400 connections that asked for files met EMFILE, and a probe was reset.
FILES_EACH: Final = 2
# Open files beside the main port's connections: those of the admin port's 64, one for each of 64
# refused on either port, and 128 sockets, logs and libraries.
SPARE_FILES: Final = 384


@dataclass(frozen=True, kw_only=True)
class Limits:
    """
    What one client, and all of them together, may take; seconds, bytes, connections.

    A client that is still sending when it is answered may go on for `linger` seconds and
    `linger_bytes`: closing at once would reset the connection, and the answer could be lost.  nginx
    lingers as long.  One that reads nothing for `write_timeout` is cut off.
    """

    header_timeout: float
    keep_alive: float
    max_headers: int
    max_connections: int  # of the main port
    admin_connections: int = 64  # of the admin port, beside those
    linger: float = 5.0
    linger_bytes: int = 64 * 2**20
    write_timeout: float = 30.0


class Member(Protocol):
    """A connection, as its crowd sees it."""

    def abort(self) -> None:
        """Make room at once."""


class Crowd:
    """The connections of one port."""

    def __init__(self, most: int, advice: str) -> None:
        self._idle: OrderedDict[Member, None] = OrderedDict()  # nobody waits on; the oldest first
        self._most = most
        self._advice = advice
        self._members: set[Member] = set()
        self._refused: set[Member] = set()

    def enter(self, newcomer: Member) -> None:
        """Let one in, in the place of the longest idle one if need be; or raise `Overloaded`."""
        if len(self._members) >= self._most and self._idle:
            oldest, _ = self._idle.popitem(last=False)
            self._members.discard(oldest)
            oldest.abort()
        if len(self._members) >= self._most:
            raise Overloaded(
                f"all {self._most} connections are busy; {self._advice}", retry_after=1
            )
        self._members.add(newcomer)
        self._idle[newcomer] = None

    def may_refuse(self, newcomer: Member) -> bool:
        """Whether one that did not get in may stay until it is told so."""
        if len(self._refused) >= REFUSED:
            return False
        self._refused.add(newcomer)
        return True

    def work(self, member: Member) -> None:
        """Somebody waits for its answer."""
        self._idle.pop(member, None)

    def rest(self, member: Member) -> None:
        """Nobody waits on it any more; one that was refused does not count."""
        if member in self._members:
            self._idle.setdefault(member)

    def leave(self, member: Member) -> None:
        """It is closed."""
        self._idle.pop(member, None)
        self._members.discard(member)
        self._refused.discard(member)


def within_file_limit(connections: int) -> int:
    """Raise the soft limit of open files as far as needed; returns the connections that it allows,
    at least one, and warns if these are fewer."""
    needed = FILES_EACH * connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    reachable = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):  # macOS refuses some values below its hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return connections
    # With few files, half of them are spare.
    allowed = max(1, (soft - min(SPARE_FILES, soft // 2)) // FILES_EACH)
    logger.warning(
        "only %d files may be open, so at most %d connections are held instead of %d; "
        "raise the limit (ulimit -n, LimitNOFILE, --ulimit nofile) to %d",
        soft,
        allowed,
        connections,
        needed,
    )
    return allowed
