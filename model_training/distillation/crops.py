"""
Random crops of an image, as a student sees them.  A crop lies somewhere, has some size, is mirrored
or not, and a little brighter, flatter or paler.  The teacher is shown the very same pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.variants import Normalisation

CROP_SIZE = 224  # pixels
JITTER = {"brightness": 0.2, "contrast": 0.2, "colour": 0.3}
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
Crops = NDArray[np.uint8]  # (N, 224, 224, 3), RGB


def random_crop(image: Image.Image, smallest: float, rng: np.random.Generator) -> Crops:
    """One crop, uint8 (224, 224, 3): of ``smallest`` to all of the area, its sides 3:4 to 4:3.

    The procedure of Szegedy et al. 2015 (section 6) in torchvision's form, RandomResizedCrop.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        across, down = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if across <= width and down <= height:
            break
    else:
        across = down = min(width, height)
    left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
    box = (left, top, left + across, top + down)
    crop = image.resize(
        (CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return jittered(np.asarray(crop, np.float32), rng)


def jittered(crop: NDArray[np.float32], rng: np.random.Generator) -> Crops:
    """Brightness, contrast and colourfulness, each times 1 plus or minus its share of JITTER."""
    brightness, contrast, colour = (1 + rng.uniform(-j, j) for j in JITTER.values())
    crop = crop * np.float32(brightness)
    mean = crop.mean(dtype=np.float32)
    crop = (crop - mean) * np.float32(contrast) + mean
    grey = (crop @ LUMA)[..., None]
    coloured = grey + (crop - grey) * np.float32(colour)
    return np.clip(np.rint(coloured), 0, 255).astype(np.uint8)


def normalised(crops: Crops, normalisation: Normalisation) -> NDArray[np.float32]:
    """What a network sees: float32 (N, 3, 224, 224), normalised."""
    mean, std = (np.array(f, np.float32) for f in (normalisation.mean, normalisation.std))
    return np.ascontiguousarray(np.moveaxis((crops - mean) / std, -1, 1))
