"""What these tests share: trainings of a small network by the real recipe, and real images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from model_export.graph import IMAGE_SIZE
from model_training.augmentation import colours_of
from model_training.devices import Arithmetic
from model_training.recipe import Recipe
from model_training.run import Run
from model_training.start import Start, from_nothing
from model_training.training import LabelledImages, Training
from tests.support.networks import SMALL


def write_digits(folder: Path, digits: Iterable[int], count: int, *, skip: int = 0) -> Path:
    """Handwritten digits of scikit-learn's 1,797, 8 x 8, in a folder per digit."""
    ships = load_digits()
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(ships.target == digit)[skip : skip + count]:
            grey = (ships.images[row] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(grey).save(folder / str(digit) / f"{row:04}.png")
    return folder


def digits(per_class: int, classes: int = 10, held_out: int = 5) -> LabelledImages:
    """The same as squares in memory; the last ``held_out`` of each class are validated on."""
    ships = load_digits()
    rows = [np.flatnonzero(ships.target == c)[: per_class + held_out] for c in range(classes)]
    training = [
        range(i * (per_class + held_out), (i + 1) * (per_class + held_out)) for i in range(classes)
    ]
    images = ships.images[np.concatenate(rows)]
    pixels = np.stack(
        [
            np.asarray(
                Image.fromarray((image * 255 / 16).round().astype(np.uint8))
                .resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
                .convert("RGB")
            )
            for image in images
        ]
    )
    learned = np.concatenate([np.array(r[:per_class]) for r in training])
    aside = np.concatenate([np.array(r[per_class:]) for r in training])
    labels = ships.target[np.concatenate(rows)].astype(np.int64)
    return LabelledImages(pixels, learned, aside, labels, colours_of(pixels, learned))


def begin(classes: int, images: LabelledImages, *, seed: int = 0) -> Start:
    return from_nothing(SMALL, classes, images.colours.mean, seed=seed)


def training(
    folder: Path,
    images: LabelledImages,
    recipe: Recipe,
    *,
    classes: int = 10,
    precision: str = "fp32",
    **others: object,
) -> Training:
    """A training of the small network that keeps its run in a folder."""
    run = Run(folder)
    run.open({})
    arithmetic = Arithmetic(torch.device("cpu"), precision)
    start = begin(classes, images, seed=recipe.seed)
    return Training(start, images, recipe, run, arithmetic, **others)  # type: ignore[arg-type]
