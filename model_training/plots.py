"""
The logs of runs -> one image of their curves.  Loss, top-1 and top-5 error, and learning rate, of
one run or more.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model_training.errors import RunUnusable

Columns = dict[str, list[float]]
PANELS = {  # a panel's title -> the columns that it shows, solid and dashed
    "loss": ("validation_loss", "training_loss"),
    "top-1 error, %": ("validation_top1_error", "training_top1_error"),
    "top-5 error, %": ("validation_top5_error", "training_top5_error"),
    "learning rate": ("rate", None),
}


def plot(runs: Sequence[Path], output: Path) -> None:
    """Draw the runs' ``log.csv`` into a .png or .svg file; raises RunUnusable."""
    figure = draw(runs)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=120)
    except OSError as error:
        raise RunUnusable(f"{output} cannot be written ({error.strerror})") from error
    except ValueError as error:
        raise RunUnusable(f"{output} cannot be drawn: name a file that ends in .png or .svg") from (
            error
        )


def draw(runs: Sequence[Path]) -> Figure:
    """Four panels, a colour for each run.

    The training figures are those of the crops that were learned from, with dropout: they may be
    worse than the validation's.
    """
    logs = [(run, read(run)) for run in runs]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, (solid, dashed)) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for number, (run, log) in enumerate(logs):
            scale = 100 if "%" in title else 1
            _line(axes, log, solid, f"C{number}", scale, "-", run.name if dashed else None)
            if dashed:
                _line(axes, log, dashed, f"C{number}", scale, "--", None)
        _panel(axes, title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("solid: validation, centre crop; dashed: training, as it was learned from")
    return figure


def read(run: Path) -> Columns:
    """The columns of a run's ``log.csv``."""
    path = run / "log.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows:
            return {name: [float(row[name]) for row in rows] for name in rows[0]}
    except (OSError, ValueError, TypeError) as error:
        raise RunUnusable(f"there is no log of a run at {path}") from error
    raise RunUnusable(f"{path} has no epoch in it yet")


def _panel(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title == "learning rate":
        axes.set_yscale("log")
    elif "%" in title:
        axes.set_ylim(bottom=0)


def _line(
    axes: Axes, log: Columns, column: str, colour: str, scale: float, style: str, label: str | None
) -> None:
    values = [scale * value for value in log[column]]
    axes.plot(log["epoch"], values, style, color=colour, label=label, marker=".")
