"""
Decoding, compared with plain Pillow: speed and pixels.

    python -m benchmarks.decoding [FOLDER]

FOLDER holds JPEGs (model_export/pictures).  They are scaled to 500x375, eight of them to 4000x3000
too, and all the images join in one mosaic of 4000x3000, sharper than any photograph; and once more
with Display P3's colour profile, which plain Pillow leaves alone.  Prints for
each way the median over interleaved rounds: ms an image on one thread, images/s on as many
threads as there are cores; and how far the pixels are from plain Pillow's, in grey levels.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.inference.image import decode
from service.inference.limits import DecodeLimits
from tests.support import profiles

from .photographs import PACKAGED

TYPICAL, LARGE = (500, 375), (4000, 3000)  # pixels; LARGE is 12 megapixels
QUALITY = 90
DISPLAY_P3 = profiles.rgb(profiles.DISPLAY_P3, profiles.srgb_curve())

Way = Callable[[bytes], NDArray[np.uint8]]


def plain(data: bytes) -> NDArray[np.uint8]:
    """torchvision's preset in plain Pillow: upright, RGB, all of it resized, then cropped."""
    with Image.open(BytesIO(data)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        upright = image if image.mode == "RGB" else image.convert("RGB")
    width, height = upright.size
    long = int(256 * max(width, height) / min(width, height))
    size = (256, long) if width <= height else (long, 256)
    left, top = round((size[0] - 256) / 2), round((size[1] - 256) / 2)
    resized = upright.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + 256, top + 256)))


WAYS: dict[str, Way] = {
    "plain Pillow": plain,
    "the service": partial(decode, limits=DecodeLimits()),
    "the service, no profiles": partial(decode, limits=DecodeLimits(colour_profiles=False)),
    "the service, scaled": partial(decode, limits=DecodeLimits(scaled_decoding=True)),
}


def encoded(image: Image.Image, profile: bytes | None = None) -> bytes:
    """The image as a JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, icc_profile=profile)
    return file.getvalue()


def mosaic(images: list[Image.Image]) -> Image.Image:
    """All of them, again and again, as tiles of a large image."""
    joined = Image.new("RGB", LARGE)
    across, down = LARGE[0] // TYPICAL[0], LARGE[1] // TYPICAL[1]
    for place in range(across * down):
        tile = images[place % len(images)].resize(TYPICAL)
        joined.paste(tile, (place % across * TYPICAL[0], place // across * TYPICAL[1]))
    return joined


def measure(name: str, images: list[bytes], rounds: int) -> None:
    """Print one line per way; the first is what the others are compared with."""
    cores = len(os.sched_getaffinity(0))
    reference = [WAYS["plain Pillow"](image).astype(int) for image in images]
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    together: dict[str, list[float]] = {way: [] for way in WAYS}
    with ThreadPoolExecutor(cores) as threads:
        for _ in range(rounds):
            for way, prepare in WAYS.items():
                began = time.perf_counter()
                for image in images:
                    prepare(image)
                alone[way].append(time.perf_counter() - began)
                began = time.perf_counter()
                # Enough for each thread to have work until the last moments.
                work = images * math.ceil(4 * cores / len(images))
                list(threads.map(prepare, work))
                together[way].append((time.perf_counter() - began) / len(work))
    for way, prepare in WAYS.items():
        apart = [np.abs(prepare(p) - r) for p, r in zip(images, reference, strict=True)]
        print(
            f"{name:20} {way:22}"
            f" {statistics.median(alone[way]) / len(images) * 1e3:7.2f} ms"
            f" {1 / statistics.median(together[way]):7.1f}/s on {cores} threads"
            f"   largest difference {max(a.max() for a in apart):2}"
            f" mean {np.mean([a.mean() for a in apart]):.4f}",
            flush=True,
        )


def main() -> None:
    """Typical images, large ones, and a large one full of edges."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGED
    images = [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.jpg"))[:64]]
    if not images:
        raise SystemExit(f"there are no JPEGs in {folder}")
    measure("500x375", [encoded(image.resize(TYPICAL)) for image in images], rounds=9)
    large = [encoded(image.resize(LARGE)) for image in images[:: math.ceil(len(images) / 8)]]
    measure("4000x3000", large, rounds=5)
    in_p3 = [encoded(image.resize(TYPICAL), DISPLAY_P3) for image in images]
    measure("500x375, Display P3", in_p3, rounds=9)
    measure("4000x3000 mosaic", [encoded(mosaic(images))], rounds=5)


if __name__ == "__main__":
    main()
