"""
The paper's augmentations, and all random numbers of a training.  The augmentations are the two of
section 4.1.

    order, places, mirrors, colours   drawn per image and epoch: `plan`
    crops     uint8 (N, size, size, 3), cut out of the images: `cut`
    views     float32 (N, channels, size, size), coloured and normalised, on the device: `prepare`

They follow from the seed and the epoch alone, so a training that is stopped and resumed draws the
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_export.crops import Pixels
from model_export.graph import IMAGE_SIZE, corners
from model_export.variants import Normalisation

SIGMA = 0.1  # of the colour noise, in standard deviations along each principal component
LUMA = (19595, 38470, 7471)  # ITU-R 601 in 65536ths, as the model file computes it

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Colours:
    """A training set's pixels, RGB of 0-255: their mean and their principal components."""

    mean: Floats  # (3,)
    deviations: Floats  # (3,), along the components, the largest first
    components: Floats  # (3, 3), a component in each column

    def noise(self, draws: Floats) -> Floats:
        """What to add to every pixel of each image, (N, 3), for standard normal draws (N, 3).

        The paper prints the sum of p_i a_i lambda_i, lambda an eigenvalue of the covariance and
        a_i ~ N(0, 0.1).  For pixels of 0-255 that would be hundreds of grey levels; its authors'
        program (cuda-convnet2, ``color_stdevs``) takes the standard deviations, as is done here.
        """
        return (SIGMA * draws * self.deviations) @ self.components.T


@dataclass(frozen=True)
class Plan:
    """What is drawn for one epoch; row i is for the i-th image that is shown."""

    order: NDArray[np.int64]  # (N,), of the examples
    places: NDArray[np.int64]  # (N, 2): row and column where the crop begins
    mirrored: NDArray[np.bool_]  # (N,)
    draws: Floats  # (N, 3), standard normal, for the colours


def colours_of(
    images: Pixels, rows: NDArray[np.int64], step: Callable[[], None] = lambda: None
) -> Colours:
    """Mean and principal components of the RGB values of all pixels of these rows.

    ``step`` is called for each row.
    """
    total, products = np.zeros(3), np.zeros((3, 3))
    for row in rows:
        pixels = images[row].reshape(-1, 3).astype(np.float64)
        # Whole numbers, far below 2 ** 53 for a million images: the sums are exact.
        total += pixels.sum(0)
        products += pixels.T @ pixels
        step()
    count = len(rows) * IMAGE_SIZE * IMAGE_SIZE
    mean = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    return Colours(mean, np.sqrt(values[::-1].clip(0)), vectors[:, ::-1].copy())


def plan(count: int, *, seed: int, epoch: int, crop_size: int, mirror: bool) -> Plan:
    """Draw an epoch over ``count`` examples: each once, in random order."""
    random = np.random.default_rng([seed, epoch])
    return Plan(
        order=random.permutation(count),
        places=random.integers(0, IMAGE_SIZE - crop_size + 1, (count, 2)),
        mirrored=random.random(count) < (0.5 if mirror else 0.0),
        draws=random.standard_normal((count, 3)),
    )


def cut(
    images: Pixels,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    crop_size: int,
) -> NDArray[np.uint8]:
    """The crops of these rows of the images, uint8 (N, size, size, 3)."""
    views = np.empty((len(rows), crop_size, crop_size, 3), np.uint8)
    for view, row, (y, x), mirror in zip(views, rows, places, mirrored, strict=True):
        crop = images[row, y : y + crop_size, x : x + crop_size]
        view[:] = crop[:, ::-1] if mirror else crop
    return views


def cut_ten(images: Pixels, rows: NDArray[np.int64], crop_size: int) -> NDArray[np.uint8]:
    """The ten views of section 4.1 of each, uint8 (10 N, size, size, 3), image by image."""
    places = np.array(corners(crop_size))
    five = np.tile(places, (2, 1))
    mirrored = np.repeat([False, True], 5)
    count = len(rows)
    return cut(
        images, np.repeat(rows, 10), np.tile(five, (count, 1)), np.tile(mirrored, count), crop_size
    )


def prepare(views: Tensor, normalisation: Normalisation, *, noise: Tensor | None = None) -> Tensor:
    """uint8 RGB (N, size, size, 3) -> float32 (N, channels, size, size), as the exported graph
    prepares them.

    ``noise``, float32 (N, 3), is added to the pixels of 0-255 first, unclipped.
    """
    pixels = views.permute(0, 3, 1, 2).float()
    if noise is not None:
        pixels = pixels + noise[:, :, None, None]
    if normalisation.channels == "BGR":
        pixels = pixels.flip(1)
    elif normalisation.channels == "L":
        luma = torch.tensor(LUMA, device=pixels.device).float().view(1, 3, 1, 1)
        pixels = (((pixels * luma).sum(1, keepdim=True) + 32768) / 65536).floor()
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)
        for values in (normalisation.mean, normalisation.std)
    )
    return (pixels - mean) / std
