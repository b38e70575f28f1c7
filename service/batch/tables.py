"""
The tables of scores, as they were asked for, one row of `WRITERS` each.

A table is whole or not there at all.  Rows are in the order of their names' bytes; no more than a
group of them is ever in memory.

`--help` reads which there are: so nothing heavy is imported here before it is used.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from service.batch.files import Skipped, text
from service.errors import SettingsInvalid

if TYPE_CHECKING:
    from service.batch.reader import Scored
    from service.inference.model_file import Label

# Of Parquet, whose readers skip by groups and read them in parallel; 24 MB of memory at most.
GROUP_ROWS: Final = 2**16
GROUP_VALUES: Final = 2**20  # classes, and features

Rows = Iterable["Scored"]
Labels = Sequence["Label"]
About = Mapping[str, str]


def write_jsonl(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """One object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_record(row, labels), ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """The best class in columns; all classes, and features, as JSON in the last ones."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = _csv(file)
        for number, record in enumerate(_record(row, labels) for row in rows):
            if not number:
                table.writerow(record)  # its keys
            table.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for value in record.values()
            )


def write_parquet(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """In groups; `about` is in the schema's metadata."""
    import numpy as np

    from service.inference.predictions import Prediction

    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = arrow.int32(), arrow.string(), arrow.string(), arrow.float32()
    best = [(field.name, kind) for field, kind in zip(fields(Prediction), kinds, strict=True)]
    row_fields = [("path", arrow.string()), *best, ("classes", arrow.list_(arrow.struct(best)))]
    if features:
        row_fields.append(("features", arrow.list_(arrow.float32(), features)))
    schema = arrow.schema(row_fields, metadata=dict(about))
    names = arrow.array([label.name for label in labels], arrow.string())
    ids = arrow.array([label.wordnet_id for label in labels], arrow.string())

    def columns(group: Sequence["Scored"], which: slice) -> list[Any]:
        index = arrow.array(np.concatenate([row.indices[which] for row in group]))
        probability = np.concatenate([row.probabilities[which] for row in group])
        return [index, ids.take(index), names.take(index), arrow.array(probability)]

    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
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
            if features:
                values = np.concatenate([row.features for row in group])
                arrays.append(arrow.FixedSizeListArray.from_arrays(values, features))
            writer.write_table(
                arrow.Table.from_arrays(arrays, schema=schema), row_group_size=len(group)
            )


WRITERS: Final[dict[str, Callable[[Path, Rows, Labels, About, int], None]]] = {
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
}


def check(output: Path) -> None:
    """`SettingsInvalid` unless a table of this name can be written."""
    check_output("--output", output, *WRITERS)
    if output.suffix == ".parquet":
        try:
            import_module("pyarrow.parquet")
        except ImportError as error:
            raise SettingsInvalid(
                "Parquet is written with pyarrow, which is not installed: scripts/install run "
                "parquet, or pip install pyarrow; .jsonl and .csv need nothing"
            ) from error


def check_output(option: str, path: Path, *suffixes: str) -> None:
    """`SettingsInvalid` unless a file of this name can be written."""
    if path.suffix not in suffixes:
        raise SettingsInvalid(f"{option} {path}: its name must end in {', '.join(suffixes)}")
    if path.is_dir():
        raise SettingsInvalid(f"{option} {path}: this is a folder; choose the name of a file")
    if not path.parent.is_dir():
        raise SettingsInvalid(f"{option} {path}: there is no folder {path.parent}; make it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise SettingsInvalid(
            f"{option} {path}: the folder {path.parent} cannot be written to; choose another"
        )


def write(output: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """Write the table, in the place of a file that may be there; each row has so many features."""
    with replacing(output) as path:
        WRITERS[output.suffix](path, rows, labels, about, features)


def write_skipped(output: Path, skipped: Iterable[Skipped]) -> None:
    """A table of what has no scores, and why; CSV."""
    with replacing(output) as path, path.open("w", encoding="utf-8", newline="") as file:
        table = _csv(file)
        table.writerow(("path", "code", "error"))
        table.writerows((text(image.name), image.code, image.error) for image in skipped)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A path beside `output` to write to, which takes its place at the end."""
    path = output.with_name(output.name + ".writing")
    path.unlink(missing_ok=True)  # of a run that was killed; or a link, whose end is another's
    try:
        yield path
        _to_disk(path)
        path.replace(output)
        # A new name survives a power cut: the store, which could make it again, is deleted next.
        _to_disk(output.parent)
    finally:
        path.unlink(missing_ok=True)


def _csv(file: IO[str]) -> Any:
    """Texts in quotes, always: of those that end a line elsewhere, Python would miss some."""
    return csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _record(row: "Scored", labels: Labels) -> dict[str, Any]:
    """One row as JSON has it."""
    from service.inference.predictions import Prediction

    classes = [
        vars(Prediction(index, labels[index].wordnet_id, labels[index].name, probability))
        for index, probability in zip(row.indices.tolist(), row.probabilities.tolist(), strict=True)
    ]
    record = {"path": text(row.name), **classes[0], "classes": classes}
    return record if row.features is None else record | {"features": row.features.tolist()}


def _groups(rows: Rows) -> Iterator[list["Scored"]]:
    rest = iter(rows)
    for first in rest:
        values = len(first.indices) + (0 if first.features is None else len(first.features))
        size = min(GROUP_ROWS, max(1, GROUP_VALUES // values))
        yield [first, *islice(rest, size - 1)]


def _to_disk(path: Path) -> None:
    """A file's bytes, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
