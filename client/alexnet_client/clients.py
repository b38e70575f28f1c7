"""
`Client` blocks for its answer; `AsyncClient` runs on asyncio.  The second is for programs that have
several batches on their way.  Only here is anything sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import httpx2

from alexnet_client.core import BaseClient, Batches, Operation, Pause, Send, T
from alexnet_client.errors import ClientError
from alexnet_client.images import Entry, ImageInput
from alexnet_client.requests import Options
from alexnet_client.responses import Health, Model, Outcome, Prediction
from alexnet_client.transport import attempts, translated

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

Images = Iterable[ImageInput] | AsyncIterable[ImageInput]


class Client(BaseClient):
    """
    A server's client; any number of threads may share one.

    `url` is the server's, `api_key` one of its keys.  `timeout` is for a whole call, all its tries
    and the pauses between them, in seconds; None sets no limit.  Lost connections, 429, 502 and 503
    are tried `retries` times again, when Retry-After says or after a pause that grows.  `verify` is
    for https: a context with other authorities, or False to trust any server.

    A string that begins with http:// or https:// is an image's address: it is fetched from here,
    not by the server, without the key, within `timeout` again, and up to 20 MiB.

    Every method raises `ClientError`; a bad argument is a `ValueError` or `TypeError`.
    """

    _connect = httpx2.Client
    _http: httpx2.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; no request can be sent afterwards."""
        self._http.close()
        self._reader.close()

    def classify(
        self,
        image: ImageInput,
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        threshold: float = 0.0,
        classes: Sequence[str | int] = (),
        renormalise: bool = False,
    ) -> Prediction:
        """
        The `top` best classes of one image: a path, an address, bytes, or a file opened in binary
        mode.

        `crops` is ten, one or dense; `details` are views, heatmap, features or several.  Left out
        are classes less probable than `threshold`, and with `classes` (WordNet ids, indices, labels
        or names in them) all others; with `renormalise` the probabilities of those are divided by
        their sum.
        """
        options = Options(top, crops, details, threshold, classes, renormalise)
        return self._run(self._classify(self._reader.read(image), options))

    def classify_many(
        self,
        images: Iterable[ImageInput],
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        threshold: float = 0.0,
        classes: Sequence[str | int] = (),
        renormalise: bool = False,
        batch: int | None = None,
    ) -> Iterator[Outcome]:
        """
        For each image, in order, its `Prediction` or the `ClientError` that is its own.

        Lazy: `batch` images at most, 32 by default and 1 with a heatmap, are read and sent
        together.  What every image would meet, such as a wrong key, is raised.
        """
        options = Options(top, crops, details, threshold, classes, renormalise)
        return self._many(images, Batches(self, options, batch))

    def health(self) -> Health:
        """What runs there; that it is not ready is an answer, not an error."""
        return self._run(self._health())

    def model(self) -> Model:
        """Which model answers there."""
        return self.health().model

    def ready(self) -> bool:
        """Whether an image sent now would be classified; one look, of 5 seconds at most."""
        return self._run(self._ready())

    def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """Look every so many seconds; `TimedOut` if it is not ready within `timeout` seconds."""
        self._run(self._wait_until_ready(timeout, every))

    def _many(self, images: Iterable[ImageInput], batches: Batches) -> Iterator[Outcome]:
        for image in images:
            if operation := batches.add(self._reader.read_or_error(image)):
                yield from self._run(operation)
        yield from self._run(batches.rest())

    def _run(self, operation: Operation[T]) -> T:
        answer = None
        try:
            while True:
                answer = self._carry_out(operation.send(answer))
        except StopIteration as end:
            return cast(T, end.value)

    def _carry_out(self, step: Send | Pause) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        try:
            for attempt in attempts(step.deadline, step.retries):
                with attempt, translated(step.deadline):
                    with self._http.stream(**step.arguments()) as response:
                        body = b"".join(step.deadline.watch(response.iter_bytes()))
                    return step.read(response, body)
        except ClientError as error:
            return error


class AsyncClient(BaseClient):
    """`Client` for asyncio: the same arguments and methods, to be awaited; files are read beside
    the event loop.  One event loop and all its tasks may share one."""

    _connect = httpx2.AsyncClient
    _http: httpx2.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; no request can be sent afterwards."""
        await self._http.aclose()
        self._reader.close()

    async def classify(
        self,
        image: ImageInput,
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        threshold: float = 0.0,
        classes: Sequence[str | int] = (),
        renormalise: bool = False,
    ) -> Prediction:
        """As `Client.classify`."""
        options = Options(top, crops, details, threshold, classes, renormalise)
        upload = await asyncio.to_thread(self._reader.read, image)
        return await self._run(self._classify(upload, options))

    def classify_many(
        self,
        images: Images,
        *,
        top: int = 5,
        crops: str = "ten",
        details: Sequence[str] = (),
        threshold: float = 0.0,
        classes: Sequence[str | int] = (),
        renormalise: bool = False,
        batch: int | None = None,
        in_flight: int = 2,
    ) -> AsyncIterator[Outcome]:
        """As `Client.classify_many`, with `in_flight` batches on their way at a time."""
        if in_flight < 1:
            raise ValueError(f"in_flight={in_flight}: must be at least 1")
        options = Options(top, crops, details, threshold, classes, renormalise)
        batches = Batches(self, options, batch)
        return self._many(images, batches, in_flight)

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._run(self._health())

    async def model(self) -> Model:
        """As `Client.model`."""
        return (await self.health()).model

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(self._ready())

    async def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """As `Client.wait_until_ready`."""
        await self._run(self._wait_until_ready(timeout, every))

    async def _many(
        self, images: Images, batches: Batches, in_flight: int
    ) -> AsyncIterator[Outcome]:
        under_way: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            async with aclosing(_each(images)) as source:
                async for image in source:
                    if operation := batches.add(await self._read(image)):
                        under_way.append(asyncio.create_task(self._run(operation)))
                    if len(under_way) >= in_flight:
                        for outcome in await under_way.popleft():
                            yield outcome
            under_way.append(asyncio.create_task(self._run(batches.rest())))
            while under_way:
                for outcome in await under_way.popleft():
                    yield outcome
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _read(self, image: ImageInput) -> Entry:
        return await asyncio.to_thread(self._reader.read_or_error, image)

    async def _run(self, operation: Operation[T]) -> T:
        answer = None
        try:
            while True:
                answer = await self._carry_out(operation.send(answer))
        except StopIteration as end:
            return cast(T, end.value)

    async def _carry_out(self, step: Send | Pause) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        try:
            async for attempt in attempts(step.deadline, step.retries):
                with attempt, translated(step.deadline):
                    arguments, left = step.arguments(), step.deadline.left()
                    response = await asyncio.wait_for(self._http.request(**arguments), left)
                    return step.read(response, response.content)
        except ClientError as error:
            return error


async def _each(images: Images) -> AsyncGenerator[ImageInput]:
    """The images one by one, whichever kind of iterable they are."""
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
