"""
`--install-completion SHELL` and `--show-completion SHELL`: Typer's scripts, for the shell named.

Typer's own two options guess the shell, and ignore one that is named.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer._completion_classes import completion_init
from typer.completion import install_callback, show_callback

from service.cli.options import choices

SHELLS: Final = ("bash", "zsh", "fish")


def _option(name: str, what: str, then: Callable[..., Any]) -> Any:
    def checked(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> Any:
        if value is not None and value not in SHELLS:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(SHELLS)}")
        return then(context, parameter, value)

    return typer.Option(
        name,
        help=what,
        callback=checked,
        is_eager=True,
        metavar="|".join(SHELLS),
        autocompletion=choices(*SHELLS),
    )


Install = Annotated[
    str | None,
    _option("--install-completion", "Have this shell complete alexnet.", install_callback),
]
Show = Annotated[
    str | None,
    _option("--show-completion", "Print the script that does it.", show_callback),
]

completion_init()  # what the scripts call answers as they expect it
