"""
`AsyncClient`: the same for programs that run on asyncio, with several batches on their way.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
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


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, to be awaited; files are read beside
    the event loop.  One event loop and all its tasks may share one."""

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
        self._http = httpx2.AsyncClient(**self._place.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        await self._http.aclose()

    async def classify(
        self,
        image: ImageInput,
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
    ) -> Prediction:
        """As `Client.classify`."""
        ask = requests.predict(top, crops, details)
        upload = await asyncio.to_thread(read, image)
        return requests.only(await self._ask(ask([upload])))

    def classify_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        batch: int | None = None,
        in_flight: int = 2,
    ) -> AsyncIterator[Outcome]:
        """As `Client.classify_many`, with `in_flight` batches on their way at a time."""
        if in_flight < 1:
            raise ValueError(f"in_flight={in_flight}: must be at least 1")
        gathered = Batch.of(batch, details)
        return self._many(images, requests.predict(top, crops, details), gathered, in_flight)

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._ask(requests.health())

    async def model(self) -> Model:
        """Which model answers there."""
        return (await self.health()).model

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._look(self._place.deadline(LOOK)) is None

    async def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """As `Client.wait_until_ready`."""
        deadline = self._place.deadline(timeout)
        while last := await self._look(deadline):
            self._place.check_that(deadline, allows=every, after=last)
            await asyncio.sleep(every)

    async def _look(self, deadline: Deadline) -> ClientError | None:
        """Nothing if it is ready, or why it is not yet."""
        try:
            await self._ask(requests.readiness(), deadline.at_most(LOOK), retries=0)
        except ClientError as error:
            if not may_become_ready(error):
                raise
            return error
        return None

    async def _many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        ask: Ask,
        batch: Batch,
        in_flight: int,
    ) -> AsyncIterator[Outcome]:
        asked: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            async for image in _each(images):
                if entries := batch.add(await asyncio.to_thread(read_or_error, image)):
                    asked.append(asyncio.create_task(self._answered(Parts(batch, entries), ask)))
                if len(asked) >= in_flight:
                    for outcome in await asked[0]:
                        yield outcome
                    asked.popleft()
            asked.append(asyncio.create_task(self._answered(Parts(batch, batch.rest()), ask)))
            while asked:
                for outcome in await asked[0]:
                    yield outcome
                asked.popleft()
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _answered(self, parts: Parts, ask: Ask) -> list[Outcome]:
        for part in parts:
            try:
                parts.answered(await self._ask(ask(part)))
            except Refused as refused:
                parts.refused(part, refused)
        return parts.outcomes()

    async def _ask(
        self, question: Question[T], deadline: Deadline | None = None, retries: int | None = None
    ) -> T:
        """The only place where something is sent."""
        deadline = deadline or self._place.deadline(self._place.timeout)
        retries = self._place.retries if retries is None else retries
        async for attempt in attempts(deadline, retries):
            with attempt, self._place.translated(deadline):
                async with asyncio.timeout(deadline.left()):
                    answer = await self._http.request(
                        question.method, question.path, timeout=timeouts(deadline), **question.sent
                    )
                reply = Reply(self._place.url, answer.status_code, answer.headers, answer.content)
                return question.read(reply)
        raise AssertionError("attempts end with an answer or an error")


async def _each(
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
) -> AsyncIterator[ImageInput]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
