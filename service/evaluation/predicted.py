"""
Images -> what each candidate says of them: a model with a choice of crops.

Each image is read and decoded once; each batch goes through all candidates.  What is in memory at
any time does not depend on the number of images, but for the five best classes of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Skipped
from service.errors import SettingsInvalid
from service.evaluation.decoding import Square, decoded
from service.evaluation.labels import EvaluationFailed, Truth
from service.inference.engine import Engine, Model, gist

BEST = 5  # classes
AHEAD = 2  # batches that are decoded while one runs


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
    """Each model, by its number, with each choice of crops: `choices`, or all that it offers.

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
class Answers:
    """What one candidate said of the images; k is 5, or less where there are fewer classes."""

    model: Model
    crops: str
    truth: NDArray[np.int32]  # (N,): the right classes
    best: NDArray[np.int32]  # (N, k): the best classes, the most probable first
    probabilities: NDArray[np.float32]  # (N, k): theirs
    of_truth: NDArray[np.float32]  # (N,): the right class's probability

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the best class is the right one, `(N,)`."""
        right: NDArray[np.bool_] = self.best[:, 0] == self.truth
        return right

    @property
    def hits_in_five(self) -> NDArray[np.bool_]:
        """Whether the right class is one of the best, `(N,)`."""
        right: NDArray[np.bool_] = np.any(self.best == self.truth[:, None], axis=1)
        return right


@dataclass(frozen=True)
class Asked:
    """The answers of all candidates on the same images, and which images these are."""

    base: bytes
    names: list[bytes]
    answers: list[Answers]  # each one's rows are those of `names`
    left_out: list[Skipped]  # could not be read


def ask(
    truth: Truth,
    candidates: Sequence[tuple[int, Candidate]],
    decode: Callable[[bytes], Square | Skipped],
    *,
    batch: int,
    progress: Callable[[int, int], None],
) -> Asked:
    """
    Ask each candidate, with the number of its model in `truth`, about each image.

    `batch` is the most images in one run; `progress` is told how many are done, and how many of
    these could not be read.  Raises `EvaluationFailed` if a run fails, or if no image is left.
    """
    rows: list[int] = []
    parts: list[list[tuple[NDArray[np.generic], ...]]] = [[] for _ in candidates]
    left_out: list[Skipped] = []
    with decoded(truth.names, decode, AHEAD * batch) as squares:
        numbered = enumerate(squares)
        while together := list(islice(numbered, batch)):
            left_out += [square for _, square in together if isinstance(square, Skipped)]
            read_ones = [(row, one) for row, one in together if not isinstance(one, Skipped)]
            if read_ones:
                at = [row for row, _ in read_ones]
                images = np.stack([square for _, square in read_ones])
                rows += at
                for (model, candidate), its in zip(candidates, parts, strict=True):
                    its.append(_answer(candidate, images, truth.classes[model, at]))
            progress(len(rows) + len(left_out), len(left_out))
    if not rows:
        raise EvaluationFailed(
            f"none of the {len(left_out)} images could be read ({left_out[0].error})"
        )
    answers = [
        Answers(
            candidate.model,
            candidate.crops,
            truth.classes[model, rows],
            *(np.concatenate(columns) for columns in zip(*its, strict=True)),
        )
        for (model, candidate), its in zip(candidates, parts, strict=True)
    ]
    return Asked(truth.base, [truth.names[row] for row in rows], answers, left_out)


def _answer(
    candidate: Candidate, images: NDArray[np.uint8], truth: NDArray[np.int32]
) -> tuple[NDArray[np.generic], ...]:
    """The columns `best`, `probabilities` and `of_truth` of a batch."""
    crops = candidate.model.crops[candidate.crops]
    try:
        said = candidate.engine.run(images, crops)
    except Exception as error:  # the runtime's own classes have no common base
        raise EvaluationFailed(
            f"{candidate.model.path} failed on a batch of {len(images)} ({gist(error)}); try a "
            "smaller ALEXNET_MAX_BATCH"
        ) from error
    # Equal ones in the order of the classes, as in the service's answers.
    best = np.argsort(-said, axis=1, kind="stable")[:, :BEST]
    return (
        best.astype(np.int32),
        np.take_along_axis(said, best, axis=1),
        said[np.arange(len(said)), truth],
    )
