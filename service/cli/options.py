"""
Options that several commands share.
"""

from collections.abc import Callable
from typing import Annotated, Final

import typer

from service.inference.providers import devices

QUESTION: Final = "What to ask"
COMPUTING: Final = "What computes"
OUTPUT: Final = "What to print and write"

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
        help="The paper's ten views, the centre alone, or ten windows computed at once.",
        metavar="|".join(CROPS),
        autocompletion=choices(*CROPS),
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
