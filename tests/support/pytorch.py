"""What every test with PyTorch has, once a conftest.py imports it: a seed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers are the same in every run."""
    torch.manual_seed(0)
