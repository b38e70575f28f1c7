"""
`alexnet doctor`: would a server start here, and what is to be mended?
"""

import json
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import typer

from service.cli.exit_codes import Status, lesson
from service.cli.options import AsJson
from service.cli.settings_options import takes_settings
from service.console import clean, console
from service.errors import ProviderUnusable, RuntimeMissing, ServiceError

if TYPE_CHECKING:
    from service.cli.checks import Finding
    from service.inference.engine import Engine
    from service.settings import Settings

LESSON: Final = lesson(
    {
        "alexnet doctor": "would alexnet serve start here?",
        "alexnet doctor --port 8080 --device cuda": "and with these flags?",
        "alexnet doctor --json": "for programs",
    },
    Status.USAGE,
    done="it would start, and be usable; there may be warnings",
    failed="it would not, or nobody could use it; below it is what to do",
)
WIDEST: Final = 10_000  # columns, where nobody has a terminal to be filled
SIGNS: Final = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "failed": ("✗", "x", "red"),
}


def doctor(as_json: bool = False, **given: str | None) -> None:
    """Check what a server needs here, and say what to mend.

    Looks at the settings, keys and certificates, Python and its packages, the runtime,
    the model file, the device, cores, memory, open files and the port, and goes on to
    the next one whatever it finds. Takes the flags of alexnet serve, and the same
    variables. Prints a line for each, and below it what to do.
    """
    findings = list(_examined(given))
    well = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        told = {"well": well, "checks": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(told, indent=2))
    else:
        _print(findings)
    if not well:
        raise typer.Exit(Status.FAILED)


takes_settings(doctor, as_json=AsJson)


def _examined(given: dict[str, str | None]) -> Iterator["Finding"]:
    """All the findings, in the order in which a server would meet them."""
    from service.cli.checks import certificate, configuration, installation, machine, port

    environment = dict(os.environ)
    its, faults = configuration.usable_settings(given)
    yield from _checked("settings", lambda: configuration.settings(faults, environment))
    yield from _checked("python", installation.python)
    yield from _checked("packages", installation.packages)
    yield from _checked("keys", lambda: configuration.keys(its))
    yield from _checked("certificate", lambda: certificate.certificate(its))
    yield from _checked("tracing", lambda: configuration.tracing(its))
    yield from _checked("cores", lambda: machine.cores(its))
    yield from _checked("files", lambda: machine.files(its))
    yield from _checked("runtime", installation.runtime)
    engine = yield from _loaded(its)
    yield from _checked("memory", lambda: machine.memory(its, engine))
    yield from _checked("port", lambda: port.ports(its))


def _loaded(its: "Settings") -> Generator["Finding", None, "Engine | None"]:
    """The model and what computes; returns the engine if there is one."""
    from service.cli.checks import model
    from service.settings import load_engine

    whole = _checked("model", lambda: model.file(its.model))
    yield from whole
    if any(finding.verdict == "failed" for finding in whole):
        return None
    engine: Engine | None = None

    def load() -> Iterator["Finding"]:
        nonlocal engine
        try:
            engine = load_engine(its)
        except RuntimeMissing:  # told already
            return
        except ProviderUnusable as error:
            yield _finding("provider", error)
            return
        yield from model.network(engine)
        yield from model.provider(engine)

    yield from _checked("model", load)
    return engine


def _checked(check: str, look: Callable[[], Iterable["Finding"]]) -> list["Finding"]:
    """What a check finds; an error, whichever it is, ends this check only."""
    from service.cli.checks import failed, warning

    logged = _Logged()
    logging.getLogger().addHandler(logged)
    found: list[Finding] = []
    try:
        found.extend(look())
    except ServiceError as error:
        found.append(_finding(check, error))
    except Exception as error:  # the others are wanted all the same
        reason = f"{type(error).__name__}: {error}"
        found.append(failed(check, f"this check itself has failed ({reason})", "report it"))
    finally:
        logging.getLogger().removeHandler(logged)
    for line in logged.lines:
        what, _, mend = line.partition("; ")
        found.append(warning(check, what, mend))
    return found


def _finding(check: str, error: ServiceError) -> "Finding":
    """Our errors say what is wrong and, behind a semicolon, what to do."""
    from service.cli.checks import failed

    found, _, mend = str(error).rstrip(".").partition("; ")
    return failed(check, found, mend or "correct it, or leave the setting out")


class _Logged(logging.Handler):
    """What the server would log as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _print(findings: list["Finding"]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    plain = not screen.encoding.startswith("utf")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, simple, colour = SIGNS[finding.verdict]
        told = Text(clean(finding.found))
        if finding.mend:
            told.append(f"\n-> {clean(finding.mend)}", style=colour)
        table.add_row(Text(simple if plain else sign, style=colour), finding.check, told)
    if screen.is_terminal:
        screen.print(table)
    else:  # a line is a line, however long
        screen.width = WIDEST
        with screen.capture() as drawn:
            screen.print(table)
        print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
    bad = sum(finding.verdict == "failed" for finding in findings)
    odd = sum(finding.verdict == "warning" for finding in findings)
    screen.print(f"\n{bad} to mend, {odd} to look at." if bad or odd else "\nAll is well.")
