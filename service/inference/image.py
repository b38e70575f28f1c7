"""
Encoded images to uint8 `(256, 256, 3)` RGB pixels.

The paper's own preparation (section 2): scale the shorter side to 256, keep the central square.
The arithmetic is that of torchvision's classification preset, since the published weights were
measured with it; but only what the crop keeps is resampled, and only the square turned upright.  So
a pixel may differ by one grey level, for Pillow rounds between the two passes of a resize and
takes the cheaper first.  Everything after it happens inside the model's graph.

Colours are brought to sRGB in the square: 1.5 ms, where the whole of a 12-megapixel photograph
takes 250.  Scaling and converting do not quite commute: of 22 photographs in Display P3 the square
is 0.1 grey levels away on average and 5 at most, in Adobe RGB 0.2 and 8, in ProPhoto RGB 0.4 and
16.

Large JPEGs may be decoded scaled, if the caller wants: three times as fast at 12 megapixels, but
up to 11 grey levels away, and one top-1 answer in a hundred is another one (500 photographs scaled
up to 12 megapixels, the bundled network in fp32, one crop; 1 in 36 at 2048 pixels, the worst).

Images come from untrusted clients.  Only the formats of one table are ever opened, each by its own
decoder; the size in the header is judged before a pixel is decoded, and before a decoder that
wants memory at once gets any.  `PIL.Image.open` is avoided on purpose: it applies Pillow's own
limit, a process-wide global that others may rely on, while opening a decoder's class directly
leaves the judgement to this module and changes nothing elsewhere.

What decoding may cost is bounded thrice: by a clock of the thread's CPU time, looked at whenever
the decoder reads on; by the number of pieces it reads, since a file of a million tiny ones fills
the memory with lists of them; and by the few things that take long between two reads.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from time import thread_time
from traceback import clear_frames
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageFile

from service.errors import (
    BodyEmpty,
    ImageError,
    ImageTooCostly,
    ImageTooElongated,
    ImageTooLarge,
    ImageTypeUnsupported,
    ImageUnreadable,
)
from service.inference.appearance import Turn, conversion, turn_of
from service.inference.formats import FORMATS, Format
from service.inference.jpeg import END_OF_IMAGE, MARKER, SCAN, Jpeg
from service.inference.limits import PIECES, DecodeLimits
from service.inference.unsupported import unsupported

SIDE: Final = 256  # pixels; the paper's, section 2
AMPLE: Final = 2 * SIDE  # pixels of the shorter side that scaled decoding leaves at least
LARGE: Final = 4_000_000  # pixels, 30 ms; of larger images so few bytes are read at a time that
BLOCK: Final = 2**14  # the clock is looked at every 0.1 s, however much they unpack to
PIXEL_DATA: Final = 2**10  # bytes in one read that count as pixels rather than as header
CODED_MORE: Final = 63  # pixels a side, at most, that fill up the last blocks of AVIF and HEIC
BAND: Final = 2**18  # pixels that are brought to RGB at a time; their copies stay in the cache

# Pixels times scans of a JPEG for each second of the time limit: each scan may walk all blocks for
# 10 bytes.  Measured as in `formats`.
SCANNED_PIXELS: Final = 500_000_000
SCAN_BYTES: Final = 10  # of a scan's header; its pixels may take none


class Gif(GifImagePlugin.GifImageFile):
    """
    The first frame, on a canvas that is clear outside it.

    Without what comes after it, for which Pillow sets memory aside on opening.
    """

    @property
    def disposal_method(self) -> int:
        return 0

    @disposal_method.setter
    def disposal_method(self, value: int) -> None:
        pass

    def load(self) -> Any:
        frame = self.tile[0].extents if self.tile else None
        pixels = super().load()
        if frame in (None, (0, 0, *self.size)):
            return pixels
        layer = self.convert("RGBA")
        opaque = Image.new("L", self.size)
        opaque.paste(layer.getchannel("A").crop(frame), frame)
        layer.putalpha(opaque)
        self.im, self._mode, self.palette = layer.im, layer.mode, None
        self.info.pop("transparency", None)
        return super().load()


# What Pillow's decoders let out when a file is damaged or hostile.
DAMAGED: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    RuntimeError,
    Warning,  # where warnings are errors
    struct.error,
    zlib.error,
)
BOMB: Final = (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning)


class _Metered(BytesIO):
    """
    An image's bytes, and what its decoder may still spend on them.

    Raises `ImageTooCostly` out of `read`, so that a decoder is stopped wherever it reads on.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds = seconds
        self._pieces = PIECES
        self.resume()

    def resume(self) -> None:
        """Go on counting, in the thread that calls."""
        self._end = thread_time() + self._seconds

    def pause(self) -> None:
        """Stop counting, until `resume`."""
        self._seconds = self._end - thread_time()

    def stop(self) -> None:
        """Let the decoder go no further, from any thread: nobody wants the image any more."""
        self._pieces = -1

    def look(self) -> None:
        """Raise `ImageTooCostly` after `PIECES` reads, or when the seconds of CPU time are over."""
        if self._pieces < 0 or thread_time() > self._end:
            raise ImageTooCostly(
                "Decoding the image takes longer than the limit. Open and save it again, "
                "send it scaled down, or have ALEXNET_DECODE_TIMEOUT raised."
            )

    def read(self, size: int | None = -1, /) -> bytes:
        data = BytesIO.read(self, size)  # not super(): headers are read byte by byte
        self._pieces -= 1
        if not self._pieces % 16 or len(data) >= PIXEL_DATA:  # a look takes a microsecond
            self.look()
        return data


