"""What several modules of these tests share."""

from collections.abc import Iterator

import pytest

from tests.support.clusters import Nodes, two_nodes


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """Ray's cluster, whose dozen processes take half a minute to start."""
    with two_nodes() as started:
        yield started
