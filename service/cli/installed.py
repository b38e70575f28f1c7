"""
Which versions of packages are installed.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from service.inference.providers import runtimes

DISTRIBUTION: Final = "alexnet-service"
RUNTIMES: Final = runtimes()


def installed(distribution: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
