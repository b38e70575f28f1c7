"""
The result store on disk: what has been scored so far.

It is `FILE.partial`, an SQLite database.  It has what resuming needs, in memory that does not grow:
what was written is whole after a crash or a power cut, a name is found at once, rows that came in
any order are read in that of their names, and it belongs to one process at a time, the lock going
when that does.  Labels are not in it, but in the model, whose checksum is.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from service.batch.files import Skipped
from service.batch.reader import Outcome, Scored
from service.errors import ServiceError

COMMIT_EVERY: Final = 1.0  # seconds of work that a crash may cost
APPLICATION: Final = 0x414C584E  # "ALXN": SQLite's own field for whose file this is

TABLES: Final = (
    "CREATE TABLE about (facts TEXT NOT NULL)",
    # little-endian int32 and float32, or why there are none
    "CREATE TABLE images (name BLOB PRIMARY KEY, indices BLOB, probabilities BLOB, "
    "code TEXT, error TEXT, features BLOB) WITHOUT ROWID",
)


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
