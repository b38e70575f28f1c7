"""
The model file, and whether it answers right on the device that was asked for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.checks import Finding, megabytes, ok, warning
from service.inference.model_file import FORMAT, checksum

if TYPE_CHECKING:
    from service.inference.engine import Engine


def file(path: Path) -> Iterator[Finding]:
    """The file as it lies there: no runtime is needed for that."""
    sha256 = checksum(path)
    yield ok("model", f"{path}, {megabytes(path.stat().st_size)}, SHA-256 {sha256}, as it says")


def network(engine: "Engine") -> Iterator[Finding]:
    """What is in it; that it answers its start-up image right, the engine has proved."""
    model = engine.model
    yield ok(
        "model",
        f"format {FORMAT}: {model.name} {model.variant} {model.precision}, "
        f"{len(model.labels)} classes, crops {', '.join(model.crops)}; "
        "its start-up image is answered right",
    )
    if not model.accuracy:
        yield warning(
            "model",
            "nobody recorded how good it is",
            "alexnet evaluate FOLDER --record record.json, then alexnet-export --record",
        )


def provider(engine: "Engine") -> Iterator[Finding]:
    """What computes, and why it is not CUDA."""
    from service.inference.engine import NVIDIA_DRIVER

    asked = f"{engine.provider} (device {engine.device_requested})"
    if engine.warning:
        found, _, mend = engine.warning.partition("; ")
        yield warning("provider", f"{asked}: {found}", mend or "choose --device cpu to be quiet")
    elif "CUDA" in engine.provider:
        yield ok("provider", asked)
    else:
        driver = "there is a driver" if NVIDIA_DRIVER.exists() else "no NVIDIA driver here"
        yield ok("provider", f"{asked}; {driver}")
