"""
A folder of JPEGs -> three to send: typical images, 12-megapixel ones, a mixture.

Without a folder, the photographs that the exporter calibrates on, scaled up once to 500 x 375.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

PACKAGED: Final = Path(__file__).parents[1] / "model_export" / "pictures"
TYPICAL: Final = (500, 375)
LARGE: Final = (4000, 3000)
QUALITY: Final = 90
MOST: Final = 100  # typical ones; the load keeps them in memory
LEAST: Final = 50
LARGE_ONES: Final = 3


@dataclass(frozen=True)
class Photographs:
    """Folders of JPEGs, and what they hold in words."""

    typical: Path
    large: Path
    mixed: Path  # one large in ten
    about: str


def prepare(source: Path | None, work: Path) -> Photographs:
    """Lay the images of `source` out below `work`."""
    typical, large, mixed = (work / name for name in ("typical", "large", "mixed"))
    for folder in (typical, large, mixed):
        folder.mkdir(parents=True)
    files = sorted((source or PACKAGED).glob("*.jpg"))[:MOST]
    if len(files) < LEAST:
        raise SystemExit(
            f"{source} holds {len(files)} files *.jpg; {LEAST} distinct images are needed"
        )
    for file in files:
        if source:
            shutil.copyfile(file, typical / file.name)
        else:
            _scaled(file, TYPICAL, typical / file.name)
    for file in files[:: len(files) // LARGE_ONES][:LARGE_ONES]:
        _scaled(file, LARGE, large / file.name)
    giants = cycle(sorted(large.iterdir()))
    for place, file in enumerate(files[:LEAST]):  # sent in the order of their names
        chosen = next(giants) if place % 10 == 5 else typical / file.name
        shutil.copyfile(chosen, mixed / f"{place:03}.jpg")
    size = sum(file.stat().st_size for file in typical.iterdir()) / len(files) / 1e3
    origin = source.name if source else "from the package, scaled up to 500 x 375"
    return Photographs(
        typical, large, mixed, f"{len(files)} photographs ({origin}), {size:.0f} kB on average"
    )


def _scaled(file: Path, size: tuple[int, int], to: Path) -> None:
    with Image.open(file) as image:
        whole = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    whole.save(to, "JPEG", quality=QUALITY)
