"""
How much of the runtime's speed reaches HTTP clients; Linux.  Latencies are measured too.

    scripts/bench [--quick] [--only TEXT] [--output bench.json] [--markdown]
    scripts/bench --beside naive        against a twelve-line FastAPI server: see beside.py

Measured are the full-size network (61.1 million parameters, made from compact weights), in fp32 and
in int8, and the bundled model, for every choice of crops: a closed loop at 1, 8 and 32 in flight,
the same with some images of 12 megapixels, and an open loop at shares of the best rate.  The
runtime alone, the server and the load on it are three processes, on the same cores.  About
20 minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from service.errors import ServiceError

from . import beside as beside_naive
from . import machine, models, photographs, summary
from .processes import end_politely
from .rounds import Plan, measure

progress = Console(stderr=True, highlight=False, soft_wrap=True)


def bench(
    model: Annotated[
        list[Path] | None, typer.Option(help="Measure these files instead; may be repeated.")
    ] = None,
    weights: Annotated[
        Path, typer.Option(help="The compact weights that are made full-size.")
    ] = models.BUNDLED,
    images: Annotated[
        Path | None,
        typer.Option("--pictures", help="A folder of at least 50 JPEGs; by default the package's."),
    ] = None,
    crops: Annotated[
        list[str] | None, typer.Option(help="Only this choice of crops; may be repeated.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Medians are taken over so many.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load.")] = 2.0,
    quick: Annotated[bool, typer.Option(help="One short round, to try it out.")] = False,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    work: Annotated[
        Path | None, typer.Option(help="Keep the full-size models here for the next time.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write everything here, as JSON.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown.")
    ] = False,
    beside: Annotated[
        Literal["naive"] | None,
        typer.Option(
            help="Measure the bundled model against this server instead, 5 rounds of 3 s."
        ),
    ] = None,
) -> None:
    """Measure the service against the bare runtime, side by side."""
    if beside is not None:
        for line in beside_naive.table(images, crops, 1 if quick else max(rounds, 5), seconds + 1):
            print(line, flush=True)
        return
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-bench-")))
        progress.print("preparing images and models")
        plan = Plan(
            models={file.stem: file.resolve() for file in model}
            if model
            else models.default(weights.resolve(), device, (work or scratch).resolve()),
            photographs=photographs.prepare(images, scratch / "pictures"),
            device=device,
            rounds=1 if quick else rounds,
            seconds=min(seconds, 0.5) if quick else seconds,
            **({"waves": 2} if quick else {}),
            crops=tuple(crops or ()),
            only=only,
        )
        records = list(measure(plan, progress.print))
    provider = next(record["provider"] for record in records if "provider" in record)
    results: dict[str, Any] = {
        "machine": machine.describe(provider),
        "pictures": plan.photographs.about,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "rows": summary.rows(records),
        "records": records,
    }
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")
    _show(results, as_markdown)


def _show(results: dict[str, Any], as_markdown: bool) -> None:
    heading = (
        f"{machine.sentence(results['machine'])}; {results['pictures']}; "
        f"medians of {results['rounds']} round{'s' * (results['rounds'] > 1)}."
    )
    if as_markdown:
        print(summary.markdown(results["rows"], heading))
        return
    # Wide enough for every column when the output is a file.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(heading, soft_wrap=True)
    for table in summary.TABLES:
        if lines := summary.cells(table, results["rows"]):
            shown = Table(title=table.title, title_justify="left", box=None)
            for column in table.columns:
                shown.add_column(column.heading, justify="right" if column.form else "left")
            for line in lines:
                shown.add_row(*line)
            console.print(shown)


if __name__ == "__main__":
    end_politely()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench)
    try:
        app()
    except ServiceError as error:
        sys.exit(f"serving.py: {error}")
