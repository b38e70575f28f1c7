"""
The command `alexnet` itself: its help, its version, and what becomes of errors.

Whatever goes wrong is one sentence on standard error, `alexnet: ...`, or with `--json` one object,
`{"error": "...", "code": "..."}`; standard output has nothing but answers.
"""

import errno
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from inspect import cleandoc
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from service.cli import bench, doctor, evaluate, inspect, predict, serve
from service.cli.completion import Install, Show
from service.cli.exit_codes import Status, lesson
from service.cli.installed import DISTRIBUTION, RUNTIMES, installed
from service.errors import NotReady, ServiceError

if TYPE_CHECKING:
    from typer._click.core import Context as TyperContext
    from typer._click.core import Parameter

CLOSE: Final = 0.75  # how alike two options are from which on one is meant for the other
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

LESSON: Final = lesson(
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


class Command(TyperCommand):
    """A command whose help has our words for what to give, not Python's types."""

    def get_params(self, ctx: "TyperContext") -> list["Parameter"]:
        return [_in_words(parameter) for parameter in super().get_params(ctx)]


class Commands(TyperGroup):
    """Whoever reads what we print may leave: the process then ends as others do, and quietly."""

    def get_params(self, ctx: "TyperContext") -> list["Parameter"]:
        return [_in_words(parameter) for parameter in super().get_params(ctx)]

    def invoke(self, ctx: "TyperContext") -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(Status.NOBODY_READS) from None


def _in_words(parameter: "Parameter") -> "Parameter":
    if isinstance(parameter, TyperArgument):
        parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    elif getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    return parameter


app = typer.Typer(
    cls=Commands,
    epilog=LESSON,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
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
    install_completion: Install = None,
    show_completion: Show = None,
) -> None:
    """Tell what is in images, with AlexNet: here, or over HTTP."""
    if show_version:
        versions = {
            "alexnet": installed(DISTRIBUTION),
            "python": platform.python_version(),
            **{name: installed(name) for name in RUNTIMES},
        }
        told = f"alexnet {versions['alexnet'] or 'from a checkout that is not installed'}"
        typer.echo(json.dumps(versions) if as_json else told)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("give --version, or a command", ctx=context, param_hint="--json")


def _add(panel: str, command: Callable[..., None], lesson: str) -> None:
    # A paragraph is one line here, and is folded where it is read.
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    shown = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    app.command(cls=Command, help=shown, epilog=lesson, rich_help_panel=panel)(command)


_add("Classify", predict.predict, predict.LESSON)
_add("Classify", serve.serve, serve.LESSON)
_add("Measure", evaluate.evaluate, evaluate.LESSON)
_add("Measure", bench.bench, bench.LESSON)
_add("Look", doctor.doctor, doctor.LESSON)
_add("Look", inspect.inspect, inspect.LESSON)


def main() -> None:
    """Run a command, and end the process with its status."""
    # Python has none of those that whoever started us had closed.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  for as long as the process is
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    as_json = _wants_json(sys.argv[1:])
    try:
        status = _status(as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        status = Status.NOBODY_READS
    except SystemExit as ended:  # rich's, for a help that nobody reads to its end
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        status = Status.NOBODY_READS
    except OSError as error:
        if error.errno not in FULL:
            raise
        reason = f"the output cannot be written ({error.strerror}); make room, or write elsewhere"
        _tell(reason, "output_unwritable", as_json=as_json)
        status = Status.FAILED
        _close_output()
    if status == Status.NOBODY_READS:
        _close_output()
    if status == Status.CANNOT_GO_ON:
        sys.stderr.flush()
        os._exit(status)  # a run that never comes back would be waited for
    sys.exit(status)


def _close_output() -> None:
    """Lest Python tries again, at the end, to write what nobody takes, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(*, as_json: bool) -> int:
    """Run the command of the process's arguments; what it ends with."""
    try:
        # The status of a `typer.Exit`, else None.
        return int(app(prog_name="alexnet", standalone_mode=False) or Status.DONE)
    except NotReady as error:
        _tell(str(error), error.code, as_json=as_json)
        return Status.CANNOT_GO_ON
    except ServiceError as error:
        _tell(str(error), error.code, as_json=as_json)
        return Status.FAILED
    except typer.TyperException as error:
        _keep_close(error)
        if reason := error.format_message().rstrip("."):  # without: the help has been printed
            context = getattr(error, "ctx", None)
            asked = context.command_path if context else "alexnet"
            end = " " if reason.endswith("?") else "; "
            _tell(f"{reason}{end}{asked} --help shows what there is", "usage", as_json=as_json)
        return Status.USAGE


def _keep_close(error: typer.TyperException) -> None:
    """Of the options that a misspelt one resembles, the one that may be meant."""
    if found := getattr(error, "possibilities", None):
        option = getattr(error, "option_name", "")
        error.possibilities = get_close_matches(option, found, 1, CLOSE)  # type: ignore[attr-defined]


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are to be JSON too, those of the command line among them."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not {"--json", "--json-lines"}.isdisjoint(options)


def _tell(error: str, code: str, *, as_json: bool) -> None:
    told = json.dumps({"error": error, "code": code}) if as_json else f"alexnet: {error}"
    print(told, file=sys.stderr)
