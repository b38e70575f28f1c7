"""
The help of all four commands in one style: purpose, panels of options, examples, exit statuses.

It imports none of the packages whose commands it describes.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from typer.core import TyperArgument, TyperCommand, TyperGroup

CONTEXT: Final[dict[str, Any]] = {"help_option_names": ["--help", "-h"]}


class Status(IntEnum):
    """The exit statuses; those from 128 on are 128 and a signal's number."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CANNOT_GO_ON = 70  # EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130  # SIGINT
    BROKEN_PIPE = 141  # SIGPIPE
    TERMINATED = 143  # SIGTERM


MEANINGS: Final[Mapping[Status, str]] = {
    Status.DONE: "done",
    Status.FAILED: "something failed; standard error says what, and what to do",
    Status.USAGE: "the command line cannot be read",
    Status.CANNOT_GO_ON: "the network hangs or has died: start it again",
    Status.INTERRUPTED: "Ctrl-C",
    Status.BROKEN_PIPE: "the reader of the output has gone: alexnet ... | head -1",
    Status.TERMINATED: "SIGTERM",
}


def epilog(examples: Mapping[str, str], *usual: Status, **own: str) -> str:
    """
    The end of a command's help: what to try, and what its exit status means.

    `usual` statuses mean what they always do; `own`, by name, what they mean of this command.
    """
    meanings = {status: MEANINGS[status] for status in usual}
    meanings |= {Status[name.upper()]: what for name, what in own.items()}
    shown = "\n".join(f"  {line}\n      {what}" for line, what in examples.items())
    meant = "\n".join(f"  {status.value:<3} {meanings[status]}" for status in sorted(meanings))
    return f"Examples:\n{shown}\n\nExit status:\n{meant}"


class Command(TyperCommand):
    """A command whose help names what to give, not Python types."""

    def __init__(self, *arguments: Any, help: str | None = None, **options: Any) -> None:
        super().__init__(*arguments, help=_folded(help or ""), **options)

    def get_params(self, ctx: Any) -> list[Any]:
        return [_described(parameter, ctx) for parameter in super().get_params(ctx)]


class Commands(TyperGroup):
    """All of them, likewise."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_described(parameter, ctx) for parameter in super().get_params(ctx)]


def _folded(text: str) -> str:
    """A paragraph of a docstring as one line, which is folded where it is read."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _described(parameter: Any, context: Any) -> Any:
    if isinstance(parameter, TyperArgument):
        parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    elif getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None and "|" in (words := parameter.display_type(context)):
        parameter.metavar = words.strip("<>")
    return parameter
