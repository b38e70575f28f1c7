"""
Images -> the network's views, in plain numpy.  They are for calibration, and the reference that the
serving graph is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.graph import corners
from model_export.image_formats import SUFFIXES
from model_export.images import read_image
from model_export.variants import Normalisation

Pixels = NDArray[np.uint8]  # (N, 256, 256, 3), RGB
Floats = NDArray[np.float32]
FEWEST = 7  # images: the larger of the batches that verification runs


def ten_crops(images: Pixels, crop_size: int) -> NDArray[np.uint8]:
    """The views of section 4.1: (N, 10, size, size, 3)."""
    crops = [images[:, y : y + crop_size, x : x + crop_size] for y, x in corners(crop_size)]
    return np.stack([*crops, *(crop[:, :, ::-1] for crop in crops)], axis=1)


def centre_crop(images: Pixels, crop_size: int) -> NDArray[np.uint8]:
    """The fifth of the ten: (N, 1, size, size, 3)."""
    return ten_crops(images, crop_size)[:, 4:5]


def to_channels(views: NDArray[np.uint8], normalisation: Normalisation) -> Floats:
    """RGB views (..., rows, columns, 3) -> the network's channels (..., channels, rows, columns),
    in pixels of 0-255, not yet normalised."""
    if normalisation.channels == "BGR":
        views = views[..., ::-1]
    elif normalisation.channels == "L":
        sums = views.astype(np.int64) @ np.array([19595, 38470, 7471])  # as Pillow's ``L``
        views = ((sums + 0x8000) >> 16).astype(np.uint8)[..., None]
    return np.ascontiguousarray(np.moveaxis(views, -1, -3)).astype(np.float32)


def load_images(
    folder: Path | None = None,
    *,
    limit: int = 512,
    left_out: Callable[[Path, str], None] = lambda file, why: None,
) -> Pixels:
    """The images of a folder, at any depth, as uint8 (N, 256, 256, 3); the package's own by
    default: see ``model_export/pictures``.

    Files that cannot be read are left out; ``left_out`` is called with each and the reason.  Raises
    ExportError where fewer than ``FEWEST`` remain.
    """
    folder = folder or Path(__file__).with_name("pictures")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    images, readable = [], len(files)
    for file in files[:: -(-len(files) // limit) or 1]:
        try:
            images.append(read_image(file))
        except ValueError as error:
            left_out(file, str(error))
            readable -= 1
    if readable < FEWEST:
        raise ExportError(
            f"{folder} holds {readable} images ({', '.join(sorted(SUFFIXES))}) that can be "
            f"read; calibration and verification need at least {FEWEST}, and better a few hundred"
        )
    return np.stack(images)


def read_images(files: Sequence[Path]) -> Pixels:
    """Image files as uint8 (N, 256, 256, 3).  Raises ExportError for one that cannot be read."""
    images = []
    for file in files:
        try:
            images.append(read_image(file))
        except ValueError as error:
            raise ExportError(f"{file} cannot be read ({error}); repair or remove it") from error
    return np.stack(images)
