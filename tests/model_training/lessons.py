"""What these tests share: a small network that the real recipe trains, and real pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from model_export.alexnet import AlexNet, LocalResponseNorm, Ranks
from model_export.variants import VARIANTS, Variant
from model_training.augmentation import colours_of
from model_training.devices import Arithmetic
from model_training.recipe import Recipe
from model_training.run import Run
from model_training.squares import SIDE
from model_training.start import Start, from_nothing
from model_training.training import Pictures, Training


def write_digits(folder: Path, digits: Iterable[int], count: int, *, skip: int = 0) -> Path:
    """Handwritten digits of scikit-learn's 1,797, 8 x 8, in a folder per digit."""
    ships = load_digits()
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for row in np.flatnonzero(ships.target == digit)[skip : skip + count]:
            grey = (ships.images[row] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(grey).save(folder / str(digit) / f"{row:04}.png")
    return folder


def digits(per_class: int, classes: int = 10, held_out: int = 5) -> Pictures:
    """The same as squares in memory; the last ``held_out`` of each class are validated on."""
    ships = load_digits()
    rows = [np.flatnonzero(ships.target == c)[: per_class + held_out] for c in range(classes)]
    training = [
        range(i * (per_class + held_out), (i + 1) * (per_class + held_out)) for i in range(classes)
    ]
    images = ships.images[np.concatenate(rows)]
    squares = np.stack(
        [
            np.asarray(
                Image.fromarray((image * 255 / 16).round().astype(np.uint8))
                .resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                .convert("RGB")
            )
            for image in images
        ]
    )
    learned = np.concatenate([np.array(r[:per_class]) for r in training])
    aside = np.concatenate([np.array(r[per_class:]) for r in training])
    labels = ships.target[np.concatenate(rows)].astype(np.int64)
    return Pictures(squares, learned, aside, labels, colours_of(squares, learned))


def small(classes: int, channels: int = 3, ranks: Ranks = (None, None, None)) -> AlexNet:
    """The paper's layers in small: 11 x 11 at stride 4, normalisation, pools, groups, dropout."""
    network = AlexNet(
        nn.Sequential(  # (N, 3, 224, 224)
            nn.Conv2d(channels, 16, 11, stride=8),  # (N, 16, 27, 27)
            nn.ReLU(),
            LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # (N, 16, 13, 13)
            nn.Conv2d(16, 32, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),  # (N, 32, 6, 6)
        ),
        nn.Sequential(
            nn.Linear(32 * 36, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, classes),
        ),
    )
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


SMALL: Variant = replace(VARIANTS["owt"], name="small", build=small)


def begin(classes: int, pictures: Pictures, *, seed: int = 0) -> Start:
    return from_nothing(SMALL, classes, pictures.colours.mean, seed=seed)


def training(
    folder: Path,
    pictures: Pictures,
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
    start = begin(classes, pictures, seed=recipe.seed)
    return Training(start, pictures, recipe, run, arithmetic, **others)  # type: ignore[arg-type]
