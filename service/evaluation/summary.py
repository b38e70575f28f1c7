"""
Results -> tables for people; the first candidate's classes and confusions stand for all.
"""

from typing import TYPE_CHECKING, Final

from service.batch.files import text
from service.console import clean, console
from service.evaluation.confusion import Class
from service.evaluation.formatting import between, from_to, percent, points, probability
from service.evaluation.results import Results, Run

if TYPE_CHECKING:
    from rich.table import Table

FEW: Final = 10  # rows of a table that would have hundreds
SKIPPED: Final = 5


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
    """What a reader must know of the images."""
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
        lines += [f"  {text(one.name)}: {one.error}" for one in results.left_out[:SKIPPED]]
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
        its = run.figures
        table.add_row(
            run.name,
            f"{percent(its.top1)} ({between(its.top1_interval)})",
            f"{percent(its.top5)} ({between(its.top5_interval)})",
            f"{percent(its.ece)} ({between(its.ece_interval)})",
            percent(its.confidence),
            f"{its.nll:.3f}",
        )
    return table


def _comparisons(results: Results) -> "Table":
    table = _table("The same images: differences in points, with 95% intervals")
    table.add_column("")
    for heading in ("", "difference", "gained", "lost", "p"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for one in results.comparisons:
        name = f"{results.runs[one.run].name} against {results.runs[one.against].name}"
        for heading, its in (("top-1", one.top1), ("top-5", one.top5)):
            table.add_row(
                name,
                heading,
                f"{points(its.difference)} ({from_to(its.interval)})",
                str(its.gained),
                str(its.lost),
                probability(its.p),
            )
            name = ""
        difference = f"{points(one.ece_difference)} ({from_to(one.ece_interval)})"
        table.add_row("", "calibration", difference)
        table.add_row("", "same best", f"{percent(one.same_best)}%")
    return table


def _classes(run: Run, most: int) -> "Table":
    shown = run.classes[:most]
    which = "All classes" if len(shown) == len(run.classes) else "The worst classes"
    table = _table(f"{which}, {run.name}: percent")
    for heading in ("class", "pictures", "top-1", "top-5", "most often taken for"):
        number = heading in ("pictures", "top-1", "top-5")
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for one in shown:
        said = one.said_most
        table.add_row(
            name_of(one.true),
            str(one.images),
            percent(one.top1),
            percent(one.top5),
            f"{name_of(said)} ({one.said_most_images})" if said else "",
        )
    return table


def _confusions(run: Run) -> "Table":
    table = _table(f"The worst confusions, {run.name}")
    table.add_column("pictures", justify="right")
    for heading in ("of", "were taken for"):
        table.add_column(heading)
    for one in run.confusions[:FEW]:
        table.add_row(str(one.images), name_of(one.true), name_of(one.said))
    return table


def name_of(one: Class) -> str:
    """The first of its names, and the WordNet id, which tells it from others of that name."""
    if one.wordnet_id is None:
        return one.label
    return f"{one.label.split(',')[0]} {one.wordnet_id}"


def _table(title: str) -> "Table":
    from rich.table import Table

    return Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
