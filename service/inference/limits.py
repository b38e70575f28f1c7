"""
Limits of images, batches and classes; the default of `top`.

Most limits are explained at the setting of the same name.
"""

from dataclasses import dataclass
from typing import Final

from service.inference.formats import FORMAT_NAMES

DEFAULT_TOP: Final = 5  # classes of each image, unless the request or the command says how many
MOST_CLASSES: Final = 1000  # that either may ask for
PIECES: Final = 200_000  # reads of one file; an honest one of 20 MB needs less than 10,000
PROFILE_BYTES: Final = 2**20  # of a colour profile; printers' have up to 0.9 MB, cameras' 3 kB


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What decoding one image may cost."""

    max_pixels: int = 2**26  # 8192 x 8192: sensors of phones have 8160 x 6144
    # Long side over short side.  No setting: of a longer image the central square shows less than a
    # 32nd, and whatever the network sees there is no answer about the image.
    max_aspect_ratio: float = 32.0
    scaled_decoding: bool = False
    colour_profiles: bool = True
    formats: tuple[str, ...] = FORMAT_NAMES
    decode_timeout: float = 1.8  # seconds of CPU time


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one classifier may take."""

    max_batch: int  # images
    max_queue: int  # images
    max_delay: float = 0.0  # seconds
    run_timeout: float | None = None  # seconds
    max_decoding_pixels: int = 2**27
    decoding: DecodeLimits = DecodeLimits()
