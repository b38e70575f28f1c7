"""
The engine on a small real model: right answers, and a clear refusal of every unusable file.
"""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from service.engine import CPU, CUDA, NVIDIA_DRIVER, Engine, inspect, usable_cores
from service.errors import ModelUnusable, ProviderUnusable
from service.model_file import MARK, TAIL

PICTURES = np.random.default_rng(1).integers(0, 256, (5, 256, 256, 3), np.uint8)


@pytest.fixture
def engine(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, device="cpu", threads=1)


def altered(path: Path, to: Path, **entries: str | None) -> Path:
    """A copy with other metadata (None removes an entry), and a checksum that is right again."""
    proto = onnx.ModelProto.FromString(path.read_bytes()[:-TAIL])
    metadata = {entry.key: entry.value for entry in proto.metadata_props} | entries
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {k: v for k, v in metadata.items() if v is not None})
    body = proto.SerializeToString()
    to.write_bytes(body + MARK + hashlib.sha256(body).hexdigest().encode())
    return to


def entry(path: Path, key: str) -> str:
    """One entry of a file's metadata."""
    proto = onnx.ModelProto.FromString(path.read_bytes())
    return str(next(prop.value for prop in proto.metadata_props if prop.key == key))


def test_every_picture_gets_a_distribution_over_the_classes(engine: Engine) -> None:
    for crops in engine.model.crops.values():
        probabilities = engine.run(PICTURES, crops)

        assert probabilities.shape == (5, len(engine.model.labels))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)


def test_a_picture_is_answered_alike_alone_and_in_company(engine: Engine) -> None:
    alone = np.concatenate([engine.run(picture[np.newaxis], 10) for picture in PICTURES])

    np.testing.assert_allclose(engine.run(PICTURES, 10), alone, atol=1e-5)


def test_several_threads_may_run_at_once(engine: Engine) -> None:
    expected = engine.run(PICTURES, 10)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engine.run(PICTURES, 10), range(12)))

    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_an_engine_knows_its_model_and_its_device(engine: Engine, tiny_model: Path) -> None:
    tail = tiny_model.read_bytes()[-64:].decode()

    assert (engine.provider, engine.device_requested, engine.warning) == (CPU, "cpu", None)
    assert engine.model.version == tail[:12]
    assert engine.model.crops["ten"] == 10
    assert engine.model.size_bytes == tiny_model.stat().st_size


def test_inspecting_a_file_tells_what_loading_it_does(engine: Engine, tiny_model: Path) -> None:
    assert inspect(tiny_model) == engine.model


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"nowhere\.onnx.*No such file"):
        Engine.load(tmp_path / "nowhere.onnx")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="cannot be read"):
        Engine.load(tmp_path)


@pytest.mark.parametrize("size", [0, 50, 1000, -1])
def test_a_file_cut_short_is_recognised(tiny_model: Path, tmp_path: Path, size: int) -> None:
    short = tmp_path / "short.onnx"
    short.write_bytes(tiny_model.read_bytes()[:size])

    with pytest.raises(ModelUnusable, match="cut short"):
        Engine.load(short)


def test_a_single_flipped_bit_is_recognised(tiny_model: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(data)

    with pytest.raises(ModelUnusable, match="damaged"):
        Engine.load(damaged)


def test_bytes_that_are_no_graph_are_refused_though_their_checksum_is_right(tmp_path: Path) -> None:
    body = b"not a graph"
    other = tmp_path / "other.onnx"
    other.write_bytes(body + MARK + hashlib.sha256(body).hexdigest().encode())

    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        Engine.load(other, device="cpu")


@pytest.mark.parametrize("version", ["2", None])
def test_a_file_of_another_format_asks_for_an_upgrade(
    tiny_model: Path, tmp_path: Path, version: str | None
) -> None:
    other = altered(tiny_model, tmp_path / "other.onnx", format=version)

    with pytest.raises(ModelUnusable, match="upgrade"):
        Engine.load(other, device="cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, None) for key in ("name", "variant", "precision")]
    + [
        (key, value)
        for key in ("crops", "labels", "weights", "accuracy", "exporter", "golden")
        for value in (None, "{", "7")
    ],
)
def test_an_unusable_entry_is_named(
    tiny_model: Path, tmp_path: Path, key: str, value: str | None
) -> None:
    other = altered(tiny_model, tmp_path / "other.onnx", **{key: value})

    with pytest.raises(ModelUnusable, match=f"'{key}'"):
        Engine.load(other, device="cpu")


def test_as_many_labels_as_classes_are_wanted(tiny_model: Path, tmp_path: Path) -> None:
    labels = json.loads(entry(tiny_model, "labels"))[1:]
    other = altered(tiny_model, tmp_path / "other.onnx", labels=json.dumps(labels))

    with pytest.raises(ModelUnusable, match="labels for"):
        Engine.load(other, device="cpu")


def test_a_model_that_answers_its_own_picture_wrongly_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    golden = json.loads(entry(tiny_model, "golden"))
    golden["classes"][0]["probability"] += 2 * golden["tolerance"] + 0.01
    other = altered(tiny_model, tmp_path / "other.onnx", golden=json.dumps(golden))

    with pytest.raises(ModelUnusable, match="start-up picture"):
        Engine.load(other, device="cpu")


@pytest.mark.parametrize("damage", [{"pixels": "AAAA"}, {"tolerance": "x"}, {"classes": [{}]}])
def test_a_start_up_picture_that_cannot_be_read_is_refused(
    tiny_model: Path, tmp_path: Path, damage: dict[str, object]
) -> None:
    golden = json.loads(entry(tiny_model, "golden")) | damage
    other = altered(tiny_model, tmp_path / "other.onnx", golden=json.dumps(golden))

    with pytest.raises(ModelUnusable, match="'golden'"):
        Engine.load(other, device="cpu")


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_cuda_without_a_gpu_refuses_to_start_in_one_sentence(tiny_model: Path) -> None:
    with pytest.raises(ProviderUnusable, match="CUDA is not in use") as caught:
        Engine.load(tiny_model, device="cuda")

    assert "alexnet-service[gpu]" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_auto_without_a_gpu_computes_on_the_cpu(tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="auto")

    assert (engine.provider, engine.device_requested) == (CPU, "auto")


@pytest.mark.skipif(not NVIDIA_DRIVER.exists(), reason="needs an NVIDIA GPU and its runtime")
def test_auto_is_on_cuda_or_says_why_not(tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="auto")

    assert (engine.provider == CUDA) == (engine.warning is None)


def test_a_missing_runtime_is_one_sentence_that_names_the_extras(tiny_model: Path) -> None:
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"  # as if it were not installed
        "from pathlib import Path; from service.engine import Engine\n"
        "from service.errors import RuntimeMissing\n"
        "try: Engine.load(Path(sys.argv[1]))\n"
        "except RuntimeMissing as error: print(error)"
    )

    said = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model)], capture_output=True, text=True, check=True
    ).stdout

    assert "alexnet-service[cpu]" in said
    assert "alexnet-service[gpu]" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_containers_quota_bounds_the_cores(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("text", ["max 100000\n", "100000000 100000\n", "rubbish"])
def test_no_quota_or_a_larger_one_leaves_all_cores(tmp_path: Path, text: str) -> None:
    without = usable_cores(tmp_path)
    (tmp_path / "cpu.max").write_text(text)

    assert usable_cores(tmp_path) == without


def test_the_bundled_model_is_smaller_than_16_megabytes(bundled_model: Path) -> None:
    assert bundled_model.stat().st_size < 16_000_000
