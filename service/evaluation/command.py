"""
The command `alexnet evaluate FOLDER`: from the settings to the results.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from service.errors import SettingsInvalid

if TYPE_CHECKING:
    from service.evaluation.decoding import Decoder
    from service.evaluation.labels import Truth
    from service.evaluation.predicted import Asked, Candidate
    from service.evaluation.results import Results
    from service.inference.engine import Engine
    from service.settings import Settings

Load = Callable[["Settings"], "Engine"]

ENDINGS: Final = {"--report": ".html", "--output": ".json", "--record": ".json"}


def evaluate(
    folder: Path,
    *,
    crops: str | None,
    model: Sequence[str],
    labels: Path | None,
    report: Path | None,
    output: Path | None,
    record: Path | None,
    data: str | None,
    as_json: bool,
    per_class: bool,
    device: str | None,
) -> None:
    """
    Measure each model with each choice of crops on the labelled images in `folder`, and print it.

    Raises a `ServiceError` with a sentence; `KeyboardInterrupt` and SIGTERM end it with a
    `typer.Exit`.
    """
    from service.evaluation import record as records
    from service.settings import load_settings

    _check({"--report": report, "--output": output, "--record": record})
    models: list[str | None] = list(dict.fromkeys(model)) if model else [None]
    if record is not None:
        if len(models) > 1:
            raise SettingsInvalid("--record is about one model: give one --model")
        records.read(record)
    choices = None if crops is None else list(dict.fromkeys(crops.split(",")))
    settings = [load_settings(model=path, device=device) for path in models]
    results, asked, decode = _measure(folder, settings, choices, labels=labels, data=data)
    if as_json:
        typer.echo(_json(results))
    else:
        from service.evaluation.summary import show

        show(results, per_class=per_class)
    if output is not None:
        with _written("--output", output):
            _write_json(output, results)
    if record is not None:
        with _written("--record", record):
            records.write(record, results)
    if report is not None:
        from service.evaluation.report import write

        with _written("--report", report):
            write(report, results, asked.names, decode)


def candidates(
    engines: Sequence["Engine"], choices: Sequence[str] | None
) -> list[tuple[int, "Candidate"]]:
    """Each model, by its number, with each choice of crops: `choices`, or all that it offers."""
    from service.evaluation.predicted import Candidate

    found = []
    for number, engine in enumerate(engines):
        offered = engine.model.crops
        for crops in offered if choices is None else choices:
            if crops not in offered:
                raise SettingsInvalid(
                    f"--crops {crops}: {engine.model.path} offers {', '.join(offered)}"
                )
            found.append((number, Candidate(engine, crops)))
    return found


def _measure(
    folder: Path,
    settings: Sequence["Settings"],
    choices: Sequence[str] | None,
    *,
    labels: Path | None,
    data: str | None,
) -> tuple["Results", "Asked", "Decoder"]:
    """What is known afterwards, of which images, and what decodes them."""
    from service.batch.files import text
    from service.evaluation.classes import Classes
    from service.evaluation.decoding import Decoder
    from service.evaluation.labels import read_truth
    from service.evaluation.results import gather
    from service.settings import limits

    engines = [_engine(its) for its in settings]
    asking = candidates(engines, choices)
    truth = read_truth(folder, [Classes(engine.model.labels) for engine in engines], labels)
    first = settings[0]
    decode = Decoder(truth.base, limits(first), first.max_body)
    asked = _ask(truth, asking, decode, first.max_batch)
    results = gather(
        truth,
        asked,
        service=_version(),
        data=data,
        folder=text(os.fsencode(folder)),
        labels=None if labels is None else text(os.fsencode(labels)),
    )
    return results, asked, decode


def _ask(
    truth: "Truth", asking: Sequence[tuple[int, "Candidate"]], decode: "Decoder", batch: int
) -> "Asked":
    """With a bar; the first Ctrl-C, or SIGTERM, ends it."""
    from service.batch.progress import say, shown
    from service.batch.signals import interrupted_by_signals
    from service.evaluation.predicted import ask

    try:
        with interrupted_by_signals(), shown(0) as progress:
            progress.total = len(truth.names)
            progress.update(0, 0)
            return ask(truth, asking, decode, batch=batch, progress=progress.update)
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args or (int(signal.SIGINT),)
        say("alexnet: Stopped. Nothing was written.")
        raise typer.Exit(128 + number) from interrupt


def _engine(settings: "Settings") -> "Engine":
    from service.inference.engine import Engine

    return Engine.load(
        settings.model,
        device=settings.device,
        threads=settings.threads,
        max_batch=settings.max_batch,
        gpu_memory_limit=settings.gpu_memory_limit,
    )


def _check(places: dict[str, Path | None]) -> None:
    """Before anything slow: `SettingsInvalid` unless each of the files can be written."""
    given = {option: path for option, path in places.items() if path is not None}
    for option, path in given.items():
        if path.suffix != ENDINGS[option]:
            raise SettingsInvalid(f"{option} {path}: its name must end in {ENDINGS[option]}")
        if path.is_dir():
            raise SettingsInvalid(f"{option} {path}: this is a folder; choose the name of a file")
        if not path.parent.is_dir():
            raise SettingsInvalid(f"{option} {path}: there is no folder {path.parent}; make it")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise SettingsInvalid(
                f"{option} {path}: the folder {path.parent} cannot be written to; choose another"
            )
    if len({path.resolve() for path in given.values()}) < len(given):
        raise SettingsInvalid(f"{' and '.join(given)} must be different files")


@contextmanager
def _written(option: str, path: Path) -> Iterator[None]:
    """What the system says of a file is one sentence."""
    from service.evaluation.labels import EvaluationFailed

    try:
        yield
    except OSError as error:
        raise EvaluationFailed(
            f"{option} {path} cannot be written ({error.strerror}); choose another place, or make "
            "room"
        ) from error


def _write_json(path: Path, results: "Results") -> None:
    from service.batch.tables import replacing

    with replacing(path) as beside:
        beside.write_text(_json(results) + "\n", "utf-8")


def _json(results: "Results") -> str:
    from service.evaluation.results import as_json

    return json.dumps(as_json(results), indent=2, ensure_ascii=False, allow_nan=False)


def _version() -> str:
    try:
        return version("alexnet-service")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
