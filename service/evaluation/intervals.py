"""
95% confidence intervals of proportions, and of their differences.  A difference is that of two
proportions of the same images.

* Wilson's score interval: E. B. Wilson, JASA 22 (1927), 209-212; method 3 of R. G. Newcombe,
  Statistics in Medicine 17 (1998), 857-872.
* The difference: method 10 of R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, which
  joins the two score intervals, given how the answers go together.
* McNemar's test, exact: of the images on which just one of the two is right, either is so often
  the right one as a fair coin falls.
"""

import math
from typing import Final

Interval = tuple[float, float]

Z: Final = 1.959963984540054  # the normal distribution's 97.5% point


def wilson(right: int, of: int) -> Interval:
    """Of the share `right / of`, where `of` is at least 1."""
    share = right / of
    centre = share + Z**2 / (2 * of)
    half = Z * math.sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / of) for sign in (-1, 1))
    # Rounding would leave a little of nothing and of all.
    return (low if right else 0.0), (high if right < of else 1.0)


def paired_difference(both: int, gained: int, lost: int, neither: int) -> Interval:
    """
    Of the share of right predictions of one model less that of another.

    Numbers of images: both are right, only the first (`gained`), only the second (`lost`), neither.
    """
    of = both + gained + lost + neither
    p, q = (both + gained) / of, (both + lost) / of
    (p_low, p_high), (q_low, q_high) = wilson(both + gained, of), wilson(both + lost, of)
    phi = _correlation(both, gained, lost, neither)

    def apart(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * phi * a * b + b**2))

    return (
        p - q - apart(p - p_low, q_high - q),
        p - q + apart(p_high - p, q - q_low),
    )


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """How the answers go together, -1 to 1, corrected for continuity where it is positive."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if not margins:
        return 0.0
    excess = both * neither - gained * lost
    if excess > 0:
        excess = max(0, excess - (both + gained + lost + neither) / 2)  # type: ignore[assignment]
    return excess / math.sqrt(margins)


def mcnemar(gained: int, lost: int) -> float:
    """The probability that a fair coin falls as unevenly as this, or more so; two-sided."""
    of = gained + lost
    # Through logarithms: the numbers themselves have thousands of digits.
    tail = sum(
        math.exp(
            math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) - of * math.log(2)
        )
        for k in range(min(gained, lost) + 1)
    )
    return min(1.0, 2 * tail)
