"""
What is sent, and what to ask next; nothing here sends.

A `Question` is asked by whoever has a connection, blocking or not.  `Parts` says about what to ask
next for one batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from service.client import responses
from service.client.errors import (
    ClientError,
    DeadlineExceeded,
    ImageRefused,
    Refused,
    RequestRefused,
    ServerFailed,
)
from service.client.inputs import Batch, Entry, Upload
from service.client.response_types import Health, Prediction
from service.client.responses import Outcome, Reply

T = TypeVar("T")

OCTETS: Final = "application/octet-stream"  # the server looks at the bytes themselves
UNNAMED: Final = "picture"  # a part of a form without a name would be no file


@dataclass(frozen=True)
class Question(Generic[T]):
    """A request, and what its answer means; `read` raises `ClientError`."""

    path: str
    read: Callable[[Reply], T]
    method: str = "GET"
    sent: Mapping[str, Any] = field(default_factory=dict)  # query, headers, body: httpx2's words


Ask = Callable[[Sequence[Upload]], Question[list[Outcome]]]


def predict(top: int, crops: str, details: Sequence[str]) -> Ask:
    """What to ask of images: one is the body itself, the fast door; several are a form."""
    params: dict[str, str | int] = {"top": top, "crops": crops}
    if wanted := details if isinstance(details, str) else ",".join(details):
        params["details"] = wanted

    def ask(uploads: Sequence[Upload]) -> Question[list[Outcome]]:
        sent: dict[str, Any] = {"params": params}
        if len(uploads) == 1:
            sent |= {"content": uploads[0].data, "headers": {"Content-Type": OCTETS}}
        else:
            sent["files"] = [
                ("file", (_printable(upload.filename or UNNAMED), upload.data, OCTETS))
                for upload in uploads
            ]
        return Question(
            "v1/predict", lambda reply: responses.outcomes(reply, uploads), "POST", sent
        )

    return ask


class Parts:
    """
    A batch in parts to ask about, in order: all of it, or halves of what was refused.

    An error that is there already keeps its place among the `outcomes`.
    """

    def __init__(self, batch: Batch, entries: Sequence[Entry]) -> None:
        self._batch, self._entries = batch, entries
        uploads = [entry for entry in entries if isinstance(entry, Upload)]
        self._left = [uploads] if uploads else []
        self._found: list[Outcome] = []

    def __iter__(self) -> Iterator[list[Upload]]:
        while self._left:
            yield self._left.pop()

    def answered(self, outcomes: list[Outcome]) -> None:
        """Keep what became of the part that came last."""
        self._found += outcomes

    def refused(self, part: list[Upload], refused: Refused) -> None:
        """Halve what was refused for what may be one image's fault, or for its size; what any
        request would meet is raised."""
        if not _of_some(refused):
            raise refused
        if len(part) == 1:
            self._found.append(refused)
            return
        middle = len(part) // 2
        if isinstance(refused, RequestRefused | DeadlineExceeded):  # as the next would be
            self._batch.at_most(middle)
        self._left += [part[middle:], part[:middle]]

    def outcomes(self) -> list[Outcome]:
        """What became of each entry, once all parts are answered."""
        found = iter(self._found)
        return [entry if isinstance(entry, ClientError) else next(found) for entry in self._entries]


def _of_some(refused: Refused) -> bool:
    """Whether fewer images, or others, might be answered."""
    # 413 is also what a proxy says, in its own words: nginx to all that is over 1 MB.
    kinds = ImageRefused, DeadlineExceeded, ServerFailed
    return isinstance(refused, kinds) or refused.status == 413


def health() -> Question[Health]:
    """Ready or not, both are answers."""
    return Question("health", responses.health)


def readiness() -> Question[None]:
    """`NotReady` is raised where an image sent now would not be classified."""
    return Question("readyz", responses.readiness)


def only(outcomes: list[Outcome]) -> Prediction:
    """Of a single image: its prediction, or its error raised."""
    (outcome,) = outcomes
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


def _printable(name: str) -> str:
    """A name without the halves of characters that no form could hold."""
    return name.encode("utf-8", "replace").decode()
