"""
The engine on a small real model: right answers, and a clear refusal of every unusable file.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import ModelUnusable
from service.inference import engine as inference_engine
from service.inference.engine import Engine, inspect, padded
from service.inference.model_file import CENTRE, MARK
from service.inference.providers import CPU
from tests.support.engines import fixed
from tests.support.models import altered, entry

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine.load(tiny_model, device="cpu", threads=1)


def test_every_image_gets_a_distribution_over_the_classes(engine: Engine) -> None:
    for crops in engine.model.crops.values():
        probabilities = engine.run(IMAGES, crops)

        assert probabilities.shape == (5, len(engine.model.labels))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-4)


def test_an_image_is_answered_alike_alone_and_in_a_batch(engine: Engine) -> None:
    alone = np.concatenate([engine.run(image[np.newaxis], 10) for image in IMAGES])

    np.testing.assert_allclose(engine.run(IMAGES, 10), alone, atol=1e-5)


def test_several_threads_may_run_at_once(engine: Engine) -> None:
    expected = engine.run(IMAGES, 10)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: engine.run(IMAGES, 10), range(12)))

    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 6), (5, 6), (5, 5)])
def test_a_batch_is_padded_to_the_size_behind_its_images(count: int, size: int) -> None:
    filled = padded(IMAGES[:count], size)

    assert filled.shape == (size, 256, 256, 3)
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[:count], IMAGES[:count])
    assert not filled[count:].any()


@pytest.mark.parametrize(("count", "runs"), [(1, 1), (3, 1), (4, 2), (5, 2)])
def test_an_engine_of_one_size_runs_only_that_and_answers_alike(
    engine: Engine, tiny_model: Path, count: int, runs: int
) -> None:
    of_three, session = fixed(engine, tiny_model, 3)

    for crops in engine.model.crops.values():
        session.runs.clear()
        probabilities = of_three.run(IMAGES[:count], crops)

        assert session.runs == [(3, crops)] * runs
        assert probabilities.shape == (count, len(engine.model.labels))
        np.testing.assert_allclose(probabilities, engine.run(IMAGES[:count], crops), atol=1e-6)


def test_padding_never_reaches_an_answer(engine: Engine, tiny_model: Path) -> None:
    of_eight, session = fixed(engine, tiny_model, 8)

    probabilities = of_eight.run(IMAGES, 10)

    assert session.runs == [(8, 10)]
    np.testing.assert_allclose(probabilities, engine.run(IMAGES, 10), atol=1e-6)


def test_several_threads_may_run_an_engine_of_one_size(engine: Engine, tiny_model: Path) -> None:
    of_four, _ = fixed(engine, tiny_model, 4)
    expected = engine.run(IMAGES, 10)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: of_four.run(IMAGES[: n % 6], 10), range(12)))

    for n, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[: n % 6], atol=1e-6)


def test_the_warm_up_runs_the_size_with_every_choice_the_largest_first(
    engine: Engine, tiny_model: Path
) -> None:
    of_four, session = fixed(engine, tiny_model, 4)
    choices = sorted(engine.model.crops.values(), reverse=True)

    of_four.warm()

    assert session.runs == [(4, views) for views in choices]


def test_an_engine_on_the_cpu_does_not_pad(engine: Engine) -> None:
    assert engine.fixed_size == 0


def test_a_memory_limit_too_small_for_the_warm_up_names_the_settings(tiny_model: Path) -> None:
    """The runtime's own arena, the one that it uses on CUDA, with a limit, on the CPU."""
    script = (
        "import sys; from pathlib import Path; import onnxruntime as ort\n"
        "from service.inference.engine import *; from service.errors import ProviderUnusable\n"
        "from service.inference.providers import *\n"
        "memory = ort.OrtMemoryInfo('Cpu', ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,\n"
        "                           ort.OrtMemType.DEFAULT)\n"
        "limit = {'max_mem': 40_000_000, 'arena_extend_strategy': 1,\n"
        "         'initial_chunk_size_bytes': -1, 'max_dead_bytes_per_chunk': -1}\n"
        "ort.create_and_register_allocator(memory, ort.OrtArenaCfg(limit))\n"
        "path = Path(sys.argv[1]); options = session_options(ort, CUDA)\n"
        "options.add_session_config_entry('session.use_env_allocators', '1')\n"
        "session = ort.InferenceSession(path, options, providers=[CPU.name])\n"
        "for size in 1, 64:\n"
        "    try: Engine(session, inspect(path), CUDA, device='cuda', failures=failures(ort),\n"
        "                fixed_size=size).warm(); print('fits')\n"
        "    except ProviderUnusable as error: print(error)"
    )

    fits, message = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model)], capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert fits == "fits"
    assert "a batch of 64 ran out of GPU memory" in message
    assert "lower ALEXNET_MAX_BATCH" in message
    assert "raise ALEXNET_GPU_MEMORY_LIMIT" in message


