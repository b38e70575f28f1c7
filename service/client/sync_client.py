"""
`Client`: ask, and wait for the answer.
"""

import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, TypeVar

import httpx2

from service.client import requests
from service.client.errors import ClientError, Refused
from service.client.inputs import Batch, ImageInput, read, read_or_error
from service.client.requests import Ask, Parts, Question
from service.client.response_types import Health, Model, Prediction
from service.client.responses import Outcome, Reply
from service.client.retry import Deadline, attempts
from service.client.transport import LOOK, Place, may_become_ready, timeouts

T = TypeVar("T")


class Client:
    """
    A server's client; any number of threads may share one.

    `url` is the server's, `api_key` one of its keys.  `timeout` is for a whole call, all its tries
    and the pauses between them, in seconds; None sets no limit.  Lost connections, 429, 502 and 503
    are tried `retries` times again, when Retry-After says or after a pause that grows.  `verify` is
    for https: a context with authorities of one's own, or False to trust whoever answers.

    Every method raises `ClientError`; a bad argument is a `ValueError` or `TypeError`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        retries: int = 5,
        verify: bool | ssl.SSLContext = True,
    ) -> None:
        self._place = Place(url, api_key=api_key, timeout=timeout, retries=retries, verify=verify)
        self._http = httpx2.Client(**self._place.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        self._http.close()

    def classify(
        self,
        image: ImageInput,
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
    ) -> Prediction:
        """
        The `top` best classes of one image: a path, bytes, or a file opened in binary mode.

        `crops` is ten, one or dense; `details` are views, heatmap or both.
        """
        ask = requests.predict(top, crops, details)
        return requests.only(self._ask(ask([read(image)])))

    def classify_many(
        self,
        images: Iterable[ImageInput],
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        batch: int | None = None,
    ) -> Iterator[Outcome]:
        """
        For each image, in order, its `Prediction` or the `ClientError` that is its own.

        Lazy: `batch` images at most, 32 by default and 1 with a heatmap, are read and sent
        together.  What every image would meet, such as a wrong key, is raised.
        """
        gathered = Batch.of(batch, details)
        return self._many(images, requests.predict(top, crops, details), gathered)

    def health(self) -> Health:
        """What runs there; that it is not ready is an answer, not an error."""
        return self._ask(requests.health())

    def model(self) -> Model:
        """Which model answers there."""
        return self.health().model

    def ready(self) -> bool:
        """Whether an image sent now would be classified; one look, of 5 seconds at most."""
        return self._look(self._place.deadline(LOOK)) is None

    def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """Look every so many seconds; `TimedOut` if it is not ready within `timeout` seconds."""
        deadline = self._place.deadline(timeout)
        while last := self._look(deadline):
            self._place.check_that(deadline, allows=every, after=last)
            time.sleep(every)

    def _look(self, deadline: Deadline) -> ClientError | None:
        """Nothing if it is ready, or why it is not yet."""
        try:
            self._ask(requests.readiness(), deadline.at_most(LOOK), retries=0)
        except ClientError as error:
            if not may_become_ready(error):
                raise
            return error
        return None

    def _many(self, images: Iterable[ImageInput], ask: Ask, batch: Batch) -> Iterator[Outcome]:
        for image in images:
            if entries := batch.add(read_or_error(image)):
                yield from self._answered(Parts(batch, entries), ask)
        yield from self._answered(Parts(batch, batch.rest()), ask)

    def _answered(self, parts: Parts, ask: Ask) -> list[Outcome]:
        for part in parts:
            try:
                parts.answered(self._ask(ask(part)))
            except Refused as refused:
                parts.refused(part, refused)
        return parts.outcomes()

    def _ask(
        self, question: Question[T], deadline: Deadline | None = None, retries: int | None = None
    ) -> T:
        """The only place where something is sent."""
        deadline = deadline or self._place.deadline(self._place.timeout)
        retries = self._place.retries if retries is None else retries
        for attempt in attempts(deadline, retries):
            with attempt, self._place.translated(deadline):
                with self._http.stream(
                    question.method, question.path, timeout=timeouts(deadline), **question.sent
                ) as answer:
                    body = b"".join(deadline.watch(answer.iter_bytes()))
                reply = Reply(self._place.url, answer.status_code, answer.headers, body)
                return question.read(reply)
        raise AssertionError("attempts end with an answer or an error")
