"""Fixtures: the model files of tests/models, and the one that ships; and what is said of tests
that need minutes or another program."""

import os
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import models

# The same examples in every run, however slow the machine is.
settings.register_profile(
    "tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# PyTorch's threads wait for one another, long on a busy machine; and what they compute depends on
# how many they are.
os.environ["OMP_NUM_THREADS"] = "1"

LONG = ("test_ray_serve.py", "test_batch_ray.py", "weights.md", "add-a-variant.md", "commands.md")

# Where the tests were started by `&`, they and all that they start would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Ten crops, one and dense, normalisation, softmax, mean, metadata."""
    return models.TINY


@pytest.fixture(scope="session")
def other_model() -> Path:
    """The tiny network prepared in another way: another file, another version."""
    return models.CAFFE


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The model that ships with the package."""
    return Path(__file__).parents[1] / "service" / "bundled" / "alexnet.onnx"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that nothing long is left for the end."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With `--dist loadscope` a file is a worker's, whose fixtures it shares; Ray's two are one's,
    with one cluster, and each page of the documentation is its own."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if "test_the_examples_of_a_page" in nodeid:
                return nodeid
            return "ray" if file.endswith(("test_ray_serve.py", "test_batch_ray.py")) else file

    return ByFile(config, log) if config.getoption("dist") == "loadscope" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each file with external tests: how many, how they ended, how long they took."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seconds: defaultdict[str, float] = defaultdict(float)
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if isinstance(report, pytest.TestReport) and "external" in report.keywords:
                counts[report.location[0]][outcome] += 1
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "external" in report.keywords:
                seconds[report.location[0]] += report.duration
    if counts:
        terminalreporter.section("external: what needs minutes or another program")
    for file, outcomes in sorted(counts.items()):
        told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
        terminalreporter.line(f"{file:<44} {seconds[file]:5.0f} s  {told}")
