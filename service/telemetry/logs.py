"""
Log records to lines: text for people, JSON for programs.

What is logged while a request is handled carries its `request_id`.  What clients send cannot end a
line, and a terminal does not take it for a command.
"""

import logging
import sys
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# Of the request that is being handled: fields of all that is logged meanwhile.
ABOUT: Final[ContextVar[Mapping[str, str]]] = ContextVar(
    "alexnet.about", default=MappingProxyType({})
)

STAGES: Final = ("read", "decode", "queue", "run")  # of a request; "read_ms" is a field of its line

TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"
FIELDS: Final = {  # of every record: logging's names, and those in the log
    "asctime": "timestamp",
    "levelname": "level",
    "name": "logger",
    "message": "message",
}

log = logging.getLogger("service.logs")


def is_json(log_format: Literal["auto", "text", "json"], stream: TextIO | None) -> bool:
    """Whether a log of this format is JSON on this stream; auto is text on a terminal."""
    return log_format == "json" or (log_format == "auto" and not (stream and stream.isatty()))


def install(level: str, *, as_json: bool) -> None:
    """
    Log to standard error, whichever library it comes from.

    As JSON, also what Python would print there of itself: warnings, and uncaught errors.
    """
    logging.basicConfig(level=level.upper(), handlers=[handler(sys.stderr, as_json=as_json)])
    if as_json:
        logging.captureWarnings(True)
        sys.excepthook = lambda kind, error, trace: _uncaught("The process", kind, error, trace)
        sys.unraisablehook = lambda it: _uncaught(
            repr(it.object), it.exc_type, it.exc_value, it.exc_traceback
        )
        threading.excepthook = lambda it: _uncaught(
            it.thread.name if it.thread else "a thread",
            it.exc_type,
            it.exc_value,
            it.exc_traceback,
        )


def handler(stream: TextIO, *, as_json: bool) -> logging.Handler:
    """What writes the records of the log to a stream, a line each."""
    written = logging.StreamHandler(stream)
    written.addFilter(_about)
    written.setFormatter(Json() if as_json else Text(TEXT))
    return written


def _uncaught(where: str, kind: Any, error: Any, trace: Any) -> None:
    log.critical("%s: nobody caught %s", where, kind.__name__, exc_info=(kind, error, trace))


def _about(record: logging.LogRecord) -> bool:
    record.__dict__.update(ABOUT.get())
    return True


class Json(JsonFormatter):
    """One object a line, ASCII alone; a traceback is one field."""

    def __init__(self) -> None:
        super().__init__(
            list(FIELDS),
            rename_fields={**FIELDS, "exc_info": "traceback"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, for terminals
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """ISO 8601 in UTC, to the millisecond."""
        moment = datetime.fromtimestamp(record.created, UTC)
        return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


class Text(logging.Formatter):
    """One line, but for tracebacks, which are indented: none of their lines looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message, and of a request the times of its stages and its id."""
        record.message = f"{printable(record.message)}{_details(record.__dict__)}"
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Indented."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Indented."""
        return _indented(super().formatStack(stack_info))


def _details(fields: Mapping[str, Any]) -> str:
    """` (read 0.1, run 14.9; batch of 3) 4bf92f`, or what is there of it."""
    details = [fields["code"]] if "code" in fields else []
    if times := [f"{name} {fields[ms]:.1f}" for name in STAGES if (ms := f"{name}_ms") in fields]:
        details.append(", ".join(times))
    if "batch" in fields:
        details.append(f"batch of {fields['batch']}")
    request_id = f" {fields['request_id']}" if "request_id" in fields else ""
    return f" ({'; '.join(details)}){request_id}" if details else request_id


def _indented(lines: str) -> str:
    return "\n".join(f"  {printable(line)}" for line in lines.split("\n"))


def printable(text: str) -> str:
    """`text` with what would command a terminal, or end the line, written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
