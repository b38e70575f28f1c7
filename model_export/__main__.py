"""
The ``alexnet-export`` command: weights in, a verified model file out.

Exit status: 0 when the file is there and verified, 1 when anything stopped it (an
existing file is left as it was), 2 when the command line itself is wrong.
"""

from __future__ import annotations

import enum
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from command_help import CONTEXT, Command, Status, epilog
from model_export.errors import ExportError, WeightsUnusable
from model_export.variants import CHANNELS, RANGES, VARIANTS, Given

if TYPE_CHECKING:
    from model_export.alexnet import AlexNet
    from model_export.export import Record
    from model_export.variants import Variant
    from model_export.verify import Agreement
    from model_export.weight_files import WeightFile

VariantName = enum.StrEnum("VariantName", list(VARIANTS))  # type: ignore[misc]  # not a literal
# The names of the table's rows, for the help; torch takes seconds to import, so the table itself
# is read only when there is work.  A test holds the two together.
PrecisionName = enum.StrEnum("PrecisionName", ["fp32", "fp16", "int8", "int8w"])
ChannelsName = enum.StrEnum("ChannelsName", list(CHANNELS))  # type: ignore[misc]
CropsName = enum.StrEnum("CropsName", ["ten", "one"])
RangeName = enum.StrEnum("RangeName", {name: name for name in RANGES})  # type: ignore[misc]

EPILOG = epilog(
    {
        "alexnet-export --variant owt --precision int8": "the published weights, fetched, for CPUs",
        "alexnet-export --variant owt --weights mine.pth --labels classes.txt": "your own weights "
        "and classes",
        "alexnet-export --variant owt --weights mine.pth --check FOLDER": "does the network know "
        "its images?",
        "alexnet-export --variant owt --weights service/bundled/alexnet.onnx": "the bundled model "
        "in fp32",
    },
    Status.USAGE,
    done="the model file is written, and answers as PyTorch does",
    failed="it is not, and an earlier file is as it was; standard error says why",
    interrupted="Ctrl-C; an earlier file is as it was",
)

app = typer.Typer(add_completion=False, context_settings=CONTEXT)
console = Console()


@app.command(cls=Command, epilog=EPILOG)
def export(
    variant: Annotated[
        VariantName,
        typer.Option(
            help="Which of the networks called AlexNet the weights are of.",
            rich_help_panel="Network",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The file of weights: .pth, .safetensors, .onnx or another kind; by default the "
            "published weights, which are fetched.",
            rich_help_panel="Network",
            metavar="FILE",
        ),
    ] = None,
    precision: Annotated[
        PrecisionName,
        typer.Option(
            help="What the network computes in: fp32, fp16 for GPUs, int8 for CPUs, or int8w for "
            "a small file.",
            rich_help_panel="Output",
        ),
    ] = PrecisionName.fp32,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="The classes' names, one a line, or CSV with the columns wordnet_id,name; by "
            "default those in the file of weights, or ImageNet's.",
            rich_help_panel="Network",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The model file to write.",
            rich_help_panel="Output",
            metavar="FILE",
        ),
    ] = Path("alexnet.onnx"),
    name: Annotated[
        str,
        typer.Option(
            help="The model's name in the service's answers.",
            rich_help_panel="Output",
            metavar="NAME",
        ),
    ] = "alexnet",
    images: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            help="Images to calibrate int8 and verify on, at least 7; by default 64 photographs "
            "that come with the exporter.",
            rich_help_panel="Output",
            metavar="FOLDER",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="JSON with what is known of the weights: name, licence, accuracy; by default what "
            "the file of weights says.",
            rich_help_panel="Network",
            metavar="FILE",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="The mean that training subtracted from each channel, as 0.485,0.456,0.406; by "
            "default what the file of weights or the variant says.",
            rich_help_panel="Preparation of the training images",
            metavar="NUMBERS",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            help="The standard deviation that training then divided each channel by, as "
            "0.229,0.224,0.225; by default likewise.",
            rich_help_panel="Preparation of the training images",
            metavar="NUMBERS",
        ),
    ] = None,
    channels: Annotated[
        ChannelsName | None,
        typer.Option(
            help="The order of the channels in training; by default likewise.",
            rich_help_panel="Preparation of the training images",
        ),
    ] = None,
    range_name: Annotated[
        RangeName | None,
        typer.Option(
            "--range",
            help="The range of the pixels that --mean and --std are of; by default 0-1, or 0-255 "
            "if one of them is above 1.",
            rich_help_panel="Preparation of the training images",
        ),
    ] = None,
    crops: Annotated[
        CropsName | None,
        typer.Option(
            help="Fix this choice, for other runtimes than this service's; by default the file "
            "offers all.",
            rich_help_panel="Output",
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images, FOLDER/CLASS/image, of which it counts how many the network "
            "knows.",
            rich_help_panel="Network",
            metavar="FOLDER",
        ),
    ] = None,
) -> None:
    """Export a PyTorch-trained AlexNet to the one ONNX file that the service runs."""
    given = Given(
        mean=_figures("--mean", mean),
        std=_figures("--std", std),
        channels=channels.value if channels else None,
        range=range_name.value if range_name else None,
    )
    try:
        _require()
        _export(
            *(variant.value, weights, precision.value, labels, output, name, images, record),
            *(given, check, crops.value if crops else None),
        )
    except ExportError as error:
        Console(stderr=True, soft_wrap=True).print(f"alexnet-export: {error}", markup=False)
        raise typer.Exit(1) from error


