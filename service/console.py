"""
Consoles for people, colour and bars only on terminals; control characters made visible.

Colours and bars are for terminals.  rich decides: NO_COLOR takes colours away, TERM=dumb every
escape sequence, FORCE_COLOR takes a pipe for a terminal.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> "Console":
    """Standard output, or standard error; what is printed is taken as it is, without markup."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with status 1

    return Pipe(stderr=stderr, markup=False, emoji=False, highlight=False)


def watched() -> bool:
    """Whether somebody looks at standard error, where a bar can be drawn again and again."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def clean(line: str) -> str:
    """Names of files, and of classes, may hold commands for the terminal, or end a line."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)
