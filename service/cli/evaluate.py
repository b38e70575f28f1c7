"""
`alexnet evaluate`: the command line of `service.evaluation`.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli.exit_codes import Status, lesson
from service.cli.options import COMPUTING, OUTPUT, QUESTION, AsJson, Device

LESSON: Final = lesson(
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
        typer.Option(
            help="CSV with the columns file (below FOLDER) and label (WordNet id, name or index).",
            metavar="FILE.csv",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    crops: Annotated[
        str | None,
        typer.Option(
            help="One or several, as ten,one; by default all that the model offers.",
            metavar="CROPS,...",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="What the images are, in words, for report and record.",
            metavar="TEXT",
            rich_help_panel=QUESTION,
        ),
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
        typer.Option(
            "--output",
            "-o",
            help="Write all of it as JSON, for programs.",
            metavar="FILE.json",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write the accuracy into this record, which alexnet-export --record puts into a "
            "model file; what else is in it stays.",
            metavar="FILE.json",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Measure how good models are, on labelled images of your own.

    Prints top-1, top-5 and calibration with 95% intervals, the worst classes and the
    worst confusions. Several models, or several choices of crops, are compared on the
    same images.
    """
    from service.evaluation import command

    command.evaluate(
        folder,
        crops=crops,
        model=model or [],
        labels=labels,
        report=report,
        output=output,
        record=record,
        data=data,
        as_json=as_json,
        per_class=per_class,
        device=device,
    )
