"""
`alexnet evaluate`: how good models are, on labelled images.
"""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from command_help import Status, epilog
from service.cli.options import COMPUTING, OUTPUT, QUESTION, AsJson, Device, installed
from service.console import say, shown
from service.errors import SettingsInvalid

if TYPE_CHECKING:
    from service.evaluation.predicted import Predicted

EPILOG: Final = epilog(
    {
        "alexnet evaluate FOLDER": "the bundled model: ten, one and dense side by side",
        "alexnet evaluate FOLDER --crops ten --model a.onnx --model b.onnx": "two models",
        "alexnet evaluate FOLDER --report report.html": "with images of the worst mistakes",
    },
    Status.USAGE,
    done="measured; what was left out is counted in the output",
    failed="no labelled images, no such model, or a file that cannot be written",
    interrupted="Ctrl-C: nothing was written (143: SIGTERM)",
)
SUFFIXES: Final = {"--report": ".html", "--output": ".json", "--record": ".json"}

_question = partial(typer.Option, rich_help_panel=QUESTION)
_json_file = partial(typer.Option, metavar="FILE.json", rich_help_panel=OUTPUT)


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Labelled images: FOLDER/CLASS/image, where CLASS is the WordNet id or the "
            "name of a class; or files whose names begin with the WordNet id; or with --labels.",
            metavar="FOLDER",
        ),
    ],
    labels: Annotated[
        Path | None,
        _question(
            help="CSV with the columns file (below FOLDER) and label (WordNet id, name or index).",
            metavar="FILE.csv",
        ),
    ] = None,
    crops: Annotated[
        str | None,
        _question(
            help="One or several, as ten,one; by default all that the model offers.",
            metavar="CROPS,...",
        ),
    ] = None,
    data: Annotated[
        str | None,
        _question(help="What the images are, in words, for report and record.", metavar="TEXT"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="The model file, the bundled one by default; give it again to compare several.",
            metavar="FILE",
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Print every class, not only the worst.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write all of it as one HTML page, with images.",
            metavar="FILE.html",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        _json_file("--output", "-o", help="Write all of it as JSON, for programs."),
    ] = None,
    record: Annotated[
        Path | None,
        _json_file(
            help="Write the accuracy into this record, which alexnet-export --record puts into a "
            "model file; what else is in it stays.",
        ),
    ] = None,
) -> None:
    """Measure how good models are, on labelled images of your own.

    Prints top-1, top-5 and calibration with 95% intervals, the worst classes and the
    worst confusions. Several models, or several choices of crops, are compared on the
    same images.
    """
    from service.batch.files import text
    from service.batch.tables import check_output
    from service.evaluation import report as reports
    from service.evaluation import results
    from service.evaluation.labels import Classes, EvaluationFailed, read_labels
    from service.evaluation.predicted import Decoder, candidates, predict
    from service.settings import limits, load_engine, load_settings

    options = {"--output": output, "--record": record, "--report": report}
    paths = {option: path for option, path in options.items() if path is not None}
    for option, path in paths.items():
        check_output(option, path, SUFFIXES[option])
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise SettingsInvalid(f"{' and '.join(paths)} must be different files")
    models: list[str | None] = [*dict.fromkeys(model)] if model else [None]
    if record is not None:
        if len(models) > 1:
            raise SettingsInvalid("--record is about one model: give one --model")
        results.read_record(record)
    choices = [load_settings(model=path, device=device) for path in models]
    settings, engines = choices[0], [load_engine(choice) for choice in choices]
    chosen = candidates(engines, None if crops is None else list(dict.fromkeys(crops.split(","))))
    labelled = read_labels(folder, [Classes(engine.model.labels) for engine in engines], labels)
    decode = Decoder(labelled.base, limits(settings), settings.max_body)
    predicted = _interruptible(
        len(labelled.names),
        partial(predict, labelled, chosen, decode, batch=settings.max_batch),
    )
    measured = results.gather(
        labelled,
        predicted,
        service=installed() or "unknown",
        data=data,
        folder=text(os.fsencode(folder)),
        labels=None if labels is None else text(os.fsencode(labels)),
    )
    if as_json:
        typer.echo(results.dumps(measured))
    else:
        reports.show(measured, per_class=per_class)
    write: dict[str, Callable[[Path], None]] = {
        "--output": lambda path: results.write(path, measured),
        "--record": lambda path: results.write_record(path, measured),
        "--report": lambda path: reports.write(path, measured, predicted.names, decode),
    }
    for option, path in paths.items():
        try:
            write[option](path)
        except OSError as error:
            raise EvaluationFailed(
                f"{option} {path} cannot be written ({error.strerror}); choose another place, or "
                "make room"
            ) from error


def _interruptible(images: int, predict: "Callable[..., Predicted]") -> "Predicted":
    """`predict` with a progress bar; Ctrl-C or SIGTERM ends it with a `typer.Exit`."""
    from service.batch.job import interrupted_by_signals

    try:
        with interrupted_by_signals(), shown(0) as progress:
            progress.total = images
            progress.update(0, 0)
            return predict(progress=progress.update)
    except KeyboardInterrupt as interrupt:
        (number,) = interrupt.args or (int(signal.SIGINT),)
        say("alexnet: Stopped. Nothing was written.")
        raise typer.Exit(128 + number) from interrupt
