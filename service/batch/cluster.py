"""
The same over many machines: Ray Data hands blocks of names to actors, each with an engine of its
own, and their outcomes come back to the one journal as they are made.

Names go out, outcomes come back; the images are read where they are scored, so the folder must
be there under the same path on every machine.  The model goes along.  What a machine that dies had
in hand, Ray gives to another.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from service.batch.files import Skipped
from service.batch.progress import Progress
from service.batch.reader import Outcome, Scored, Scorer, ScoringOptions, window
from service.errors import ServiceError, SettingsInvalid
from service.inference.classifier import Classifier
from service.inference.engine import Device, Engine
from service.inference.limits import Limits

MOST: Final = 64  # actors, where there is no room for more yet: an autoscaler is asked for them
BLOCK: Final = 256  # names that one task scores, and that are scored again if its machine dies
CALLS: Final = 2  # tasks of an actor: while the last images of one run, the next one's are read

CONNECT: Final = 10.0  # seconds
QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would report to its makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what concerns us, it raises
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
}


class ClusterFailed(ServiceError):
    """Ray cannot be reached, or could not do the work."""

    code = "cluster_failed"


class FolderMissing(ServiceError):
    """A machine does not have the folder."""

    code = "folder_missing"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """As `Engine.load` takes them, for each of the actors."""

    device: Device
    threads: int  # 0 is one: there are as many actors as cores
    max_batch: int  # images
    gpu_memory_limit: int  # bytes


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
    try:
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        # Without the token Ray only says that it cannot connect; but then something listens.
        if isinstance(error, ray.exceptions.AuthenticationError) or type(error) is ConnectionError:
            hint = (
                "if it wants a token, set RAY_AUTH_MODE=token, and have the cluster's "
                "~/.ray/auth_token here; "
            )
        else:
            hint = ""
        raise ClusterFailed(
            f"Ray does not answer at {address} ({_gist(error)}); {hint}ray start --head starts a "
            "cluster, ray status shows one, and --ray local needs none"
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
    model: Path, options: EngineOptions, limits: Limits, question: ScoringOptions
) -> Callable[[Iterable[bytes], Callable[[Outcome], None], Progress], None]:
    """
    Score with as many actors as the connected cluster has room for.

    Raises `ClusterFailed` if it never has room for one.
    """
    needs = _needs(options)

    def score(
        names: Iterable[bytes], record: Callable[[Outcome], None], progress: Progress
    ) -> None:
        ray, data, arrow = (import_module(name) for name in ("ray", "ray.data", "pyarrow"))
        rest = iter(names)
        # In the store, not in our memory: there may be millions.
        blocks = [
            ray.put(arrow.table({"name": arrow.array(block, arrow.binary())}))
            for block in iter(lambda: list(islice(rest, BLOCK)), [])
        ]
        if not blocks:
            return
        room = max(1, sum(_room(machine, needs) for machine in _machines()))
        taken = [
            f"{kind}s"
            for kind in needs
            if not _room(ray.available_resources(), {kind: needs[kind]})
        ]
        if taken:
            progress.waiting = f"waiting for {' and '.join(taken)}: the cluster's are taken"
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        scores = data.from_arrow_refs(blocks).map_batches(
            _Worker,
            batch_size=BLOCK,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(
                min_size=1,
                initial_size=min(room, len(blocks)),
                max_size=min(max(room, MOST), len(blocks)),
                max_concurrent_calls_per_actor=CALLS,
            ),
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU"),
            fn_constructor_kwargs={
                "model": ray.put(model.read_bytes()),
                "options": options,
                "limits": limits,
                "question": question,
            },
        )
        try:
            for batch in scores.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    record(_outcome(**row))
        except ray.exceptions.RayError as error:
            raise ClusterFailed(
                f"the cluster has failed: {_gist(error)}; what was scored is kept, and the same "
                "command goes on from there"
            ) from error

    return score


def _needs(options: EngineOptions) -> dict[str, int]:
    """
    What an actor needs, in Ray's words: a GPU if there is one, or if CUDA was asked for.

    Raises `ClusterFailed` for what no machine of the cluster has; one that can call for machines
    may call for those.
    """
    machines = _machines()
    cpus = {"CPU": max(1, options.threads)}
    with_gpu = {**cpus, "GPU": 1}
    if options.device == "cuda" or (
        options.device == "auto" and any(_room(machine, with_gpu) for machine in machines)
    ):
        needs = with_gpu
    else:
        needs = cpus
    if not any(_room(machine, needs) for machine in machines) and not _grows():
        wanted = " and ".join(f"{number} {kind}" for kind, number in needs.items())
        raise ClusterFailed(
            f"no machine of the cluster has {wanted} for an engine, as ALEXNET_THREADS="
            f"{options.threads} and ALEXNET_DEVICE={options.device} ask for; choose others, or "
            "add such a machine"
        )
    return needs


def _machines() -> list[Mapping[str, float]]:
    """What each has, in Ray's words."""
    return [node["Resources"] for node in import_module("ray").nodes() if node["Alive"]]


