"""
Results -> tables on the terminal, and one HTML file.  The file needs nothing else, no network, no
script, no other file.

Shares are in percent, differences in points, with one decimal.  The terminal's classes and
confusions are those of the first candidate.  Names of files and classes are untrusted text: the
template escapes them all, and the page forbids itself to load anything.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from service.batch.files import Skipped, text
from service.batch.tables import replacing
from service.console import clean, console
from service.evaluation.confusion import Class
from service.evaluation.intervals import Interval
from service.evaluation.predicted import Square
from service.evaluation.results import Results, Run

if TYPE_CHECKING:
    from rich.table import Table

FEW: Final = 10  # rows of a table that would have hundreds
SKIPPED: Final = 5  # images
THUMBNAIL: Final = 160  # pixels of either side
QUALITY: Final = 80  # of JPEG; 6 KB each
MAX_ROWS: Final = 2000  # of one table; JSON has them all


def show(results: Results, *, per_class: bool) -> None:
    """Print it; with `per_class` every class, else the worst."""
    screen = console()
    for table in (_runs(results), _comparisons(results)):
        if table.row_count:
            screen.print(table, "")
    run = results.runs[0]
    screen.print(_classes(run, len(run.classes) if per_class else FEW), "")
    if run.confusions:
        screen.print(_confusions(run), "")
    for line in notes(results):
        screen.print(clean(line), soft_wrap=True)


def notes(results: Results) -> list[str]:
    """What a reader must know about the images."""
    lines = [f"{results.data}: {results.images} images of {results.classes} classes."]
    run = results.runs[0]
    if missing := len(run.classes_without_images):
        lines.append(f"{missing} of the model's {run.number_of_classes} classes have no image.")
    lines += [
        f"{run.name}: with {run.number_of_classes} classes the right one is always among five, "
        "and top-5 says nothing."
        for run in results.runs
        if run.number_of_classes <= 5
    ]
    if results.left_out:
        reasons = ", ".join(f"{number} {code}" for code, number in results.reasons().items())
        lines.append(f"{len(results.left_out)} left out: {reasons}.")
        lines += [
            f"  {text(skipped.name)}: {skipped.error}" for skipped in results.left_out[:SKIPPED]
        ]
        if len(results.left_out) > SKIPPED:
            lines.append("  ...")
    if results.others:
        files = "file" if results.others == 1 else "files"
        lines.append(f"{results.others} other {files} passed over.")
    return lines


def _runs(results: Results) -> "Table":
    names = sorted({f"{run.model} {run.variant} {run.precision}" for run in results.runs})
    table = _table("Percent, with 95% intervals: " + "; ".join(names))
    table.add_column("", no_wrap=True)
    for heading in ("top-1", "top-5", "calibration", "says", "NLL"):
        table.add_column(heading, justify="right")
    for run in results.runs:
        metrics = run.metrics
        table.add_row(
            run.name,
            f"{percent(metrics.top1)} ({between(metrics.top1_interval)})",
            f"{percent(metrics.top5)} ({between(metrics.top5_interval)})",
            f"{percent(metrics.ece)} ({between(metrics.ece_interval)})",
            percent(metrics.confidence),
            f"{metrics.nll:.3f}",
        )
    return table


def _comparisons(results: Results) -> "Table":
    table = _table("The same images: differences in points, with 95% intervals")
    table.add_column("")
    for heading in ("", "difference", "gained", "lost", "p"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for comparison in results.comparisons:
        name = (
            f"{results.runs[comparison.run].name} against {results.runs[comparison.against].name}"
        )
        for heading, metric in (("top-1", comparison.top1), ("top-5", comparison.top5)):
            table.add_row(
                name,
                heading,
                f"{points(metric.difference)} ({from_to(metric.interval)})",
                str(metric.gained),
                str(metric.lost),
                probability(metric.p),
            )
            name = ""
        difference = f"{points(comparison.ece_difference)} ({from_to(comparison.ece_interval)})"
        table.add_row("", "calibration", difference)
        table.add_row("", "same best", f"{percent(comparison.same_best)}%")
    return table


def _classes(run: Run, limit: int) -> "Table":
    shown = run.classes[:limit]
    which = "All classes" if len(shown) == len(run.classes) else "The worst classes"
    table = _table(f"{which}, {run.name}: percent")
    for heading in ("class", "pictures", "top-1", "top-5", "most often taken for"):
        number = heading in ("pictures", "top-1", "top-5")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for metrics in shown:
        confused_with = metrics.confused_with
        table.add_row(
            name_of(metrics.true),
            str(metrics.images),
            percent(metrics.top1),
            percent(metrics.top5),
            f"{name_of(confused_with)} ({metrics.confused_images})" if confused_with else "",
        )
    return table


def _confusions(run: Run) -> "Table":
    table = _table(f"The worst confusions, {run.name}")
    table.add_column("pictures", justify="right")
    for heading in ("of", "were taken for"):
        table.add_column(heading)
    for confusion in run.confusions[:FEW]:
        table.add_row(str(confusion.images), name_of(confusion.true), name_of(confusion.predicted))
    return table


def name_of(of: Class) -> str:
    """The first of its names, and the WordNet id, which tells it from others of that name."""
    if of.wordnet_id is None:
        return of.label
    return f"{of.label.split(',')[0]} {of.wordnet_id}"


def _table(title: str) -> "Table":
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")


def write(
    path: Path, results: Results, names: list[bytes], decode: Callable[[bytes], Square | Skipped]
) -> None:
    """Write the report; `names` are the images', which are decoded again for the worst few."""
    rows = {mistake.row for run in results.runs for mistake in run.mistakes}
    thumbnails = {row: _thumbnail(decode(names[row])) for row in sorted(rows)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (between, from_to, name_of, percent, points, probability):
        environment.filters[function.__name__] = function
    page = environment.get_template("report.html").render(
        results=results,
        notes=notes(results),
        thumbnails=thumbnails,
        reach=_reach(results),
        max_rows=MAX_ROWS,
    )
    with replacing(path) as beside:
        beside.write_text(page, "utf-8")


def _thumbnail(square: Square | Skipped) -> str | None:
    """What the network saw, small, as a data URI; None if the image has gone meanwhile."""
    if isinstance(square, Skipped):
        return None
    encoded = io.BytesIO()
    small = Image.fromarray(square).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    small.save(encoded, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode()


def _reach(results: Results) -> float:
    """The furthest end of any difference's interval, so that all are drawn to one scale."""
    ends = [
        abs(end)
        for comparison in results.comparisons
        for interval in (
            comparison.top1.interval,
            comparison.top5.interval,
            comparison.ece_interval,
        )
        for end in interval
    ]
    return max(ends, default=0.0) or 1.0


def percent(share: float) -> str:
    """0.3204 -> 32.0"""
    return f"{100 * share:.1f}"


def between(interval: Interval) -> str:
    """(0.28, 0.362) -> 28.0-36.2"""
    return "-".join(map(percent, interval))


def points(difference: float) -> str:
    """0.008 -> +0.8"""
    return f"{round(100 * difference, 1) or 0.0:+.1f}"  # never -0.0


def from_to(interval: Interval) -> str:
    """(-0.028, 0.012) -> -2.8 to +1.2"""
    return " to ".join(map(points, interval))


def probability(p: float) -> str:
    """Of a test; small ones all read alike."""
    return f"{p:.2g}" if p >= 0.001 else "<0.001"
