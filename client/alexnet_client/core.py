"""
What both clients do, without input or output.

An operation is a generator.  It yields what to do next: send a request, or pause.  It is sent the
answer, or the `ClientError` in its place, and returns its result.  The clients carry out the steps.
"""

import ssl
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from threading import TIMEOUT_MAX
from typing import Any, ClassVar, Final, TypeVar

import httpx2

from alexnet_client import requests, transport
from alexnet_client.errors import (
    ClientError,
    DeadlineExceeded,
    ImageRefused,
    Refused,
    RequestRefused,
    ServerFailed,
    TimedOut,
)
from alexnet_client.images import Entry, Reader, Upload
from alexnet_client.requests import Options, Request
from alexnet_client.responses import Health, Outcome, Prediction, Response
from alexnet_client.transport import Deadline

T = TypeVar("T")

LOOK: Final = 5.0  # seconds for a look whether it is ready

# Within the server's limits as it comes: 64 images, 20 MiB.  Two batches of 32 on their way keep
# its engine, which takes 16 at a time, busy, and leave most of its queue of 256 to others.
MAX_IMAGES: Final = 32
MAX_IMAGES_WITH_HEATMAP: Final = 1  # it takes 65 places of the queue
MAX_BYTES: Final = 16 * 2**20


@dataclass(frozen=True)
class Send:
    """Send a request, up to `retries` times again, before the deadline."""

    request: Request[Any]
    deadline: Deadline
    retries: int

    def arguments(self) -> dict[str, Any]:
        """One try from now on, as httpx2 takes it; `TimedOut` if there is no time left."""
        timeout = self.deadline.timeouts()
        return {**self.request.options, "url": self.request.path, "timeout": timeout}

    def read(self, response: httpx2.Response, body: bytes) -> Any:
        """What the answer means; raises `ClientError`."""
        status, headers = response.status_code, response.headers
        return self.request.read(Response(self.deadline.url, status, headers, body))


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


Operation = Generator[Send | Pause, Any, T]


class BaseClient:
    """The arguments of both clients, and their operations."""

    _connect: ClassVar[Any]  # the class of httpx2 that sends

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 5,
        verify: bool | ssl.SSLContext = True,
    ) -> None:
        address = transport.address(url)
        if timeout is not None and not 0 < timeout <= TIMEOUT_MAX:
            raise ValueError(
                f"timeout={timeout}: must be more than 0 seconds, or None for no limit"
            )
        if retries < 0:
            raise ValueError(f"retries={retries}: must be at least 0")
        self._url = str(address).rstrip("/")
        self._timeout, self._retries = timeout, retries
        self._reader = Reader(timeout)
        self._http = self._connect(**transport.options(address, api_key, verify))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    def _answer(self, request: Request[T]) -> Operation[T]:
        return _sent(Send(request, Deadline(self._url, self._timeout), self._retries))

    def _classify(self, upload: Upload, options: Options) -> Operation[Prediction]:
        (outcome,) = yield from self._answer(requests.predict([upload], options))
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome

    def _health(self) -> Operation[Health]:
        return self._answer(requests.HEALTH)

    def _ready(self) -> Operation[bool]:
        return (yield from _look(Deadline(self._url, LOOK))) is None

    def _wait_until_ready(self, timeout: float | None, every: float) -> Operation[None]:
        deadline = Deadline(self._url, timeout)
        while error := (yield from _look(deadline)):
            if not deadline.allows(every):
                message = f"{self._url} was not ready within {timeout:g} s: {error}"
                raise TimedOut(message) from error
            yield Pause(every)


class Batches:
    """Gathers images into batches, each an operation to run; a too large image is one by itself."""

    def __init__(self, client: BaseClient, options: Options, limit: int | None) -> None:
        """`limit` is how many images a batch has at most; None is as many as are fitting."""
        if limit is None:
            limit = MAX_IMAGES_WITH_HEATMAP if options.heatmap else MAX_IMAGES
        if limit < 1:
            raise ValueError(f"batch={limit}: must be at least 1")
        self._client, self._options, self._limit = client, options, limit
        self._entries: list[Entry] = []
        self._bytes = 0

    def add(self, entry: Entry) -> Operation[list[Outcome]] | None:
        """Take one more; what it returns, if anything, is to be run now."""
        size = len(entry.data) if isinstance(entry, Upload) else 0
        full = len(self._entries) >= self._limit or self._bytes + size > MAX_BYTES
        operation = self.rest() if full else None
        self._entries.append(entry)
        self._bytes += size
        return operation

    def rest(self) -> Operation[list[Outcome]]:
        """All that is gathered; the next batch begins."""
        entries, self._entries, self._bytes = self._entries, [], 0
        return self._classify(entries)

    def _classify(self, entries: Sequence[Entry]) -> Operation[list[Outcome]]:
        """
        What became of each entry, in order; an error that is there already keeps its place.

        What was refused for what may be one image's fault, or for its size, is sent again in
        halves.  What any request would meet is raised.
        """
        uploads = [entry for entry in entries if isinstance(entry, Upload)]
        parts = [uploads] if uploads else []
        outcomes: list[Outcome] = []
        while parts:
            part = parts.pop()
            try:
                outcomes += yield from self._client._answer(requests.predict(part, self._options))
            except Refused as refused:
                if not _fewer_may_do(refused):
                    raise
                if len(part) == 1:
                    outcomes.append(refused)
                    continue
                middle = len(part) // 2
                if isinstance(refused, RequestRefused | DeadlineExceeded):  # so would be the next
                    self._limit = min(self._limit, middle)
                parts += [part[middle:], part[:middle]]
        rest = iter(outcomes)
        return [entry if isinstance(entry, ClientError) else next(rest) for entry in entries]


def _sent(step: Send) -> Operation[Any]:
    answer = yield step
    if isinstance(answer, ClientError):
        raise answer
    return answer


def _look(deadline: Deadline) -> Operation[ClientError | None]:
    """None if it is ready, or why it is not yet."""
    try:
        yield from _sent(Send(requests.READINESS, deadline.at_most(LOOK), retries=0))
    except ClientError as error:
        if error.retried or isinstance(error, TimedOut):
            return error
        raise
    return None


def _fewer_may_do(refused: Refused) -> bool:
    """Whether fewer images, or others, might be answered."""
    # 413 is also what a proxy says, in its own words: nginx to all that is over 1 MB.
    kinds = ImageRefused, DeadlineExceeded, ServerFailed
    return isinstance(refused, kinds) or refused.status == 413
