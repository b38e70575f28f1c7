"""
AVIF files: Pillow's decoder on one thread, for a still image of the size that is coded in it.

Decoding is one call that no clock can stop; so `formats` bounds what it may be given.
"""

import struct
from typing import Final

from PIL import AvifImagePlugin, _avif

from service.inference.isobmff import coded_sizes

BRAND: Final = slice(8, 12)
STILL: Final = b"avif"
THREADS: Final = 1  # those of a pool would not be seen by the clock of CPU time
# EXIF data of one SHORT, for the turn that the container asks for.
ORIENTATION: Final = struct.Struct("<4sIHHHIH")


class Avif(AvifImagePlugin.AvifImageFile):
    """
    The primary image, which animations have too.

    EXIF's orientation does not count here, as in browsers: the container has its own.  Pillow
    joins the two, and copies all EXIF data for it.
    """

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        self.coded_sizes = coded_sizes(data)
        if data[BRAND] != STILL:  # else the frames of an animation would be decoded
            data = data[: BRAND.start] + STILL + data[BRAND.stop :]
        self._decoder = _avif.AvifDecoder(data, "auto", THREADS)
        self._size, _, self._mode, profile, _, orientation, _ = self._decoder.get_info()
        self.n_frames, self.is_animated = 1, False
        self.info["icc_profile"] = profile
        self.info["exif"] = ORIENTATION.pack(b"II*\0", 8, 1, 0x0112, 3, 1, orientation)
        self.seek(0)
