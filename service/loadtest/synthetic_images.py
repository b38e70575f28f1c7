"""
Synthetic JPEGs that cost what photographs cost to send and decode.

What a photograph costs to send and to decode is its size and its entropy.  Photographs have
spectra that fall with the frequency (Field 1987: amplitude ~ 1/f, out of focus steeper), so noise
of such a spectrum over a gradient is compressed to a photograph's size and decoded in its time:
500 x 375 at quality 88 in about 50 kB, where 200 real ones took 48.
"""

import io
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, QUALITY = 500, 375, 88
FALL: Final = 1.4
CONTRAST: Final = (36.0, 12.0, 12.0)  # grey levels, one standard deviation: Y, Cb, Cr
SLOPE: Final = 60.0  # grey levels from one side to the other


def photographs(number: int, *, seed: int = 0) -> list[bytes]:
    """`number` distinct JPEGs of 500 x 375 pixels, the same ones each time."""
    chance = np.random.default_rng(seed)
    height, width = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    spectrum = np.hypot(np.hypot(height, width), 1 / WIDTH) ** -FALL
    # Noise that goes round at its edges may be rolled: one field serves many images.
    white = chance.standard_normal((4, HEIGHT, WIDTH))
    fields = np.fft.irfft2(np.fft.rfft2(white) * spectrum, s=(HEIGHT, WIDTH))
    fields = (fields - fields.mean((1, 2), keepdims=True)) / fields.std((1, 2), keepdims=True)
    return [_photograph(fields, chance) for _ in range(number)]


def _photograph(fields: NDArray[np.float64], chance: np.random.Generator) -> bytes:
    down, right = chance.uniform(-SLOPE, SLOPE, 2)
    light = 128 + np.linspace(-down, down, HEIGHT)[:, None] + np.linspace(-right, right, WIDTH)
    planes = []
    for contrast, middle in zip(CONTRAST, (light, 128.0, 128.0), strict=True):
        rolled = np.roll(fields[chance.integers(len(fields))], chance.integers(0, WIDTH, 2), (0, 1))
        planes.append(np.clip(middle + contrast * rolled, 0, 255).astype(np.uint8))
    encoded = io.BytesIO()
    image = Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes])
    image.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()