def _figures(option: str, text: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas, one or three."""
    if text is None:
        return None
    try:
        figures = tuple(float(part) for part in text.split(","))
    except ValueError:
        figures = ()
    if len(figures) not in (1, 3):
        raise typer.BadParameter(f"{option} takes one number, or three separated by commas")
    return figures


def _require() -> None:
    """Say which extra is missing, rather than how an import failed."""
    for package in ("torch", "onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(
                f"{package} is not installed; exporting needs the extras export and cpu "
                "(scripts/install test makes a .venv-test that has them)"
            )


def _export(
    variant_name: str,
    weights: Path | None,
    precision: str,
    labels_file: Path | None,
    output: Path,
    name: str,
    folder: Path | None,
    record_file: Path | None,
    given: Given,
    labelled_folder: Path | None,
    fixed_crops: str | None,
) -> None:
    from model_export import (
        checkpoints,
        crops,
        export,
        graph,
        preparation,
        sight,
        verify,
        weight_files,
    )

    variant = VARIANTS[variant_name]
    with console.status("reading the weights") as status:
        path = weights or _published(variant)
        checkpoints.must_be_published(path)
        file = weight_files.load(path)
        network, told = checkpoints.read_as(variant, file.tensors, source=path.name)
        prepared = preparation.find(variant, path, file, channels=network.channels, given=given)
        variant = replace(variant, normalisation=prepared.normalisation)
        labels = _labels(labels_file, file, network.classes)
        record = _record(record_file, path, file, name, variant, precision)
        real = crops.load_images(folder, left_out=_leave_out)
        labelled = sight.read_labelled(labelled_folder, labels) if labelled_folder else None
        status.update("building the graph")
        model = export.build_model(
            network, variant, precision=precision, calibration=real, crops=fixed_crops
        )
        export.describe(
            model,
            variant=variant,
            precision=precision,
            labels=labels,
            record=record,
            image=real[len(real) // 2],
        )
        status.update("writing the file and verifying it against PyTorch")

        def check(file: Path) -> list[Agreement]:
            return verify.verify(
                verify.read_back(file),
                network,
                crop_size=variant.crop_size,
                normalisation=variant.normalisation,
                precision=precision,
                images=real,
            )

        try:
            agreements = export.write(model, output, check)
        except OSError as error:
            raise ExportError(
                f"{output} cannot be written ({error.strerror}); choose another place with -o"
            ) from error
        status.update("looking at what it answers")
        seen = variant.crop_size, variant.normalisation
        remarks = sight.looked_at(network, *seen, labelled) if labelled else []
        warning = sight.blind(network, *seen, real)
    remarks += [warning] if warning else []
    why = "" if fixed_crops else graph.unshared(model)
    console.print(told, soft_wrap=True)
    console.print(f"normalisation: {prepared.normalisation}; by {prepared.source}", soft_wrap=True)
    _summary(output, variant, precision, network, agreements, len(real), why)
    for remark in remarks:
        console.print(remark, soft_wrap=True, markup=False)
    console.print(f"try it: alexnet serve --model {output}", soft_wrap=True)


def _leave_out(file: Path, why: str) -> None:
    message = f"alexnet-export: {file} cannot be read ({why}) and is left out"
    Console(stderr=True, soft_wrap=True).print(message, markup=False, highlight=False)


def _published(variant: Variant) -> Path:
    from model_export import checkpoints

    if variant.weights is None:
        raise WeightsUnusable(
            f"nobody has published weights of {variant.name}; give your own with --weights PATH"
        )
    return checkpoints.fetch(variant.weights)


def _labels(labels: Path | None, file: WeightFile, classes: int) -> list[tuple[str | None, str]]:
    """From --labels, or from the model file that the weights are read from, or ImageNet's."""
    from model_export import export

    if labels is not None:
        return export.read_labels(labels, classes)
    own = _entry(file, "labels")
    if isinstance(own, list) and len(own) == classes:
        return [(wordnet_id, name) for wordnet_id, name in own]
    imagenet = export.imagenet_labels()
    if len(imagenet) != classes:
        raise ExportError(
            f"the network has {classes} classes, not ImageNet's {len(imagenet)}; "
            "name them with --labels FILE, one per line"
        )
    return imagenet


def _record(
    record: Path | None, path: Path, file: WeightFile, name: str, variant: Variant, precision: str
) -> Record:
    """What is known of the weights: from --record, from the variant's row if they are its published
    weights, or from the file's own metadata; otherwise only their name and checksum."""
    from model_export import checkpoints
    from model_export.export import Record

    sha256 = checkpoints.sha256(path)
    weights: dict[str, object] = {"name": path.name, "sha256": sha256, "licence": "unknown"}
    if record is not None:
        return _written_record(record, name, weights)
    row = variant.weights
    if row is not None and sha256.startswith(row.sha256):
        published = {"name": row.name, "licence": row.licence, "url": row.url}
        return Record(name, {**weights, **published}, row.accuracy)
    own = _entry(file, "weights")
    if not isinstance(own, dict):
        return Record(name, weights, [])
    origin = {key: own.pop(key) for key in ("name", "sha256", "from") if key in own}
    travelled = {**weights, **own, **({"from": origin} if origin else {})}
    # Of other arithmetic than this, what was measured says nothing about the new file.
    same = file.metadata.get("precision") == precision == "fp32"
    measured = _entry(file, "accuracy") if same else None
    return Record(name, travelled, measured if isinstance(measured, list) else [])


def _entry(file: WeightFile, key: str) -> object:
    """An entry of a weight file's metadata, JSON; None if there is none."""
    try:
        return json.loads(file.metadata.get(key, "null"))
    except ValueError:
        return None


def _written_record(record: Path, name: str, weights: dict[str, object]) -> Record:
    from model_export.export import Record

    try:
        content = json.loads(record.read_text("utf-8"))
        merged = Record(name, {**weights, **content["weights"]}, content["accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{record} is not a record; it is JSON with the keys weights and accuracy"
        ) from error
    if merged.weights["sha256"] != weights["sha256"]:
        raise ExportError(
            f"{record} is of other weights than {weights['name']}: its sha256 differs; give the "
            "record of these, or the weights of that record"
        )
    return merged


def _summary(
    output: Path,
    variant: Variant,
    precision: str,
    network: AlexNet,
    agreements: list[Agreement],
    images: int,
    why: str,
) -> None:
    parameters = sum(p.numel() for p in network.parameters())
    console.print(
        f"{output}: {variant.name}, {precision}, {parameters:,} parameters, "
        f"{output.stat().st_size / 1e6:.1f} MB",
        soft_wrap=True,
    )
    if why:
        console.print(
            f"crops: ten, computed one by one, and one; no dense, since {why}", soft_wrap=True
        )
    table = Table(title=f"against PyTorch in fp32, {images} real images and 7 random ones")
    for column in ("crops", "same best class", "same best five", "largest difference", "mean"):
        table.add_column(column, justify="left" if column == "crops" else "right")
    for row in agreements:
        table.add_row(
            row.crops,
            f"{row.top1:.1%}",
            f"{row.top5:.1%}",
            f"{row.largest_difference:.1e}",
            f"{row.mean_distance:.1e}",
        )
    console.print(table)


def main() -> None:
    """Entry point of ``alexnet-export`` and ``python -m model_export``."""
    app()


if __name__ == "__main__":
    main()
