"""
Options that commands share, and a flag for each setting.

`Settings` parses the text of its flags, as it does the environment's, and describes them.
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from service.inference.limits import MOST_CLASSES
from service.inference.providers import devices
from service.settings import OF_OTHERS, PREFIX, SECRETS, Settings, groups, unknown_variables

DISTRIBUTION: Final = "alexnet-service"
CLOSE: Final = 0.75  # similarity, 0 to 1, from which on another name is suggested

QUESTION: Final = "Prediction"
COMPUTING: Final = "Runtime"
OUTPUT: Final = "Output"

CROPS: Final = ("ten", "one", "dense")
DEVICES: Final = devices()

# The placeholder of a flag whose description does not begin with its unit.
METAVARS: Final = {
    "threads": "COUNT",
    "gpu": "NUMBER",
    "max_connections": "COUNT",
    "max_connections_per_address": "COUNT",
    "formats": "NAMES",
    "predict_route": "PATH",
    "health_route": "PATH",
    "rate_limit": "N/TIME",
    "cors_origins": "ORIGINS",
}
UNITS: Final = ("Seconds", "Bytes", "Pixels", "Images")


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
        max=MOST_CLASSES,
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


def installed(distribution: str = DISTRIBUTION) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def takes_settings(command: Callable[..., None], **switches: object) -> None:
    """
    Give a command a flag for each setting, each a `str | None`; secrets are no flags.

    `switches` are further flags: names and annotations.
    """
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, _option(name, panel)],
        )
        for panel, names in groups().items()
        for name in names
        if name not in SECRETS
    ]
    flags += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in switches.items()
    ]
    command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}


def unknown_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that look like settings and are not, and of each what to do about it."""
    unknown = {}
    for name in unknown_variables(environment):
        word = name.upper().removeprefix(PREFIX).lower()
        similar = get_close_matches(word, (*Settings.model_fields, *OF_OTHERS), 1, CLOSE)
        known = f"{PREFIX}{similar[0].upper()}" if similar else ""
        unknown[name] = f"Did you mean {known}?" if known else "See alexnet serve --help."
    return unknown


def _option(name: str, panel: str) -> object:
    field = Settings.model_fields[name]
    words = _words(field.annotation)
    return typer.Option(
        "--" + name.replace("_", "-"),
        help=_help(field.description, field.default),
        show_default=False,
        metavar="|".join(words) or _metavar(name, field.annotation, field.description or ""),
        autocompletion=choices(*words) if words else None,
        rich_help_panel=panel,
    )


def _words(kind: object) -> tuple[str, ...]:
    """The words that a flag takes, if it takes nothing else."""
    words = ("true", "false") if kind is bool else get_args(kind)
    return words if all(isinstance(word, str) for word in words) else ()


def _metavar(name: str, kind: object, description: str) -> str:
    if Path in (kind, *get_args(kind)):
        return "FILE"
    unit = description.split()[0]
    if name not in METAVARS and unit in UNITS:
        return unit.upper()
    return METAVARS.get(name, name.rpartition("_")[2].upper())


def _help(description: str | None, default: object) -> str:
    # The bundled model's path is long, and differs from machine to machine.
    if isinstance(default, Path) or default is None or default == ():
        return str(description)
    shown = ",".join(default) if isinstance(default, tuple) else default
    shown = str(shown).lower() if isinstance(shown, bool) else shown
    return f"{description} Default: {shown}."
