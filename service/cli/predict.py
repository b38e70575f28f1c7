"""
`alexnet predict`: images here, without a server.  They come from files, folders and standard input.
"""

import os
import stat
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from command_help import Status, epilog
from service.batch.files import Images, Skipped, none_in, read, readable
from service.batch.tables import WRITERS
from service.cli.options import (
    OUTPUT,
    AsJson,
    Classes,
    Crops,
    Device,
    ModelPath,
    Renormalise,
    Threshold,
    Top,
)
from service.console import Progress, console, counted, shown, watched
from service.errors import FileUnreadable, ServiceError, SettingsInvalid
from service.inference.limits import DEFAULT_TOP

if TYPE_CHECKING:
    from service.cli.output import Output
    from service.inference.predictions import Selection
    from service.settings import Settings

EPILOG: Final = epilog(
    {
        "alexnet predict tests/pictures/cat.jpg": "bars for the five best classes",
        "alexnet predict tests/pictures --top 1 --crops one": "a folder, and quickly",
        "alexnet predict tests/pictures | cut -f 1,4": "in a pipe: name and best classes",
        "alexnet predict - < tests/pictures/cat.jpg": "the image on standard input",
        "ls tests/pictures/*.jpg | alexnet predict --files-from -": "a list of names",
        "alexnet predict tests/pictures --json-lines": "for programs, a line for each image",
        "alexnet predict tests/pictures -o scores.csv": "a folder of any size, into one table",
    },
    Status.USAGE,
    Status.CANNOT_GO_ON,
    Status.BROKEN_PIPE,
    done="every image was classified (with --output: at least one)",
    failed="one of them was not, or nothing could begin; standard error says why",
    interrupted="Ctrl-C (143: SIGTERM); with --output, the same command goes on",
)
STANDARD_INPUT: Final = "-"
FEW: Final = 5  # images without a progress bar

