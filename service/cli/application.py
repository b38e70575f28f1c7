"""
The command `alexnet`: its help, version and errors.

Every error is one sentence on standard error, `alexnet: ...`, or with `--json` one object,
`{"error": "...", "code": "..."}`; standard output holds nothing but answers.
"""

import errno
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Annotated, Any, Final

import typer
from typer.completion import get_completion_inspect_parameters

from command_help import CONTEXT, Command, Commands, Status, epilog
from service.cli import bench, doctor, evaluate, inspect, predict, serve
from service.cli.options import CLOSE, choices, installed
from service.errors import NotReady, ServiceError
from service.inference.providers import runtimes

SHELLS: Final = ("bash", "zsh", "fish")
# Typer's two options for them guess the shell, and ignore one that is named: only what they do is
# taken.  Asking for them has what the shells' scripts call answer as the scripts expect it.
INSTALL, SHOW = get_completion_inspect_parameters()

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

EPILOG: Final = epilog(
    {
        "alexnet predict tests/pictures/cat.jpg": "what is in this image?",
        "alexnet serve": "the same over HTTP, and a page to try it on",
        "alexnet predict --help": "each command has its own help, with examples",
        "alexnet --install-completion bash": "the TAB key then completes commands and flags",
    },
    Status.DONE,
    Status.FAILED,
    Status.USAGE,
    Status.CANNOT_GO_ON,
    Status.INTERRUPTED,
)


def _completion(what: str, then: Callable[..., Any]) -> Any:
    """An option that does something for the shell that is named."""

    def checked(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> Any:
        if value is not None and value not in SHELLS:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(SHELLS)}")
        return then(context, parameter, value)

    return typer.Option(
        help=what,
        callback=checked,
        is_eager=True,
        metavar="|".join(SHELLS),
        autocompletion=choices(*SHELLS),
    )


app = typer.Typer(
    cls=Commands,
    epilog=EPILOG,
    add_completion=False,
    context_settings=CONTEXT,
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def alexnet(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="With --version: JSON, with the versions of Python and ONNX Runtime.",
        ),
    ] = False,
    install_completion: Annotated[
        str | None, _completion("Have this shell complete alexnet.", INSTALL.default.callback)
    ] = None,
    show_completion: Annotated[
        str | None, _completion("Print the script that does it.", SHOW.default.callback)
    ] = None,
) -> None:
    """Classify images with AlexNet, on this machine or over HTTP."""
    if show_version:
        versions = {
            "alexnet": installed(),
            "python": platform.python_version(),
            **{name: installed(name) for name in runtimes()},
        }
        line = f"alexnet {versions['alexnet'] or 'from a checkout that is not installed'}"
        typer.echo(json.dumps(versions) if as_json else line)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("give --version, or a command", ctx=context, param_hint="--json")


def _add(panel: str, command: Callable[..., None], epilog: str) -> None:
    app.command(cls=Command, epilog=epilog, rich_help_panel=panel)(command)


_add("Classify", predict.predict, predict.EPILOG)
_add("Classify", serve.serve, serve.EPILOG)
_add("Measure", evaluate.evaluate, evaluate.EPILOG)
_add("Measure", bench.bench, bench.EPILOG)
_add("Diagnostics", doctor.doctor, doctor.EPILOG)
_add("Diagnostics", inspect.inspect, inspect.EPILOG)


def main() -> None:
    """Run a command, and end the process with its status."""
    # Streams that were closed when the process started are None.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  for as long as the process is
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    _show_what_the_encoding_has()
    as_json = _wants_json(sys.argv[1:])
    try:
        status = _status(as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        status = Status.BROKEN_PIPE
    except SystemExit as ended:  # raised by Typer and by rich when the reader is gone
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        status = Status.BROKEN_PIPE
    except OSError as error:
        if error.errno not in FULL:
            raise
        reason = f"the output cannot be written ({error.strerror}); make room, or write elsewhere"
        _print_error(reason, "output_unwritable", as_json=as_json)
        status = Status.FAILED
        _close_output()
    if status == Status.BROKEN_PIPE:
        _close_output()
    if status == Status.CANNOT_GO_ON:
        sys.stderr.flush()
        os._exit(status)  # sys.exit would wait for a run of the network that never ends
    sys.exit(status)


def _show_what_the_encoding_has() -> None:
    r"""Have standard output show what its encoding lacks as `\u043a`, as standard error does."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _close_output() -> None:
    """Keep Python from writing the rest at its exit, which would fail and print a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(*, as_json: bool) -> int:
    """Run the command of the process's arguments; returns its exit status."""
    try:
        # The status of a `typer.Exit`, else None.
        return int(app(prog_name="alexnet", standalone_mode=False) or Status.DONE)
    except NotReady as error:
        _print_error(str(error), error.code, as_json=as_json)
        return Status.CANNOT_GO_ON
    except ServiceError as error:
        _print_error(str(error), error.code, as_json=as_json)
        return Status.FAILED
    except typer.TyperException as error:
        _keep_close(error)
        if reason := error.format_message().rstrip("."):  # without one, the help has been printed
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "alexnet"
            end = " " if reason.endswith("?") else "; "
            _print_error(
                f"{reason}{end}{command} --help shows what there is", "usage", as_json=as_json
            )
        return Status.USAGE


def _keep_close(error: typer.TyperException) -> None:
    """Of the options that a misspelt one resembles, keep the most similar one."""
    if options := getattr(error, "possibilities", None):
        option = getattr(error, "option_name", "")
        error.possibilities = get_close_matches(option, options, 1, CLOSE)  # type: ignore[attr-defined]


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are to be JSON too, those of the command line among them."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not {"--json", "--json-lines"}.isdisjoint(options)


def _print_error(error: str, code: str, *, as_json: bool) -> None:
    line = json.dumps({"error": error, "code": code}) if as_json else f"alexnet: {error}"
    print(line, file=sys.stderr)
