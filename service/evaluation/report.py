"""
Results -> one HTML file that needs nothing else: no network, no script, no other file.

Names of files and classes are untrusted text: the template escapes them all, and the page forbids
itself to load anything.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from service.batch.files import Skipped
from service.batch.tables import replacing
from service.evaluation.decoding import Square
from service.evaluation.formatting import between, from_to, percent, points, probability
from service.evaluation.results import Results
from service.evaluation.summary import name_of, notes

THUMBNAIL: Final = 160  # pixels of either side
QUALITY: Final = 80  # of JPEG; 6 KB each
MAX_ROWS: Final = 2000  # of one table; JSON has them all


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
