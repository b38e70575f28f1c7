"""
Which versions of packages are installed.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

DISTRIBUTION: Final = "alexnet-service"
RUNTIMES: Final = {"onnxruntime": "for CPUs", "onnxruntime-gpu": "for NVIDIA GPUs and CPUs"}


def installed(distribution: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
