"""The `alexnet` command, as a process of its own."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from live import ROOT, alexnet, environment, picture

from service.settings import Settings


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture on the disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture())
    return path


def sentence(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Assert that a command failed with one line; return it."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("alexnet: "), text
    assert len(text.splitlines()) == 1, text
    return text


def test_every_setting_is_a_flag() -> None:
    """Flags and environment have one source."""
    done = alexnet("serve", "--help", columns=1)

    assert done.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in done.stdout.decode()


def test_help_does_not_load_the_runtime() -> None:
    """It comes at once."""
    code = (
        "import sys; sys.argv = ['alexnet', '--help']\n"
        "import service.__main__ as command\n"
        "try: command.main()\n"
        "except SystemExit: pass\n"
        "assert not {'onnxruntime', 'fastapi', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_version_is_one_line() -> None:
    """`alexnet --version`."""
    done = alexnet("--version")

    assert done.returncode == 0
    assert done.stdout.decode().startswith("alexnet")


def test_predict_needs_no_server(tiny_model: Path, photo: Path) -> None:
    """Five bars for a person, each with its WordNet id's class."""
    done = alexnet("predict", str(photo), "--model", str(tiny_model))

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count(" % ") == 5


def test_predict_json_is_what_the_server_answers(tiny_model: Path, photo: Path) -> None:
    """The same shape; `-` is standard input."""
    done = alexnet(
        *("predict", str(photo), "-", "--json", "--top", "3", "--crops", "one"),
        stdin=picture(),
        model=tiny_model,
    )

    assert done.returncode == 0, done.stderr.decode()
    body = json.loads(done.stdout)
    assert body["crops"] == "one"
    first, second = body["predictions"]
    assert (first["filename"], second["filename"]) == (str(photo), "-")
    assert len(first["classes"]) == 3
    assert first["classes"] == second["classes"]


def test_predict_fails_if_any_picture_fails(tiny_model: Path, photo: Path, tmp_path: Path) -> None:
    """The others are still answered; each failure has its line."""
    text = tmp_path / "notes.txt"
    text.write_text("nothing to see here")
    missing = tmp_path / "missing.jpg"

    done = alexnet("predict", str(text), str(photo), str(missing), model=tiny_model)

    assert done.returncode == 1
    assert done.stdout.decode().count(" % ") == 5
    lines = done.stderr.decode().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(text), str(missing)]


def test_predict_names_the_crops_that_the_model_offers(tiny_model: Path, photo: Path) -> None:
    """A wrong choice is one sentence."""
    done = alexnet("predict", str(photo), "--crops", "six", model=tiny_model)

    assert "ten, one" in sentence(done)


def test_inspect_shows_what_is_in_the_file(tiny_model: Path) -> None:
    """For people, and as JSON."""
    table = alexnet("inspect", str(tiny_model)).stdout.decode()
    facts = json.loads(alexnet("inspect", str(tiny_model), "--json").stdout)

    assert facts["crops"] == {"ten": 10, "one": 1, "dense": 2}
    assert facts["classes"] > 1
    assert facts["size"] == tiny_model.stat().st_size
    for wanted in ("variant", "precision", "classes", "weights", "accuracy", "exporter", "version"):
        assert wanted in table
        assert wanted in facts


def test_a_port_that_is_taken_is_one_sentence(tiny_model: Path) -> None:
    """It says which flag mends it, before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        done = alexnet("serve", "--port", str(port), model=tiny_model)

    text = sentence(done)
    assert str(port) in text
    assert "--port" in text


@pytest.mark.parametrize("port", ["70000", "http"])
def test_a_setting_out_of_range_is_one_sentence(port: str) -> None:
    """The flag and the variable are refused alike."""
    assert sentence(alexnet("serve", "--port", port)) == sentence(alexnet("serve", port=port))


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    """It names the file."""
    assert "gone.onnx" in sentence(alexnet("serve", "--port", "0", model=tmp_path / "gone.onnx"))


def test_a_damaged_model_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    """Half a file is not a model."""
    damaged = tmp_path / "half.onnx"
    damaged.write_bytes(tiny_model.read_bytes()[: tiny_model.stat().st_size // 2])

    assert "half.onnx" in sentence(alexnet("serve", "--port", "0", model=damaged))


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU here")
def test_cuda_without_a_gpu_refuses_to_start(tiny_model: Path) -> None:
    """Never silently the wrong device."""
    text = sentence(alexnet("serve", "--port", "0", model=tiny_model, device="cuda"))

    assert "cuda" in text.lower()


def test_without_a_runtime_the_extra_to_install_is_named(tiny_model: Path) -> None:
    """Neither onnxruntime nor onnxruntime-gpu is there."""
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "sys.argv = ['alexnet', 'serve', '--port', '0']\n"
        "import service.__main__ as command; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(model=tiny_model),
        capture_output=True,
        timeout=60,
    )

    text = sentence(done)
    assert "cpu" in text
    assert "gpu" in text
