"""
The rows of the result store -> the table that was asked for, whole or not at all.

Rows are in the order of their names' bytes; no more than a group of them is ever in memory.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from service.batch.files import Skipped, text
from service.batch.reader import Scored
from service.errors import SettingsInvalid
from service.inference.model_file import Label

# Of Parquet, whose readers skip by groups and read them in parallel; 24 MB of memory at most.
GROUP_ROWS: Final = 2**16
GROUP_CLASSES: Final = 2**20

Rows = Iterable[Scored]
Labels = Sequence[Label]
About = Mapping[str, str]


def write_jsonl(path: Path, rows: Rows, labels: Labels, about: About) -> None:
    """One object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_record(row, labels), ensure_ascii=False) + "\n")
        _to_disk(file)


def write_csv(path: Path, rows: Rows, labels: Labels, about: About) -> None:
    """The best class in columns, all of them as JSON in the last one."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = _csv(file)
        for number, row in enumerate(rows):
            record = _record(row, labels)
            if number == 0:
                table.writerow(record)
            *best, classes = record.values()
            table.writerow([*best, json.dumps(classes, ensure_ascii=False)])
        _to_disk(file)


def write_parquet(path: Path, rows: Rows, labels: Labels, about: About) -> None:
    """In groups; `about` is in the schema's metadata."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    best = [
        ("index", arrow.int32()),
        ("wordnet_id", arrow.string()),
        ("label", arrow.string()),
        ("probability", arrow.float32()),
    ]
    schema = arrow.schema(
        [("path", arrow.string()), *best, ("classes", arrow.list_(arrow.struct(best)))],
        metadata=dict(about),
    )
    names = arrow.array([label.name for label in labels], arrow.string())
    ids = arrow.array([label.wordnet_id for label in labels], arrow.string())

    def columns(group: Sequence[Scored], which: slice) -> list[Any]:
        index = arrow.array(np.concatenate([row.indices[which] for row in group]))
        probability = np.concatenate([row.probabilities[which] for row in group])
        return [index, ids.take(index), names.take(index), arrow.array(probability)]

    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as writer:
            for group in _groups(rows):
                offsets = np.cumsum([0, *(len(row.indices) for row in group)], dtype=np.int32)
                classes = arrow.StructArray.from_arrays(
                    columns(group, slice(None)), fields=list(arrow.struct(best))
                )
                arrays = [
                    arrow.array([text(row.name) for row in group], arrow.string()),
                    *columns(group, slice(1)),
                    arrow.ListArray.from_arrays(arrow.array(offsets), classes),
                ]
                writer.write_table(
                    arrow.Table.from_arrays(arrays, schema=schema), row_group_size=len(group)
                )
        _to_disk(file)


WRITERS: Final[dict[str, Callable[[Path, Rows, Labels, About], None]]] = {
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
}


def check(output: Path) -> None:
    """`SettingsInvalid` unless a table of this name can be written."""
    if output.suffix not in WRITERS:
        raise SettingsInvalid(
            f"--output {output}: its name must end in {', '.join(WRITERS)}, which says the format"
        )
    if not output.parent.is_dir():
        raise SettingsInvalid(f"--output {output}: there is no folder {output.parent}; make it")
    if output.suffix == ".parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            raise SettingsInvalid(
                "Parquet is written with pyarrow, which is not installed: scripts/install run "
                "parquet, or pip install pyarrow; .jsonl and .csv need nothing"
            ) from error


def write(output: Path, rows: Rows, labels: Labels, about: About) -> None:
    """Write the table, in the place of a file that may be there."""
    with replacing(output) as path:
        WRITERS[output.suffix](path, rows, labels, about)


def write_skipped(output: Path, skipped: Iterable[Skipped]) -> None:
    """A table of what has no scores, and why; CSV."""
    with replacing(output) as path, path.open("w", encoding="utf-8", newline="") as file:
        table = _csv(file)
        table.writerow(("path", "code", "error"))
        table.writerows((text(image.name), image.code, image.error) for image in skipped)
        _to_disk(file)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A path beside `output` to write to, which takes its place at the end."""
    path = output.with_name(output.name + ".writing")
    path.unlink(missing_ok=True)  # of a run that was killed; or a link, whose end is not ours
    try:
        yield path
        path.replace(output)
        _folder_to_disk(output.parent)
    finally:
        path.unlink(missing_ok=True)


def _csv(file: IO[str]) -> Any:
    """Texts in quotes, always: of those that end a line elsewhere, Python would miss some."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _record(row: Scored, labels: Labels) -> dict[str, Any]:
    """One row as JSON has it."""
    classes = [
        {
            "index": index,
            "wordnet_id": labels[index].wordnet_id,
            "label": labels[index].name,
            "probability": probability,
        }
        for index, probability in zip(row.indices.tolist(), row.probabilities.tolist(), strict=True)
    ]
    return {"path": text(row.name), **classes[0], "classes": classes}


def _groups(rows: Rows) -> Iterator[list[Scored]]:
    rest = iter(rows)
    for first in rest:
        size = min(GROUP_ROWS, max(1, GROUP_CLASSES // len(first.indices)))
        yield [first, *islice(rest, size - 1)]


def _to_disk(file: IO[Any]) -> None:
    """Before it takes the place of another."""
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    """A new name survives a power cut: the store, which could make it again, is deleted next."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