def test_an_engine_knows_its_model_and_its_device(engine: Engine, tiny_model: Path) -> None:
    tail = tiny_model.read_bytes()[-64:].decode()

    assert (engine.provider, engine.device_requested, engine.warning) == (CPU.name, "cpu", None)
    assert engine.model.version == tail[:12]
    assert engine.model.crops["ten"] == 10
    assert engine.model.size_bytes == tiny_model.stat().st_size


def test_inspecting_a_file_tells_what_loading_it_does(engine: Engine, tiny_model: Path) -> None:
    assert inspect(tiny_model) == engine.model


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"nowhere\.onnx.*No such file"):
        Engine.load(tmp_path / "nowhere.onnx")


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="cannot be read"):
        Engine.load(tmp_path)


def test_a_file_that_is_replaced_while_it_is_loaded_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum may be the old one's and its network the new one's; a good one, even."""
    model, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    for path in (model, new):
        path.write_bytes(tiny_model.read_bytes())
    create = inference_engine._cpu_session

    def replace_first(*arguments: Any) -> Any:
        new.replace(model)
        return create(*arguments)

    monkeypatch.setattr("service.inference.engine._cpu_session", replace_first)

    with pytest.raises(ModelUnusable, match="has changed while it was loaded"):
        Engine.load(model, device="cpu", threads=1)


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


def test_a_file_that_does_not_say_where_its_views_are_names_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Files that were written before the entry was."""
    other = altered(tiny_model, tmp_path / "other.onnx", views=None)

    views = Engine.load(other, device="cpu").model.views

    assert [view.name for view in views[:2]] == ["top left", "top right"]
    assert views[CENTRE].name == "centre"
    assert {view.side for view in views} == {0}


@pytest.mark.parametrize(
    "damage", [lambda views: views[::-1], lambda views: views[1:], lambda views: [{}] * 10]
)
def test_views_that_cannot_be_are_refused(
    tiny_model: Path, tmp_path: Path, damage: Callable[[list[dict[str, object]]], object]
) -> None:
    views = json.dumps(damage(json.loads(entry(tiny_model, "views"))))
    other = altered(tiny_model, tmp_path / "other.onnx", views=views)

    with pytest.raises(ModelUnusable, match="'views'"):
        Engine.load(other, device="cpu")


def test_a_model_that_answers_its_own_image_wrongly_is_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    golden = json.loads(entry(tiny_model, "golden"))
    golden["classes"][0]["probability"] += 2 * golden["tolerance"] + 0.01
    other = altered(tiny_model, tmp_path / "other.onnx", golden=json.dumps(golden))

    with pytest.raises(ModelUnusable, match="start-up image"):
        Engine.load(other, device="cpu")


@pytest.mark.parametrize("damage", [{"pixels": "AAAA"}, {"tolerance": "x"}, {"classes": [{}]}])
def test_a_start_up_image_that_cannot_be_read_is_refused(
    tiny_model: Path, tmp_path: Path, damage: dict[str, object]
) -> None:
    golden = json.loads(entry(tiny_model, "golden")) | damage
    other = altered(tiny_model, tmp_path / "other.onnx", golden=json.dumps(golden))

    with pytest.raises(ModelUnusable, match="'golden'"):
        Engine.load(other, device="cpu")


def test_a_missing_runtime_is_one_sentence_that_names_the_extras(tiny_model: Path) -> None:
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"  # as if it were not installed
        "from pathlib import Path; from service.inference.engine import Engine\n"
        "from service.errors import RuntimeMissing\n"
        "try: Engine.load(Path(sys.argv[1]))\n"
        "except RuntimeMissing as error: print(error)"
    )

    message = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model)], capture_output=True, text=True, check=True
    ).stdout

    assert "scripts/install run" in message
    assert message.count("\n") == 1


def test_the_bundled_model_is_smaller_than_16_megabytes(bundled_model: Path) -> None:
    assert bundled_model.stat().st_size < 16_000_000


def test_runs_on_one_core_answer_as_those_on_all(tiny_model: Path) -> None:
    """And several may be under way at once."""
    two = Engine.load(tiny_model, device="cpu", threads=2)
    expected = two.run(IMAGES, 10)

    with ThreadPoolExecutor(two.cores) as pool:
        answers = list(pool.map(lambda _: two.run(IMAGES, 10, one_core=True), range(6)))

    assert two.cores == 2
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    (with_views, _) = two.outputs(
        ["probabilities", "view_probabilities"], IMAGES, 10, one_core=True
    )
    np.testing.assert_allclose(with_views, expected, atol=1e-6)


def test_weights_are_held_twice_only_where_they_are_small_and_it_pays(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Engine.load(tiny_model, device="cpu", threads=1).cores == 1
    monkeypatch.setattr("service.inference.engine.LARGEST_TWICE", 1000)
    assert Engine.load(tiny_model, device="cpu", threads=2).cores == 1
