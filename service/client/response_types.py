"""
What the server answers, as plain frozen values; the JSON behind them is in the API's own page.

Sequences are tuples, so that a prediction can be kept, compared and hashed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Which model answered; `version` is of the file, and changes with it."""

    name: str
    variant: str
    precision: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassProbability:
    """A class and how probable it is, 0 to 1."""

    index: int
    wordnet_id: str | None  # a network of one's own may have none
    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A square in the prepared image of 256 x 256; pixels, from the top left."""

    left: int
    top: int
    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One of the views that the mean is taken over, and its own best classes."""

    name: str
    mirrored: bool
    box: Box | None  # None where the model file does not say
    classes: tuple[ClassProbability, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassHeatmap:
    """
    How much a class's probability falls when a part of the image is hidden.

    `values[row][column]`, from the top left; below 0 where hiding makes it more probable.
    """

    index: int
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Where the evidence lies, for each class of the answer."""

    method: str
    rows: int
    columns: int
    classes: tuple[ClassHeatmap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The best classes of one image, the most probable first, and who says so."""

    filename: str | None  # the image's own, without folders
    classes: tuple[ClassProbability, ...]
    views: tuple[View, ...] = ()  # only with details="views"
    heatmap: Heatmap | None = None  # only with details="heatmap"
    model: Model
    crops: str
    request_id: str | None = field(compare=False)  # the X-Request-ID that the server's log has
    # Milliseconds that the request was in each step: read, decode, queue, run, total.
    timing: Mapping[str, float] = field(compare=False)

    @property
    def best(self) -> ClassProbability:
        """The most probable class."""
        return self.classes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Images that wait, and how many may."""

    pending: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What runs, where it runs, and how full the queue is."""

    status: str  # "ready"; or why it is not
    model: Model
    provider: str
    device_requested: str
    warning: str | None
    queue: Queue

    @property
    def ready(self) -> bool:
        """Whether an image sent now would be classified."""
        return self.status == "ready"
