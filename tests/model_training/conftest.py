"""Trainings are quick and always the same, and Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from model_training import signals
from tests.support.interrupts import pytest_runtest_call as pytest_runtest_call
from tests.support.interrupts import pytest_runtest_setup as pytest_runtest_setup
from tests.support.pytorch import seeded as seeded


@pytest.fixture(scope="package", autouse=True)
def signals_are_pytests() -> Iterator[None]:
    """A training that runs in this process leaves signals to pytest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "SIGNALS", ())
        yield
