"""The GPU's benchmark, tried out where there is none: on the CPU, and refusing to start on CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks import gpu
from service.inference.providers import CPU, NVIDIA_DRIVER

ROOT = Path(__file__).parents[1]
BATCHES = [1, 2]  # of a quick trial


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def report(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick trial of every part on the CPU writes."""
    output = tmp_path_factory.mktemp("gpu") / "gpu.json"

    done = benchmark(tiny_model, "--device", "cpu", "--quick", "-o", output)

    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, Any] = json.loads(output.read_text())
    return results


def choices(model: Path) -> set[str]:
    """The choices of crops that a file offers."""
    session = onnxruntime.InferenceSession(model, providers=[CPU.name])
    return set(json.loads(session.get_modelmeta().custom_metadata_map["crops"]))


@pytest.mark.external
def test_it_tells_what_was_measured_and_that_nothing_failed(report: dict[str, Any]) -> None:
    assert report["machine"]["measured"] == "cpu"
    assert onnxruntime.__version__ in report["machine"]["onnxruntime"]
    assert report["quick"] is True
    assert report["failures"] == []


@pytest.mark.external
def test_what_only_cuda_has_is_said_to_be_skipped(report: dict[str, Any]) -> None:
    assert any("CUDA" in note and "skipped" in note for note in report["notes"])


@pytest.mark.external
def test_the_provider_is_proved_by_the_nodes_that_ran(report: dict[str, Any]) -> None:
    (row,) = report["provider"]

    assert row["provider"] == CPU.name
    assert set(row["nodes"]) == {CPU.name}
    assert row["not_on_the_device"] == []


@pytest.mark.external
def test_the_answers_of_every_choice_of_crops_are_compared(
    report: dict[str, Any], tiny_model: Path
) -> None:
    assert {row["crops"] for row in report["answers"]} == choices(tiny_model)
    for row in report["answers"]:
        assert row["same_top1"] == row["pictures"] > 0
        assert row["largest_difference"] <= row["tolerance"]


@pytest.mark.external
def test_every_choice_of_crops_is_measured_bare_at_every_batch(
    report: dict[str, Any], tiny_model: Path
) -> None:
    measured = [(row["setting"], row["crops"], row["batch"]) for row in report["bare"]]

    assert measured.count(("as served, run", "ten", 1)) == 1
    settings = {setting for setting, _, _ in measured}
    assert {"as served, fixed, run", "as served, fixed, IOBinding"} < settings
    assert sorted(measured) == sorted(
        (setting, crops, batch)
        for setting in settings
        for crops in choices(tiny_model)
        for batch in BATCHES
    )
    for row in report["bare"]:
        assert row["runs"] >= 3
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["difference"] < 1e-4


@pytest.mark.external
def test_the_served_rate_is_told_over_the_bare_one(
    report: dict[str, Any], tiny_model: Path
) -> None:
    assert {row["crops"] for row in report["served"]} == choices(tiny_model)
    for row in report["served"]:
        assert row["answered"] > 0
        assert row["ratio"] == pytest.approx(row["rate"] / row["bare_rate"])


@pytest.mark.external
def test_a_part_can_be_run_alone(tiny_model: Path) -> None:
    done = benchmark(tiny_model, "--device", "cpu", "--quick", "--part", "provider")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "provider: " in done.stdout
    assert "answers: " not in done.stdout


@pytest.mark.external
def test_a_file_that_fails_is_told_and_the_next_one_is_measured(
    tiny_model: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_model.read_bytes()[:-1])

    done = benchmark(damaged, tiny_model, "--device", "cpu", "--quick", "--part", "answers")

    assert done.returncode == 1
    assert "FAILED: answers, damaged.onnx: The model file" in done.stdout
    assert "images have the same best class" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.external
@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_without_a_gpu_every_part_says_that_cuda_is_not_in_use(
    tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "gpu.json"

    done = benchmark(tiny_model, "--quick", "-o", output)

    assert done.returncode == 1
    report = json.loads(output.read_text())
    assert [text.partition(":")[0] for text in report["failures"]] == [
        f"{part}, tiny.onnx" for part in ("provider", "answers", "bare", "served")
    ]
    assert all("CUDA is not in use" in text for text in report["failures"])
    assert "Traceback" not in done.stdout + done.stderr


def test_two_sets_of_answers_are_compared_by_probability_and_by_best_class() -> None:
    reference = np.array([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45]], np.float32)
    measured = np.array([[0.1, 0.7, 0.2], [0.1, 0.45, 0.45]], np.float32)

    row = gpu.compared(measured, reference)

    assert (row["pictures"], row["same_top1"]) == (2, 1)
    assert row["largest_difference"] == pytest.approx(0.4)
    assert row["largest_lead_lost"] == pytest.approx(0.2)


def test_a_run_is_timed_after_the_warm_up_and_as_often_as_asked() -> None:
    calls: list[None] = []
    extent = gpu.Extent(batches=(1,), warm_up=2, runs=5, seconds=0.0)

    row = gpu.timed(lambda: calls.append(None), 4, extent)

    assert (len(calls), row["runs"]) == (7, 5)
    assert row["rate"] > 0


def test_fixing_the_crops_removes_the_choice_from_the_graph_that_runs(
    tiny_model: Path, tmp_path: Path
) -> None:
    """A CUDA graph cannot hold an If: with the choice fixed, the runtime folds it away."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    copy = gpu.with_fixed_crops(tiny_model, 1)
    session = onnxruntime.InferenceSession(copy, options, providers=[CPU.name])

    session.run(None, {"images": np.zeros((1, 256, 256, 3), np.uint8)})

    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {event["args"]["op_name"] for event in events if event.get("cat") == "Node"}
    assert ran
    assert "If" not in ran


@pytest.mark.parametrize("beside", [True, False])
def test_cudas_libraries_in_wheels_elsewhere_are_put_in_reach(tmp_path: Path, beside: bool) -> None:
    runtime, other = tmp_path / "ours", tmp_path / "torchs"
    (runtime / "onnxruntime").mkdir(parents=True)
    (runtime / "onnxruntime" / "__init__.py").touch()
    (other / "nvidia" / "cudnn" / "lib").mkdir(parents=True)
    if beside:
        (runtime / "nvidia").mkdir()
    output = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; from benchmarks.gpu import reach_libraries; print('start', flush=True)\n"
            "reach_libraries(); print(os.environ.get('LD_LIBRARY_PATH', ''))",
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        | {"PYTHONPATH": f"{runtime}{os.pathsep}{other}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    # The loader reads the variable when a process starts: set in one that runs, it does nothing.
    folder = str(other / "nvidia" / "cudnn" / "lib")
    assert output == (["start", ""] if beside else ["start", "start", folder])
