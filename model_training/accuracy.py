"""
A network's accuracy, on the centre or on ten crops.  With ten, the mean of their softmax counts.

It is measured in float32 and on the pixels that the service would give it, so it holds for the
exported fp32 file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from model_export.alexnet import AlexNet
from model_export.crops import Pixels
from model_export.graph import IMAGE_SIZE
from model_export.variants import Variant
from model_training.augmentation import cut, cut_ten, prepare

VIEWS = 120  # in one batch
AHEAD = 8  # batches that are prepared in advance, at most
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Accuracy:
    """Of so many images: the mean loss, and the shares (0-1) that were wrong."""

    images: int
    loss: float  # minus the log of the right class's probability, mean
    top1_error: float
    top5_error: float  # the right class is not among the five best; 0 for five classes or fewer


def measure(
    network: AlexNet,
    variant: Variant,
    images: Pixels,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    crops: str,
    device: torch.device,
    workers: int = 1,
    step: Callable[[], None] = lambda: None,
) -> Accuracy:
    """Classify these rows of the images; ``crops`` is one or ten, ``labels`` are the rows'.

    ``step`` is called after each batch.
    """
    count = {"one": 1, "ten": 10}[crops]
    crop_size = variant.crop_size
    batches = [slice(i, i + VIEWS // count) for i in range(0, len(rows), VIEWS // count)]

    def views(batch: slice) -> NDArray[np.uint8]:
        if crops == "ten":
            return cut_ten(images, rows[batch], crop_size)
        chosen = rows[batch]
        middle = np.full((len(chosen), 2), (IMAGE_SIZE - crop_size) // 2)
        return cut(images, chosen, middle, np.zeros(len(chosen), np.bool_), crop_size)

    loss = wrong1 = wrong5 = 0.0
    network.eval()
    with torch.inference_mode(), closing(ahead(views, batches, workers)) as made:
        for batch, cut_out in zip(batches, made, strict=True):
            inputs = prepare(torch.from_numpy(cut_out).to(device), variant.normalisation)
            shares = network(inputs).double().softmax(1)
            mean = shares.reshape(-1, count, shares.shape[1]).mean(1)
            truth = torch.from_numpy(labels[batch]).to(device)
            loss += float(functional.nll_loss(mean.log(), truth, reduction="sum"))
            top1, top5 = wrong(mean, truth)
            wrong1, wrong5 = wrong1 + top1, wrong5 + top5
            step()
    total = len(rows)
    return Accuracy(total, loss / total, wrong1 / total, wrong5 / total)


def wrong(scores: torch.Tensor, truth: torch.Tensor) -> tuple[int, int]:
    """How many rows of scores (N, classes) do not have the truth (N,) as best, and among five."""
    best = scores.topk(min(5, scores.shape[1])).indices
    right = best == truth[:, None]
    return len(right) - int(right[:, 0].sum()), len(right) - int(right.sum())


def ahead(make: Callable[[T], U], things: Iterable[T], workers: int) -> Generator[U]:
    """``make`` of each thing, in order, computed by threads a little in advance."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[Future[U]] = []
        try:
            for thing in things:
                waiting.append(pool.submit(make, thing))
                if len(waiting) > min(2 * workers, AHEAD):
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
