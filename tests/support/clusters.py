"""A Ray cluster of two nodes on this machine, each with processes of its own, as two machines."""

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.support.servers import ROOT, environment

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

CPUS = 2  # of each node
PATIENCE = 600.0  # seconds; Ray starts a process for each thing, and each imports a lot
MISSING = "needs Ray: scripts/install test, or pip install 'ray[data,serve]'"
STORE = {"object_store_memory": 100 * 2**20}  # bytes
ATTEMPTS = 5  # to start it: a node gives up if one of its processes takes half a minute
VARIABLES = {
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "disabled",  # no token is made in the home folder, or taken from it
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to Ray's makers
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.2",
    # So that a busy machine is only slow: what does not answer in time, Ray takes for dead.
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_rpc_server_connect_timeout_s": "600",
    "RAY_gcs_server_port_wait_time_s": "600",
    "RAY_health_check_failure_threshold": "100",
    "RAY_py_gcs_connect_timeout_s": "600",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "600",
}


@dataclass(frozen=True)
class Nodes:
    """A cluster, and what the environment of its clients must have."""

    cluster: "Cluster"
    variables: dict[str, str]

    @contextmanager
    def environment(self) -> Iterator["Cluster"]:
        """Processes that the block starts find the cluster's folder, and `service`."""
        with patch.dict(os.environ, self.variables):
            yield self.cluster

    @contextmanager
    def connected(self) -> Iterator["Cluster"]:
        """Connect this process until the block ends."""
        import ray

        with _sigterm_kept(), self.environment() as cluster:
            # What workers print is in the folder.
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.WARNING)
            try:
                yield cluster
            finally:
                ray.shutdown()

    @contextmanager
    def another(self, **resources: int) -> Iterator[None]:
        """A third node until the block ends."""
        with patch.dict(os.environ, self.variables):
            node = _added(self.cluster, **resources)
            try:
                yield
            finally:
                self.cluster.remove_node(node)


@contextmanager
def two_nodes(**settings: object) -> Iterator[Nodes]:
    """
    Start two nodes of `CPUS` CPUs each, and end them with the block.

    Their workers find `service`, and these settings (`ALEXNET_*`) in the environment.
    """
    pytest.importorskip("ray", reason=MISSING)
    with _sigterm_kept():
        failed = 0
        while (nodes := _started(**settings)) is None:
            failed += 1
            assert failed < ATTEMPTS, "the cluster does not start"
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()  # type: ignore[no-untyped-call]
            _clear(nodes.variables["RAY_TMPDIR"])


def _started(**settings: object) -> Nodes | None:
    """The nodes; None if one of them has given up."""
    from ray.cluster_utils import Cluster

    # Ray's sockets lie in it, whose paths may have 107 bytes: pytest's own folders are too deep.
    ours = {"RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-", dir="/tmp")} | VARIABLES
    cluster = Cluster()
    try:
        with patch.dict(os.environ, environment(**settings) | ours, clear=True):
            _added(cluster, num_cpus=CPUS, include_dashboard=False)
            _added(cluster, num_cpus=CPUS)
    except Exception as gave_up:  # Ray raises nothing better
        print(f"{gave_up}; once again")
        _clear(ours["RAY_TMPDIR"])
        return None
    return Nodes(cluster, ours)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray takes the signal for itself."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _added(cluster: "Cluster", **options: Any) -> Any:
    """One more node, which the others know."""
    node = cluster.add_node(wait=False, **STORE, **options)
    cluster.wait_for_nodes(PATIENCE)
    return node


def _clear(folder: str) -> None:
    """End what is left of the cluster in this folder, and remove it."""
    for process in _processes(f"RAY_TMPDIR={folder}"):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def workers() -> list[int]:
    """The processes of the cluster in this environment that score."""
    return list(_processes(f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}", "MapWorker"))


def _processes(variable: str, words: str = "") -> Iterator[int]:
    """Those that have a variable in their environment, and words in their command line."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            given = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
            if variable.encode() in given and words.encode() in command:
                yield int(process.name)
