"""What the network's last layer takes: over HTTP, in tables, and with the client."""

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from alexnet_client import Client
from service.batch import store, tables
from tests.support.batch import predict, rows
from tests.support.images import image
from tests.support.models import without_features
from tests.support.open_inference import connected, encoded, images, pixels
from tests.support.servers import Live, serving

Floats = NDArray[np.float32]

WIDTH = 32  # of the last hidden layer of the tiny network
IMAGES = [image(size=(300 + 40 * number, 280)) for number in range(3)]
SOME = base64.b64encode(IMAGES[0]).decode()


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model) as server:
        yield server


@pytest.fixture(scope="module")
def without(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an earlier exporter."""
    return without_features(tiny_model, tmp_path_factory.mktemp("earlier") / "earlier.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, and a broken one."""
    made = tmp_path_factory.mktemp("features") / "images"
    made.mkdir()
    for number, data in enumerate([*IMAGES, IMAGES[0][:200]]):
        (made / f"{number}.jpg").write_bytes(data)
    return made


def expected(model: Path, crops: int, *images: bytes) -> Floats:
    """What the graph itself gives, image by image: float32 `(N, WIDTH)`."""
    session = ort.InferenceSession(model)
    feeds = [{"images": each[None], "crops": np.array(crops)} for each in pixels(*images)]
    return np.concatenate([session.run(["features"], feed)[0] for feed in feeds])


def ask(live: Live, data: bytes, **query: str) -> dict[str, Any]:
    """The answer for one image."""
    answer = live.client.post("/v1/predict", params=query, content=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["predictions"][0]
    return found


@pytest.mark.parametrize(("crops", "views"), [("ten", 10), ("one", 1)])
def test_an_answer_has_them_to_the_last_bit(
    live: Live, tiny_model: Path, crops: str, views: int
) -> None:
    """As decimals, which float32 takes back."""
    found = ask(live, IMAGES[0], details="features", crops=crops)

    (right,) = expected(tiny_model, views, IMAGES[0])
    assert right.shape == (WIDTH,)
    assert right.any()
    np.testing.assert_allclose(np.array(found["features"], np.float32), right, rtol=1e-6)
    assert all(value == np.float32(value) for value in found["features"])
    assert found["classes"] == ask(live, IMAGES[0], crops=crops)["classes"]
    assert not {"views", "heatmap"} & found.keys()


def test_other_details_may_be_asked_for_too(live: Live) -> None:
    """All of them come from one run of the whole image; hidden parts change no feature."""
    alone = ask(live, IMAGES[1], details="features")

    together = ask(live, IMAGES[1], details="heatmap,features,views")

    np.testing.assert_allclose(together["features"], alone["features"], rtol=1e-5)
    assert len(together["views"]) == 10
    assert together["heatmap"]["rows"] == 8


def test_of_several_images_each_has_its_own(live: Live, tiny_model: Path) -> None:
    """And a broken one has none."""
    files = [("file", (f"{n}.jpg", data)) for n, data in enumerate([*IMAGES, b"broken"])]

    answer = live.client.post("/v1/predict", params={"details": "features"}, files=files)

    *found, broken = answer.json()["predictions"]
    features = [prediction["features"] for prediction in found]
    np.testing.assert_allclose(features, expected(tiny_model, 10, *IMAGES), rtol=1e-5)
    assert "features" not in broken


def test_an_answer_that_would_be_too_long_is_refused(tiny_model: Path) -> None:
    """Those of an image count as 150 classes."""
    with serving(tiny_model, max_files=256) as live:
        files = [("file", ("a.jpg", IMAGES[0]))] * 256
        query = {"details": "features", "top": "101"}
        answer = live.client.post("/v1/predict", params=query, files=files)

    assert answer.status_code == 422
    assert "send fewer images" in answer.json()["error"]


def test_the_client_has_them_as_numbers(live: Live, tiny_model: Path) -> None:
    """And nothing where they were not asked for."""
    with Client(live.url) as client:
        found = client.classify(IMAGES[0], details="features")
        plain = client.classify(IMAGES[0])

    np.testing.assert_allclose(found.features, expected(tiny_model, 10, IMAGES[0])[0], rtol=1e-6)
    assert plain.features == ()


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_stock_client_asks_for_them_as_an_output(
    live: Live, tiny_model: Path, binary: bool
) -> None:
    """Of both models, alone or in any order with the usual output."""
    right = expected(tiny_model, 10, *IMAGES)
    with connected(live) as client:
        for model, input_, usual in (
            ("alexnet", images(pixels(*IMAGES)), "probabilities"),
            ("alexnet_image", encoded(*IMAGES), "classes"),
        ):
            alone = client.infer(model, [input_]).as_numpy(usual)
            for names in (["features"], ["features", usual], [usual, "features"]):
                outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
                answer = client.infer(model, [input_], outputs=outputs)
                assert [each["name"] for each in answer.get_response()["outputs"]] == names
                np.testing.assert_allclose(answer.as_numpy("features"), right, rtol=1e-5)
                if usual in names:
                    assert answer.as_numpy(usual).shape == alone.shape
                    assert answer.as_numpy(usual).argmax() == alone.argmax()


def test_one_output_may_be_binary_and_the_other_not(live: Live) -> None:
    """Each says so itself."""
    outputs = [
        triton.InferRequestedOutput("classes", binary_data=False, class_count=2),
        triton.InferRequestedOutput("features", binary_data=True),
    ]
    with connected(live) as client:
        answer = client.infer("alexnet_image", [encoded(IMAGES[0])], outputs=outputs)

    assert answer.as_numpy("features").shape == (1, WIDTH)
    assert answer.as_numpy("classes").shape == (1, 2)
    assert "data" in answer.get_output("classes")
    assert "data" not in answer.get_output("features")


def test_the_configuration_says_how_many_there_are(live: Live) -> None:
    """Among its parameters: as a second output, Triton's image_client would not take the model."""
    with connected(live) as client:
        for model in ("alexnet", "alexnet_image"):
            parameters = client.get_model_config(model)["parameters"]
            assert parameters["features"] == {"string_value": str(WIDTH)}
            assert len(client.get_model_metadata(model)["outputs"]) == 1


def test_features_are_not_classes(live: Live) -> None:
    """The classification extension has strings for probabilities only."""
    wanted = triton.InferRequestedOutput("features", class_count=3)
    with (
        connected(live) as client,
        pytest.raises(InferenceServerException, match="classification is not for features"),
    ):
        client.infer("alexnet_image", [encoded(IMAGES[0])], outputs=[wanted])


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_a_table_has_them_in_its_last_column(
    tiny_model: Path, folder: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Parquet of a type that arrays are made of without a copy, in groups of few rows."""
    monkeypatch.setattr(tables, "GROUP_VALUES", 2 * (5 + WIDTH))
    output = tmp_path / f"scores.{suffix}"

    done = predict(folder, "-o", output, "--features", "--crops", "one", model=tiny_model)

    assert done.returncode == 0, done.stderr.decode()
    found = rows(output)
    assert [list(row)[-1] for row in found] == ["features"] * 3
    values = [row["features"] for row in found]
    features = [json.loads(each) if isinstance(each, str) else each for each in values]
    np.testing.assert_array_equal(np.array(features, np.float32), expected(tiny_model, 1, *IMAGES))
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        file = parquet.ParquetFile(output)
        assert str(file.schema_arrow.field("features").type) == (
            f"fixed_size_list<element: float>[{WIDTH}]"
        )
        assert file.metadata.num_row_groups == 2


def test_a_table_without_them_has_no_such_column(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    predict(folder, "-o", output, "--crops", "one", model=tiny_model)

    with output.open(newline="") as file:
        assert "features" not in next(csv.reader(file))


def test_what_was_begun_without_them_is_not_gone_on_with(
    tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    """A table would have them for some of its rows only."""
    output = tmp_path / "scores.jsonl"
    with store.opened(tmp_path / "scores.jsonl.partial", {"features": False}):
        pass

    done = predict(folder, "-o", output, "--features", model=tiny_model)

    assert done.returncode == 1
    assert "features False, now True" in done.stderr.decode()


def test_a_file_without_that_output_says_so(without: Path, folder: Path, tmp_path: Path) -> None:
    """At each interface, with what to do about it; what is offered does not name them."""
    again = "export it again with alexnet-export"
    with serving(without) as live:
        refused = live.client.post("/v1/predict", params={"details": "features"}, content=IMAGES[0])
        output = {"name": "features"}
        body = {
            "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [SOME]}],
            "outputs": [output],
        }
        from_v2 = live.client.post("/v2/models/alexnet_image/infer", json=body)
        described = live.client.get("/v2/models/alexnet/config").json()
        document = live.client.get("/openapi.json").json()
        assert ask(live, IMAGES[0])["classes"]
    parameters = document["paths"]["/v1/predict"]["post"]["parameters"]
    (details,) = [each for each in parameters if each["name"] == "details"]
    done = predict(folder, "-o", tmp_path / "scores.csv", "--features", model=without)

    assert (refused.status_code, refused.json()["code"]) == (422, "parameter_invalid")
    assert (from_v2.status_code, from_v2.json()["code"]) == (422, "parameter_invalid")
    assert again in refused.json()["error"]
    assert again in from_v2.json()["error"]
    assert described["parameters"]["features"] == {"string_value": "0"}
    assert details["schema"]["items"]["enum"] == ["views", "heatmap"]
    assert done.returncode == 1
    assert again in done.stderr.decode()


def test_they_need_a_table(tiny_model: Path, folder: Path) -> None:
    done = predict(folder, "--features", model=tiny_model)

    assert done.returncode == 1
    assert "--features, --ray and --overwrite are for --output" in done.stderr.decode()