_folders = partial(typer.Option, rich_help_panel="Large folders")


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, and folders, with all that is below them in the order of names; "
            "- is an image on standard input.",
            metavar="IMAGE",
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            help="A file with one name of an image or folder per line; - is standard input.",
            metavar="FILE",
        ),
    ] = None,
    top: Top = DEFAULT_TOP,
    threshold: Threshold = 0.0,
    classes: Classes = None,
    renormalise: Renormalise = False,
    crops: Crops = "ten",
    model: ModelPath = None,
    device: Device = None,
    as_json: AsJson = False,
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json-lines",
            help="One JSON object a line, for each image as it comes.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        _folders(
            "--output",
            "-o",
            help=f"Write the scores to this {' or '.join(WRITERS)}; the same command again goes "
            "on where it was stopped.",
            metavar="FILE",
        ),
    ] = None,
    features: Annotated[
        bool,
        _folders(
            "--features",
            help="Write each image's features too, what the network's last layer takes.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        _folders("--overwrite", help="Replace FILE if there is one."),
    ] = False,
    ray: Annotated[
        str | None,
        _folders(
            help="Score on this Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start "
            "one here.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Classify images on this machine, without a server.

    On a terminal it draws bars. Elsewhere it prints a line for each class, with tabs:
    name of the image, probability from 0 to 1, WordNet id, class. With --json it prints
    the server's answer, as one document however many images there are.

    An image that cannot be read is told on standard error and does not stop the others.
    """
    from service.settings import load_engine, load_settings

    settings = load_settings(model=model, device=device)
    places = [*(images or []), *_listed(files_from)]
    if not places:
        raise typer.BadParameter(
            "name an image, a folder, or - for standard input", param_hint="IMAGE"
        )
    if output is not None:
        if as_json or json_lines or STANDARD_INPUT in places:
            raise SettingsInvalid(
                "--output takes files and folders, without --json and without -; for JSON name it "
                "FILE.jsonl"
            )
        if threshold or classes or renormalise:
            raise SettingsInvalid(
                "--threshold, --classes and --renormalise choose what is printed; a table has the "
                "best classes of all, choose among them when you read it"
            )
        from service.batch.job import score

        score(
            settings,
            places,
            output,
            crops=crops,
            top=top,
            features=features,
            overwrite=overwrite,
            ray=ray,
        )
        return
    if ray is not None or overwrite or features:
        raise SettingsInvalid(
            "--features, --ray and --overwrite are for --output: name the file to write"
        )
    if as_json and json_lines:
        raise SettingsInvalid("--json is one document, --json-lines a line for each: choose one")
    if STANDARD_INPUT in places and files_from == STANDARD_INPUT:
        raise SettingsInvalid("standard input is an image or a list of names: give - once")
    import asyncio

    from service.cli.output import writer
    from service.inference.predictions import Selection, class_indices

    engine = load_engine(settings)
    if crops not in engine.model.crops:
        offered = ", ".join(engine.model.crops)
        raise SettingsInvalid(f"--crops {crops}: this model offers {offered}")
    labels = engine.model.labels
    indices = class_indices(classes, labels) if classes else None
    selection = Selection(top, threshold, indices, renormalise)
    with writer(engine, crops, as_json=as_json, json_lines=json_lines) as out:
        asyncio.run(_classify(settings, places, out, selection))
    if not out.images:
        raise FileUnreadable(none_in(places))
    if out.refused:
        raise typer.Exit(Status.FAILED)


def _listed(file: str | None) -> list[str]:
    """The names in a file, one a line."""
    if file is None:
        return []
    try:
        data = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
    except OSError as error:
        raise FileUnreadable(f"--files-from {file} cannot be read: {error.strerror}") from error
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # PowerShell writes lists so
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(BOM_UTF8)
    # Not splitlines() of the text: names may hold U+2028, and bytes that are not UTF-8.
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [os.fsdecode(line) for line in lines if line]


async def _classify(
    settings: "Settings", places: Sequence[str], output: "Output", selection: "Selection"
) -> None:
    """Print each outcome, in the order of the names, as soon as it is known."""
    from service.batch.reader import FileClassifier, window
    from service.inference.classifier import Classifier
    from service.inference.predictions import select
    from service.settings import limits

    # One image; of a larger one no more than is needed to refuse it.
    stdin = sys.stdin.buffer.read(settings.max_body + 1) if STANDARD_INPUT in places else b""
    classifier_limits, labels = limits(settings), output.engine.model.labels
    async with Classifier(output.engine, classifier_limits) as classifier:
        files = FileClassifier[Source](
            classifier,
            partial(read_source, max_body=settings.max_body, standard_input=stdin),
            crops=output.crops,
            window=window(classifier_limits),
            max_body=settings.max_body,
            max_uploads=settings.max_uploads,
        )
        with _watched(places, output) as progress:
            async with aclosing(files.results(walk(places))) as results:
                async for source, result in results:
                    if isinstance(result, ServiceError):
                        output.add(source.name, result)
                    else:
                        best = select(result.probabilities, labels, selection)
                        output.add(source.name, best)
                    if progress is not None:
                        progress.update(output.images, output.refused)


@contextmanager
def _watched(places: Sequence[str], output: "Output") -> Iterator[Progress | None]:
    """A progress bar, on a terminal and beyond a few images."""
    seen = watched() and (output.screen is not None or not sys.stdout.isatty())
    # Only then: the names of a large folder would be listed and sorted twice.
    if not seen or len(list(islice(walk(places), FEW + 1))) <= FEW:
        yield None
        return
    images = Images([place for place in places if place != STANDARD_INPUT])
    screen = output.screen or console(stderr=True)
    with shown(0, screen) as progress, counted(images, progress):
        yield progress


class Source(NamedTuple):
    """Something that was named, or found in a folder; with an `error` it cannot be read."""

    name: str
    error: ServiceError | None = None
    named: bool = True  # and not found


def walk(places: Iterable[str]) -> Iterator[Source]:
    """Files as they are given, and what is in folders: of each the images by name, then the
    folders in it by name."""
    for place in places:
        if place == STANDARD_INPUT or not os.path.isdir(place):
            yield Source(place)
            continue
        for entry in Images((place,), in_order=True):
            if isinstance(entry, Skipped):
                name, error = entry.name, FileUnreadable(entry.error)
                yield Source(os.path.join(place, os.fsdecode(name)), error)
            else:
                yield Source(os.path.join(place, os.fsdecode(entry)), named=False)


def read_source(source: Source, limit: int, *, max_body: int, standard_input: bytes) -> bytes | int:
    """
    As `read` for a file; a pipe's bytes, and those of standard input, up to one beyond `max_body`.

    Raises `FileUnreadable`.
    """
    if source.error is not None:
        raise source.error
    if source.name == STANDARD_INPUT:
        return standard_input
    # The shell's <(command) is a pipe too; one that lies in a folder might never have a writer.
    with readable():
        if source.named and stat.S_ISFIFO(os.stat(source.name).st_mode):
            with open(source.name, "rb") as pipe:
                return pipe.read(max_body + 1)
    return read(os.fsencode(source.name), limit)
