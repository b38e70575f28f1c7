"""
The checks of `alexnet doctor`: each looks at one thing, as the server would.

    configuration   settings, API keys, tracing
    installation    Python, packages, the runtime
    model           the model file, and what computes
    machine         cores, memory, files
    certificate     TLS
    port            who has the address

A check yields its findings.  A `ServiceError` that it raises is a finding too, and whatever is
logged meanwhile is a warning.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What a check found; `mend` is what to do about it."""

    check: str
    verdict: Verdict
    found: str
    mend: str | None = None


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, mend: str) -> Finding:
    """The service starts all the same."""
    return Finding(check, "warning", found, mend)


def failed(check: str, found: str, mend: str) -> Finding:
    """The service would not start, or nobody could use it."""
    return Finding(check, "failed", found, mend)


def megabytes(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
