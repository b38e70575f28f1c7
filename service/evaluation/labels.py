"""
The images in a folder, and their labels.

The label comes from a table, if there is one: CSV with the columns `file`, a path below the folder,
and `label`, a WordNet id, a name or an index.  Else it is the outermost folder that is called like
a class; else the WordNet id that the file's name begins with.

Models are compared on the same images: those whose class every model knows.  The others are
counted, with the reason.

ImageNet's names are lists of synonyms ("tench, Tinca tinca"), each of which will do; some of them
belong to several classes ("crane").  Names of classes without a WordNet id are taken whole.
"""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.batch.files import Images, Skipped, none_in, text
from service.errors import ServiceError, SettingsInvalid
from service.inference.model_file import Label

COLUMNS: Final = ("file", "label")
FEW: Final = 5  # names that a message shows
WORDNET_ID: Final = re.compile(r"n[0-9]{8}(?![0-9])")
BETWEEN_WORDS: Final = re.compile(r"[\s_/\\]+")  # a folder's name cannot hold every sign

Table = Mapping[bytes, str]  # paths below the folder -> labels


class EvaluationFailed(ServiceError):
    """The models could not be measured on these images."""

    code = "evaluation_failed"


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


@dataclass(frozen=True)
class LabelledImages:
    """The images of a folder that have a label, before any model has run."""

    base: bytes  # the folder that names are relative to
    names: list[bytes]  # of the images, in the order of their bytes
    classes: NDArray[np.int32]  # (models, images): their indices in each model
    left_out: list[Skipped]
    others: int  # files that are no images, and hidden folders


class _Ambiguous(Exception):
    """A label means several classes; the arguments are the label and how to call each of them."""


def read_labels(folder: Path, models: Sequence[Classes], table: Path | None) -> LabelledImages:
    """
    The images in `folder` and the class of each, for each model.

    Raises `SettingsInvalid` for a folder, a table or names that cannot be used, and
    `EvaluationFailed` where no image has a label.
    """
    if not folder.is_dir():
        raise SettingsInvalid(f"{folder}: there is no such folder")
    images = Images([str(folder)])
    labels = None if table is None else _read_table(table)
    known: list[tuple[bytes, list[int]]] = []
    left_out: list[Skipped] = []
    ambiguous: dict[str, str] = {}
    for name in sorted(_names(images, labels, left_out)):
        candidates = _candidates(name, labels)
        try:
            indices = [
                _class_of(candidates, model, or_index=labels is not None) for model in models
            ]
        except _Ambiguous as error:
            ambiguous.setdefault(*error.args)
            continue
        known_to = [index for index in indices if index is not None]
        if len(known_to) == len(models):
            known.append((name, known_to))
        else:
            left_out.append(_without_class(name, candidates))
    if ambiguous:
        raise SettingsInvalid(_ambiguity(ambiguous, labels is None))
    if not known:
        raise EvaluationFailed(_no_label(folder, images, left_out))
    classes = np.array([indices for _, indices in known], np.int32).T
    names = [name for name, _ in known]
    return LabelledImages(images.base, names, classes, left_out, images.others)


def _names(images: Images, labels: Table | None, left_out: list[Skipped]) -> Iterator[bytes]:
    """The images in the folder, and those in the table wherever they are, each once."""
    names = set(labels or ())
    for name in images:
        if isinstance(name, Skipped):
            left_out.append(name)
        else:
            names.add(name)
    yield from names


def _candidates(name: bytes, labels: Table | None) -> list[str]:
    """What may be the label of an image, the most trusted first."""
    if labels is not None:
        return [labels[name]] if labels.get(name) else []
    *folders, file = map(text, name.split(b"/"))
    wordnet_id = WORDNET_ID.match(file)
    return [*folders, *([wordnet_id[0]] if wordnet_id else [])]


def _class_of(candidates: Sequence[str], classes: Classes, *, or_index: bool) -> int | None:
    """The first label that names one class; `_Ambiguous` if some name several and none only one."""
    ambiguous = None
    for label in candidates:
        indices = classes.called(label, or_index=or_index)
        if len(indices) == 1:
            return indices[0]
        if indices and ambiguous is None:
            calls = " or ".join(unmistakable(classes.labels[index], index) for index in indices)
            ambiguous = _Ambiguous(label, calls)
    if ambiguous is not None:
        raise ambiguous
    return None


def _without_class(name: bytes, candidates: Sequence[str]) -> Skipped:
    if not candidates:
        return Skipped(name, "unlabelled", "Nothing says what it shows.")
    called = " or ".join(map(repr, candidates))
    return Skipped(name, "label_unknown", f"No class of the model is called {called}.")


def _ambiguity(ambiguous: Mapping[str, str], by_folder: bool) -> str:
    """What to do about names of several classes."""
    names = "; ".join(f"{label!r} is {calls}" for label, calls in list(ambiguous.items())[:FEW])
    more = ", and more like these" if len(ambiguous) > FEW else ""
    remedy = (
        "rename the folder to the WordNet id, or give the labels in a table with --labels"
        if by_folder
        else "write that into the table instead of the name"
    )
    return f"names of several classes: {names}{more}; {remedy}"


def _no_label(folder: Path, images: Images, left_out: Sequence[Skipped]) -> str:
    """Why there is nothing to measure."""
    if not left_out:
        return none_in([folder])
    first = left_out[0]
    return (
        f"none of the {len(left_out)} images in {folder} is of a class that is known "
        f"({text(first.name)}: {first.error}); put them into folders called like the classes "
        "(WordNet ids or names), begin the files' names with the id, or give --labels with the "
        f"columns {','.join(COLUMNS)}"
    )


def _read_table(path: Path) -> dict[bytes, str]:
    """The table; each file once."""
    labels: dict[bytes, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise SettingsInvalid(
                    f"--labels {path}: the first line must name the columns file and label; "
                    f"there is no {' and no '.join(missing)}"
                )
            for row in rows:
                if "\0" in (row["file"] or ""):
                    raise SettingsInvalid(
                        f"--labels {path}, line {rows.line_num}: the name of a file cannot hold "
                        "the character NUL; write the table as UTF-8 without it"
                    )
                name = os.fsencode(os.path.normpath(row["file"] or ""))
                label = (row["label"] or "").strip()
                if labels.setdefault(name, label) != label:
                    raise SettingsInvalid(
                        f"--labels {path}, line {rows.line_num}: {row['file']} has another label "
                        "above; delete one of the two"
                    )
    except OSError as error:
        raise SettingsInvalid(f"--labels {path} cannot be read: {error.strerror}") from error
    except (UnicodeError, csv.Error, ValueError) as error:
        raise SettingsInvalid(f"--labels {path} is not CSV in UTF-8 ({error})") from error
    return labels
