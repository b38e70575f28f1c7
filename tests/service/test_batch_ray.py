"""`alexnet predict FOLDER --ray ADDRESS`, on a real cluster of two nodes."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.batch import make_crowd, predict, rows, went_on
from tests.support.clusters import CPUS, PATIENCE, Nodes
from tests.support.images import image
from tests.support.servers import ROOT, environment

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.external

BLOCK = 32  # images of a task, in place of many more
MANY = 12 * BLOCK  # images, a ninth of them broken: more than two workers have in hand


@pytest.fixture(scope="module")
def cluster(nodes: Nodes) -> Iterator["Cluster"]:
    """Two nodes; the command connects to them by itself."""
    with nodes.environment() as started:
        yield started


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In one folder for all of them."""
    return make_crowd(tmp_path_factory.mktemp("crowd"), MANY)


def scores(output: Path) -> dict[str, dict[str, Any]]:
    """By path; each path is there once."""
    table = rows(output)
    assert len({row["path"] for row in table}) == len(table)
    return {row["path"]: row for row in table}


@pytest.fixture(scope="module")
def alone(
    crowd: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The scores from one process."""
    output = tmp_path_factory.mktemp("alone") / "scores.parquet"
    done = predict(crowd, "-o", output, "--crops", "one", model=tiny_model)
    assert done.returncode == 0, done.stderr.decode()
    return scores(output)


def on(cluster: "Cluster", *arguments: object) -> list[str]:
    """The command line that scores there."""
    texts = map(str, (*arguments, "--ray", cluster.address))
    return [sys.executable, "-m", "service", "predict", *texts]


def struck(strike: str, cluster: "Cluster", *arguments: object, model: Path) -> tuple[int, str]:
    """Score there, and do something when the first is; the status, and what was said."""
    code = (
        "import os, signal, sys\n"
        "from service.batch import cluster, store\n"
        "add = store.ResultStore.add\n"
        "def first(self, outcome):\n"
        "    add(self, outcome)\n"
        "    if self.scored:\n"
        "        store.ResultStore.add = add\n"
        f"        {strike}\n"
        "store.ResultStore.add = first\n"
        "store.COMMIT_EVERY = 0.0\n"
        f"cluster.BLOCK = {BLOCK}\n"
        "import service.__main__ as command; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *on(cluster, *arguments)[3:]],
        cwd=ROOT,
        env=environment(model=model, threads=CPUS),  # so there are two workers, one on each node
        capture_output=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stderr.decode()


def test_a_worker_that_is_killed_costs_nothing_but_time(
    cluster: "Cluster", tiny_model: Path, crowd: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """What it had in hand is scored by another, and all scores are those of one process."""
    output = tmp_path / "scores.parquet"
    kill = "from tests.support.clusters import workers; os.kill(workers()[0], signal.SIGKILL)"

    status, message = struck(kill, cluster, crowd, "-o", output, "--crops", "one", model=tiny_model)

    assert status == 0, message
    assert scores(output) == alone
    assert f"{MANY - len(alone)} image_unreadable" in message


def test_a_job_that_is_stopped_there_is_finished_here(
    cluster: "Cluster", tiny_model: Path, crowd: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """The store is the same, and the scores are: bit for bit with one crop."""
    arguments = (crowd, "-o", tmp_path / "scores.parquet", "--crops", "one")

    status, message = struck(
        "os.kill(os.getpid(), signal.SIGTERM)", cluster, *arguments, model=tiny_model
    )

    assert status == 128 + signal.SIGTERM, message
    assert message.splitlines()[-1].startswith("alexnet: Stopped."), message
    assert went_on(predict(*arguments, model=tiny_model))
    assert scores(tmp_path / "scores.parquet") == alone


def test_a_folder_that_the_machines_do_not_have_is_one_sentence(
    cluster: "Cluster", tiny_model: Path, tmp_path: Path
) -> None:
    """Here one that is called otherwise by each process."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(image())
    done = subprocess.run(
        on(cluster, "/proc/self/cwd/pictures", "-o", tmp_path / "scores.csv"),
        cwd=tmp_path,
        env=environment(model=tiny_model) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=PATIENCE,
    )

    message = done.stderr.decode()
    assert done.returncode == 1, message
    assert "there is no folder /proc/self/cwd/pictures on " in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda"}, "no machine of the cluster has 1 CPU and 1 GPU"),
        ({"threads": 4}, "no machine of the cluster has 4 CPU"),
        ({"device": "cuda", "gpu": 1}, "ALEXNET_GPU is 1, but Ray chooses the GPU"),
    ],
)
def test_what_no_machine_has_is_one_sentence(
    cluster: "Cluster", tiny_model: Path, crowd: Path, settings: dict[str, Any], words: str
) -> None:
    """At once: Ray would wait for such a machine."""
    output = crowd.parent / "none.csv"
    done = predict(crowd, "-o", output, "--ray", cluster.address, model=tiny_model, **settings)

    assert done.returncode == 1, done.stderr.decode()
    assert words in done.stderr.decode()
    assert not output.exists()


def test_as_long_as_others_compute_it_says_that_it_waits(
    nodes: Nodes, tiny_model: Path, tmp_path: Path
) -> None:
    """And goes on when they have done."""
    import ray

    class Other:
        def here(self) -> bool:
            return True

    holding: Any = ray.remote(num_cpus=1)(Other)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(image())
    code = (
        "from service import console; console.LINE_EVERY = 0.2\n"
        "import service.__main__ as command; command.main()"
    )
    with nodes.connected() as cluster:
        arguments = on(cluster, tmp_path / "pictures", "-o", tmp_path / "scores.jsonl")[3:]
        others = [holding.remote() for _ in range(2 * CPUS)]  # all that there are
        ray.get([other.here.remote() for other in others], timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while ray.available_resources().get("CPU"):  # type: ignore[no-untyped-call]  # told later
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=environment(model=tiny_model),
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            first = islice(process.stderr, 100)
            message = next((line for line in first if "waiting" in line), "")
            for other in others:
                ray.kill(other)
            process.communicate(timeout=PATIENCE)

    assert message == "0/1, waiting for CPUs: the cluster's are taken\n"
    assert process.returncode == 0
    assert len(rows(tmp_path / "scores.jsonl")) == 1


def test_a_token_that_is_missing_is_one_sentence(
    cluster: "Cluster", tiny_model: Path, crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where Ray looks for it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(crowd))

    done = subprocess.run(  # Ray looks for it once in a process
        on(cluster, crowd, "-o", crowd.parent / "none.csv"),
        cwd=ROOT,
        env=environment(model=tiny_model),
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 1
    message = done.stderr.decode()
    assert "Traceback" not in message
    assert "set RAY_AUTH_MODE=token, and have the cluster's ~/.ray/auth_token here" in message


def test_an_address_without_ray_is_one_sentence(tiny_model: Path, crowd: Path) -> None:
    """At once: Ray itself would try for minutes."""
    output = crowd.parent / "none.csv"
    done = predict(crowd, "-o", output, "--ray", "127.0.0.1:9", model=tiny_model)

    assert done.returncode == 1
    assert "Ray does not answer at 127.0.0.1:9" in done.stderr.decode()
    assert not output.exists()
