"""
What is sent, and what to ask next; nothing here sends.

A `Question` is asked by whoever has a connection, blocking or not.  `answered` asks several for
one batch: it is a generator that yields questions and is sent their answers, or thrown their
errors.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from service.client import replies
from service.client.answers import Health, Prediction
from service.client.errors import (
    ClientError,
    DeadlineExceeded,
    PictureRefused,
    Refused,
    ServerFailed,
)
from service.client.pictures import Batch, Entry, Upload
from service.client.replies import Outcome, Reply

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
Steps = Generator[Question[list[Outcome]], list[Outcome], list[Outcome]]


def predict(top: int, crops: str, details: Sequence[str]) -> Ask:
    """What to ask of pictures: one is the body itself, the fast door; several are a form."""
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
        return Question("v1/predict", lambda reply: replies.outcomes(reply, uploads), "POST", sent)

    return ask


def answered(entries: Sequence[Entry], ask: Ask, batch: Batch) -> Steps:
    """
    What became of each entry, in order; an error that is there already keeps its place.

    A form that is refused for what may be one picture's fault, or for its size, is sent again in
    halves.  What any request would meet is raised.
    """
    uploads = [entry for entry in entries if isinstance(entry, Upload)]
    found: list[Outcome] = []
    left = [uploads] if uploads else []
    while left:
        some = left.pop()
        try:
            found += yield ask(some)
        except Refused as refused:
            if not _of_some(refused):
                raise
            middle = len(some) // 2
            if middle == 0:
                found.append(refused)
                continue
            if refused.code == "too_many_files":
                batch.at_most(middle)
            left += [some[middle:], some[:middle]]
    outcomes = iter(found)
    return [entry if isinstance(entry, ClientError) else next(outcomes) for entry in entries]


def _of_some(refused: Refused) -> bool:
    """Whether fewer pictures, or others, might be answered."""
    kinds = PictureRefused, DeadlineExceeded, ServerFailed
    return isinstance(refused, kinds) or refused.code in ("too_many_files", "body_too_large")


def health() -> Question[Health]:
    """Ready or not, both are answers."""
    return Question("health", replies.health)


def readiness() -> Question[None]:
    """`NotReady` is raised where a picture sent now would not be classified."""
    return Question("readyz", replies.readiness)


def only(outcomes: list[Outcome]) -> Prediction:
    """Of a single picture: its prediction, or its error raised."""
    (outcome,) = outcomes
    if isinstance(outcome, ClientError):
        raise outcome
    return outcome


def _printable(name: str) -> str:
    """A name without the halves of characters that no form could hold."""
    return name.encode("utf-8", "replace").decode()
