"""
Metrics as people read them: shares in percent, differences in points, one decimal.
"""

from service.evaluation.intervals import Interval


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
