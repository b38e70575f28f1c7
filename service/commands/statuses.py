"""
What the shell is told at the end, of every command; docs/commands.md has the same table.
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
    NOBODY_READS = 141  # SIGPIPE
    TERMINATED = 143  # SIGTERM


MEANINGS: Final[Mapping[Status, str]] = {
    Status.DONE: "Done. A server: stopped as it was asked to, by SIGTERM or Ctrl-C.",
    Status.FAILED: "Something failed, or could not start; standard error says what.",
    Status.USAGE: "The command line cannot be read: a command or an option that there is not, "
    "something missing, a number out of range.",
    Status.CANNOT_GO_ON: "The network hangs or has died: start it again.",
    Status.INTERRUPTED: "Ctrl-C.",
    Status.NOBODY_READS: "Whoever read the output has gone, as in alexnet ... | head -1.",
    Status.TERMINATED: "SIGTERM.",
}


def lesson(examples: Mapping[str, str], statuses: Mapping[Status, str]) -> str:
    """The end of a command's help: what to try, and what its exit status means."""
    shown = "\n".join(f"  {line}\n      {what}" for line, what in examples.items())
    meant = "\n".join(f"  {status.value:<3} {what}" for status, what in statuses.items())
    return f"Examples:\n{shown}\n\nExit status:\n{meant}"
