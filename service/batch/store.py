"""
What has been scored so far, on the disk, in `FILE.partial`: a database of SQLite's.

It has what resuming needs, in memory that does not grow: what was written is whole after a crash
or a power cut, a name is found at once, rows that came in any order are read in that of their
names, and it belongs to one process at a time, the lock going when that does.  Labels are not in
it, but in the model, whose checksum is.
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
    "code TEXT, error TEXT) WITHOUT ROWID",
)


class JournalUnusable(ServiceError):
    """The journal is in use, is another question's, or is no journal."""

    code = "journal_unusable"


class Journal:
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
        found = self._database.execute("SELECT 1 FROM images WHERE name = ?", (name,))
        return found.fetchone() is not None

    def add(self, outcome: Outcome) -> None:
        """Write an outcome down; it is on the disk within `COMMIT_EVERY` of the next one."""
        if isinstance(outcome, Scored):
            values = outcome.indices.astype("<i4"), outcome.probabilities.astype("<f4")
            rest: tuple[object, ...] = (*(part.tobytes() for part in values), None, None)
        else:
            rest = None, None, outcome.code, outcome.error
        added = self._database.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
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
        for name, indices, probabilities in self._database.execute(
            "SELECT name, indices, probabilities FROM images WHERE code IS NULL ORDER BY name"
        ):
            yield Scored(name, np.frombuffer(indices, "<i4"), np.frombuffer(probabilities, "<f4"))

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
def opened(path: Path, about: Mapping[str, object]) -> Iterator[Journal]:
    """
    The journal at `path`, empty or as an earlier run left it, with what was skipped forgotten.

    `about` is what scores depend on, fit for JSON.  Raises `JournalUnusable` if the journal is in
    use, is about something else, or is none.  What the block wrote is kept, however it ends.
    """
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        try:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("BEGIN EXCLUSIVE")
            found = database.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise JournalUnusable(
                f"Another process is writing {path}; wait for it, or choose another output."
            ) from error
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise
            found = None
        _begin_or_compare(database, found, path, dict(about))
        journal = Journal(database)
        try:
            yield journal
        finally:
            if database.in_transaction:
                database.execute("COMMIT")
    finally:
        database.close()


def _begin_or_compare(
    database: sqlite3.Connection, application: int | None, path: Path, about: dict[str, object]
) -> None:
    """Make the tables, or see that they are about the same."""
    if application == 0 and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        for table in TABLES:
            database.execute(table)
        database.execute("INSERT INTO about VALUES (?)", (json.dumps(about),))
        return
    if application != APPLICATION:
        raise JournalUnusable(
            f"{path} is not what this command writes there; move it away, or choose another output."
        )
    before = json.loads(database.execute("SELECT facts FROM about").fetchone()[0])
    differ = [key for key in about if before.get(key) != about[key]]
    if differ:
        changes = ", ".join(f"{key} {before.get(key)}, now {about[key]}" for key in differ)
        raise JournalUnusable(
            f"{path} was begun with another question ({changes}); ask the same, or delete it to "
            "begin anew."
        )
    database.execute("DELETE FROM images WHERE code IS NOT NULL")
