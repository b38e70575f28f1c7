"""
What several commands share: options, exit statuses, the end of a command's help.

docs/commands.md has the statuses too.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final

import typer

from service.inference.providers import devices

DISTRIBUTION: Final = "alexnet-service"

QUESTION: Final = "Prediction"
COMPUTING: Final = "Runtime"
OUTPUT: Final = "Output"

CROPS: Final = ("ten", "one", "dense")
DEVICES: Final = devices()


def choices(*words: str) -> Callable[[str], list[str]]:
    """For the shell's completion."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="JSON for programs; errors too, on standard error.",
        rich_help_panel=OUTPUT,
    ),
]
Crops = Annotated[
    str,
    typer.Option(
        help="ten (default, AlexNet paper), one (centre, fastest), dense (ten, approximated).",
        metavar="|".join(CROPS),
        autocompletion=choices(*CROPS),
        rich_help_panel=QUESTION,
    ),
]
Threshold = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="The least probability of a class that is printed.",
        metavar="PROBABILITY",
        rich_help_panel=QUESTION,
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        help="Print these classes alone: WordNet ids, indices, labels or names in them, separated "
        "by commas.",
        metavar="NAMES",
        rich_help_panel=QUESTION,
    ),
]
Renormalise = Annotated[
    bool,
    typer.Option(
        "--renormalise",
        help="With --classes: divide their probabilities by their sum.",
        rich_help_panel=QUESTION,
    ),
]
Top = Annotated[
    int,
    typer.Option(
        min=1,
        max=1000,
        help="How many classes of each image, the best first.",
        metavar="COUNT",
        rich_help_panel=QUESTION,
    ),
]
ModelPath = Annotated[
    str | None,
    typer.Option(
        help="The model file, as alexnet-export writes it; by default the bundled one.",
        metavar="FILE",
        rich_help_panel=COMPUTING,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute; auto falls back to the CPU and says so.",
        metavar="|".join(DEVICES),
        autocompletion=choices(*DEVICES),
        rich_help_panel=COMPUTING,
    ),
]


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


def installed(distribution: str = DISTRIBUTION) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