class EncodedImage:
    """
    An image whose header has been read and judged; `decode` it once, in any thread.

    `pixels` is what decoding takes memory for: width times height, after a draft the draft's.
    JPEGs of several scans count in full, for their coefficients are kept until the last.
    """

    def __init__(
        self,
        kind: Format,
        image: ImageFile.ImageFile,
        file: _Metered,
        extent: tuple[float, float],
        pixels: int,
        colour_profiles: bool,
    ) -> None:
        self.pixels = pixels
        self._colour_profiles = colour_profiles
        self._kind = kind
        self._image = image
        self._file = file
        self._extent = extent

    def stop(self) -> None:
        """Let `decode`, in whatever thread, end soon."""
        self._file.stop()

    def decode(self) -> NDArray[np.uint8]:
        """The network's `(256, 256, 3)` RGB square, C-contiguous; raises `ImageError`s."""
        image, file = self._image, self._file
        with _refusing(self._kind):
            try:
                file.resume()
                image.load()
                profile = image.info.get("icc_profile") if self._colour_profiles else None
                to_srgb = conversion(profile, image.mode) if profile else None
                opaque = _opaque(image, file.look, keep=to_srgb.mode if to_srgb else None)
                exif = image.info.get("exif")
                square = _square(opaque, self._extent, turn_of(exif) if exif else None)
                if to_srgb:
                    square = to_srgb(square)
                return np.asarray(square if square.mode == "RGB" else square.convert("RGB"))
            finally:
                image.close()


def decode(data: bytes, limits: DecodeLimits) -> NDArray[np.uint8]:
    """
    Decode an uploaded image to the network's uint8 `(256, 256, 3)` RGB pixels, C-contiguous.

    The first frame of an animation counts, EXIF orientation is applied, transparency is pasted
    over white, colours are brought to sRGB.  Errors are those of `open_image`.
    """
    return open_image(data, limits).decode()


def open_image(data: bytes, limits: DecodeLimits) -> EncodedImage:
    """
    Read and judge an uploaded image's header, before its pixels take time and memory.

    `limits.decode_timeout` counts for this and for `EncodedImage.decode` together.  With
    `scaled_decoding` libjpeg halves, quarters or eighths a large JPEG while it is decoded, down to
    no less than `AMPLE`.  Raises `BodyEmpty` or one of the `ImageError`s.
    """
    if not data:
        raise BodyEmpty("There is no image: the body is empty. Send the bytes of an image file.")
    kind = _format(data, limits.formats)
    with _refusing(kind):
        if canvas := kind.canvas(data):
            _judge(canvas, limits)
        file = _Metered(data, limits.decode_timeout)
        image = kind.open(file)
        _judge(image.size, limits)
        for size in _coded_sizes(image):
            _judge_pixels(size, limits)
        _bound(kind, image, data, file, limits.decode_timeout)
        pixels = image.width * image.height
        if pixels > LARGE:
            image.decodermaxblock = BLOCK
        # Of all the formats only JPEG can; the others answer None.
        draft = image.draft(None, (AMPLE, AMPLE)) if limits.scaled_decoding else None
        # libjpeg rounds a draft's size up: the image itself ends inside the last pixel.
        extent = image.size if draft is None else draft[1][2:]
        if draft is not None and SCAN not in data[file.tell() :]:
            pixels = image.width * image.height
        file.pause()
    return EncodedImage(kind, image, file, extent, pixels, limits.colour_profiles)


@contextmanager
def _refusing(kind: Format) -> Iterator[None]:
    """Whatever a decoder lets out leaves as an `ImageError`."""
    try:
        yield
    except (ImageError, *BOMB, *DAMAGED) as error:
        # An error lives until its request is answered; the frames that it came through would keep
        # the pixels until then, of each image in a form.
        clear_frames(error.__traceback__)
        if isinstance(error, ImageError):
            raise
        if isinstance(error, BOMB):
            raise ImageTooLarge(
                "The image takes more memory than there is for it. Send it scaled down."
            ) from error
        raise ImageUnreadable(
            f"The image begins like a {kind.name} file but cannot be decoded; it is damaged or "
            "cut short. Open and save it again, or send another."
        ) from error


