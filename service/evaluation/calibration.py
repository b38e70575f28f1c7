"""
Calibration: how often a probability of 0.61 is right.  It should be in 61 of 100 cases.

The expected calibration error, after C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On
Calibration of Modern Neural Networks" (ICML 2017), section 2, equation 3: the images are put into
15 bins of equal width, ((m - 1) / 15, m / 15], by the probability of their best class; in each bin
the mean probability is held against the share that is right; the error is the mean of the
differences, each weighed with its bin's images.

Its interval comes from a bootstrap over the images (B. Efron, Annals of Statistics 7 (1979),
1-26), all candidates drawing the same ones.  On few images the error is too large, since chance
adds to it and never cancels, and in a resample it is too large once more.  So the resamples' own
quantiles are of no use: the lower end takes the excess away, as in the basic interval of A. C.
Davison and D. V. Hinkley ("Bootstrap Methods and their Application", 1997, equation 5.6); the upper
end adds only how far the resamples scatter above their middle.  And the lower end is 0 where a
perfectly calibrated model would often show as much: the same probabilities, with answers that are
right just so often, after J. Broecker and L. A. Smith, Weather and Forecasting 22 (2007), 651-661.

Where all images have the same probability and are all right, or all wrong, every resample is the
same, and the interval has no width: it says nothing then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.evaluation.intervals import Interval, wilson

BINS: Final = 15
RESAMPLES: Final = 1000
SEED: Final = 2012  # fixed, so that the same predictions have the same interval

Floats = NDArray[np.float64]
Confidence = tuple[
    NDArray[np.float32], NDArray[np.bool_]
]  # (N,): the best class's probability; whether it is right


@dataclass(frozen=True)
class Bin:
    """The images whose best class has a probability above `low`, up to `high`."""

    low: float
    high: float
    images: int
    confidence: float | None  # the mean probability; None in an empty bin
    right: float | None  # the share whose best class is the right one
    right_interval: Interval | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """One candidate's expected calibration error, 0 to 1."""

    error: float
    interval: Interval
    if_calibrated: float  # the mean of what a perfectly calibrated model would show
    resampled: Floats  # (RESAMPLES,)


def bins(confidence: NDArray[np.float32], hits: NDArray[np.bool_]) -> list[Bin]:
    """All fifteen, the empty ones too; of the best classes' probabilities, `(N,)` each."""
    place = _places(confidence)
    numbers = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, weights=confidence, minlength=BINS)
    right = np.bincount(place, weights=hits, minlength=BINS)
    return [
        Bin(
            m / BINS,
            (m + 1) / BINS,
            n,
            float(sums[m]) / n if n else None,
            float(right[m]) / n if n else None,
            wilson(int(right[m]), n) if n else None,
        )
        for m, n in enumerate(numbers.tolist())
    ]


def expected_error(confidence: NDArray[np.float32], hits: NDArray[np.bool_]) -> float:
    """Of the best classes' probabilities, `(N,)`, and whether they are right."""
    return _error(_places(confidence), _excess(confidence, hits))


def measured(each: Sequence[Confidence]) -> list[Calibration]:
    """The calibration of each candidate, on the same images."""
    again = _resampled(each)
    return [
        _calibration(confidence, expected_error(confidence, hits), again[:, number])
        for number, (confidence, hits) in enumerate(each)
    ]


def difference_interval(this: Calibration, other: Calibration) -> Interval:
    """The basic interval of this error less the other, from the same resamples."""
    difference = this.error - other.error
    low, high = np.quantile(this.resampled - other.resampled, (0.025, 0.975))
    return 2 * difference - float(high), 2 * difference - float(low)


def _calibration(confidence: NDArray[np.float32], error: float, again: Floats) -> Calibration:
    by_chance = _by_chance(confidence)
    middle, high = np.quantile(again, (0.5, 0.975))
    as_calibrated = error <= np.quantile(by_chance, 0.975)
    interval = (
        0.0 if as_calibrated else max(0.0, 2 * error - float(high)),
        min(1.0, error + float(high - middle)),
    )
    return Calibration(error, interval, float(by_chance.mean()), again)


def _resampled(each: Sequence[Confidence]) -> Floats:
    """The errors in resamples of the images, `(RESAMPLES, candidates)`."""
    excesses = [(_places(confidence), _excess(confidence, hits)) for confidence, hits in each]
    images = len(each[0][0])
    random = np.random.default_rng(SEED)
    errors = np.empty((RESAMPLES, len(each)))
    for row in errors:
        drawn = random.integers(images, size=images)
        row[:] = [_error(place[drawn], excess[drawn]) for place, excess in excesses]
    return errors


def _by_chance(confidence: NDArray[np.float32]) -> Floats:
    """The errors that a model would have which is right just as often as it says."""
    place = _places(confidence)
    random = np.random.default_rng(SEED)
    return np.array(
        [
            _error(place, _excess(confidence, random.random(len(place)) < confidence))
            for _ in range(RESAMPLES)
        ]
    )


def _places(confidence: NDArray[np.float32]) -> NDArray[np.intp]:
    """Each image's bin."""
    above = np.ceil(confidence.astype(np.float64) * BINS).astype(np.intp) - 1
    return np.clip(above, 0, BINS - 1)


def _excess(confidence: NDArray[np.float32], hits: NDArray[np.bool_]) -> Floats:
    """Each image's probability less 1 if it is right, less 0 if it is wrong."""
    return confidence.astype(np.float64) - hits


def _error(place: NDArray[np.intp], excess: Floats) -> float:
    """A bin's weight cancels the number that its means are divided by."""
    sums = np.bincount(place, weights=excess, minlength=BINS)
    return float(np.abs(sums).sum()) / len(place)
