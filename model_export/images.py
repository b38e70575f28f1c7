"""
An image file -> pixels, as the service prepares them.  They are 256 x 256, as in
``service/inference/image.py``, for calibration and training.

EXIF orientation applied, colours brought to sRGB, transparency over white, the shorter side to
256, the central square (section 2 of the paper).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from model_export.graph import IMAGE_SIZE
from model_export.image_formats import readable_formats

Square = NDArray[np.uint8]  # (256, 256, 3), RGB

MOST_PIXELS = 2**26  # of one image: the service's default limit
MOST_PROFILE = 2**20  # bytes of a colour profile: the service's limit
SAME = 1  # grey level: a profile that changes no more is sRGB


def read_image(path: Path | IO[bytes]) -> Square:
    """Decode an image file to uint8 (256, 256, 3); ValueError says why that is not possible.

    The pixels are the service's, bit for bit, but an image with an EXIF rotation may differ by one
    grey level, since the service scales before it rotates.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            with Image.open(path, formats=readable_formats()) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"more than {MOST_PIXELS:,} pixels")
                image.load()
                return _prepared(_upright(_on_white_canvas(image)))
    except Exception as error:  # Pillow's decoders raise anything
        raise ValueError(str(error) or type(error).__name__) from error


def _prepared(image: Image.Image) -> Square:
    transform = _to_srgb(image)
    flat = image if transform and image.mode == "CMYK" else _flat(image)
    square = _resized(flat)
    if transform:
        square = transform.apply(
            square if square.mode == transform.input_mode else square.convert(transform.input_mode)
        )
    return np.asarray(square.convert("RGB"))


def _to_srgb(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """What the image's colour profile asks for; None for nothing, sRGB or a broken one."""
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > MOST_PROFILE:
        return None
    mode = "CMYK" if image.mode == "CMYK" else "L" if image.mode[0] in "1LI" else "RGB"
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    except (OSError, ValueError):
        return None
    return None if mode != "CMYK" and _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
    grey = transform.input_mode == "L"
    sample = Image.linear_gradient("L") if grey else Image.fromarray(colours)
    before, after = np.asarray(sample.convert("RGB"), int), np.asarray(transform.apply(sample), int)
    return int(np.abs(after - before).max()) <= SAME


def _resized(image: Image.Image) -> Image.Image:
    """`Resize(256)`, bilinear with antialias, and `CenterCrop(256)`: only what the crop keeps."""
    width, height = image.size
    if width <= height:
        size = IMAGE_SIZE, int(IMAGE_SIZE * height / width)
    else:
        size = int(IMAGE_SIZE * width / height), IMAGE_SIZE
    left, top = (round((length - IMAGE_SIZE) / 2) for length in size)
    box = (
        left * width / size[0],
        top * height / size[1],
        (left + IMAGE_SIZE) * width / size[0],
        (top + IMAGE_SIZE) * height / size[1],
    )
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, box)


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "HEIF":  # its container turned it
        return image
    for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # they do not count
        image.info.pop(key, None)
    with contextlib.suppress(Exception):  # broken EXIF data counts as none
        return ImageOps.exif_transpose(image)
    return image


def _on_white_canvas(image: Image.Image) -> Image.Image:
    """A GIF's first frame, white around it if it is smaller than its canvas."""
    frame = getattr(image, "dispose_extent", None)
    if image.format != "GIF" or frame in (None, (0, 0, *image.size)):
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(_flat(image).crop(frame), frame)
    return canvas


def _flat(image: Image.Image) -> Image.Image:
    """RGB or grey, on white."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's convert() would clip at 255 and leave a white image.
        levels = np.asarray(image.convert("I"))
        grey = np.clip(levels >> 8, 0, 255).astype(np.uint8)
        if (clear := image.info.get("transparency")) is not None:
            grey[levels == clear] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")
