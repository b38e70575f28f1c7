"""
What is installed, by the names that pip knows.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

DISTRIBUTION: Final = "alexnet-service"
RUNTIMES: Final = {"onnxruntime": "for CPUs", "onnxruntime-gpu": "for NVIDIA GPUs and CPUs"}


def installed(distribution: str) -> str | None:
    """Its version, None if it is not there."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
