"""
Limits of connections: number, seconds, bytes, open files.  The limits are for one of them and
for all together.

Each port has a `ConnectionLimiter` of its own, so that probes on the admin port get through while
every connection of the main port is busy.  When all are taken, the address that holds most loses
one first: otherwise 200 empty POSTs from one address, against a limit of 200, would keep all other
clients out for 20 s.
"""

import logging
import resource
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from service.errors import Overloaded

logger = logging.getLogger("service")

# Connections over the limit of a port that get a 503, at a time; others are cut off.
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
    max_connections: int  # of the main port
    # Bytes of a request's first line and headers.  As nginx's four buffers of 8 kB; a client of
    # this service needs one, and what proxies and browsers add stays below.
    max_headers: int = 32 * 2**10
    max_connections_per_address: int | None = None  # of those
    admin_connections: int = 64  # of the admin port, beside those
    linger: float = 5.0
    linger_bytes: int = 64 * 2**20
    write_timeout: float = 30.0


class Member(Protocol):
    """A connection, as its limiter sees it."""

    def abort(self) -> None:
        """Make room at once."""


class Holder:
    """One address: how many connections it holds, and which of them wait for their client."""

    def __init__(self) -> None:
        self.held = 0
        # The longest first: those without a request, and those whose request's body is not here.
        self.idle: OrderedDict[Member, None] = OrderedDict()
        self.sending: OrderedDict[Member, None] = OrderedDict()


class Ranking:
    """Some of the addresses, by how many connections they hold."""

    def __init__(self) -> None:
        self._ranks: dict[Holder, int] = {}
        self._holders: dict[int, dict[Holder, None]] = {}  # by rank: far fewer than addresses

    def put(self, holder: Holder, rank: int) -> None:
        """Give an address this rank; none with 0."""
        before = self._ranks.get(holder, 0)
        if rank == before:
            return
        if before:
            del self._ranks[holder], self._holders[before][holder]
            if not self._holders[before]:
                del self._holders[before]
        if rank:
            self._ranks[holder] = rank
            self._holders.setdefault(rank, {})[holder] = None

    def first(self) -> Holder | None:
        """The address that holds most; of several the one that has held as many for longest."""
        return next(iter(self._holders[max(self._holders)])) if self._holders else None


class ConnectionLimiter:
    """The connections of one port, in all and by address."""

    def __init__(self, limit: int, advice: str, per_address: int | None = None) -> None:
        self._limit = limit
        self._advice = advice
        self._per_address = per_address
        self._holders: dict[str, Holder] = {}  # by address
        self._members: dict[Member, tuple[str, Holder]] = {}
        self._with_idle, self._with_sending = Ranking(), Ranking()
        self._refused: set[Member] = set()

    def enter(self, newcomer: Member, address: str) -> None:
        """Let one in, in the place of another if need be; or raise `Overloaded`."""
        holder = self._holders.get(address) or Holder()
        if (loser := self._displaced_by(holder)) is not None:
            self.leave(loser)
            loser.abort()
        self._holders[address] = holder  # it may have lost its last one
        self._members[newcomer] = address, holder
        holder.held += 1
        holder.idle[newcomer] = None
        self._rank(holder)

    def _displaced_by(self, holder: Holder) -> Member | None:
        """What to close so that this address may hold one more, if need be; raises `Overloaded`."""
        if self._per_address is not None and holder.held >= self._per_address:
            if not holder.idle:
                raise Overloaded(
                    f"all {self._per_address} connections that one address may hold are busy; "
                    "close some, or raise ALEXNET_MAX_CONNECTIONS_PER_ADDRESS on the server",
                    retry_after=1,
                )
            return next(iter(holder.idle))
        if len(self._members) < self._limit:
            return None
        if (greedy := self._with_idle.first()) is not None:
            return next(iter(greedy.idle))
        # Not for an address that would then hold as many: uploads would only push each other out.
        greedy = self._with_sending.first()
        if greedy is not None and greedy.held > holder.held + 1:
            return next(iter(greedy.sending))
        raise Overloaded(f"all {self._limit} connections are busy; {self._advice}", retry_after=1)

    def _rank(self, holder: Holder) -> None:
        self._with_idle.put(holder, holder.held if holder.idle else 0)
        self._with_sending.put(holder, holder.held if holder.sending else 0)

    def may_refuse(self, newcomer: Member) -> bool:
        """Whether one that did not get in may stay until it has its 503."""
        if len(self._refused) >= REFUSED:
            return False
        self._refused.add(newcomer)
        return True

    # A refused connection is not a member, and changes nothing.

    def send(self, member: Member) -> None:
        """It has sent a request's headers, and is still sending the body."""
        if member in self._members:
            _, holder = self._members[member]
            holder.idle.pop(member, None)
            holder.sending[member] = None
            self._rank(holder)

    def work(self, member: Member) -> None:
        """Its client waits for an answer."""
        if member in self._members:
            _, holder = self._members[member]
            holder.idle.pop(member, None)
            holder.sending.pop(member, None)
            self._rank(holder)

    def rest(self, member: Member) -> None:
        """It is idle: no client waits for an answer."""
        if member in self._members:
            _, holder = self._members[member]
            holder.sending.pop(member, None)
            holder.idle.setdefault(member)
            self._rank(holder)

    def leave(self, member: Member) -> None:
        """It is closed."""
        self._refused.discard(member)
        if member in self._members:
            address, holder = self._members.pop(member)
            holder.idle.pop(member, None)
            holder.sending.pop(member, None)
            holder.held -= 1
            self._rank(holder)
            if not holder.held:
                del self._holders[address]


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
