"""Images -> the bodies of requests: each image by itself, or several as a form."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import photographs

BOUNDARY: Final = "7d1f0c1e9a3b45c8"
HEADERS: Final[Mapping[str, str]] = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def singles(folder: Path | None) -> tuple[list[bytes], str]:
    """
    The JPEGs of a folder in the order of their names, and what they are in words.

    Without a folder, the package's photographs at 500 x 375.
    """
    with tempfile.TemporaryDirectory(prefix="alexnet-images-") as work:
        if folder is None:
            laid = photographs.prepare(None, Path(work) / "laid")
            folder, about = laid.typical, laid.about
        else:
            about = f"the images of {folder.name}"
        bodies = [file.read_bytes() for file in sorted(folder.glob("*.jpg"))]
    if not bodies:
        raise SystemExit(f"{folder} holds no files *.jpg")
    return bodies, about


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, Mapping[str, str]]:
    """File names and bytes, each a part of its own."""
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%b\r\n" % (BOUNDARY.encode(), name.encode(), data)
        for name, data in files
    ]
    return b"".join([*parts, b"--%b--\r\n" % BOUNDARY.encode()]), HEADERS
