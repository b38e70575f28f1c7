"""A Ray cluster of two nodes on this machine, each with processes of its own, as two machines."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from live import ROOT, environment

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


@contextmanager
def two_nodes(cpus: int = 2, gpus: int = 0, **settings: object) -> Iterator["Cluster"]:
    """
    Start two nodes of `cpus` CPUs each, connect this process to them, and end them with the block.

    Each is told that it has `gpus` GPUs, whatever is there.  Their workers find `service`, and
    these settings (`ALEXNET_*`) in the environment.  For one module of tests at a time, since
    its dozen processes take their time from everything else.
    """
    ray = pytest.importorskip("ray", reason="needs Ray: scripts/install test, or pip install ray")
    from ray.cluster_utils import Cluster

    # Ray's sockets lie in it, whose paths may have 107 bytes: pytest's own folders are too deep.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ours = {
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",  # no token is made in the home folder, or taken from it
        "RAY_USAGE_STATS_ENABLED": "0",  # it would report to Ray's makers
    }
    options: dict[str, Any] = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "object_store_memory": 100 * 2**20,  # bytes
    }
    with patch.dict(os.environ, environment(**settings) | ours, clear=True):
        cluster = Cluster(True, head_node_args=options | {"include_dashboard": False})
        try:
            cluster.add_node(**options)
            # What workers print is in the folder too.
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.WARNING)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]
            shutil.rmtree(folder, ignore_errors=True)
