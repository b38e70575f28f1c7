"""
The ``alexnet-distill`` command: makes the bundled model's weights.  Public images and two published
networks go in.

    alexnet-distill weights -o FILE      fetch, extract features, train, calibrate, write
    alexnet-distill exclude FOLDER       list the images that FOLDER's photographs show too

Whatever is there already is not done again.  Exit status: 0 when it is done, 1 when anything
stopped it, 2 when the command line is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from command_help import CONTEXT, Command, Commands, Status, epilog
from model_export.errors import ExportError
from model_training.errors import TrainingError

NEEDED = ("torch", "onnx", "onnxruntime", "efficientnet_lite_pytorch")

EPILOG = epilog(
    {
        "alexnet-distill weights": "all of it: 6 GB from the internet, more than an hour",
        "alexnet-distill weights --help": "each command has its own help, with examples",
    },
    Status.DONE,
    Status.FAILED,
    Status.USAGE,
    Status.INTERRUPTED,
)
WEIGHTS_EPILOG = epilog(
    {
        "alexnet-distill weights": "all of it: 6 GB from the internet, more than an hour",
        "alexnet-distill weights --epochs 1 -o try.safetensors": "a shorter training",
        "alexnet-distill weights --work FOLDER": "keep 3.3 GB of features elsewhere",
    },
    Status.USAGE,
    done="the weights are written, and beside them their record for alexnet-export",
    failed="something failed; what is computed already is kept",
    interrupted="Ctrl-C; the same command goes on",
)
EXCLUDE_EPILOG = epilog(
    {
        "alexnet-distill exclude FOLDER -o excluded.txt": "which images show what FOLDER's show?",
        "alexnet-distill exclude FOLDER -o model_training/distillation/excluded.txt": "the list "
        "that the next training of this clone reads",
    },
    Status.USAGE,
    done="the list is written, even if it is empty",
    failed="FOLDER holds no images, or nothing is computed yet to compare with",
    interrupted="Ctrl-C",
)

app = typer.Typer(
    cls=Commands,
    help="Make the bundled model's weights: a stronger network teaches its classifier.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)

_images = partial(typer.Option, rich_help_panel="Images")
_output = partial(typer.Option, rich_help_panel="Output")
_runtime = partial(typer.Option, rich_help_panel="Runtime")

Work = Annotated[
    Path | None,
    _images(
        help="What is computed on the way, 12 kB a crop; by default in the user's cache.",
        metavar="FOLDER",
    ),
]
Clones = Annotated[
    Path | None,
    _images(
        help="The sets' git repositories; by default in the work folder, where they are fetched.",
        metavar="FOLDER",
    ),
]
Manifest = Annotated[
    Path | None,
    _images(help="The list of the sets, TOML; by default the bundled model's.", metavar="FILE"),
]


@app.command(cls=Command, epilog=WEIGHTS_EPILOG)
def weights(
    output: Annotated[
        Path,
        _output("--output", "-o", help="The weights to write, for alexnet-export.", metavar="FILE"),
    ] = Path("alexnet-owt-compact.safetensors"),
    work: Work = None,
    clones: Clones = None,
    downloads: Annotated[
        Path | None,
        _images(
            help="A folder that holds the file of the convolutions already; by default it is "
            "fetched.",
            metavar="FOLDER",
        ),
    ] = None,
    manifest: Manifest = None,
    workers: Annotated[
        int,
        _runtime(
            min=0,
            help="Processes that look at images; 0 takes as many as there are processors.",
            metavar="COUNT",
        ),
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many epochs; by default 8, the bundled model's.",
            rich_help_panel="Recipe",
            metavar="COUNT",
        ),
    ] = None,
    device: Annotated[
        str, _runtime(help="Where the classifier learns.", metavar="cpu|cuda")
    ] = "cpu",
) -> None:
    """Fetch images and networks, extract features, train, calibrate, write the weights."""
    from model_training.devices import processors
    from model_training.distillation import distil

    work = work or _cache()
    distil.distil(
        output,
        work=work,
        clones=clones or work / "sets",
        downloads=downloads,
        manifest=manifest,
        workers=workers or processors(),
        epochs=epochs,
        device=device,
        console=Console(soft_wrap=True),
    )


@app.command(cls=Command, epilog=EXCLUDE_EPILOG)
def exclude(
    folder: Annotated[
        Path, typer.Argument(help="Photographs that will measure the model.", metavar="FOLDER")
    ],
    output: Annotated[
        Path,
        _output("--output", "-o", help="The list to write, a line for each image.", metavar="FILE"),
    ],
    work: Work = None,
    clones: Clones = None,
    manifest: Manifest = None,
) -> None:
    """List the sets' images that show what an evaluation photograph shows."""
    from model_training.distillation import distil

    work = work or _cache()
    distil.exclude(
        folder,
        output,
        work=work,
        clones=clones or work / "sets",
        manifest=manifest,
        console=Console(soft_wrap=True),
    )


def _cache() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("alexnet-service") / "distillation"


def main() -> None:
    """Entry point of ``alexnet-distill`` and ``python -m model_training.distillation``."""
    stderr = Console(stderr=True, soft_wrap=True)
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            stderr.print(
                f"alexnet-distill: {package} is not installed; distilling needs the extras train "
                "and cpu (scripts/install test makes a .venv-test that has them)",
                markup=False,
            )
            sys.exit(1)
    try:
        app()
    except (TrainingError, ExportError) as error:
        stderr.print(f"alexnet-distill: {error}", markup=False, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