def _format(data: bytes, formats: Collection[str]) -> Format:
    """The row of the table whose signature the bytes bear, if it is taken."""
    chosen = [kind for kind in FORMATS if kind.name.lower() in formats]
    taken = ", ".join(kind.name for kind in chosen if kind.readable)
    for kind in FORMATS:
        if kind.matches(data):
            if kind not in chosen:
                raise ImageTypeUnsupported(f"{kind.name} is not taken here. Send one of {taken}.")
            if not kind.readable:
                raise ImageTypeUnsupported(
                    f"{kind.name} is read with the extra {kind.extra}, which is not installed "
                    f"here. Send one of {taken}, or have it installed: "
                    f"pip install 'alexnet-service[{kind.extra}]'."
                )
            return kind
    if (sent := unsupported(data)) is not None:
        raise ImageTypeUnsupported(f"This is {sent.what}. {sent.remedy.format(taken=taken)}")
    raise ImageTypeUnsupported(f"Unsupported image format. Send one of {taken}.")


def _judge(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Refuse an image by its size in pixels, before it takes memory."""
    width, height = size
    if min(width, height) < 1:
        raise ImageUnreadable(f"The image is {width} x {height} pixels: it has none. Send another.")
    _judge_pixels(size, limits)
    if max(width, height) > limits.max_aspect_ratio * min(width, height):
        raise ImageTooElongated(
            f"The image is {width} x {height} pixels; its long side may be at most "
            f"{limits.max_aspect_ratio:g} times its short one. Crop it."
        )


def _judge_pixels(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image is {width} x {height} pixels, more than the {limits.max_pixels} allowed. "
            "Send it scaled down, or have ALEXNET_MAX_PIXELS raised."
        )


def _coded_sizes(image: ImageFile.ImageFile) -> list[tuple[int, int]]:
    """What the decoder really decodes, of formats whose container may say something else."""
    sizes: list[tuple[int, int]] = getattr(image, "coded_sizes", [])
    return [(max(1, width - CODED_MORE), max(1, height - CODED_MORE)) for width, height in sizes]


def _bound(
    kind: Format, image: ImageFile.ImageFile, data: bytes, file: _Metered, seconds: float
) -> None:
    """Refuse what would take long between two reads; `file` is read up to the pixels."""
    pixels = image.width * image.height
    if isinstance(image, Jpeg):
        limit = int(SCANNED_PIXELS * seconds / pixels)
        if (scans := _scans(data, file.tell(), limit)) > limit:
            raise ImageTooCostly(
                f"The JPEG has {scans} scans, more than the {limit} allowed at "
                f"{image.width} x {image.height} pixels. Save it again, not progressive."
            )
    if kind.pixels_per_second is None:
        return
    if kind.slow_codec and all(tile.codec_name != kind.slow_codec for tile in image.tile):
        return
    if kind.bytes_per_second is not None:
        seconds -= len(data) / kind.bytes_per_second
    pixels = sum(width * height for width, height in _coded_sizes(image)) or pixels
    if pixels > (limit := max(0, int(kind.pixels_per_second * seconds))):
        raise ImageTooCostly(
            f"The image is {image.width} x {image.height} pixels, more than the {limit} "
            f"allowed in this {kind.slow_name} file. Send it scaled down, or as JPEG or PNG."
        )


def _scans(data: bytes, place: int, harmless: int) -> int:
    """
    The scans of a JPEG whose first one's pixels begin at `place`, or a number not below them.

    Counts no more exactly than to see that they are not more than `harmless`.
    """
    if (most := 1 + len(data) // SCAN_BYTES) <= harmless:
        return most
    if (most := 1 + data.count(SCAN, place)) <= harmless:
        return most
    # Not all of them need be scans: other images, or a film, may be hung on to the first one.
    scans = markers = 1
    while marker := MARKER.search(data, place):
        markers += 1
        if markers > PIECES:
            return most
        place = marker.end()
        if marker[0] == END_OF_IMAGE:
            break
        scans += marker[0] == SCAN
        place += int.from_bytes(data[place : place + 2], "big")
    return scans


def _opaque(image: Image.Image, look: Callable[[], None], keep: str | None = None) -> Image.Image:
    """
    Any of Pillow's modes to RGB, deliberately, or to grey: one band to scale, not three.

    Or to CMYK, if that mode is to be kept.  A strip at a time, so that there are never more than
    two whole images: this and that.
    """
    if image.mode in ("RGB", "L", keep) and not image.has_transparency_data:
        return image
    width, height = image.size
    rows = max(1, BAND // width)
    if rows >= height:
        return _flat(image)
    whole = None
    for top in range(0, height, rows):
        look()
        strip = _flat(image.crop((0, top, width, min(top + rows, height))))
        whole = whole or Image.new(strip.mode, image.size, None)
        whole.paste(strip, (0, top))
    assert whole is not None
    return whole


def _flat(image: Image.Image) -> Image.Image:
    """A small image in RGB, or grey, on white."""
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
    return image.convert("L" if image.mode == "1" else "RGB")


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
    # upright image begins, which in the stored one may be the right or the bottom.
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
