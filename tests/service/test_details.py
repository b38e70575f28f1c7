"""What an answer holds beyond its classes: the views' own answers, and where the evidence lies."""

from __future__ import annotations

import asyncio
import io
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import ServiceError
from service.inference.classifier import Classifier
from service.inference.engine import Engine
from service.inference.limits import DecodeLimits, Limits
from service.inference.predictions import Result
from tests.support.classifying import classify
from tests.support.engines import fixed
from tests.support.images import IMAGES, image
from tests.support.models import altered
from tests.support.servers import PATIENCE, Live, serving

T = TypeVar("T")
Square = NDArray[np.uint8]

PREDICT = "/v1/predict"
CAT = (IMAGES / "cat.jpg").read_bytes()
CATS = {281, 282, 283, 285, 287}  # tabby, tiger, Persian, Egyptian, lynx
RUNS = 65  # of an image with a heatmap: itself, and with each of 64 windows hidden


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Live]:
    """Answers in milliseconds."""
    with serving(tiny_model, timeout=PATIENCE) as server:
        yield server


@pytest.fixture(scope="module")
def bundled(bundled_model: Path) -> Iterator[Live]:
    """Knows what a cat is; its heatmaps take seconds."""
    with serving(bundled_model, timeout=10 * PATIENCE) as server:
        server.client.timeout = 10 * PATIENCE
        yield server


def ask(live: Live, data: bytes, **query: str | int | list[str]) -> dict[str, Any]:
    """The answer for one image."""
    answer = live.client.post(PREDICT, params=query, content=data)
    assert answer.status_code == 200, answer.text
    prediction: dict[str, Any] = answer.json()["predictions"][0]
    return prediction


def png(square: Square) -> bytes:
    """Pixels as they are."""
    encoded = io.BytesIO()
    Image.fromarray(square).save(encoded, "PNG")
    return encoded.getvalue()


def cat(side: int = 256) -> Square:
    """The cat as a square of so many pixels."""
    with Image.open(io.BytesIO(CAT)) as image:
        shorter = min(image.size)
        left, top = ((edge - shorter) // 2 for edge in image.size)
        middle = image.convert("RGB").crop((left, top, left + shorter, top + shorter))
        return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR)).copy()


def by_index(classes: list[dict[str, Any]]) -> NDArray[np.float64]:
    """The probabilities of all classes, in their order."""
    return np.array([one["probability"] for one in sorted(classes, key=lambda one: one["index"])])


def sample(live: Live, name: str) -> float:
    """One value of /metrics."""
    lines = live.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_each_view_is_the_answer_to_its_crop_sent_alone(bundled: Live) -> None:
    """Cut out of the square where its box says, mirrored where it says so."""
    square = cat()

    views = ask(bundled, png(square), details="views", top=1000)["views"]

    assert [(view["name"], view["mirrored"]) for view in views] == [
        (name, mirrored)
        for mirrored in (False, True)
        for name in ("top left", "top right", "bottom left", "bottom right", "centre")
    ]
    for view in views:
        left, top, side = (view["box"][name] for name in ("left", "top", "side"))
        crop = square[top : top + side, left : left + side]
        alone = np.zeros_like(square)  # of which one crop sees the central 224
        alone[16:240, 16:240] = crop[:, ::-1] if view["mirrored"] else crop
        expected = ask(bundled, png(alone), crops="one", top=1000)["classes"]
        np.testing.assert_allclose(by_index(view["classes"]), by_index(expected), atol=1e-5)


@pytest.mark.parametrize(("crops", "count"), [("ten", 10), ("dense", 10), ("one", 1)])
def test_the_classes_are_the_mean_of_the_views(bundled: Live, crops: str, count: int) -> None:
    """And one crop is the centre's."""
    found = ask(bundled, CAT, details="views", crops=crops, top=1000)

    assert len(found["views"]) == count
    assert "centre" in {view["name"] for view in found["views"] if not view["mirrored"]}
    mean = np.mean([by_index(view["classes"]) for view in found["views"]], axis=0)
    np.testing.assert_allclose(mean, by_index(found["classes"]), atol=1e-6)


