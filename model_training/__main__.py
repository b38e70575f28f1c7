"""
The ``alexnet-train`` command: labelled images in, weights for ``alexnet-export`` out.

    alexnet-train FOLDER -o RUN        train; the same command again resumes it
    alexnet-train plot RUN... -o FILE  draw the logs

Exit status: 0 when the run is finished, 1 when it failed, 2 when the command line is
wrong, 130 or 143 when a signal did; the checkpoint has then been written.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from command_help import CONTEXT, Command, Status, epilog
from model_export.errors import ExportError
from model_export.variants import VARIANTS
from model_training.errors import RunUnusable, Stopped, TrainingError

VariantName = enum.StrEnum("VariantName", list(VARIANTS))  # type: ignore[misc]  # not a literal
PUBLISHED = ", ".join(name for name, variant in VARIANTS.items() if variant.weights)
# The names of the tables' rows, for the help: reading the tables takes torch, and seconds.
DeviceName = enum.StrEnum("DeviceName", ["auto", "cuda", "cpu"])
PrecisionName = enum.StrEnum("PrecisionName", ["auto", "fp32", "bf16", "fp16"])
Frozen = enum.StrEnum("Frozen", ["none", "features"])

EPILOG = epilog(
    {
        "alexnet-train FOLDER -o run --weights service/bundled/alexnet.onnx": "tune the bundled "
        "network to your classes, without internet",
        "alexnet-train FOLDER -o tuned --weights owt": "the published one, which is fetched",
        "alexnet-train FOLDER -o scratch": "the recipe of 2012, from nothing",
        "alexnet-train plot run -o training.png": "draw the logs of runs into one image",
    },
    Status.USAGE,
    done="the run is finished; the commands that come next are printed",
    failed="it is not; standard error says what is wrong, and what to do",
    interrupted="Ctrl-C (143: SIGTERM); the same command goes on",
)
PLOT_EPILOG = epilog(
    {
        "alexnet-train plot run": "one run, as training.png",
        "alexnet-train plot run scratch -o runs.svg": "two, to compare them",
    },
    Status.USAGE,
    done="the image is written",
    failed="a folder holds no run, or the image cannot be written",
    interrupted="Ctrl-C",
)

train_app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings=CONTEXT
)
plot_app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings=CONTEXT
)
console = Console(soft_wrap=True)


@train_app.command(cls=Command, epilog=EPILOG)
def train(
    folder: Annotated[
        Path,
        typer.Argument(help="Labelled images: FOLDER/CLASS/image, or deeper.", metavar="FOLDER"),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The folder of the run; the same command again resumes the run in it.",
            rich_help_panel="Output",
            metavar="FOLDER",
        ),
    ],
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images to validate on, in folders of the same names; by default a share "
            "of each class.",
            rich_help_panel="Images",
            metavar="FOLDER",
        ),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            help="Without --validation: the share of each class to validate on, 0 to 0.9.",
            rich_help_panel="Images",
            metavar="SHARE",
        ),
    ] = 0.2,
    weights: Annotated[
        str | None,
        typer.Option(
            help=f"The weights to begin with: {PUBLISHED} (published, fetched) or a .pth, "
            ".safetensors or .onnx file; by default random numbers.",
            rich_help_panel="Network",
            metavar="NAME|FILE",
        ),
    ] = None,
    variant: Annotated[
        VariantName | None,
        typer.Option(
            help="Which of the networks called AlexNet; by default paper from nothing, else what "
            "the weights say, or owt.",
            rich_help_panel="Network",
        ),
    ] = None,
    freeze: Annotated[
        Frozen,
        typer.Option(
            help="The layers that keep their weights: none, or features, the convolutions.",
            rich_help_panel="Network",
        ),
    ] = Frozen.none,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many epochs at most; by default 90 from nothing, 30 with weights.",
            rich_help_panel="Recipe",
            metavar="COUNT",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images a step; by default 128 from nothing, 32 with weights.",
            rich_help_panel="Recipe",
            metavar="IMAGES",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The learning rate to begin with; by default 0.003 with weights, 0.01 from "
            "nothing, C/10000 for C < 100 classes (not d2l).",
            rich_help_panel="Recipe",
            metavar="RATE",
        ),
    ] = None,
    pretrained_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The rate of layers that come with weights, as a share of --rate.",
            rich_help_panel="Recipe",
            metavar="SHARE",
        ),
    ] = 0.1,
    patience: Annotated[
        int,
        typer.Option(
            min=0,
            help="Epochs without a lower error before the rate is divided by 10.",
            rich_help_panel="Recipe",
            metavar="EPOCHS",
        ),
    ] = 5,
    mirrors: Annotated[
        bool,
        typer.Option(
            help="Mirror every second crop; not for digits or writing.",
            rich_help_panel="Recipe",
        ),
    ] = True,
    colours: Annotated[
        bool,
        typer.Option(
            help="Add colour noise along the images' principal components.",
            rich_help_panel="Recipe",
        ),
    ] = True,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="The seed of all random numbers.",
            rich_help_panel="Recipe",
            metavar="NUMBER",
        ),
    ] = 0,
    device: Annotated[
        DeviceName,
        typer.Option(
            help="Where to compute; auto takes CUDA if PyTorch finds it, else the CPU.",
            rich_help_panel="Runtime",
        ),
    ] = DeviceName.auto,
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="What to compute in; auto takes bf16 on CUDA (fp16 on old cards), fp32 on CPUs.",
            rich_help_panel="Runtime",
        ),
    ] = PrecisionName.auto,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Threads that decode and crop; 0 takes as many as there are processors.",
            rich_help_panel="Runtime",
            metavar="COUNT",
        ),
    ] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="The folder of decoded images, 196,608 bytes each; by default cache in the run's.",
            rich_help_panel="Images",
            metavar="FOLDER",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            help="Start over where the folder holds a run.",
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:
    """Train a classifier on labelled images: the recipe of 2012, or fine-tuning."""
    with _sentences():
        _require("torch", "onnx", "onnxruntime")
        from model_training import fit
        from model_training.devices import processors

        fit.fit(
            fit.TrainConfig(
                folder=folder,
                output=output,
                validation=validation,
                held_out=held_out,
                weights=weights,
                variant=variant and variant.value,
                freeze=freeze.value,
                epochs=epochs,
                batch=batch,
                rate=rate,
                pretrained_rate=pretrained_rate,
                patience=patience,
                mirrors=mirrors,
                colours=colours,
                seed=seed,
                device=device.value,
                precision=precision.value,
                workers=workers or processors(),
                cache=cache,
                overwrite=overwrite,
            ),
            console,
        )


@plot_app.command(cls=Command, epilog=PLOT_EPILOG)
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", metavar="FOLDER")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The image to write, .png or .svg.", metavar="FILE"),
    ] = Path("training.png"),
) -> None:
    """Draw loss, errors and learning rate of one or more runs into one image."""
    with _sentences():
        _require("matplotlib")
        from model_training import plots

        plots.plot(runs, output)
        console.print(f"{output}: {len(runs)} run{'s' if len(runs) > 1 else ''}", markup=False)


class _sentences:
    """Errors end a command with one sentence on standard error and an exit status."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (TrainingError, ExportError)):
            stderr = Console(stderr=True, soft_wrap=True)
            stderr.print(f"alexnet-train: {error}", markup=False, highlight=False)
            raise typer.Exit(128 + error.signal if isinstance(error, Stopped) else 1) from error


def _require(*packages: str) -> None:
    """Say which extra is missing, rather than how an import failed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise RunUnusable(
                f"{package} is not installed; training needs the extras train and cpu: "
                "pip install '.[cpu,train]' in the clone"
            )


def main() -> None:
    """Entry point of ``alexnet-train`` and ``python -m model_training``."""
    if sys.argv[1:2] == ["plot"]:
        plot_app(sys.argv[2:], prog_name="alexnet-train plot")
    train_app(prog_name="alexnet-train")


if __name__ == "__main__":
    main()
