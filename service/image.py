"""
Bytes -> uint8 RGB, 256 x 256.

The paper's own preparation (section 2): scale the shorter side to 256, keep the central square.
The arithmetic is that of torchvision's classification preset, to the pixel, since the published
weights were measured with it.  Everything after it happens inside the model's graph.

Pictures come from strangers.  Only the formats of one table are ever opened, each by its own
decoder; the size in the header is judged before a pixel is decoded.  `PIL.Image.open` is avoided
on purpose: it applies Pillow's own limit, a process-wide global that others may rely on, while
opening a decoder's class directly leaves the judgement to us and changes nothing for anybody.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from service.errors import (
    BodyEmpty,
    ImageTooElongated,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
)

SIDE = 256  # pixels; the paper's, section 2


class Format(NamedTuple):
    """A picture format: its name, how its bytes begin, and what decodes it."""

    name: str
    begins: Callable[[bytes], bool]
    decoder: Callable[[BytesIO], ImageFile.ImageFile]


FORMATS = (
    Format("JPEG", lambda b: b.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    Format("PNG", lambda b: b.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    Format(
        "WEBP", lambda b: b[:4] == b"RIFF" and b[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile
    ),
    Format("GIF", lambda b: b[:6] in (b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    Format("BMP", lambda b: b.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
)

# What Pillow's decoders let out when a file is damaged or hostile.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

EXIF_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, max_pixels: int, max_aspect_ratio: float) -> NDArray[np.uint8]:
    """
    Decode an uploaded picture to the network's `(256, 256, 3)` RGB square, C-contiguous.

    The first frame of an animation counts, EXIF orientation is applied, transparency is laid
    over white.  Raises `BodyEmpty` or one of the `ImageError`s.
    """
    if not data:
        raise BodyEmpty("There is no picture: the body is empty. Send the bytes of a picture file.")
    kind = _format(data)
    try:
        with kind.decoder(BytesIO(data)) as image:
            _judge(image.size, max_pixels, max_aspect_ratio)
            image.load()
            # Animations may grow while their first frame loads.
            _judge(image.size, max_pixels, max_aspect_ratio)
            return np.ascontiguousarray(np.asarray(_square(_rgb(_upright(image)))))
    except BOMB as error:
        raise ImageTooLarge(
            "The picture grows too large while it is decoded. Send it scaled down."
        ) from error
    except DAMAGED as error:
        raise ImageUnreadable(
            f"The picture begins like a {kind.name} file but cannot be decoded; it is damaged or "
            "cut short. Open and save it again, or send another."
        ) from error


def _format(data: bytes) -> Format:
    """The row of the table whose signature the bytes bear."""
    for kind in FORMATS:
        if kind.begins(data):
            return kind
    names = ", ".join(kind.name for kind in FORMATS)
    raise ImageTypeUnsupported(f"This is not a picture of a type we read. Send one of {names}.")


def _judge(size: tuple[int, int], max_pixels: int, max_aspect_ratio: float) -> None:
    """Refuse a picture by its size in pixels, before it takes memory."""
    width, height = size
    if min(width, height) < 1:
        raise ImageUnreadable(
            f"The picture is {width} x {height} pixels: it has none. Send another."
        )
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The picture is {width} x {height} pixels, more than the {max_pixels} allowed. "
            "Send it scaled down, or have ALEXNET_MAX_PIXELS raised."
        )
    if max(width, height) > max_aspect_ratio * min(width, height):
        raise ImageTooElongated(
            f"The picture is {width} x {height} pixels; its long side may be at most "
            f"{max_aspect_ratio:g} times its short one. Crop it, or have "
            "ALEXNET_MAX_ASPECT_RATIO raised."
        )


def _upright(image: Image.Image) -> Image.Image:
    """The picture as its camera meant it to be seen; broken EXIF data counts as none."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except (*DAMAGED, UserWarning):  # the warning, where warnings are errors
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to RGB, deliberately."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's convert() would clip at 255 and leave a white picture.
        grey = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image) -> Image.Image:
    """torchvision's preset: `Resize(256)`, bilinear with antialias, then `CenterCrop(256)`."""
    width, height = image.size
    if width <= height:
        size = SIDE, int(SIDE * height / width)
    else:
        size = int(SIDE * width / height), SIDE
    image = image.resize(size, Image.Resampling.BILINEAR)
    # round(), not //: halves go to the even pixel, as in torchvision.
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return image.crop((left, top, left + SIDE, top + SIDE))
