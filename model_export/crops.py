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
from model_export.graph import SIDE, corners
from model_export.image_formats import SUFFIXES
from model_export.variants import Normalisation

Pixels = NDArray[np.uint8]  # (N, 256, 256, 3), RGB
Floats = NDArray[np.float32]
FEWEST = 7  # images: the larger of the batches that verification runs


def ten_crops(images: Pixels, side: int) -> NDArray[np.uint8]:
    """The views of section 4.1: (N, 10, side, side, 3)."""
    crops = [images[:, y : y + side, x : x + side] for y, x in corners(side)]
    return np.stack([*crops, *(crop[:, :, ::-1] for crop in crops)], axis=1)


def centre_crop(images: Pixels, side: int) -> NDArray[np.uint8]:
    """The fifth of the ten: (N, 1, side, side, 3)."""
    return ten_crops(images, side)[:, 4:5]


def planes_of(views: NDArray[np.uint8], normalisation: Normalisation) -> Floats:
    """RGB views (..., rows, columns, 3) -> the network's planes (..., planes, rows, columns), in
    pixels of 0-255, not yet normalised."""
    if normalisation.planes == "BGR":
        views = views[..., ::-1]
    elif normalisation.planes == "L":
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
    size = [SIDE if side == short else int(SIDE * long / short) for side in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
