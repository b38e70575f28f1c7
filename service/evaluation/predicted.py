"""
Images -> predictions of each model and choice of crops, which is called a candidate.

Each image is read and decoded once, as the service does it; each batch goes through all candidates.
Of each image only the five best classes stay in memory.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from threading import BoundedSemaphore

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped, read
from service.batch.reader import read_ahead, whole
from service.cgroups import cpu_quota
from service.errors import ServiceError, SettingsInvalid
from service.evaluation.labels import EvaluationFailed, LabelledImages
from service.inference.engine import Engine, Model
from service.inference.image import LARGE, open_image
from service.inference.limits import Limits
from service.inference.providers import gist

Square = NDArray[np.uint8]  # (256, 256, 3)

BEST = 5  # classes
AHEAD = 2  # batches that are decoded while one runs


class Decoder:
    """Reads and decodes image files as the service does, with its limits."""

    def __init__(self, base: bytes, limits: Limits, max_body: int) -> None:
        """`base` is the folder that names are relative to, `max_body` the bytes of a file."""
        self._base, self._limits, self._max_body = base, limits, max_body
        # So that no more large images are decoded at once than the service would.
        self._large = BoundedSemaphore(
            max(1, limits.max_decoding_pixels // limits.decoding.max_pixels)
        )

    def __call__(self, name: bytes) -> Square | Skipped:
        """The image's central square, or why there is none."""
        path = os.path.join(self._base, name)
        try:
            image = open_image(
                whole(read(path, self._max_body), self._max_body), self._limits.decoding
            )
            with self._large if image.pixels > LARGE else nullcontext():
                return image.decode()
        except ServiceError as error:
            return Skipped(name, error.code, str(error))


@contextmanager
def decoded(
    names: Sequence[bytes], decode: Callable[[bytes], Square | Skipped], ahead: int
) -> Iterator[Iterator[Square | Skipped]]:
    """The outcomes in the order of the names, so many of them in advance, from threads."""

    async def work(name: bytes) -> Square | Skipped:
        return await asyncio.to_thread(decode, name)

    results = read_ahead(names, work, window=ahead)

    async def following() -> tuple[bytes, Square | Skipped] | None:
        return await anext(results, None)

    def outcomes() -> Iterator[Square | Skipped]:
        while result := runner.run(following()):
            yield result[1]

    with asyncio.Runner() as runner:  # at its end it waits for the images begun, not for others
        runner.get_loop().set_default_executor(
            ThreadPoolExecutor(cpu_quota(), thread_name_prefix="alexnet-decode")
        )
        yield outcomes()


@dataclass(frozen=True)
class Candidate:
    """What is measured."""

    engine: Engine
    crops: str

    @property
    def model(self) -> Model:
        """What the model's file says of itself."""
        return self.engine.model


def candidates(
    engines: Sequence[Engine], choices: Sequence[str] | None
) -> list[tuple[int, Candidate]]:
    """
    Each model, by its number, with each choice of crops: `choices`, or all that it offers.

    Raises `SettingsInvalid` for a choice that a model does not offer.
    """
    for engine in engines:
        offered = engine.model.crops
        for crops in choices or ():
            if crops not in offered:
                raise SettingsInvalid(
                    f"--crops {crops}: {engine.model.path} offers {', '.join(offered)}"
                )
    return [
        (number, Candidate(engine, crops))
        for number, engine in enumerate(engines)
        for crops in (engine.model.crops if choices is None else choices)
    ]


@dataclass(frozen=True)
class Predictions:
    """Those of one candidate; k is 5, or less where there are fewer classes."""

    model: Model
    crops: str
    labels: NDArray[np.int32]  # (N,): the right classes
    best: NDArray[np.int32]  # (N, k): the best classes, the most probable first
    probabilities: NDArray[np.float32]  # (N, k): theirs
    label_probabilities: NDArray[np.float32]  # (N,): the right class's

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the best class is the right one, `(N,)`."""
        right: NDArray[np.bool_] = self.best[:, 0] == self.labels
        return right

    @property
    def hits_in_five(self) -> NDArray[np.bool_]:
        """Whether the right class is one of the best, `(N,)`."""
        right: NDArray[np.bool_] = np.any(self.best == self.labels[:, None], axis=1)
        return right


@dataclass(frozen=True)
class Predicted:
    """The predictions of all candidates for the same images, and which images these are."""

    base: bytes
    names: list[bytes]
    predictions: list[Predictions]  # of each candidate; the rows are those of `names`
    left_out: list[Skipped]  # could not be read


def predict(
    labelled: LabelledImages,
    candidates: Sequence[tuple[int, Candidate]],
    decode: Callable[[bytes], Square | Skipped],
    *,
    batch: int,
    progress: Callable[[int, int], None],
) -> Predicted:
    """
    Run each candidate, with the number of its model in `labelled`, on each image.

    `batch` limits the images in one run; `progress` is called with how many are done, and how many
    of these could not be read.  Raises `EvaluationFailed` if a run fails, or if no image is left.
    """
    rows: list[int] = []
    columns: list[list[tuple[NDArray[np.generic], ...]]] = [[] for _ in candidates]
    left_out: list[Skipped] = []
    with decoded(labelled.names, decode, AHEAD * batch) as outcomes:
        numbered = enumerate(outcomes)
        while group := list(islice(numbered, batch)):
            left_out += [outcome for _, outcome in group if isinstance(outcome, Skipped)]
            squares = {row: square for row, square in group if not isinstance(square, Skipped)}
            if squares:
                rows += squares
                images = np.stack([*squares.values()])
                for (model, candidate), parts in zip(candidates, columns, strict=True):
                    parts.append(_run(candidate, images, labelled.classes[model, [*squares]]))
            progress(len(rows) + len(left_out), len(left_out))
    if not rows:
        raise EvaluationFailed(
            f"none of the {len(left_out)} images could be read ({left_out[0].error})"
        )
    predictions = [
        Predictions(
            candidate.model,
            candidate.crops,
            labelled.classes[model, rows],
            *(np.concatenate(column) for column in zip(*parts, strict=True)),
        )
        for (model, candidate), parts in zip(candidates, columns, strict=True)
    ]
    return Predicted(labelled.base, [labelled.names[row] for row in rows], predictions, left_out)


def _run(
    candidate: Candidate, images: NDArray[np.uint8], labels: NDArray[np.int32]
) -> tuple[NDArray[np.generic], ...]:
    """The columns `best`, `probabilities` and `label_probabilities` of a batch."""
    crops = candidate.model.crops[candidate.crops]
    try:
        probabilities = candidate.engine.run(images, crops)
    except Exception as error:  # the runtime's own classes have no common base
        raise EvaluationFailed(
            f"{candidate.model.path} failed on a batch of {len(images)} ({gist(error)}); try a "
            "smaller ALEXNET_MAX_BATCH"
        ) from error
    # Equal ones in the order of the classes, as in the service's answers.
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :BEST]
    return (
        best.astype(np.int32),
        np.take_along_axis(probabilities, best, axis=1),
        probabilities[np.arange(len(images)), labels],
    )
