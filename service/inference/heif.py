"""
HEIC files, as telephones take photographs.  The decoder is pillow-heif's, from the extra `heif`.

Decoding is one call that no clock can stop; so `formats` bounds what it may be given.
"""

from typing import Any

from pillow_heif import HeifImageFile, options

from service.inference.isobmff import coded_sizes

options.DECODE_THREADS = 1  # others would not be seen by the clock of CPU time
# Nothing but the primary image is wanted.
options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False


class Heif(HeifImageFile):
    """The primary image, which the decoder turns as the container asks; EXIF does not count."""

    def _open(self) -> None:
        assert self.fp is not None
        self.coded_sizes = coded_sizes(self.fp.read())
        super()._open()  # type: ignore[no-untyped-call]
        self.info.pop("exif", None)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> None:
        """Nothing: thumbnails are not the image."""

    def load(self) -> Any:
        size = self.size
        pixels = super().load()  # type: ignore[no-untyped-call]
        if self.size != size:
            raise OSError("the image has another size than its container says")
        return pixels
