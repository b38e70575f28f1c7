"""
All rounds' records -> one row a case, as tables.

A figure is the median over the rounds; so is a ratio, each taken within its round.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]


class Column(NamedTuple):
    """A heading, the row's entry below it, and how it is written; unwritten where it is absent."""

    heading: str
    key: str
    form: str = ""


class Table(NamedTuple):
    """What is shown of the rows of some kinds."""

    title: str
    kinds: tuple[str, ...]
    columns: tuple[Column, ...]


LATENCIES = (
    Column("p50 ms", "p50", ".1f"),
    Column("p95 ms", "p95", ".1f"),
    Column("p99 ms", "p99", ".1f"),
)
LOAD = (Column("not answered", "lost"), Column("load's CPU", "cpu", ".0%"))
TABLES = (
    Table(
        "As many requests in flight as said, over HTTP, against the runtime alone",
        ("closed", "mixed"),
        (
            Column("case", "case"),
            Column("bare/s", "raw", ".1f"),
            Column("engine/s", "engine", ".1f"),
            Column("served/s", "rate", ".1f"),
            Column("served/bare", "ratio", ".2f"),
            *LATENCIES,
            *LOAD,
        ),
    ),
    Table(
        "Requests at random times, at a share of the rate above",
        ("open",),
        (
            Column("case", "case"),
            Column("intended/s", "offered", ".1f"),
            Column("sent/s", "sent", ".1f"),
            Column("served/s", "rate", ".1f"),
            *LATENCIES,
            *LOAD,
        ),
    ),
    Table(
        "A request alone",
        ("alone",),
        (
            Column("case", "case"),
            Column("bare ms", "raw_ms", ".1f"),
            Column("decoding ms", "decode_ms", ".1f"),
            Column("served ms", "p50", ".1f"),
            Column("extra ms", "extra_ms", ".1f"),
        ),
    ),
    Table(
        "The server's process",
        ("model",),
        (
            Column("model", "model"),
            Column("file MB", "file", ".0f"),
            Column("ready after s", "start", ".2f"),
            Column("resident MB", "resident", ".0f"),
            Column("peak MB", "peak", ".0f"),
        ),
    ),
    Table(
        "Decoding alone",
        ("decoding",),
        (
            Column("all cores, images/s", "rate", ".0f"),
            Column("typical, ms on one core", "typical_ms", ".2f"),
            Column("12 megapixels, ms on one core", "large_ms", ".1f"),
        ),
    ),
)


def rows(records: Iterable[Record]) -> list[Record]:
    """One row for each case, model, and for decoding, in the order of the first round."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        counts = [*record.get("refused", {}).values(), *record.get("failed", {}).values()]
        lost = {"lost": sum(counts)} if "refused" in record else {}
        name = record["case"] if "case" in record else record["model"]
        if record["kind"] == "decoding":
            name = ""  # the same for all models
        grouped.setdefault((record["kind"], name), []).append(record | lost)
    medians = [_median(group) for group in grouped.values()]
    alone = [row | {"kind": "alone"} for row in medians if "extra_ms" in row]
    return medians + alone


def cells(table: Table, rows: Sequence[Record]) -> list[list[str]]:
    """The texts of a table, a list for each of its rows."""
    return [
        [
            format(row[column.key], column.form) if column.key in row else ""
            for column in table.columns
        ]
        for row in rows
        if row["kind"] in table.kinds
    ]


def markdown(rows: Sequence[Record], heading: str) -> str:
    """All tables, fit for a README."""
    parts = [heading]
    for table in TABLES:
        if lines := cells(table, rows):
            headings = [column.heading for column in table.columns]
            rules = ["---" if column.form == "" else "---:" for column in table.columns]
            body = "\n".join(f"| {' | '.join(line)} |" for line in (headings, rules, *lines))
            parts.append(f"{table.title}:\n\n{body}")
    return "\n\n".join(parts)


def _median(group: Sequence[Record]) -> Record:
    """Medians of the numbers that the rounds differ in, sums of what was lost, the rest as is."""
    row = {}
    for key, first in group[0].items():
        values = [record[key] for record in group]
        if key == "lost":
            row[key] = sum(values)
        elif isinstance(first, float):
            row[key] = statistics.median(values)
        elif key not in ("round", "url", "seconds", "load", "requests", "answered"):
            row[key] = first
    return row
