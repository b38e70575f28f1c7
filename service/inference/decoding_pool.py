"""
The threads that decode images.  How many large ones may be decoded at once is limited.

The pool is separate from the event loop's default one, which all synchronous work shares.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.inference.concurrency import WeightedSemaphore
from service.inference.image import LARGE, EncodedImage, open_image
from service.inference.limits import DecodeLimits

T = TypeVar("T")


class DecodingPool:
    """Decodes on `cores` threads and one more, which large images never take."""

    def __init__(self, limits: DecodeLimits, cores: int, max_pixels_at_once: int) -> None:
        """`max_pixels_at_once` counts the pixels of all large images being decoded."""
        self._open = partial(open_image, limits=limits)
        self._large = WeightedSemaphore(cores)
        self._large_pixels = WeightedSemaphore(max_pixels_at_once)
        self._threads = ThreadPoolExecutor(
            max_workers=cores + 1, thread_name_prefix="alexnet-decode"
        )

    def shutdown(self) -> None:
        """End the threads once they are idle."""
        self._threads.shutdown(wait=False)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work`'s result, from one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def decode(self, data: bytes) -> NDArray[np.uint8]:
        """
        An encoded image to uint8 `(256, 256, 3)` RGB; raises the errors of `open_image`.

        Small images are decoded immediately, large ones when the semaphores allow.
        """
        # The executor's queue would keep the bytes of clients that have left.
        box = [data]
        del data
        try:
            result = await self.run(self._decode_if_small, box)
        finally:
            box.clear()
        if not isinstance(result, EncodedImage):
            return result
        async with AsyncExitStack() as held:
            await held.enter_async_context(self._large.acquire(1))
            await held.enter_async_context(self._large_pixels.acquire(result.pixels))
            work = asyncio.create_task(self._decode_large(result, held.pop_all()))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            result.stop()
            raise

    async def _decode_large(self, image: EncodedImage, held: AsyncExitStack) -> NDArray[np.uint8]:
        """Decode; the semaphores are held until the thread is done, also when the client leaves."""
        async with held:
            return await self.run(image.decode)

    def _decode_if_small(self, box: list[bytes]) -> EncodedImage | NDArray[np.uint8]:
        """In a thread: the pixels of a small image, or a large one with its header read."""
        image = self._open(box.pop())
        return image if image.pixels > LARGE else image.decode()
