"""
A set's images, out of its git repository at one commit.

Nothing is checked out, and git verifies the bytes: an object's name is its hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from model_export.image_formats import readable_formats
from model_training.distillation.sources import ImageSet, Source
from model_training.errors import TrainingError

# Not all that the table of formats has: the images that sets.toml counts, which the bundled model
# was made of, were found by these.
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
LARGEST = 4 * 2**20  # bytes of a file
SMALLEST = 32  # pixels of the shorter side; below it there is nothing to see
LARGE = 640  # pixels; a shorter side beyond it is brought to 512, which a crop of 224 needs at most


@dataclass(frozen=True)
class Entry:
    """An image in the repository; ``blob`` names its bytes: git's hash of them, 40 hex digits, or
    commit:path."""

    path: str
    blob: str


def clone(source: Source, folder: Path) -> Path:
    """The source's git directory in ``folder``, with its one commit; fetched if it is not there."""
    place = folder / source.repository.replace("/", "+")
    for candidate in (place, place / ".git", place / "repo", place / "repo" / ".git"):
        if (candidate / "objects").is_dir() and _holds(candidate, source.commit):
            return candidate
    place.mkdir(parents=True, exist_ok=True)
    _git(place, "init", "--quiet", "--bare")
    _git(place, "fetch", "--quiet", "--depth", "1", source.url, source.commit)
    return place


def entries(images: ImageSet, repository: Path) -> list[Entry]:
    """The set's images of less than 4 MiB, each content once, in an order that is the same
    everywhere."""
    listing = _git(repository, "ls-tree", "-r", "-l", "-z", images.commit)
    by_blob: dict[str, Entry] = {}
    for line in listing.decode("utf-8", "replace").split("\0")[:-1]:
        kind, path = line.split("\t", 1)
        _, sort, blob, size = kind.split()
        if sort != "blob" or not path.lower().endswith(ENDINGS) or not images.takes(path):
            continue
        if size.isdigit() and int(size) < LARGEST:  # what the clone lacks has none
            by_blob.setdefault(blob, Entry(path, blob))
    return sorted(by_blob.values(), key=lambda entry: hashlib.sha1(entry.blob.encode()).digest())


def contents(repository: Path, requested: Sequence[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """Each image's bytes, one after the other."""
    command = ["git", "--git-dir", str(repository), "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        assert git.stdin is not None
        assert git.stdout is not None
        for entry in requested:
            with suppress(BrokenPipeError):  # git has ended, and then there is no header
                git.stdin.write(entry.blob.encode() + b"\n")
                git.stdin.flush()
            header = git.stdout.readline().split()
            if not header or header[-1] == b"missing":
                with suppress(BrokenPipeError):
                    git.stdin.close()
                raise TrainingError(
                    f"{entry.path} is not in {repository}: it is no whole clone, or a damaged one; "
                    "delete it, and it is fetched again"
                )
            size = int(header[-1])
            yield entry, git.stdout.read(size)
            git.stdout.read(1)
        git.stdin.close()


def read_file(repository: Path, commit: str, path: str) -> bytes:
    """The bytes of one file at a commit."""
    return _git(repository, "cat-file", "blob", f"{commit}:{path}")


def decode(data: bytes) -> Image.Image | None:
    """The image in RGB, no larger than its crops need; None if it cannot be decoded or is tiny."""
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as file:
            file.draft("RGB", (512, 512))
            image = ImageOps.exif_transpose(file).convert("RGB")
    except Exception:  # Pillow's decoders raise anything
        return None
    shorter = min(image.size)
    if shorter < SMALLEST:
        return None
    if shorter > LARGE:
        width, height = (round(length * 512 / shorter) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return image


def _git(repository: Path, *arguments: str) -> bytes:
    command = ["git", "--git-dir", str(repository), *arguments]
    try:
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},  # do not ask for a password
        ).stdout
    except FileNotFoundError as error:
        raise TrainingError("git is not installed; the image sets are git repositories") from error
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.decode("utf-8", "replace").split())
        raise TrainingError(
            f"git {arguments[0]} failed in {repository} ({message}); clone the set there by hand, "
            "or take it out of the manifest"
        ) from error


def _holds(repository: Path, commit: str) -> bool:
    command = ["git", "--git-dir", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
