"""
The `alexnet` command, also `python -m service`.

Whatever cannot start says why in one sentence and ends with a non-zero status.  Heavy
modules are imported by the command that needs them, so that `--help` comes at once.
"""

import asyncio
import inspect as signatures
import json
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from service.bench import FileUnreadable, bench
from service.errors import ServiceError, SettingsInvalid
from service.evaluation.command import evaluate

if TYPE_CHECKING:
    from service.classifier import Prediction
    from service.engine import Engine
    from service.settings import Settings

DISTRIBUTION: Final = "alexnet-service"

log = logging.getLogger("service")

app = typer.Typer(
    help="Classify pictures with AlexNet: over HTTP, or here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"alexnet {version(DISTRIBUTION)}")
        except PackageNotFoundError:
            typer.echo("alexnet, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def alexnet(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Classify pictures with AlexNet: over HTTP, or here."""


def serve(**given: str | None) -> None:
    """Answer over HTTP until SIGTERM or Ctrl-C.

    Each flag is also an environment variable: --max-batch is ALEXNET_MAX_BATCH.
    """
    from service import logs
    from service.settings import load_settings, unknown_variables

    # Until there is something to stop or to reload; in a container, nobody else would.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = load_settings(**given)
    as_json = logs.is_json(settings.log_format, sys.stderr)
    logs.install(settings.log_level, as_json=as_json)
    for name in unknown_variables(os.environ):
        log.warning("%s is no setting, and has no effect; alexnet serve --help lists them", name)
    # A line for each broken form, and a text that Python keeps for each odd GIF: strangers send as
    # many as they like, and have their answer.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    listeners = [_listener(settings.host, settings.port, "port")]
    if settings.admin_port is not None:
        listeners.append(_listener(settings.admin_host, settings.admin_port, "admin_port"))

    from service.app import create_app
    from service.app import serve as run

    web = create_app(settings, _engine(settings))
    status = run(
        web,
        listeners,
        lambda: _announce(settings, listeners, as_json=as_json),
        load=lambda current: _engine(settings, current),
    )
    # Not sys.exit: it would wait for a run that never comes back, or take the runtime from one.
    logging.shutdown()
    os._exit(status)


def _flag_help(description: str | None, default: object) -> str:
    # The bundled model's path is long, and another one on every machine.
    if isinstance(default, Path) or default is None or default == ():
        return str(description)
    shown = ",".join(default) if isinstance(default, tuple) else default
    return f"{description} Default: {shown}."


def _metavar(name: str, kind: object) -> str:
    """What may stand behind a flag: its choices, or the last word of its name."""
    choices = ("true", "false") if kind is bool else get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return name.rpartition("_")[2].upper()


def _flags() -> list[signatures.Parameter]:
    """One flag for each setting; its text is parsed by Settings, as the environment's is."""
    from service.settings import SECRETS, Settings

    return [
        signatures.Parameter(
            name,
            signatures.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    "--" + name.replace("_", "-"),
                    help=_flag_help(field.description, field.default),
                    show_default=False,
                    metavar=_metavar(name, field.annotation),
                ),
            ],
        )
        for name, field in Settings.model_fields.items()
        if name not in SECRETS
    ]


flags = _flags()
serve.__signature__ = signatures.Signature(flags)  # type: ignore[attr-defined]
serve.__annotations__ = {flag.name: flag.annotation for flag in flags}
app.command()(serve)
app.command()(bench)
app.command()(evaluate)


