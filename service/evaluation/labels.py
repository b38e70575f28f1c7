"""
The images in a folder, and what each of them shows.

A table says it, if there is one: CSV with the columns `file`, a path below the folder, and
`label`, a WordNet id, a name or an index.  Else the folders between do, the outermost one that is
called like a class; else the file's name, if it begins with a WordNet id.

Only images whose class every model knows are asked about, so that all are compared on the same
ones; the others are counted, with the reason.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.batch.files import SUFFIXES, Images, Skipped, text
from service.errors import ServiceError, SettingsInvalid
from service.evaluation.classes import WORDNET_ID, Classes, unmistakable

COLUMNS: Final = ("file", "label")
FEW: Final = 5  # names that a message shows

Table = Mapping[bytes, str]  # paths below the folder -> labels


class EvaluationFailed(ServiceError):
    """The models could not be measured on these images."""

    code = "evaluation_failed"


@dataclass(frozen=True)
class Truth:
    """What is known of the images before any model is asked."""

    base: bytes  # the folder that names are relative to
    names: list[bytes]  # of the images, in the order of their bytes
    classes: NDArray[np.int32]  # (models, images): their indices in each model
    left_out: list[Skipped]
    others: int  # files that are no images, and hidden folders


class _Ambiguous(Exception):
    """A label means several classes; the arguments are the label and how to call each of them."""


def read_truth(folder: Path, models: Sequence[Classes], table: Path | None) -> Truth:
    """Raises `SettingsInvalid` where nothing can be made of it, and `EvaluationFailed` where no
    image has a label."""
    if not folder.is_dir():
        raise SettingsInvalid(f"{folder}: there is no such folder")
    images = Images([str(folder)])
    labels = None if table is None else _read_table(table)
    known: list[tuple[bytes, list[int]]] = []
    left_out: list[Skipped] = []
    ambiguous: dict[str, str] = {}
    for name in sorted(_names(images, labels, left_out)):
        said = _said(name, labels)
        try:
            found = [_meant(said, classes, or_index=labels is not None) for classes in models]
        except _Ambiguous as error:
            ambiguous.setdefault(*error.args)
            continue
        places = [index for index in found if index is not None]
        if len(places) == len(models):
            known.append((name, places))
        else:
            left_out.append(_without_class(name, said))
    if ambiguous:
        raise SettingsInvalid(_which(ambiguous, labels is None))
    if not known:
        raise EvaluationFailed(_nothing(folder, images, left_out))
    classes = np.array([places for _, places in known], np.int32).T
    return Truth(images.base, [name for name, _ in known], classes, left_out, images.others)


def _names(images: Images, labels: Table | None, left_out: list[Skipped]) -> Iterator[bytes]:
    """The images in the folder, and those in the table wherever they are, each once."""
    found = set(labels or ())
    for one in images:
        if isinstance(one, Skipped):
            left_out.append(one)
        else:
            found.add(one)
    yield from found


def _said(name: bytes, labels: Table | None) -> list[str]:
    """What an image is called, the most trusted first."""
    if labels is not None:
        return [labels[name]] if labels.get(name) else []
    *folders, file = map(text, name.split(b"/"))
    begins = WORDNET_ID.match(file)
    return [*folders, *([begins[0]] if begins else [])]


def _meant(said: Sequence[str], classes: Classes, *, or_index: bool) -> int | None:
    """The first class that is named beyond doubt; `_Ambiguous` if there is none but a doubt."""
    doubt = None
    for label in said:
        found = classes.called(label, or_index=or_index)
        if len(found) == 1:
            return found[0]
        if found and doubt is None:
            calls = " or ".join(unmistakable(classes.labels[index], index) for index in found)
            doubt = _Ambiguous(label, calls)
    if doubt is not None:
        raise doubt
    return None


def _without_class(name: bytes, said: Sequence[str]) -> Skipped:
    if not said:
        return Skipped(name, "unlabelled", "Nothing says what it shows.")
    called = " or ".join(repr(label) for label in said)
    return Skipped(name, "label_unknown", f"No class of the model is called {called}.")


def _which(ambiguous: Mapping[str, str], by_folder: bool) -> str:
    """What to do about names of several classes."""
    names = "; ".join(f"{label!r} is {calls}" for label, calls in list(ambiguous.items())[:FEW])
    more = ", and more like these" if len(ambiguous) > FEW else ""
    what = (
        "rename the folder to the WordNet id, or give the labels in a table with --labels"
        if by_folder
        else "write that into the table instead of the name"
    )
    return f"names of several classes: {names}{more}; {what}"


def _nothing(folder: Path, images: Images, left_out: Sequence[Skipped]) -> str:
    """Why there is nothing to measure."""
    if not left_out:
        endings = ", ".join(map(text, SUFFIXES))
        return f"there is no image in {folder}; their names end in {endings}"
    one = left_out[0]
    return (
        f"none of the {len(left_out)} images in {folder} is of a class that is known "
        f"({text(one.name)}: {one.error}); put them into folders called like the classes "
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
