"""Small images, encoded as clients send them."""

import io
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parents[1] / "pictures"


def image(kind: str = "JPEG", size: tuple[int, int] = (320, 280)) -> bytes:
    """A small image with something to see in it."""
    encoded = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(encoded, kind)
    return encoded.getvalue()


def grey(value: int) -> bytes:
    """A PNG of one grey: what reaches the network is exactly that value."""
    encoded = io.BytesIO()
    Image.new("RGB", (256, 256), (value, value, value)).save(encoded, "PNG")
    return encoded.getvalue()
