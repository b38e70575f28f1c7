"""
How a class can be named: by its WordNet id, its name, its index.

ImageNet's names are lists of synonyms ("tench, Tinca tinca"), each of which will do; some of them
belong to several classes ("crane").  Names of classes without a WordNet id are taken whole.
"""

import re
from collections.abc import Sequence
from typing import Final

from service.inference.model_file import Label

WORDNET_ID: Final = re.compile(r"n[0-9]{8}(?![0-9])")
BETWEEN_WORDS: Final = re.compile(r"[\s_/\\]+")  # a folder's name cannot hold every sign


class Classes:
    """The classes of one model, by what people call them."""

    def __init__(self, labels: Sequence[Label]) -> None:
        self.labels = labels
        self._ids: dict[str, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            names = {plain(label.name)}
            if label.wordnet_id is not None:
                self._ids.setdefault(label.wordnet_id, []).append(index)
                names |= {plain(name) for name in label.name.split(",")}
            for name in names - {""}:
                self._names.setdefault(name, []).append(index)

    def called(self, text: str, *, or_index: bool = False) -> Sequence[int]:
        """
        The indices of the classes that `text` may mean: none, one, or several.

        Case does not matter, `_` is a space; a number may be the index of a class if `or_index`,
        unless a class is called so.
        """
        text = text.strip()
        indices = self._ids.get(text) or self._names.get(plain(text)) or []
        if not indices and or_index and text.isascii() and text.isdecimal():
            # No index has more digits; int() refuses numbers of thousands.
            index = int(text) if len(text) < len(str(len(self.labels))) + 1 else len(self.labels)
            return [index] if index < len(self.labels) else []
        return indices


def plain(name: str) -> str:
    """A name without what people write differently: case, `_` and spaces."""
    return BETWEEN_WORDS.sub(" ", name).strip().casefold()


def unmistakable(label: Label, index: int) -> str:
    """How to name a class for certain, in a table of labels."""
    return label.wordnet_id or str(index)
