"""
`alexnet doctor`: the checks that `alexnet serve` makes when it starts, reported together.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from service.cli.exit_codes import Status, epilog
from service.cli.options import AsJson
from service.cli.settings_options import takes_settings
from service.console import clean, console
from service.errors import ProviderUnusable, ServiceError

if TYPE_CHECKING:
    from service.inference.engine import Engine

EPILOG: Final = epilog(
    {
        "alexnet doctor": "would alexnet serve start here?",
        "alexnet doctor --port 8080 --device cuda": "and with these flags?",
        "alexnet doctor --json": "for programs",
    },
    Status.USAGE,
    done="it would start, and be usable; there may be warnings",
    failed="it would not, or could not be used; each problem says what to do",
)
WIDEST: Final = 10_000  # columns, where there is no terminal
SIGNS: Final = {"ok": "✓+", "warning": "!!", "failed": "✗x"}  # the second where only ASCII is known
COLOURS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}


class Finding(NamedTuple):
    """What a check found; `remedy` is what to do about it."""

    check: str
    verdict: str  # one of SIGNS; with a warning the server starts all the same
    found: str
    remedy: str | None = None


def doctor(as_json: bool = False, **flags: str | None) -> None:
    """Check what a server needs here, and say what to fix.

    Looks at the settings, keys and certificates, Python and its packages, the runtime,
    the model file, the device, cores, memory, open files and the port, and goes on to
    the next one whatever it finds. Takes the flags of alexnet serve, and the same
    variables. Prints a line for each, and below it what to do.
    """
    findings = list(_examine(flags))
    well = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        keys = ("check", "verdict", "found", "mend")
        checks = [dict(zip(keys, finding, strict=True)) for finding in findings]
        typer.echo(json.dumps({"well": well, "checks": checks}, indent=2))
    else:
        _print(findings)
    if not well:
        raise typer.Exit(Status.FAILED)


takes_settings(doctor, as_json=AsJson)


def _examine(flags: Mapping[str, str | None]) -> Iterator[Finding]:
    """All the findings, in the order in which a server would meet them."""
    from service.cli import checks

    environment = dict(os.environ)
    settings, faults = checks.usable_settings(flags)
    for fault in faults:
        remedy = "correct it, or leave it out for its default"
        yield Finding("settings", "failed", fault.rstrip("."), remedy)
    yield from _run("settings", checks.variables, environment, faults)
    yield from _run("python", checks.python)
    yield from _run("packages", checks.packages)
    for check in (checks.keys, checks.certificate, checks.tracing, checks.cores, checks.files):
        yield from _run(check.__name__, check, settings)
    yield from _run("runtime", checks.runtime)
    engines: list[Engine] = []
    whole = [*_run("model", checks.model_file, settings)]
    yield from whole
    if whole[0].verdict == "ok":
        yield from _run("model", checks.network, settings, engines.append)
    for engine in engines:
        yield from _run("provider", checks.provider, engine)
    yield from _run("memory", checks.memory, settings, *engines)
    yield from _run("port", checks.port, settings)
    yield from _run("admin port", checks.port, settings, "admin_")


def _run(name: str, check: Callable[..., str | None], *arguments: Any) -> Iterator[Finding]:
    """What a check returns, raises and logs; an error, whichever it is, ends this check only."""
    logged = BufferingHandler(capacity=1000)
    logged.setLevel(logging.WARNING)
    logging.getLogger().addHandler(logged)
    try:
        if found := check(*arguments):
            yield Finding(name, "ok", found)
    except ServiceError as error:
        name = "provider" if isinstance(error, ProviderUnusable) else name
        found, remedy = _parts(str(error).rstrip("."))
        yield Finding(name, "failed", found, remedy or "correct it, or leave the setting out")
    except Exception as error:  # the other checks are wanted all the same
        found = f"this check itself has failed ({type(error).__name__}: {error})"
        yield Finding(name, "failed", found, "report it")
    finally:
        logging.getLogger().removeHandler(logged)
    for record in logged.buffer:
        yield Finding(name, "warning", *_parts(record.getMessage()))


def _parts(message: str) -> tuple[str, str]:
    """What is wrong and, behind a semicolon, what to do."""
    found, _, remedy = message.partition("; ")
    return found, remedy


def _print(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check, verdict, found, remedy in findings:
        sign = SIGNS[verdict][0 if screen.encoding.startswith("utf") else 1]
        text = Text(clean(found))
        if remedy:
            text.append(f"\n-> {clean(remedy)}", style=COLOURS[verdict])
        table.add_row(Text(sign, style=COLOURS[verdict]), check, text)
    if screen.is_terminal:
        screen.print(table)
    else:  # a line is a line, however long
        screen.width = WIDEST
        with screen.capture() as drawn:
            screen.print(table)
        print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
    problems, warnings = (
        sum(finding.verdict == verdict for finding in findings) for verdict in ("failed", "warning")
    )
    total = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}."
    screen.print(f"\n{total if problems or warnings else 'All is well.'}")