def _grows() -> bool:
    """Whether the cluster has an autoscaler with machines to start, or may have: then Ray waits."""
    ray = import_module("ray")
    try:  # there is no public way, and none at all from outside (ray://)
        config = ray._private.state.state.get_cluster_config()
    except (AttributeError, ray.exceptions.RaySystemError):
        return True
    return config is not None and bool(config.node_group_configs)


def _room(resources: Mapping[str, float], needs: Mapping[str, int]) -> int:
    """How many actors have room there."""
    return min(int(resources.get(kind, 0) // number) for kind, number in needs.items())


class _Worker:
    """An actor: one engine, asked by several tasks."""

    def __init__(
        self, model: Any, options: EngineOptions, limits: Limits, question: ScoringOptions
    ) -> None:
        if not os.path.isdir(question.base):
            raise FolderMissing(
                f"there is no folder {os.fsdecode(question.base)} on {socket.gethostname()}; all "
                "machines of the cluster must have it under this path, as on a shared file system"
            )
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            file.write(import_module("ray").get(model))
            file.flush()
            engine = Engine.load(
                Path(file.name),
                device=options.device,
                threads=max(1, options.threads),
                max_batch=options.max_batch,
                gpu_memory_limit=options.gpu_memory_limit,
            )
        self._classifier = Classifier(engine, limits)
        self._scorer = Scorer(self._classifier, question, window=window(limits))

    async def __call__(self, batch: Any) -> Any:
        if not self._classifier.batcher.ready:
            await self._classifier.start()
        outcomes: list[Outcome] = []
        await self._scorer.score(batch["name"].to_pylist(), outcomes.append)
        return import_module("pyarrow").Table.from_pylist(
            [_row(outcome) for outcome in outcomes], schema=_schema()
        )


def _schema() -> Any:
    arrow = import_module("pyarrow")
    kinds = {
        "name": arrow.binary(),
        "indices": arrow.list_(arrow.int32()),
        "probabilities": arrow.list_(arrow.float32()),
        "code": arrow.string(),
        "error": arrow.string(),
    }
    return arrow.schema(list(kinds.items()))


def _row(outcome: Outcome) -> dict[str, Any]:
    return {field.name: getattr(outcome, field.name) for field in fields(outcome)}


def _outcome(
    name: bytes, indices: list[int], probabilities: list[float], code: str | None, error: str
) -> Outcome:
    if code is not None:
        return Skipped(name, code, error)
    return Scored(name, np.array(indices, np.int32), np.array(probabilities, np.float32))


def _gist(error: Exception) -> str:
    """The last line of what may be many machines' tracebacks; of an error of ours, its sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1].rstrip(".") if lines else type(error).__name__
    return last.partition(": ")[2] if last.startswith("service.") else last
