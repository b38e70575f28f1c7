"""
The ``alexnet-distill`` command: public images and two published networks in, the bundled model's
weights out.

    alexnet-distill weights -o FILE      fetch, extract features, train, calibrate, write
    alexnet-distill exclude FOLDER       list the images that FOLDER's photographs show too

Whatever is there already is not done again.  Exit status: 0 when it is done, 1 when anything
stopped it, 2 when the command line is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model_export.errors import ExportError
from model_training.errors import TrainingError

NEEDED = ("torch", "onnx", "onnxruntime", "efficientnet_lite_pytorch")

app = typer.Typer(
    help="Make the bundled model's weights: a stronger network teaches its classifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Work = Annotated[
    Path | None,
    typer.Option(help="Keeps what is computed on the way, 12 kB a crop; else the user's cache."),
]
Clones = Annotated[
    Path | None, typer.Option(help="The sets' git repositories; by default in the work folder.")
]
Manifest = Annotated[
    Path | None, typer.Option(help="Other sets of images than the bundled model's.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that look at images; 0: as many as processors.")
]


@app.command()
def weights(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The weights, for alexnet-export.")
    ] = Path("alexnet-owt-compact.safetensors"),
    work: Work = None,
    clones: Clones = None,
    downloads: Annotated[
        Path | None, typer.Option(help="Folder with the convolutions' file, if it is there.")
    ] = None,
    manifest: Manifest = None,
    workers: Workers = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Other than the bundled model's, to try things.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the head learns: cpu or cuda.")] = "cpu",
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


@app.command()
def exclude(
    folder: Annotated[Path, typer.Argument(help="Photographs that will measure the model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The list; the next training leaves them out.")
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
