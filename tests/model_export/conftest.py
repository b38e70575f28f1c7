"""Exports are quick and always the same, and Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import onnxruntime
import pytest

from tests.support.interrupts import pytest_runtest_call as pytest_runtest_call
from tests.support.interrupts import pytest_runtest_setup as pytest_runtest_setup
from tests.support.pytorch import seeded as seeded


@pytest.fixture(scope="package", autouse=True)
def one_thread_of_the_runtime() -> Iterator[None]:
    """ONNX Runtime's threads wait for one another as PyTorch's do."""
    new = onnxruntime.SessionOptions

    def options() -> onnxruntime.SessionOptions:
        made = new()
        made.intra_op_num_threads = 1
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", options)
        yield


@pytest.fixture(scope="package", autouse=True)
def one_registry() -> Iterator[None]:
    """PyTorch reads all of its operators again for each export, half of an export's time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        read = cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(read))
        yield
