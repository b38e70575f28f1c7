"""
The result store on disk, then the table of scores.  The store has what has been scored so far, the
table is the one that was asked for.

The store is `FILE.partial`, an SQLite database.  It has what resuming needs, in memory that does
not grow: what was written is whole after a crash or a power cut, a name is found at once, rows that
came in any order are read in that of their names, and it belongs to one process at a time, the lock
going when that does.  Labels are not in it, but in the model, whose checksum is.

The table is `FILE`, .parquet, .jsonl or .csv, whole or not at all.  Rows are in the order of their
names' bytes; no more than a group of them is ever in memory.
"""

import csv
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from service.batch.files import Skipped, text
from service.batch.reader import Outcome, Scored
from service.errors import ServiceError, SettingsInvalid
from service.inference.model_file import Label
from service.inference.predictions import Prediction

COMMIT_EVERY: Final = 1.0  # seconds of work that a crash may cost
APPLICATION: Final = 0x414C584E  # "ALXN": SQLite's own field for whose file this is

TABLES: Final = (
    "CREATE TABLE about (facts TEXT NOT NULL)",
    # little-endian int32 and float32, or why there are none
    "CREATE TABLE images (name BLOB PRIMARY KEY, indices BLOB, probabilities BLOB, "
    "code TEXT, error TEXT, features BLOB) WITHOUT ROWID",
)

# Of Parquet, whose readers skip by groups and read them in parallel; 24 MB of memory at most.
GROUP_ROWS: Final = 2**16
GROUP_VALUES: Final = 2**20  # classes, and features

CLASS: Final = tuple(column.name for column in fields(Prediction))

Rows = Iterable[Scored]
Labels = Sequence[Label]
About = Mapping[str, str]


class StoreUnusable(ServiceError):
    """The result store is in use, belongs to other options, or is another kind of file."""

    code = "journal_unusable"


class ResultStore:
    """Outcomes by name; `opened` makes one, or goes on with the one that is there."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._committed = time.monotonic()
        self.scored = self._count("code IS NULL")
        self.skipped = self._count("code IS NOT NULL")
        self.before = self.scored  # of those, in a run before this one

    def _count(self, which: str) -> int:
        (number,) = self._database.execute(f"SELECT count(*) FROM images WHERE {which}").fetchone()
        return int(number)

    def __contains__(self, name: bytes) -> bool:
        rows = self._database.execute("SELECT 1 FROM images WHERE name = ?", (name,))
        return rows.fetchone() is not None

    def add(self, outcome: Outcome) -> None:
        """Write an outcome down; it is on the disk within `COMMIT_EVERY` of the next one."""
        if isinstance(outcome, Scored):
            features = outcome.features
            rest: tuple[object, ...] = (
                outcome.indices.astype("<i4").tobytes(),
                outcome.probabilities.astype("<f4").tobytes(),
                None,
                None,
                None if features is None else features.astype("<f4").tobytes(),
            )
        else:
            rest = None, None, outcome.code, outcome.error, None
        added = self._database.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (outcome.name, *rest),
        ).rowcount
        self.scored += added * isinstance(outcome, Scored)
        self.skipped += added * isinstance(outcome, Skipped)
        if time.monotonic() - self._committed > COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Have all that was added on the disk."""
        self._database.execute("COMMIT")
        self._database.execute("BEGIN")
        self._committed = time.monotonic()

    def rows(self) -> Iterator[Scored]:
        """Those with scores, in the order of their names' bytes."""
        for name, indices, probabilities, features in self._database.execute(
            "SELECT name, indices, probabilities, features FROM images WHERE code IS NULL "
            "ORDER BY name"
        ):
            yield Scored(
                name,
                np.frombuffer(indices, "<i4"),
                np.frombuffer(probabilities, "<f4"),
                None if features is None else np.frombuffer(features, "<f4"),
            )

    def without_scores(self) -> Iterator[Skipped]:
        """Those without, likewise."""
        for row in self._database.execute(
            "SELECT name, code, error FROM images WHERE code IS NOT NULL ORDER BY name"
        ):
            yield Skipped(*row)

    def reasons(self) -> dict[str, int]:
        """How many were skipped for which code, the most frequent first."""
        return dict(
            self._database.execute(
                "SELECT code, count(*) FROM images WHERE code IS NOT NULL GROUP BY code "
                "ORDER BY count(*) DESC, code"
            )
        )


@contextmanager
def opened(path: Path, options: Mapping[str, object]) -> Iterator[ResultStore]:
    """
    The store at `path`, empty or as an earlier run left it, with what was skipped forgotten.

    `options` is what scores depend on, fit for JSON.  Raises `StoreUnusable` if the store is in
    use, has other options, or is another kind of file.  What the block wrote is kept, however it
    ends.
    """
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("BEGIN EXCLUSIVE")
            application = database.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise StoreUnusable(
                f"Another process is writing {path}; wait for it, or choose another output."
            ) from error
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            application = None
        _begin_or_compare(database, application, path, dict(options))
        store = ResultStore(database)
        try:
            yield store
        finally:
            if database.in_transaction:
                database.execute("COMMIT")
    finally:
        database.close()


def _begin_or_compare(
    database: sqlite3.Connection, application: int | None, path: Path, options: dict[str, object]
) -> None:
    """Make the tables, or check that they have the same options."""
    if application == 0 and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        for table in TABLES:
            database.execute(table)
        database.execute("INSERT INTO about VALUES (?)", (json.dumps(options),))
        return
    if application != APPLICATION:
        raise StoreUnusable(
            f"{path} is not what this command writes there; move it away, or choose another output."
        )
    before = json.loads(database.execute("SELECT facts FROM about").fetchone()[0])
    changed = [key for key in options if before.get(key) != options[key]]
    if changed:
        changes = ", ".join(f"{key} {before.get(key)}, now {options[key]}" for key in changed)
        raise StoreUnusable(
            f"{path} was begun with other options ({changes}); use the same, or delete it to "
            "begin again."
        )
    database.execute("DELETE FROM images WHERE code IS NOT NULL")


def write_jsonl(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """One object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_record(row, labels), ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """The best class in columns; all classes, and features, as JSON in the last ones."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = _csv(file)
        table.writerow(("path", *CLASS, "classes", *(["features"] if features else [])))
        for row in rows:
            table.writerow(
                json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for value in _record(row, labels).values()
            )


def write_parquet(path: Path, rows: Rows, labels: Labels, about: About, features: int) -> None:
    """In groups; `about` is in the schema's metadata."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = arrow.int32(), arrow.string(), arrow.string(), arrow.float32()
    best = list(zip(CLASS, kinds, strict=True))
    row_fields = [("path", arrow.string()), *best, ("classes", arrow.list_(arrow.struct(best)))]
    if features:
        row_fields.append(("features", arrow.list_(arrow.float32(), features)))
    schema = arrow.schema(row_fields, metadata=dict(about))
    names = arrow.array([label.name for label in labels], arrow.string())
    ids = arrow.array([label.wordnet_id for label in labels], arrow.string())

    def columns(group: Sequence[Scored], which: slice) -> list[Any]:
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


def _record(row: Scored, labels: Labels) -> dict[str, Any]:
    """One row as JSON has it."""
    classes = [
        vars(Prediction(index, labels[index].wordnet_id, labels[index].name, probability))
        for index, probability in zip(row.indices.tolist(), row.probabilities.tolist(), strict=True)
    ]
    record = {"path": text(row.name), **classes[0], "classes": classes}
    return record if row.features is None else record | {"features": row.features.tolist()}


def _groups(rows: Rows) -> Iterator[list[Scored]]:
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
