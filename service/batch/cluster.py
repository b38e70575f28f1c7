"""
Scoring on many machines, with Ray Data.  It gives blocks of names to actors, each with an engine of
its own, and their outcomes come back, as they are made, to the one result store.

The images are read where they are scored, so the folder must have the same path on every machine.
"""

import logging
import os
import pickle
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final

from service.batch.files import FolderMissing
from service.batch.reader import Outcome, Record, Score, Scorer, ScoringOptions, window
from service.console import Progress
from service.errors import ServiceError, SettingsInvalid
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.inference.limits import Limits
from service.inference.providers import needs_gpu

MAX_ACTORS: Final = 64  # that an autoscaler is asked for; more only where there is room already
BLOCK: Final = 256  # names that one task scores, and that are scored again if its machine dies
CALLS: Final = 2  # tasks of an actor: while the last images of one run, the next one's are read
CONNECT: Final = 10.0  # seconds
QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what concerns the user, it raises
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}
TOKEN: Final = (
    "if it wants a token, set RAY_AUTH_MODE=token, and have the cluster's ~/.ray/auth_token here; "
)
NODE_GROUP: Final = "ray.io/node-group"  # the label where an autoscaler may start machines


class ClusterFailed(ServiceError):
    """Ray cannot be reached, or could not do the work; also raised by actors."""

    code = "cluster_failed"


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Ray's cluster at `address`, or with `local` one that lives as long as the block."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise SettingsInvalid(
            "--ray needs Ray, which is not installed: scripts/install run ray, or pip install "
            "'ray[data]' pyarrow"
        ) from error
    denied = ray.exceptions.AuthenticationError
    try:
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, denied) as error:
        # Without the token Ray only says that it cannot connect; but then something listens.
        token = isinstance(error, denied) or type(error) is ConnectionError
        raise ClusterFailed(
            f"Ray does not answer at {address} ({_gist(error)}); {TOKEN if token else ''}"
            "ray start --head starts a cluster, ray status shows one, and --ray local needs none"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """An `OSError` at once if nothing listens there: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()


def on_the_cluster(
    model: Path, engine: Mapping[str, Any], limits: Limits, options: ScoringOptions
) -> Score:
    """
    With as many actors as the connected cluster has room for; `ClusterFailed` if for none.

    `engine` is what `Engine.load` takes; 0 threads are one: there are as many actors as cores.
    """
    ray = import_module("ray")
    machines = [node for node in ray.nodes() if node["Alive"]]
    needs = _needs(engine, machines)
    engine = {**engine, "threads": needs["CPU"]}

    def score(names: Iterable[bytes], record: Record, progress: Progress) -> None:
        rest = iter(names)
        # In Ray's object store, not in this process's memory: there may be millions of names.
        blocks = [ray.put(_table(block)) for block in iter(lambda: list(islice(rest, BLOCK)), [])]
        if not blocks:
            return
        room = max(1, sum(_room(node, needs) for node in machines))
        free = ray.available_resources()
        if taken := [f"{kind}s" for kind, number in needs.items() if free.get(kind, 0) < number]:
            progress.waiting = f"waiting for {' and '.join(taken)}: the cluster's are taken"
        ray.data.DataContext.get_current().enable_progress_bars = False
        actors = ray.data.ActorPoolStrategy(
            min_size=1,
            initial_size=min(room, len(blocks)),
            max_size=min(max(room, MAX_ACTORS), len(blocks)),
            max_concurrent_calls_per_actor=CALLS,
        )
        scores = ray.data.from_arrow_refs(blocks).map_batches(
            _Worker,
            batch_size=BLOCK,
            batch_format="pyarrow",
            compute=actors,
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU"),
            fn_constructor_args=(ray.put(model.read_bytes()), engine, limits, options),
        )
        try:
            for row in scores.iter_rows():
                record(pickle.loads(row["value"]))
        except ray.exceptions.RayError as error:
            raise ClusterFailed(
                f"the cluster has failed: {_gist(error)}; what was scored is kept, and the same "
                "command goes on from there"
            ) from error

    return score


def _needs(engine: Mapping[str, Any], machines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What an actor needs, in Ray's words; `ClusterFailed` for what no machine has or may have."""
    threads, device = engine["threads"], engine["device"]
    if engine["gpu"] is not None:
        raise ClusterFailed(
            f"ALEXNET_GPU is {engine['gpu']}, but Ray chooses the GPU of each engine; leave it out"
        )
    without = {"CPU": max(1, threads)}
    with_gpu = without | {"GPU": 1}
    gpu = device == "auto" and any(_room(node, with_gpu) for node in machines)
    needs = with_gpu if gpu or needs_gpu(device) else without
    if any(_room(node, needs) or NODE_GROUP in node["Labels"] for node in machines):
        return needs
    amounts = " and ".join(f"{number} {kind}" for kind, number in needs.items())
    raise ClusterFailed(
        f"no machine of the cluster has {amounts} for an engine, as ALEXNET_THREADS={threads} "
        f"and ALEXNET_DEVICE={device} ask for; choose others, or add such a machine"
    )


def _room(machine: Mapping[str, Any], needs: Mapping[str, int]) -> int:
    """How many actors have room there."""
    return min(int(machine["Resources"].get(kind, 0) // amount) for kind, amount in needs.items())


class _Worker:
    """An actor: one engine, used by several tasks."""

    def __init__(
        self, model: Any, engine: Mapping[str, Any], limits: Limits, options: ScoringOptions
    ) -> None:
        if not os.path.isdir(options.base):
            raise FolderMissing(
                f"there is no folder {os.fsdecode(options.base)} on {socket.gethostname()}; all "
                "machines of the cluster must have it under this path, as on a shared file system"
            )
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(import_module("ray").get(model))
            file.flush()
            self._classifier = Classifier(Engine.load(Path(file.name), **engine), limits)
        self._scorer = Scorer(self._classifier, options, window=window(limits))

    async def __call__(self, names: Any) -> Any:
        if not self._classifier.batcher.ready:
            await self._classifier.start()
        outcomes: list[Outcome] = []
        await self._scorer.score(names["value"].to_pylist(), outcomes.append)
        return _table([pickle.dumps(outcome) for outcome in outcomes])


def _table(values: Sequence[bytes]) -> Any:
    """An Arrow table of one column, `value`."""
    arrow = import_module("pyarrow")
    return arrow.table({"value": arrow.array(values, arrow.binary())})


def _gist(error: Exception) -> str:
    """The last line of what may be many tracebacks; of a `ServiceError`, only its sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1].rstrip(".") if lines else type(error).__name__
    return last.partition(": ")[2] if last.startswith("service.") else last
