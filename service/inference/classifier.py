"""
The inference pipeline: bytes -> pixels -> batch -> probabilities.

`decoding_pool`, `batching` and `engine` are its stages, and `occlusion` one more for requests that
ask where the evidence lies.  None of them knows another; here they meet.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import numpy as np

from service.cgroups import cpu_quota
from service.errors import ImageError, RequestError, RunFailed, ServiceError
from service.inference import occlusion
from service.inference.batching import Batcher, Reservation
from service.inference.concurrency import WeightedSemaphore, all_results, before
from service.inference.decoding_pool import DecodingPool
from service.inference.engine import Engine, OutputsRun
from service.inference.limits import Limits
from service.inference.predictions import Detail, Result
from service.inference.queue import Pixels, StageTimings

# The network's outputs that details are made of, in the same run as the probabilities.
OUTPUTS: Final[Mapping[Detail, str]] = {"views": "view_probabilities", "features": "features"}

log = logging.getLogger("service.classifier")


@dataclass(frozen=True)
class _Request:
    """What the images of one request share."""

    engine: Engine
    crops: int  # as the model file numbers them
    details: Collection[Detail]
    deadline: float | None  # in the event loop's time
    reservation: Reservation
    decoders: WeightedSemaphore  # one request's images do not fill the pool's queue


class Classifier:
    """Classifies images with one engine; an asynchronous context manager."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        *,
        on_run: Callable[[int, float], None] | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """`on_run` and `on_death` are those of `Batcher`."""
        self.engine = engine  # may be replaced: requests that came before keep theirs
        self.batcher = Batcher(
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            cores=engine.cores,
            max_delay=limits.max_delay,
            run_timeout=limits.run_timeout,
            check=lambda: self.engine.check(),
            on_run=on_run,
            on_death=on_death,
        )
        self._max_queue, self._cores = limits.max_queue, cpu_quota()
        self._pool = DecodingPool(limits.decoding, self._cores, limits.max_decoding_pixels)

    async def start(self) -> Self:
        """Begin to accept images; also at the beginning of an `async with`."""
        await self.batcher.start()
        return self

    async def stop(self, *_: object) -> None:
        """Refuse new images, finish the accepted ones, end the threads."""
        await self.batcher.stop()
        self._pool.shutdown()

    __aenter__, __aexit__ = start, stop

    async def classify(
        self,
        images: Sequence[bytes | Pixels],
        *,
        crops: str = "ten",
        details: Collection[Detail] = (),
        timeout: float | None = None,
        engine: Engine | None = None,
        timings: Sequence[StageTimings] = (),
    ) -> list[Result | ServiceError]:
        """
        Classify the images of one request, encoded or as uint8 `(256, 256, 3)`, in order.

        They are accepted together or not at all.  An image that is at fault leaves its error in its
        place; what concerns the whole request (overload, deadline, an unknown parameter) is
        raised.  `timeout` is in seconds, decoding and waiting included; `engine` is the one that
        was current when the request came; `timings`, one for each image, are filled in.
        """
        engine = engine or self.engine
        engine.model.check_details(details)
        number, count = engine.model.crops_number(crops), self.rows(len(images), details)
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        timings = timings or [StageTimings() for _ in images]
        with self.batcher.reserve(count) as reservation:
            decoders = WeightedSemaphore(self._cores)
            request = _Request(engine, number, details, deadline, reservation, decoders)
            async with before(deadline):
                work = zip(images, timings, strict=True)
                return await all_results(self._result_or_error(*each, request) for each in work)

    def rows(self, images: int, details: Collection[Detail] = ()) -> int:
        """How many rows of batches so many images take; `ParameterInvalid` if too many."""
        return occlusion.rows(images, self._max_queue) if "heatmap" in details else images

    async def _result_or_error(
        self, image: bytes | Pixels, timings: StageTimings, request: _Request
    ) -> Result | ServiceError:
        """The image's result, or its own fault, or the service's own with this image."""
        timings.began = time.monotonic()
        try:
            if isinstance(image, bytes):
                async with request.decoders.acquire(1):
                    image = await self._pool.decode(image)
            return await self._run(image, timings, request)
        except (ImageError, RequestError) as error:
            request.reservation.release(self.rows(1, request.details))
            timings.refused = time.monotonic()
            return error
        except ServiceError:
            raise
        except Exception:
            log.exception("An image could not be classified")
            return RunFailed("Internal error. See the server log.")

    async def _run(self, pixels: Pixels, timings: StageTimings, request: _Request) -> Result:
        """Submit the image, and for a heatmap a copy with each part hidden."""
        wanted = [detail for detail in OUTPUTS if detail in request.details]
        names = ("probabilities", *(OUTPUTS[detail] for detail in wanted))
        submit = partial(request.reservation.submit, crops=request.crops, deadline=request.deadline)
        run = OutputsRun(request.engine, names)
        occluded = None
        if "heatmap" in request.details:
            copies = await self._pool.run(occlusion.hide, pixels)
            others = [submit(copy, run=replace(run, names=names[:1])) for copy in copies]
            row, *rows = await all_results([submit(pixels, run=run, timings=timings), *others])
            timings.answered = time.monotonic()  # for the client the run ends with the last row
            occluded = np.stack([probabilities for (probabilities,) in rows])
        else:
            row = await submit(pixels, run=run, timings=timings)
        return Result(row[0], occluded=occluded, **dict(zip(wanted, row[1:], strict=True)))