def test_each_view_has_the_best_classes_of_its_own(bundled: Live) -> None:
    """`top` of them, which need not be those of the mean."""
    found = ask(bundled, CAT, details="views", top=3)

    bests = [[one["index"] for one in view["classes"]] for view in found["views"]]
    assert {len(best) for best in bests} == {3}
    assert len({tuple(best) for best in bests}) > 1
    for view in found["views"]:
        probabilities = [one["probability"] for one in view["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert set(view["classes"][0]) == {"index", "wordnet_id", "label", "probability"}


def test_a_file_that_does_not_say_where_its_views_are_has_no_boxes(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Written before the entry `views`: null, and the rest as ever."""
    with serving(altered(tiny_model, tmp_path / "older.onnx", views=None)) as live:
        views = ask(live, image(), details="views")["views"]

    assert len(views) == 10
    assert [view["box"] for view in views] == [None] * 10


def test_without_details_the_answer_is_what_it_was(tiny: Live) -> None:
    """Not a field more, not even an empty one."""
    text = tiny.client.post(PREDICT, params={"top": 1}, content=image()).text

    body = json.loads(text)
    [one] = body["predictions"]
    assert list(body) == ["model", "crops", "predictions"]
    assert list(one) == ["filename", "classes"]
    assert list(one["classes"][0]) == ["index", "wordnet_id", "label", "probability"]
    assert text == json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def test_details_do_not_change_the_classes(tiny: Live) -> None:
    """They only add to them."""
    plain = ask(tiny, image())["classes"]

    for details in ("views", "heatmap", "views,heatmap"):
        detailed = ask(tiny, image(), details=details)["classes"]
        assert [one["index"] for one in detailed] == [one["index"] for one in plain]
        np.testing.assert_allclose(
            [one["probability"] for one in detailed],
            [one["probability"] for one in plain],
            atol=1e-6,
        )


@pytest.mark.parametrize(
    "details",
    [
        "views,heatmap",
        "Heatmap, VIEWS",
        "heatmap,views,heatmap",
        ["views", "heatmap"],
        ["heatmap,views", "views"],
    ],
)
def test_both_details_may_be_asked_for_in_any_order_and_case(
    tiny: Live, details: str | list[str]
) -> None:
    """Separated by a comma."""
    assert set(ask(tiny, image(), details=details)) == {
        "filename", "classes", "views", "heatmap",
    }  # fmt: skip


@pytest.mark.parametrize("details", ["", "view", "views heatmap", "views,", "gradcam"])
def test_an_unknown_detail_is_named_with_what_there_is(tiny: Live, details: str) -> None:
    """422, before the body is looked at."""
    answer = tiny.client.post(PREDICT, params={"details": details}, content=b"no image")

    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_invalid")
    assert f"details={details!r}: must be one of views, heatmap, features" in answer.json()["error"]


def test_each_good_file_of_a_form_has_its_details(tiny: Live) -> None:
    """And the broken one its error."""
    files = [
        ("file", ("a.png", png(cat()))),
        ("file", ("b.jpg", CAT[:500])),
        ("file", ("c.jpg", image())),
    ]

    answer = tiny.client.post(PREDICT, params={"details": "views,heatmap"}, files=files)

    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    for found, data in ((first, files[0][1][1]), (third, files[2][1][1])):
        alone = ask(tiny, data, details="views,heatmap")
        np.testing.assert_allclose(
            found["heatmap"]["classes"][0]["values"],
            alone["heatmap"]["classes"][0]["values"],
            atol=1e-5,
        )
        np.testing.assert_allclose(
            [view["classes"][0]["probability"] for view in found["views"]],
            [view["classes"][0]["probability"] for view in alone["views"]],
            atol=1e-5,
        )
    assert (set(second), second["code"]) == ({"filename", "error", "code"}, "image_unreadable")


@pytest.mark.parametrize(
    ("top", "left", "crops"), [(0, 0, "one"), (0, 128, "one"), (128, 128, "ten")]
)
def test_the_evidence_lies_where_the_object_is(
    bundled: Live, top: int, left: int, crops: str
) -> None:
    """A cat in the corner of a plain square."""
    square = np.full((256, 256, 3), 150, np.uint8)
    square[top : top + 128, left : left + 128] = cat(128)

    found = ask(bundled, png(square), details="heatmap", crops=crops, top=1)

    assert found["classes"][0]["index"] in CATS
    [one] = found["heatmap"]["classes"]
    assert one["index"] == found["classes"][0]["index"]
    values = np.array(one["values"])
    corner = np.zeros(values.shape, bool)
    corner[top // 32 : top // 32 + 4, left // 32 : left // 32 + 4] = True
    assert corner.flat[values.argmax()]
    assert values[corner].mean() > 3 * np.abs(values[~corner]).mean()


def blurred(square: Square) -> Square:
    """The means of 8 x 8 cells, enlarged by another's interpolation."""
    bands = []
    for band in range(3):
        means = square[..., band].reshape(8, 32, 8, 32).mean((1, 3), dtype=np.float32)
        large = Image.fromarray(means).resize((256, 256), Image.Resampling.BILINEAR)
        bands.append(np.asarray(large).round())
    return np.stack(bands, -1).astype(np.uint8)


@pytest.mark.parametrize("crops", ["ten", "one"])
def test_a_cell_has_the_mean_fall_over_the_windows_that_cover_it(
    tiny: Live, tiny_model: Path, crops: str
) -> None:
    """Against the definition, computed slowly: signed, of each class, with the same crops."""
    square = cat()
    engine = Engine.load(tiny_model, device="cpu")
    choice = engine.model.crops[crops]
    whole = engine.run(square[np.newaxis], choice)[0]
    fill = blurred(square)
    sums, counts = np.zeros((8, 8, 1000)), np.zeros((8, 8, 1))
    for row in range(8):
        for column in range(8):
            pixels = square.copy()
            covered = [
                (y, x)
                for y in range(8)
                for x in range(8)
                if abs(y - row) <= 1 and abs(x - column) <= 1
            ]
            for y, x in covered:
                cell = slice(32 * y, 32 * y + 32), slice(32 * x, 32 * x + 32)
                pixels[cell] = fill[cell]
            fall = whole - engine.run(pixels[np.newaxis], choice)[0]
            for y, x in covered:
                sums[y, x] += fall
                counts[y, x] += 1

    found = ask(tiny, png(square), details="heatmap", crops=crops, top=20)

    heatmap = found["heatmap"]
    assert (heatmap["method"], heatmap["rows"], heatmap["columns"]) == ("occlusion", 8, 8)
    assert [one["index"] for one in heatmap["classes"]] == [
        one["index"] for one in found["classes"]
    ]
    for one in heatmap["classes"]:
        np.testing.assert_allclose(one["values"], (sums / counts)[..., one["index"]], atol=2e-5)
    values = np.array([one["values"] for one in heatmap["classes"]])
    assert values.min() < -1e-3 < 1e-3 < values.max()


def test_a_request_counts_as_its_images_and_its_runs_as_runs(tiny_model: Path) -> None:
    """One image, and one run with the views; 65 images in the runs with a heatmap."""
    with serving(tiny_model) as live:
        before = sample(live, "alexnet_batch_images_sum")
        ask(live, image(), details="views")
        views = sample(live, "alexnet_batch_images_sum")
        ask(live, image(), details="views,heatmap")
        heatmap = sample(live, "alexnet_batch_images_sum")
        images = sample(live, "alexnet_images_total")
        decoded = sample(live, "alexnet_decode_duration_seconds_count")

    assert (views - before, heatmap - views) == (1, RUNS)
    assert (images, decoded) == (2, 2)


def test_a_queue_that_never_has_room_for_a_heatmap_says_so(tiny_model: Path) -> None:
    """422, not a 503 that would be waited for; and before the body is read."""
    with serving(tiny_model, max_queue=RUNS - 1, max_files=2) as live:
        refused = live.client.post(PREDICT, params={"details": "heatmap"}, content=b"")
        assert len(ask(live, image(), details="views")["views"]) == 10
    with serving(tiny_model, max_queue=RUNS, max_files=2) as live:
        assert ask(live, image(), details="heatmap")["heatmap"]["rows"] == 8

    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "have ALEXNET_MAX_QUEUE raised" in refused.json()["error"]


def test_more_heatmaps_than_the_queue_holds_are_refused_together(tiny: Live) -> None:
    """Of 256 places three images take 195; four are told to come in several requests."""
    form = [("file", (f"{number}.jpg", image())) for number in range(4)]

    three = tiny.client.post(PREDICT, params={"details": "heatmap"}, files=form[:3])
    four = tiny.client.post(PREDICT, params={"details": "heatmap"}, files=form)
    views = tiny.client.post(PREDICT, params={"details": "views"}, files=form)

    assert (three.status_code, four.status_code, views.status_code) == (200, 422, 200)
    assert "260 for 4" in four.json()["error"]
    assert "send fewer images in a request" in four.json()["error"]


def test_a_heatmap_counts_against_the_rate_by_what_it_runs(tiny_model: Path) -> None:
    """65 of a hundred images; the views cost nothing more."""
    with serving(tiny_model, rate_limit="100/day") as live:
        statuses = [
            live.client.post(PREDICT, params=query, content=image()).status_code
            for query in ({"details": "heatmap"}, {"details": "heatmap"}, {"details": "views"})
        ]
    with serving(tiny_model, rate_limit="10/day") as live:
        never = live.client.post(PREDICT, params={"details": "heatmap"}, content=image())

    assert statuses == [200, 429, 200]
    assert (never.status_code, never.json()["code"]) == (422, "parameter_invalid")
    assert "details=heatmap counts as 65 images" in never.json()["error"]


def test_an_answer_that_would_be_too_long_is_refused(tiny_model: Path) -> None:
    """Before the network runs: the views of many images with all classes take much memory."""
    files = [("file", (f"{number}.jpg", image())) for number in range(6)]
    with serving(tiny_model) as live:
        query = {"top": "1000", "details": "views"}
        fits = live.client.post(PREDICT, params=query, files=files[:5])
        refused = live.client.post(PREDICT, params=query, files=files)
        counted = live.client.get("/metrics").text

    assert fits.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "66000 classes, and 64000 are the most; send fewer" in refused.json()["error"]
    assert re.search(r'alexnet_images_total\{outcome="answered".*\} 5\.0', counted)


def test_heatmaps_can_be_switched_off(tiny_model: Path) -> None:
    """The views, which cost nothing, stay."""
    with serving(tiny_model, heatmaps="false") as live:
        refused = live.client.post(PREDICT, params={"details": "heatmap"}, content=image())
        answered = live.client.post(PREDICT, params={"details": "views"}, content=image())
        page = live.client.get("/").text

    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert "ALEXNET_HEATMAPS" in refused.json()["error"]
    assert answered.status_code == 200
    assert '<label class="switch" hidden>' in page


def play(model: Path, scene: Callable[[Classifier], Awaitable[T]]) -> T:
    """Run a scene with a started classifier and stop it."""

    async def whole() -> T:
        classifier = Classifier(
            Engine.load(model, device="cpu", threads=1),
            Limits(
                max_batch=4,
                max_queue=256,
                max_delay=0.0,
                decoding=DecodeLimits(max_pixels=1_000_000, max_aspect_ratio=10.0),
            ),
        )
        async with classifier:
            return await scene(classifier)

    return asyncio.run(whole())


def test_views_and_mean_come_out_of_one_run(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is asked once for an image, and for nothing that was not wanted."""
    asked: list[tuple[int, list[str]]] = []

    async def scene(classifier: Classifier) -> list[Result | ServiceError]:
        session = classifier.engine._session

        class Watched:
            def run(self, outputs: Sequence[str], feeds: dict[str, NDArray[Any]]) -> Any:
                asked.append((len(feeds["images"]), [*outputs]))
                return session.run(outputs, feeds)

        monkeypatch.setattr(classifier.engine, "_session", Watched())
        plain = await classifier.classify([CAT])
        return plain + await classifier.classify([CAT], details=["views"])

    plain, detailed = play(tiny_model, scene)

    assert asked == [(1, ["probabilities"]), (1, ["probabilities", "view_probabilities"])]
    assert isinstance(plain, Result)
    assert isinstance(detailed, Result)
    assert detailed.views is not None
    assert (plain.views, detailed.views.shape) == (None, (10, 1000))
    np.testing.assert_array_equal(plain.probabilities, detailed.probabilities)


def test_padding_to_a_fixed_size_changes_no_view(tiny_model: Path) -> None:
    """As on CUDA: seven images in runs of four, the second filled up."""
    engine = Engine.load(tiny_model, device="cpu", threads=1)
    padded, session = fixed(engine, tiny_model, 4)
    images = np.random.default_rng(3).integers(0, 256, (7, 256, 256, 3), np.uint8)

    names = ["probabilities", "view_probabilities", "features"]

    answers = padded.outputs(names, images, 10)

    assert [answer.shape for answer in answers] == [(7, 1000), (7, 10, 1000), (7, 32)]
    assert session.runs == [(4, 10), (4, 10)]
    for answer, expected in zip(answers, engine.outputs(names, images, 10), strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_who_leaves_takes_all_hidden_copies_along(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 65 places are free at once, and only the batch that had begun is run."""
    began, go_on, ran = threading.Event(), threading.Event(), list[int]()

    async def scene(classifier: Classifier) -> tuple[int, int]:
        run = classifier.engine.outputs

        def slow(names: Sequence[str], images: Square, *arguments: Any, **how: Any) -> Any:
            ran.append(len(images))
            began.set()
            assert go_on.wait(PATIENCE)
            return run(names, images, *arguments, **how)

        monkeypatch.setattr(classifier.engine, "outputs", slow)
        task = asyncio.create_task(classifier.classify([CAT], details=["heatmap"]))
        assert await asyncio.to_thread(began.wait, PATIENCE)
        held = classifier.batcher.pending
        task.cancel()
        await asyncio.wait([task])
        left = classifier.batcher.pending
        go_on.set()
        await classify(classifier, CAT)
        return held, left

    assert play(tiny_model, scene) == (RUNS, 0)
    assert ran == [ran[0], 1]


def test_a_single_image_overtakes_a_heatmap(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the next batch, whatever waits before it."""
    began, turns, ran = threading.Event(), threading.Semaphore(0), list[int]()

    async def scene(classifier: Classifier) -> None:
        run = classifier.engine.outputs

        def by_turns(names: Sequence[str], images: Square, *arguments: Any, **how: Any) -> Any:
            ran.append(len(images))
            began.set()
            assert turns.acquire(timeout=2 * PATIENCE)
            return run(names, images, *arguments, **how)

        monkeypatch.setattr(classifier.engine, "outputs", by_turns)
        heatmap = asyncio.create_task(classifier.classify([cat()], details=["heatmap"]))
        assert await asyncio.to_thread(began.wait, PATIENCE)
        single = asyncio.create_task(classifier.classify([cat()]))
        await asyncio.sleep(0)  # pixels have no step before the queue
        assert classifier.batcher.pending == RUNS + 1
        turns.release(2)  # for the batch that had begun, and for the next
        try:
            async with asyncio.timeout(PATIENCE):
                await single
            assert not heatmap.done()
        finally:
            turns.release(RUNS)
        await heatmap

    play(tiny_model, scene)

    assert len(ran) == 17
