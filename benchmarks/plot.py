"""
bench.json -> throughput against latency, as SVG.  Each model has a panel.

    python -m benchmarks.plot bench.json -o serving.svg

A line joins the closed loops of one choice of crops, from 1 to 32 in flight: p50 solid, p99 dashed.
Text and axes take the page's light or dark scheme, the lines are readable on both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito's eight, which the colour-blind tell apart too, those that show on both grounds.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
INK = "#010203"  # stands for the page's own colour, and occurs nowhere else
SCHEME = """<style>
svg { color: #1f2328 }
@media (prefers-color-scheme: dark) { svg { color: #e6edf3 } }
</style>"""


def draw(rows: Sequence[dict[str, Any]], note: str) -> str:
    """The image, as SVG, of rows as `serving.py` writes them."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    closed = [row for row in rows if row["kind"] == "closed"]
    names = list(dict.fromkeys(row["model"] for row in closed))
    colours = dict(zip(dict.fromkeys(row["crops"] for row in closed), COLOURS, strict=False))
    if not names:
        raise SystemExit("there is no closed loop in this file to draw")
    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    with mpl.rc_context(style | {"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, grid = plt.subplots(
            1, len(names), sharey=True, squeeze=False, figsize=(3.4 * len(names) + 0.8, 4)
        )
        for axes, name in zip(grid[0], names, strict=True):
            _panel(axes, [row for row in closed if row["model"] == name], colours)
            axes.set_title(name)
        grid[0][0].set_ylabel("latency, ms: p50 solid, p99 dashed")
        figure.supxlabel("images/s, at 1, 8 and 32 in flight", fontsize="medium")
        figure.text(0.01, 0.005, note, fontsize=6)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        drawn = StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    return drawn.getvalue().replace(INK, "currentColor").replace("<defs>", f"{SCHEME}<defs>", 1)


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], colours: dict[str, str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for crops, colour in colours.items():
        points = sorted(
            (row for row in rows if row["crops"] == crops), key=lambda row: int(row["amount"])
        )
        rates = [row["rate"] for row in points]
        for key, line in (("p50", "o-"), ("p99", "o--")):
            axes.plot(
                *(rates, [row[key] for row in points], line),
                color=colour,
                markersize=4,
                alpha=1 if key == "p50" else 0.6,
                label=crops if key == "p50" and points else None,
            )
        for row in points:
            axes.annotate(
                str(row["amount"]),
                (row["rate"], row["p50"]),
                textcoords="offset points",
                xytext=(5, -9),
                fontsize=7,
            )
    for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
        scale("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")  # 100, not 10 to the 2nd
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, color="#808080")
    axes.legend(frameon=False, fontsize=8, title="crops", title_fontsize=8)


def plot(
    results: Annotated[Path, typer.Argument(help="What serving.py wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The SVG to write.")] = Path(
        "serving.svg"
    ),
) -> None:
    """Draw throughput against latency."""
    measured = json.loads(results.read_text())
    about = measured["machine"]
    note = (
        f"{about['cpu']}, {about['cores']} cores, ONNX Runtime {about['onnxruntime']}, "
        f"{about['provider']}, {about['date']}"
    )
    output.write_text(draw(measured["rows"], note))


if __name__ == "__main__":
    typer.run(plot)
