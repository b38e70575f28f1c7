"""What the tests of the distillation share: photographs, and git repositories that hold them."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = sorted((Path(__file__).parents[2] / "model_export" / "pictures").glob("*.jpg"))


def photograph(place: int = 0) -> Image.Image:
    """One of the exporter's, in RGB."""
    with Image.open(PHOTOGRAPHS[place]) as image:
        return image.convert("RGB")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """An image as the bytes of a file."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def repository(folder: Path, files: dict[str, bytes]) -> str:
    """A git repository with these files; its commit."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(folder), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder.mkdir(parents=True)
    git("init", "--quiet")
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    git("add", "--all")
    git("commit", "--quiet", "--message", "pictures")
    return git("rev-parse", "HEAD")
