"""`alexnet predict FOLDER --ray ADDRESS`, on a real cluster of two nodes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import two_nodes
from live import ROOT, environment, picture
from test_scoring import make_crowd, predict, rows, signalled, struck, went_on

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

MANY = 2000  # pictures, a ninth of them broken


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    """Two nodes; the command connects to them by itself."""
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tasks."""
    return make_crowd(tmp_path_factory.mktemp("crowd"), MANY)


def scores(output: Path) -> dict[str, dict[str, Any]]:
    """By path; each path is there once."""
    found = rows(output)
    assert len({row["path"] for row in found}) == len(found)
    return {row["path"]: row for row in found}


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
    given = map(str, (*arguments, "--ray", cluster.address))
    return [sys.executable, "-m", "service", "predict", *given]


def workers() -> list[int]:
    """The processes of this cluster that score."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode()
            if (
                b"MapWorker" in (process / "cmdline").read_bytes()
                and ours in (process / "environ").read_bytes()
            ):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_worker_that_is_killed_costs_nothing_but_time(
    cluster: "Cluster", tiny_model: Path, crowd: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """Half-way; what it had in hand is scored by another, and all scores are those of one
    process."""
    output = tmp_path / "scores.parquet"
    process = subprocess.Popen(
        on(cluster, crowd, "-o", output, "--crops", "one"),
        cwd=ROOT,
        env=environment(model=tiny_model),
        stderr=subprocess.PIPE,
    )
    journal = Path(f"{output}.partial")
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(workers()[0], signal.SIGKILL)
    assert not output.exists()
    _, said = process.communicate(timeout=60)

    assert process.returncode == 0, said.decode()
    assert scores(output) == alone
    assert f"{MANY - len(alone)} image_unreadable" in said.decode()


def test_a_job_that_is_stopped_there_is_finished_here(
    cluster: "Cluster", tiny_model: Path, crowd: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """The journal is the same, and the scores are: bit for bit with one crop."""
    asked = (crowd, "-o", tmp_path / "scores.parquet", "--crops", "one")

    status, said = struck(
        signalled(signal.SIGTERM), *asked, "--ray", cluster.address, model=tiny_model
    )

    assert status == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1].startswith("alexnet: Stopped."), said
    assert went_on(predict(*asked, model=tiny_model))
    assert scores(tmp_path / "scores.parquet") == alone


def test_a_folder_that_the_machines_do_not_have_is_one_sentence(
    cluster: "Cluster", tiny_model: Path, tmp_path: Path
) -> None:
    """Here one that is called otherwise by each process."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(picture())
    done = subprocess.run(
        on(cluster, "/proc/self/cwd/pictures", "-o", tmp_path / "scores.csv"),
        cwd=tmp_path,
        env=environment(model=tiny_model) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )

    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert "there is no folder /proc/self/cwd/pictures on " in said
    assert "Traceback" not in said


def test_an_address_without_ray_is_one_sentence(tiny_model: Path, crowd: Path) -> None:
    """At once: Ray itself would try for minutes."""
    output = crowd.parent / "none.csv"
    done = predict(crowd, "-o", output, "--ray", "127.0.0.1:9", model=tiny_model)

    assert done.returncode == 1
    assert "Ray does not answer at 127.0.0.1:9" in done.stderr.decode()
    assert not output.exists()