Crops = Annotated[
    str, typer.Option(help="ten: the paper's ten views; one: the centre; dense: ten windows.")
]
Top = Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")]
ModelPath = Annotated[
    str | None, typer.Option(help="The model file; the bundled one by default.", metavar="FILE")
]
Device = Annotated[str | None, typer.Option(help="auto, cuda or cpu.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(help="Picture files; - is standard input. With --output, folders too."),
    ],
    as_json: AsJson = False,
    crops: Crops = "ten",
    top: Top = 5,
    model: ModelPath = None,
    device: Device = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the scores of any number of pictures to this .parquet, .jsonl or .csv; "
            "the same command again goes on where it was stopped.",
            metavar="FILE",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE if there is one.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Score on this Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start "
            "one here.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Classify pictures here, without a server; status 1 if any of them fails.

    With --output what cannot be scored is reported, and the status is 1 if nothing could.
    """
    from service.settings import load_settings

    settings = load_settings(model=model, device=device)
    if output is not None:
        if as_json or "-" in pictures:
            raise SettingsInvalid("--output takes files and folders, without --json and without -")
        from service.scoring.command import score

        score(
            settings,
            pictures,
            output,
            crops=crops,
            top=top,
            overwrite=overwrite,
            ray=ray,
            load=lambda: _engine(settings),
        )
        return
    if folders := [picture for picture in pictures if os.path.isdir(picture)]:
        raise SettingsInvalid(
            f"{folders[0]} is a folder: say where its scores go, as in --output scores.parquet "
            "(or .jsonl, or .csv)"
        )
    if ray is not None or overwrite:
        raise SettingsInvalid("--ray and --overwrite are for --output: name the file to write")
    engine = _engine(settings)
    if crops not in engine.model.crops:
        offered = ", ".join(engine.model.crops)
        raise SettingsInvalid(f"--crops {crops}: this model offers {offered}")
    outcomes = asyncio.run(_classify(settings, engine, pictures, crops, top))
    if as_json:
        from service.routes.predict import answer_for

        typer.echo(answer_for(engine, crops, pictures, outcomes).model_dump_json(indent=2))
    failed = False
    for picture, outcome in zip(pictures, outcomes, strict=True):
        if isinstance(outcome, ServiceError):
            failed = True
            typer.echo(f"{picture}: {outcome}", err=True)
        elif not as_json:
            _print_bars(picture, outcome)
    if failed:
        raise typer.Exit(1)


async def _classify(
    settings: "Settings", engine: "Engine", pictures: Sequence[str], crops: str, top: int
) -> list["list[Prediction] | ServiceError"]:
    from service.classifier import Classifier
    from service.settings import limits

    classifier = Classifier(engine, limits(settings))
    outcomes: list[list[Prediction] | ServiceError] = []
    await classifier.start()
    try:
        # A batch of files at a time: a thousand pictures need not fit in memory.
        step = min(settings.max_batch, settings.max_queue)
        for start in range(0, len(pictures), step):
            read = [_read(picture) for picture in pictures[start : start + step]]
            found = iter(
                await classifier.classify_many(
                    [data for data in read if isinstance(data, bytes)], crops=crops, top=top
                )
            )
            outcomes += [next(found) if isinstance(data, bytes) else data for data in read]
    finally:
        await classifier.stop()
    return outcomes


def _read(picture: str) -> bytes | ServiceError:
    try:
        return sys.stdin.buffer.read() if picture == "-" else Path(picture).read_bytes()
    except OSError as error:
        return FileUnreadable(f"cannot be read: {error.strerror}")


def _print_bars(picture: str, best: Sequence["Prediction"]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(title=escape(picture), title_justify="left", box=None, show_header=False)
    for prediction in best:
        table.add_row(
            f"{100 * prediction.probability:5.1f} %",
            ProgressBar(total=1.0, completed=prediction.probability, width=24),
            escape(prediction.label),
            prediction.wordnet_id or "",
        )
    Console().print(table)


@app.command()
def inspect(
    model: Annotated[
        str | None, typer.Argument(help="The model file; the bundled one by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a model file."""
    from service.engine import inspect as read
    from service.settings import load_settings

    found = read(load_settings(model=model).model)
    facts: dict[str, Any] = {
        "file": str(found.path),
        "size": found.size_bytes,
        "name": found.name,
        "variant": found.variant,
        "precision": found.precision,
        "version": found.version,
        "classes": len(found.labels),
        "crops": dict(found.crops),
        "weights": found.weights,
        "accuracy": found.accuracy,
        "exporter": found.exporter,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    facts["size"] = f"{facts['size'] / 1e6:.1f} MB"
    facts["crops"] = ", ".join(f"{name} ({views})" for name, views in facts["crops"].items())
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        for heading, text in _lines(name, value):
            table.add_row(heading, text)
    Console(markup=False).print(table)


def _lines(name: str, value: Any) -> list[tuple[str, str]]:
    """A record as one line for each of its parts, a list as one for each of its records."""
    if value in ({}, []):
        return [(name, "not recorded")]
    if isinstance(value, dict):
        return [line for part, text in value.items() for line in _lines(f"{name}, {part}", text)]
    if isinstance(value, list) and isinstance(value[0], dict):
        return [line for record in value for line in _lines(name, record)]
    if isinstance(value, list):  # an interval
        value = " to ".join(map(str, value))
    # Not as it is: what a file says of itself could hold commands for the terminal.
    return [(name, "".join(sign if sign.isprintable() else "?" for sign in str(value)))]


def _engine(settings: "Settings", current: "Engine | None" = None) -> "Engine":
    """The engine that is wanted; never on the CPU in place of a `current` one on CUDA."""
    from service.engine import CUDA, Engine

    on_cuda = current is not None and current.provider == CUDA
    engine = Engine.load(
        settings.model,
        device="cuda" if on_cuda else settings.device,
        threads=settings.threads,
        max_batch=settings.max_batch,
        gpu_memory_limit=settings.gpu_memory_limit,
    )
    engine.device_requested = settings.device
    return engine


def _listener(host: str, port: int, setting: str) -> socket.socket:
    """Bind before anything slow: a port that is taken is said at once."""
    from service.settings import spelled

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # the latter for a name that cannot be one
        raise SettingsInvalid(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', error)}; "
            f"choose another with {spelled(setting)}, or {spelled(setting.replace('port', 'host'))}"
        ) from error
    return listener


def _announce(settings: "Settings", listeners: Sequence[socket.socket], *, as_json: bool) -> None:
    scheme = "https" if settings.ssl_certfile else "http"
    hosts = (settings.host, settings.admin_host)
    address, *second = (
        f"{scheme}://{_reached(host)}:{listener.getsockname()[1]}"
        for host, listener in zip(hosts, listeners, strict=False)
    )
    key = "-H 'Authorization: Bearer KEY' " if settings.api_keys or settings.api_keys_file else ""
    places = {"main": [address], "admin": second}.get(settings.docs, [])
    docs = "".join(f"{place}/docs" for place in places)
    if as_json:
        fields = {"url": address} | ({"docs": docs} if docs else {})
        log.info("AlexNet answers at %s until SIGTERM", address, extra=fields)
        return
    try:
        told = f"docs: {docs}, " if docs else ""
        print(f"AlexNet answers at {address}  ({told}stop: Ctrl-C).  Try:")
        print(
            f"  curl --data-binary @tests/pictures/cat.jpg -H 'Content-Type: image/jpeg' "
            f"{key}{address}/v1/predict",
            flush=True,
        )
    except OSError:  # where the log goes the disk is full, or nobody reads: no reason to stop
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  lest it is tried again at the end


def _reached(host: str) -> str:
    """How a person on this machine reaches an address: 0.0.0.0 and :: are all of its own."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{local}]" if ":" in local else local


def main() -> None:
    """Run a command; an error of ours is one sentence, without a traceback."""
    try:
        app(prog_name="alexnet")
    except ServiceError as error:
        print(f"alexnet: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
