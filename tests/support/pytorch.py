"""What every test with PyTorch has, once a conftest.py imports it: one thread, and a seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait for one another, long on a busy machine; and what they compute
    depends on how many they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers are the same in every run."""
    torch.manual_seed(0)
