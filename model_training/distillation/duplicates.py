"""
Finds training images that an evaluation photograph shows too.  They are excluded.

An image is compared as a thumbnail of 16 x 16 grey pixels, less their mean, by the cosine; whole
and as its central square, since sets cut images down in either way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIZE = 16
# 500 images scored 0.99 and more against themselves after another scaling and JPEG; what lies
# between this and 0.99 looks alike, and is left out to be safe.
ALIKE = 0.965

Thumbnails = NDArray[np.uint8]  # (N, 2, 256): of the whole image, and of its central square


def thumbnails(image: Image.Image) -> NDArray[np.uint8]:
    """(2, 256): the image's two thumbnails."""
    return np.stack([_thumbnail(image), _thumbnail(_square(image))])


def turned(photographs: Thumbnails) -> Thumbnails:
    """(8 N, 2, 256): as they are, turned by each quarter, and the mirror images of these.  Cameras
    say in EXIF which way is up, and copies forget it."""
    grids = photographs.reshape(-1, 2, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    quarters = [np.rot90(grids, quarter, axes=(2, 3)) for quarter in range(4)]
    both = np.concatenate([*quarters, *(grid[..., ::-1] for grid in quarters)])
    return both.reshape(-1, 2, THUMBNAIL_SIZE * THUMBNAIL_SIZE)


def alike(images: Thumbnails, photographs: Thumbnails) -> NDArray[np.bool_]:
    """(N,): which of the images is one of the photographs."""
    theirs = _unit(photographs.reshape(-1, THUMBNAIL_SIZE * THUMBNAIL_SIZE))
    ours = _unit(images.reshape(-1, THUMBNAIL_SIZE * THUMBNAIL_SIZE))
    closest: NDArray[np.float32] = (ours @ theirs.T).max(1, initial=-1.0)
    return np.asarray(closest.reshape(-1, 2).max(1) > ALIKE)


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    grey = image.convert("L").resize(
        (THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    return np.asarray(grey, np.uint8).ravel()


def _square(image: Image.Image) -> Image.Image:
    crop_size = min(image.size)
    left, top = ((length - crop_size) // 2 for length in image.size)
    return image.crop((left, top, left + crop_size, top + crop_size))


def _unit(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    centred = rows.astype(np.float32) - rows.mean(1, keepdims=True, dtype=np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-6), np.float32)
