"""
`AsyncClient`: the same for programs that run on asyncio, with several batches on their way.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Self

import httpx2

from service.client.core import BaseClient, Batches, Operation
from service.client.inputs import ImageInput, each, read, read_or_error
from service.client.response_types import Health, Model, Prediction
from service.client.responses import Outcome
from service.client.sending import run_on_asyncio

Images = Iterable[ImageInput] | AsyncIterable[ImageInput]


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

    async def classify(
        self, image: ImageInput, *, top: int = 5, crops: str = "ten", details: Sequence[str] = ()
    ) -> Prediction:
        """As `Client.classify`."""
        upload = await asyncio.to_thread(read, image)
        return await run_on_asyncio(self._http, self._classify(upload, top, crops, details))

    def classify_many(
        self,
        images: Images,
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
        batches = Batches(self, top, crops, details, batch)
        return self._many(images, batches, in_flight)

    async def health(self) -> Health:
        """As `Client.health`."""
        return await run_on_asyncio(self._http, self._health())

    async def model(self) -> Model:
        """As `Client.model`."""
        return await run_on_asyncio(self._http, self._model())

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await run_on_asyncio(self._http, self._ready())

    async def wait_until_ready(self, timeout: float | None = 60.0, *, every: float = 0.1) -> None:
        """As `Client.wait_until_ready`."""
        await run_on_asyncio(self._http, self._wait_until_ready(timeout, every))

    async def _many(
        self, images: Images, batches: Batches, in_flight: int
    ) -> AsyncIterator[Outcome]:
        under_way: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            async with aclosing(_operations(images, batches)) as operations:
                async for operation in operations:
                    under_way.append(asyncio.create_task(run_on_asyncio(self._http, operation)))
                    if len(under_way) >= in_flight:
                        for outcome in await under_way.popleft():
                            yield outcome
            while under_way:
                for outcome in await under_way.popleft():
                    yield outcome
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _operations(images: Images, batches: Batches) -> AsyncGenerator[Operation[list[Outcome]]]:
    async with aclosing(each(images)) as source:
        async for image in source:
            if operation := batches.add(await asyncio.to_thread(read_or_error, image)):
                yield operation
    yield batches.rest()
