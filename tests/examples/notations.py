"""
Blocks that are data -> whether they are what they are called.

Each language has a real parser; one that has none here is a fault, so that it is not overlooked.
"""

from __future__ import annotations

import configparser
import csv
import io
import json
import sqlite3
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.examples import answers, claims
from tests.support.servers import PATIENCE


def fault(language: str, source: str, folder: Path) -> str | None:
    """What is wrong with a block of data; `folder` is where the page's files are."""
    if language == "":
        return "say in which language it is written: sh, python, json, text, ..."
    if language == "text":
        return "it is no command's answer: put it directly after one, or say why it cannot be run"
    if language not in _PARSERS:
        return f"nothing here reads {language}: teach tests/examples/notations.py, or mark it"
    try:
        _PARSERS[language](source, folder)
    except claims.Missing:
        raise
    except Exception as error:  # whatever each parser raises
        return f"not {language}: {error}"
    return None


def _json(source: str, folder: Path) -> None:
    json.loads(answers.filled_in(source))


def _yaml(source: str, folder: Path) -> None:
    assert list(yaml.safe_load_all(source)) != [None], "there is nothing in it"


def _toml(source: str, folder: Path) -> None:
    tomllib.loads(source)


def _ini(source: str, folder: Path) -> None:
    reader = configparser.ConfigParser(strict=False, interpolation=None)
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    reader.read_string(source)


def _csv(source: str, folder: Path) -> None:
    rows = list(csv.reader(io.StringIO(source)))
    assert len({len(row) for row in rows}) == 1, "its rows are of different lengths"


def _js(source: str, folder: Path) -> None:
    _checked(["node", "--check", "-"], source)


def _promql(source: str, folder: Path) -> None:
    queries = [query for query in source.strip().split("\n\n") if query]
    rules = [{"record": f"query_{i}", "expr": query} for i, query in enumerate(queries)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}, file)
        file.flush()
        _checked(["promtool", "check", "rules", file.name])


def _sql(source: str, folder: Path) -> None:
    """Runs against the tables in files that it names, which the page has made by then."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    with sqlite3.connect(":memory:") as database:
        for path in folder.glob("*.parquet"):
            if path.name in source:
                rows = parquet.read_table(path).to_pylist()
                columns = ", ".join(f'"{name}"' for name in rows[0])
                database.execute(f"CREATE TABLE '{path.name}' ({columns})")
                database.executemany(
                    f"INSERT INTO '{path.name}' VALUES ({', '.join('?' * len(rows[0]))})",
                    [
                        [str(value) if isinstance(value, list) else value for value in row.values()]
                        for row in rows
                    ],
                )
        database.executescript(source)
    database.close()


def _checked(command: list[str], source: str | None = None) -> None:
    claims.needs(command[0])
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr or done.stdout


_PARSERS: dict[str, Callable[[str, Path], None]] = {
    "csv": _csv,
    "ini": _ini,
    "js": _js,
    "json": _json,
    "promql": _promql,
    "sql": _sql,
    "toml": _toml,
    "yaml": _yaml,
}
