"""
Predictions -> standard output: bars, lines or JSON.  Bars are for a person, lines and JSON for
programs; each comes as it is made.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final

from service.batch.files import text
from service.console import clean, console
from service.errors import ServiceError
from service.inference.engine import Engine
from service.inference.predictions import Outcome, Prediction, answer, entry

if TYPE_CHECKING:
    from rich.console import Console

WIDE: Final = 76  # columns from which on there is room for the WordNet id


class Output:
    """Counts the images; the classes below print their outcomes, each in its own way."""

    screen: "Console | None" = None  # the terminal, if that is where answers are printed

    def __init__(self, engine: Engine, crops: str) -> None:
        self.engine, self.crops = engine, crops
        self.images = self.refused = 0

    def add(self, name: str, outcome: Outcome) -> None:
        """Print the outcome of an image."""
        self.images += 1
        if isinstance(outcome, ServiceError):
            self.refused += 1
            self._refuse(name, outcome)
        else:
            self._answer(name, outcome)

    def end(self) -> None:
        """Called after the last image."""

    def _refuse(self, name: str, error: ServiceError) -> None:
        print(clean(f"{name}: {error}"), file=sys.stderr, flush=True)

    def _answer(self, name: str, best: list[Prediction]) -> None:
        raise NotImplementedError


class Bars(Output):
    """For a person: as wide as the terminal, in the characters that it has."""

    def __init__(self, engine: Engine, crops: str) -> None:
        super().__init__(engine, crops)
        self.screen = console()

    def _answer(self, name: str, best: list[Prediction]) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self.screen is not None
        width = max(8, min(32, self.screen.width // 4))
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(width=width)
        table.add_column(overflow="fold")
        if wide := self.screen.width >= WIDE:
            table.add_column(style="dim", no_wrap=True)
        for prediction in best:
            bar = ProgressBar(
                total=1.0,
                completed=prediction.probability,
                width=width,
                complete_style="cyan",
                finished_style="cyan",
            )
            row = f"{100 * prediction.probability:5.1f} %", bar, clean(prediction.label)
            table.add_row(*row, *([prediction.wordnet_id or ""] if wide else []))
        self.screen.print(Text(clean(name), style="bold", overflow="fold"))
        self.screen.print(table, "", sep="\n")


class Lines(Output):
    """For cut and awk: name, probability, WordNet id and class, with tabs between."""

    def _answer(self, name: str, best: list[Prediction]) -> None:
        for prediction in best:
            probability = f"{prediction.probability:.4f}"
            fields = name, probability, prediction.wordnet_id or "-", prediction.label
            print(*map(clean, fields), sep="\t")
        sys.stdout.flush()


class JsonLines(Output):
    """One object a line; an image without an answer has its error there, as in the server's."""

    def _answer(self, name: str, outcome: Outcome) -> None:
        self._print(entry(text(os.fsencode(name)), outcome))

    def _refuse(self, name: str, error: ServiceError) -> None:
        self._answer(name, error)

    def _print(self, entry: dict[str, Any]) -> None:
        print(json.dumps(entry), flush=True)


class Document(JsonLines):
    """The server's answer, one document, written as it grows."""

    def __init__(self, engine: Engine, crops: str) -> None:
        super().__init__(engine, crops)
        empty = answer(engine.model, crops, [])
        self._head, self._tail = json.dumps(empty, indent=2).rsplit("]", 1)
        self._before = self._head + "\n"

    def _print(self, entry: dict[str, Any]) -> None:
        shown = indent(json.dumps(entry, indent=2), " " * 4)
        print(self._before + shown, end="", flush=True)
        self._before = ",\n"

    def end(self) -> None:
        """Close it: a document that was interrupted stays open, and does not look complete."""
        if self.images:
            print(f"\n  ]{self._tail}")


@contextmanager
def writer(engine: Engine, crops: str, *, as_json: bool, json_lines: bool) -> Iterator[Output]:
    """The output that the flags choose, or else what suits standard output."""
    if as_json or json_lines:
        output: Output = (Document if as_json else JsonLines)(engine, crops)
    elif console().is_terminal:
        output = Bars(engine, crops)
    else:
        output = Lines(engine, crops)
    yield output
    output.end()
