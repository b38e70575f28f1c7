"""
AVIF files: Pillow's decoder on one thread.  It reads a still image, of the size that is coded in
it.

Decoding is one call that no clock can stop; so `formats` bounds what it may be given.
"""

from io import BytesIO
from typing import Final

from PIL import AvifImagePlugin

from service.inference.isobmff import coded_sizes

BRAND: Final = slice(8, 12)
STILL: Final = b"avif"
THREADS: Final = 1  # those of a pool would not be seen by the clock of CPU time


class Avif(AvifImagePlugin.AvifImageFile):
    """
    The primary image, which animations have too.

    EXIF's orientation does not count here, as in browsers: the container has its own, which Pillow
    writes over it.
    """

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        self.coded_sizes = coded_sizes(data)
        if data[BRAND] != STILL:  # else the frames of an animation would be decoded
            data = data[: BRAND.start] + STILL + data[BRAND.stop :]
        self.fp = BytesIO(data)
        AvifImagePlugin.DEFAULT_MAX_THREADS = THREADS
        try:
            super()._open()
        except SyntaxError:
            if not self.size[0]:
                raise
            self.seek(0)  # only its EXIF data is malformed, which comes last
        self.n_frames, self.is_animated = 1, False
