"""
Images -> the network's views, in plain numpy: for calibration, and as the reference that the
serving graph is held against.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.errors import ExportError
from model_export.graph import IMAGE_SIZE, corners
from model_export.image_formats import SUFFIXES
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


def load_images(folder: Path | None = None, *, limit: int = 512) -> Pixels:
    """The images of a folder, at any depth, as uint8 (N, 256, 256, 3); the package's own by
    default: see ``model_export/pictures``."""
    folder = folder or Path(__file__).with_name("pictures")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    if len(files) < FEWEST:
        raise ExportError(
            f"{folder} holds {len(files)} images ({', '.join(sorted(SUFFIXES))}); calibration "
            f"and verification need at least {FEWEST}, and better a few hundred"
        )
    return np.stack([_square(file) for file in files[:: -(-len(files) // limit)]])


def _square(file: Path) -> Pixels:
    """Shorter side to 256, central square: what the service sends."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    short, long = sorted(image.size)
    size = [
        IMAGE_SIZE if length == short else int(IMAGE_SIZE * long / short) for length in image.size
    ]
    image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = round((size[0] - IMAGE_SIZE) / 2), round((size[1] - IMAGE_SIZE) / 2)
    return np.asarray(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)))
