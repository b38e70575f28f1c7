"""
Bytes -> uint8 RGB, 256 x 256.

The paper's own preparation (section 2): scale the shorter side to 256, keep the central square.
The arithmetic is that of torchvision's classification preset, since the published weights were
measured with it; but we resample only what the crop keeps, and turn upright only the square.  So
a pixel may differ by one grey level, for Pillow rounds between the two passes of a resize and
takes the cheaper first.  Everything after it happens inside the model's graph.

Large JPEGs may be decoded scaled, if the caller wants: three times as fast at 12 megapixels, but
up to 11 grey levels away, and one top-1 answer in a hundred is another one (500 photographs scaled
up to 12 megapixels, the bundled network in fp32, one crop; 1 in 36 at 2048 pixels, the worst).

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
AMPLE = 2 * SIDE  # pixels of the shorter side that scaled decoding leaves at least


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


class Turn(NamedTuple):
    """How a stored picture becomes upright, and which of its stored axes that turns round."""

    transpose: Image.Transpose
    mirrors_x: bool
    mirrors_y: bool


TURNS = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, True, False),
    3: Turn(Image.Transpose.ROTATE_180, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, False, False),
    6: Turn(Image.Transpose.ROTATE_270, False, True),
    7: Turn(Image.Transpose.TRANSVERSE, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, False),
}


def decode(
    data: bytes, *, max_pixels: int, max_aspect_ratio: float, scaled_decoding: bool = False
) -> NDArray[np.uint8]:
    """
    Decode an uploaded picture to the network's `(256, 256, 3)` RGB square, C-contiguous.

    The first frame of an animation counts, EXIF orientation is applied, transparency is laid
    over white.  `scaled_decoding` lets libjpeg halve, quarter or eighth a large JPEG while it is
    decoded, down to no less than `AMPLE`.  Raises `BodyEmpty` or one of the `ImageError`s.
    """
    if not data:
        raise BodyEmpty("There is no picture: the body is empty. Send the bytes of a picture file.")
    kind = _format(data)
    try:
        with kind.decoder(BytesIO(data)) as image:
            _judge(image.size, max_pixels, max_aspect_ratio)
            # Of all the formats only JPEG can; the others answer None.
            draft = image.draft(None, (AMPLE, AMPLE)) if scaled_decoding else None
            image.load()
            # Animations may grow while their first frame loads.
            _judge(image.size, max_pixels, max_aspect_ratio)
            # libjpeg rounds a draft's size up: the picture itself ends inside the last pixel.
            extent = image.size if draft is None else draft[1][2:]
            square = _square(_opaque(image), extent, _turn(image))
            return np.asarray(square if square.mode == "RGB" else square.convert("RGB"))
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


def _turn(image: Image.Image) -> Turn | None:
    """What brings the picture upright, as its camera meant it; broken EXIF data counts as none."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except (*DAMAGED, UserWarning):  # the warning, where warnings are errors
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _opaque(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to RGB, deliberately, or to grey: one band to scale, not three."""
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's convert() would clip at 255 and leave a white picture.
        grey = np.asarray(image.convert("I")) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, extent: tuple[float, float], turn: Turn | None) -> Image.Image:
    """
    torchvision's preset, `Resize(256)`, bilinear with antialias, then `CenterCrop(256)`, upright.

    `extent` is the width and height in pixels of `image`, as stored; fractions after a draft.
    """
    width, height = extent
    if width <= height:
        size = SIDE, int(SIDE * height / width)
    else:
        size = int(SIDE * width / height), SIDE
    # round(), not //: halves go to the even pixel, as in torchvision; counted from where the
    # upright picture begins, which in the stored one may be the right or the bottom.
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    if turn is not None and turn.mirrors_x:
        left = size[0] - SIDE - left
    if turn is not None and turn.mirrors_y:
        top = size[1] - SIDE - top
    box = (
        left * width / size[0],
        top * height / size[1],
        (left + SIDE) * width / size[0],
        (top + SIDE) * height / size[1],
    )
    square = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box)
    return square if turn is None else square.transpose(turn.transpose)
