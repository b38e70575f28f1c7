"""The public sets of images, as ``sets.toml`` lists them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from model_training.errors import TrainingError

MANIFEST = Path(__file__).with_name("sets.toml")


@dataclass(frozen=True)
class Source:
    """A public git repository at one commit."""

    name: str
    repository: str  # owner/name on GitHub
    commit: str
    licence: str
    shows: str

    @property
    def url(self) -> str:
        """Where git fetches it from."""
        return f"https://github.com/{self.repository}"


@dataclass(frozen=True)
class ImageSet(Source):
    """Images to learn from, and how many crops of each are taken."""

    paths: str  # a regular expression: which of the repository's files are the images
    images: int  # found there when the bundled model was made
    crops: float  # for each image; 1.5 is one or two
    smallest: float  # a crop's smallest share of the image's area

    def takes(self, path: str) -> bool:
        """Whether a file of the repository is one of the images."""
        return re.search(self.paths, path) is not None


@dataclass(frozen=True)
class Validation(Source):
    """Labelled photographs that choose between recipes and set the softmax's temperature."""

    labels: str  # one of its files: lines of "path, class index", the path as seen from there


@dataclass(frozen=True)
class Manifest:
    """All that images are taken from."""

    sets: tuple[ImageSet, ...]
    validation: Validation


def read_manifest(path: Path = MANIFEST) -> Manifest:
    """What the file lists, in its order; ``TrainingError`` names what is wrong with it."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        sets = tuple(ImageSet(**table) for table in tables["set"])
        return Manifest(sets, Validation(**tables["validation"]))
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is no manifest of image sets ({error}); model_training/distillation/"
            "sets.toml is one"
        ) from error
