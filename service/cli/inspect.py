"""
`alexnet inspect`: what a model file says about itself.
"""

import json
from typing import Annotated, Any, Final

import typer

from command_help import Status, epilog
from service.cli.options import AsJson
from service.console import clean, console

EPILOG: Final = epilog(
    {
        "alexnet inspect": "the bundled model",
        "alexnet inspect alexnet.onnx": "another file",
        "alexnet inspect | grep sha256": "in a pipe: a fact a line, a tab behind its name",
        "alexnet inspect --json": "the same as JSON",
    },
    Status.USAGE,
    done="the file is whole, and this service can read it",
    failed="it is missing, damaged, or not a model file of this service",
)


def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="The model file; the bundled one by default.", metavar="FILE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a model file: its network, its classes, its accuracy, its checksum.

    Prints one fact a line, in a pipe with a tab behind its name. The checksum is
    verified, the network is not run. The version that the server's answers bear is the
    first 12 digits of the checksum.
    """
    from service.inference.engine import inspect as read
    from service.settings import load_settings

    described = read(load_settings(model=model).model)
    facts: dict[str, Any] = {
        "file": str(described.path),
        "size": described.size_bytes,
        "sha256": described.sha256,
        **described.facts(),
        "classes": len(described.labels),
        "crops": dict(described.crops),
        "weights": described.weights,
        "accuracy": described.accuracy,
        "exporter": described.exporter,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.table import Table

    facts["size"] = f"{facts['size'] / 1e6:.1f} MB"
    facts["crops"] = ", ".join(facts["crops"])
    screen = console()
    if screen.is_terminal:
        facts["accuracy"] = _measured(facts["accuracy"])
        facts["exporter"] = ", ".join(f"{name} {text}" for name, text in facts["exporter"].items())
    lines = [line for name, value in facts.items() for line in _lines(name, value)]
    if not screen.is_terminal:
        print(*map("\t".join, lines), sep="\n")
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in lines:
        table.add_row(heading, text)
    screen.print(table)


def _measured(records: Any) -> Any:
    """A line for the figures of each record; what is said of several, once."""
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        return records
    texts = dict.fromkeys(
        (key, text)
        for record in records
        for key, text in record.items()
        if isinstance(text, str) and key != "crops"
    )
    figures = [{str(record.get("crops", "any crops")): _figures(record)} for record in records]
    return [*figures, *({key: text} for key, text in texts)]


def _figures(record: dict[str, Any]) -> str:
    shown = []
    for key, value in record.items():
        if isinstance(value, int | float):
            interval = record.get(f"{key}_interval")
            ends = interval if isinstance(interval, list) else []
            between = " to ".join(f"{end:.3g}" for end in ends if isinstance(end, int | float))
            shown.append(f"{key} {value:.3g}" + (f" ({between})" if between else ""))
    return ", ".join(shown)


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """A record as one line for each of its parts, a list as one for each of its records."""
    if value in ({}, []):
        return [(name, "not recorded")]
    if isinstance(value, dict):
        return [line for part, text in value.items() for line in _lines(f"{name}, {part}", text)]
    if isinstance(value, list) and isinstance(value[0], dict):
        return [line for record in value for line in _lines(name, record)]
    if isinstance(value, list):  # an interval
        value = " to ".join(map(str, value))
    return [(clean(name), clean(str(value)))]
