"""
The exit statuses of all commands; docs/commands.md has the same table.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


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
