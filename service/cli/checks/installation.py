"""
Python, the packages, and exactly one ONNX Runtime.
"""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires
from typing import Final

from service.cli.checks import Finding, failed, ok, warning
from service.cli.installed import DISTRIBUTION, RUNTIMES, installed

INSTALL: Final = "install it again: scripts/install run"


def python() -> Iterator[Finding]:
    """Python's version against what the package asks for."""
    running = platform.python_version()
    try:
        wanted = metadata(DISTRIBUTION)["Requires-Python"]
    except PackageNotFoundError:
        yield ok("python", f"{running}; a checkout that is not installed asks for none")
        return
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(wanted).contains(running, prereleases=True):
        yield ok("python", f"{running}, {wanted} is needed")
    else:
        yield failed("python", f"{running}, but {wanted} is needed", INSTALL)


def packages() -> Iterator[Finding]:
    """What is installed against what the package asks for, the extras aside."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield warning("packages", "this is a checkout that is not installed", INSTALL)
        return
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [fault for one in needed if (fault := _fault(one.name, str(one.specifier)))]
    for fault in faults:
        yield failed("packages", fault, INSTALL)
    if not faults:
        yield ok("packages", f"all {len(needed)} that are needed are installed")


def _fault(name: str, wanted: str) -> str | None:
    from packaging.specifiers import SpecifierSet

    found = installed(name)
    if found is None:
        return f"{name} is not installed, and {name}{wanted} is needed"
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return None
    return f"{name} {found} is installed, but {name}{wanted} is needed"


def runtime() -> Iterator[Finding]:
    """ONNX Runtime, and whether it can be imported."""
    from service.inference.engine import load_runtime

    module = load_runtime()
    name = next((name for name in RUNTIMES if installed(name)), None)
    built = RUNTIMES[name] if name else "of another build"
    yield ok("runtime", f"ONNX Runtime {module.__version__}, {built}")
