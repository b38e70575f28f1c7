"""
API keys and rate limits.

Keys are kept as SHA-256 digests only, and what is offered is compared with every one of them
in constant time.  No message shows a key.

The rate limit is the generic cell rate algorithm (ITU-T I.371, annex A): a client may send
its whole allowance at once, and it grows back evenly.  It takes one number a client and no
thread.  (The in-memory windows of the `limits` package, measured with 100,000 addresses, never
forget one or stop for 0.02 to 0.4 s to walk through all of them after a burst.)
"""

import hashlib
import hmac
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from service.errors import RateLimited, SettingsInvalid, TooManyFiles

# Commas separate keys in the environment, # begins a comment in the file.
KEY: Final = re.compile(r'[!"$-+\--~]{16,256}')
COMMENT: Final = re.compile(r"(^|\s)#.*")
WHAT_A_KEY_IS: Final = "a key is 16 to 256 visible ASCII characters without spaces, commas or #"

SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
RATE: Final = re.compile(rf"([1-9][0-9]{{0,8}}) ?/ ?({'|'.join(SECONDS)})")
MAX_CLIENTS: Final = 100_000  # remembered at once; some 25 MB

log = logging.getLogger("service.access")


class Keys:
    """
    The API keys that a client must have one of; without any, no client needs one.

    `keys` come from the environment, others from `file`: one a line, # for comments.
    Raises `SettingsInvalid` for what cannot be a key, and for a file without a key.
    """

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None) -> None:
        self._from_environment = frozenset(
            _digest(key, f"ALEXNET_API_KEYS: key {number}")
            for number, key in enumerate(keys, start=1)
        )
        self._file = file
        self._digests = self._from_environment
        self.reload()

    def __bool__(self) -> bool:
        return bool(self._digests)

    def holds(self, candidate: str) -> str | None:
        """The id of the key that this is, of 12 digits, or None."""
        offered = hashlib.sha256(candidate.encode("utf-8", "surrogatepass")).digest()
        ids = [
            digest.hex()[:12]
            for digest in self._digests  # all of them, whichever it is
            if hmac.compare_digest(digest, offered)
        ]
        return ids[0] if ids else None

    def reload(self) -> None:
        """Read the file again; the keys stay as they were if `SettingsInvalid` is raised."""
        if self._file is not None:
            self._digests = self._from_environment | frozenset(_read(self._file))


class RateLimiter:
    """
    How many images a client may send: `rate` of them, such as 100/minute, at once, and
    as many again, evenly, in each such time.

    `clock` counts nanoseconds.  Raises `ValueError` for a rate that cannot be read.
    """

    def __init__(self, rate: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        images, seconds = parse_rate(rate)
        self._rule = f"one client may send {images} images per {rate.partition('/')[2].strip()}"
        self._clock = clock
        self._images = images
        self._period = seconds * 10**9
        self._each = self._period // images
        # When a client's allowance is whole again; who has not sent for longest comes first.
        self._whole_at: OrderedDict[str, int] = OrderedDict()

    @property
    def clients(self) -> int:
        """How many are remembered."""
        return len(self._whole_at)

    def charge(self, client: str, images: int = 1, *, counted: int = 0) -> None:
        """
        Count a client's `images`, `counted` of which have been counted before.

        Counts nothing if they are too many, and raises `RateLimited`, whose `retry_after` is when
        all the `images` will fit, or `TooManyFiles` if they never will.
        """
        now = self._clock()
        whole_at = max(self._whole_at.get(client, now), now)
        if images > self._images:
            raise TooManyFiles(
                f"these are {images} images at once, but {self._rule}; send fewer in a request"
            )
        if whole_at + (images - counted) * self._each > now + self._period:
            wait = whole_at + images * self._each - now - self._period
            raise RateLimited(
                f"{self._rule}; come back in {_seconds(wait)} s", retry_after=_seconds(wait)
            )
        self._whole_at[client] = whole_at + (images - counted) * self._each
        self._whole_at.move_to_end(client)
        self._forget(now)

    def _forget(self, now: int) -> None:
        # Two at a time, so that they go faster than they come.
        for client in list(islice(self._whole_at, 2)):
            if self._whole_at[client] <= now or len(self._whole_at) > MAX_CLIENTS:
                del self._whole_at[client]


def parse_rate(text: str) -> tuple[int, int]:
    """`100/minute` -> (100, 60 seconds); raises `ValueError` that says what was expected."""
    match = RATE.fullmatch(text)
    if match is None:
        raise ValueError("expected a number per second, minute, hour or day, such as 100/minute")
    return int(match[1]), SECONDS[match[2]]


def network_of(host: str) -> str:
    """The client of an address: itself, or the /64 of IPv6, which is a single customer's."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]  # whatever a proxy calls it, but not of any length
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:  # an IPv4 client of a socket for both
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _digest(key: str, place: str) -> bytes:
    if not KEY.fullmatch(key):
        raise SettingsInvalid(f"{place} cannot be used (it is not shown here): {WHAT_A_KEY_IS}.")
    return hashlib.sha256(key.encode("ascii")).digest()


def _read(file: Path) -> Iterator[bytes]:
    name = f"the file of ALEXNET_API_KEYS_FILE, {file},"
    try:
        if not file.is_file():  # a pipe would be waited for
            raise SettingsInvalid(f"{name} is not there, or is not a file.")
        mode = file.stat().st_mode
        lines = file.read_text("utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise SettingsInvalid(f"{name} cannot be read ({error.strerror or error}).") from error
    if mode & 0o006:
        log.warning("%s is open to every user of this machine; chmod o= closes it", name)
    held = [
        (number, line)
        for number, text in enumerate(lines, start=1)
        if (line := COMMENT.sub("", text).strip())
    ]
    if not held:
        raise SettingsInvalid(f"{name} holds no key; write one a line, or leave the setting out.")
    for number, line in held:
        yield _digest(line, f"{name} line {number}")


def _seconds(nanoseconds: int) -> int:
    return -(-nanoseconds // 10**9)  # upwards
