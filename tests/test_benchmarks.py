"""The serving benchmark from end to end on the tiny model; how fast it is, is no matter here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import models

ROOT = Path(__file__).parents[1]
QUICK = ("--quick", "--device", "cpu", "--seconds", "0.1", "--crops", "one")


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the benchmarks to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one short round wrote."""
    output = tmp_path_factory.mktemp("bench") / "bench.json"
    done = script("serving", "--model", tiny_model, *QUICK, "-o", output, "--markdown")
    assert done.returncode == 0, done.stderr
    output.with_suffix(".md").write_text(done.stdout)
    return output


@pytest.fixture(scope="module")
def rows(measured: Path) -> list[dict[str, Any]]:
    """Its rows."""
    return list(json.loads(measured.read_text())["rows"])


@pytest.mark.external
def test_the_machine_and_the_images_are_told(measured: Path) -> None:
    """A figure without them says nothing."""
    results = json.loads(measured.read_text())

    assert {"cpu", "cores", "flags", "onnxruntime", "provider", "date"} <= results["machine"].keys()
    assert results["machine"]["provider"] == "CPUExecutionProvider"
    assert "64 photographs" in results["pictures"]
    assert "500 x 375" in results["pictures"]
    assert results["rounds"] == 1


@pytest.mark.external
def test_every_load_has_its_row(rows: list[dict[str, Any]]) -> None:
    """Closed, with large images among them, open; one model, one choice of crops."""
    loads = [(row["kind"], row["amount"]) for row in rows if "amount" in row]

    assert loads == [
        *(("closed", 1), ("closed", 8), ("closed", 32), ("mixed", 8)),
        *(("open", 50), ("open", 80), ("open", 95)),
        ("alone", 1),
    ]


@pytest.mark.external
def test_a_closed_row_holds_both_sides_and_their_ratio(rows: list[dict[str, Any]]) -> None:
    """The service, the raw runtime, the service's engine; nothing lost on the way."""
    for row in rows:
        if row["kind"] in ("closed", "mixed"):
            assert row["ratio"] == pytest.approx(row["rate"] / row["raw"])
            assert row["engine"] > 0
            assert (row["p50"] > 0) == (row["rate"] > 0)  # a slow machine may answer none in time
            assert row["p50"] <= row["p95"] <= row["p99"]
            assert row["lost"] == 0
            assert row["batch"] == min(row["amount"], 16)
            assert row["cpu"] > 0


@pytest.mark.external
def test_an_open_row_is_a_share_of_the_best_closed_one(rows: list[dict[str, Any]]) -> None:
    """Of the same round."""
    best = max(row["rate"] for row in rows if row["kind"] == "closed")
    assert best > 0
    for row in rows:
        if row["kind"] == "open":
            assert row["offered"] == pytest.approx(best * row["amount"] / 100)
            assert (row["p50"] > 0) == (row["rate"] > 0)
            assert row["p50"] <= row["p95"] <= row["p99"]


@pytest.mark.external
def test_what_the_service_adds_to_a_lone_request_is_told(rows: list[dict[str, Any]]) -> None:
    """Served, less the bare run, less decoding."""
    (row,) = (row for row in rows if row["kind"] == "alone")

    assert row["extra_ms"] == pytest.approx(row["p50"] - row["raw_ms"] - row["decode_ms"])


@pytest.mark.external
def test_start_memory_and_decoding_are_measured(rows: list[dict[str, Any]]) -> None:
    """Seconds, MB, images/s, ms."""
    (server,) = (row for row in rows if row["kind"] == "model")
    (decoding,) = (row for row in rows if row["kind"] == "decoding")

    assert server["start"] > 0
    assert 0 < server["resident"] <= server["peak"]
    assert decoding["rate"] > 0
    assert 0 < decoding["typical_ms"] < decoding["large_ms"]


@pytest.mark.external
def test_the_tables_are_markdown_on_request(measured: Path) -> None:
    """Each row of a table has as many cells as its heading."""
    text = measured.with_suffix(".md").read_text()

    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1, lines


@pytest.mark.external
def test_the_plot_is_drawn(measured: Path, tmp_path: Path) -> None:
    """An SVG whose text takes the page's colours."""
    drawn = tmp_path / "serving.svg"

    done = script("plot", measured, "-o", drawn)

    assert done.returncode == 0, done.stderr
    svg = drawn.read_text()
    for text in ("<svg", "tiny", ">one<", "p50", "prefers-color-scheme", "currentColor"):
        assert text in svg
    assert "#010203" not in svg


def test_a_name_that_no_case_has_is_said(tiny_model: Path) -> None:
    """Rather than an empty table."""
    done = script("serving", "--model", tiny_model, *QUICK, "--only", "eleven crops")

    assert done.returncode == 1
    assert "--only" in done.stderr


@pytest.mark.external
def test_the_processes_end_with_the_benchmark(tiny_model: Path) -> None:
    """SIGTERM in the middle leaves no server behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving", "--model", tiny_model, "--device", "cpu"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stderr is not None
            for line in process.stderr:  # told once server and bare runtime are there
                if "decoding alone" in line:
                    break
            running = _session(process.pid)
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
        finally:
            process.kill()

    assert len(running) >= 3
    assert status == 128 + signal.SIGTERM
    deadline = time.monotonic() + 60
    while (alive := _session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def _session(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    processes = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended meanwhile
            continue
        if int(session) == leader and state != "Z":
            processes.append(int(status.parent.name))
    return processes


def test_factored_layers_multiply_out(tmp_path: Path) -> None:
    """The full-size layer answers as its two factors do; all else is kept."""
    u, v, bias = torch.randn(6, 2), torch.randn(2, 5), torch.randn(6)
    factored = {"classifier.1.u": u, "classifier.1.v": v, "classifier.1.bias": bias}
    save_file(factored, tmp_path / "compact.safetensors")

    models.expand(tmp_path / "compact.safetensors", tmp_path / "full.safetensors")

    full = load_file(tmp_path / "full.safetensors")
    x = torch.randn(3, 5)
    assert full.keys() == {"classifier.1.weight", "classifier.1.bias"}
    torch.testing.assert_close(x @ full["classifier.1.weight"].T, x @ v.T @ u.T)
    torch.testing.assert_close(full["classifier.1.bias"], bias)


def test_without_torch_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full-size models cannot be made; scripts/bench installs what it takes."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(SystemExit, match="scripts/bench"):
        models.default(models.BUNDLED, "cpu", tmp_path)


@pytest.mark.external
def test_the_service_is_measured_beside_the_naive_server() -> None:
    """A row for each load, with the ranges of its ratios, and the flags of the machine; LitServe is
    measured too, or the way to it is told."""
    done = script("serving", "--beside", "naive", *QUICK)

    assert done.returncode == 0, done.stderr
    about, _, headings, _, *rows = done.stdout.splitlines()
    others = 2 if find_spec("litserve") else 1
    assert "1 round." in about
    assert headings.count("LitServe") == 3 * (others - 1)
    if others == 1:
        *rows, empty, note = rows
        assert not empty
        assert "pip install litserve" in note
    assert [row.split(" | ")[:2] for row in rows] == [["| one", n] for n in ("1", "8", "32")]
    for row in rows:
        assert row.count(" | ") == headings.count(" | ")
        assert len(re.findall(r"\d\.\d\d \(\d\.\d\d-\d\.\d\d\)", row)) == others
