"""What inference may take; each limit is explained at the setting of the same name."""

from dataclasses import dataclass

from service.inference.formats import FORMAT_NAMES


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What decoding one image may cost."""

    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 32.0  # long side over short side
    scaled_decoding: bool = False
    formats: tuple[str, ...] = FORMAT_NAMES
    decode_timeout: float = 1.8  # seconds of CPU time


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one classifier may take."""

    max_batch: int  # images
    max_queue: int  # images
    max_delay: float = 0.0  # seconds
    run_timeout: float | None = None  # seconds
    max_decoding_pixels: int = 100_000_000
    decoding: DecodeLimits = DecodeLimits()
