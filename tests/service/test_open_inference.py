"""
The Open Inference Protocol, spoken by Triton's own Python client, unmodified, to a real server.

Two models: `alexnet` takes pixels, `alexnet_image` takes encoded images.
"""

import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from service import app
from service.http.routes.open_inference import paths
from tests.support.admission import full, refused_without_a_body
from tests.support.images import image
from tests.support.models import OWN, altered, entry
from tests.support.open_inference import connected, encoded, images, pixels
from tests.support.servers import PATIENCE, Live, serving, until

KEY = "alice-0123456789"
CATS = [image(size=(300 + 40 * number, 280)) for number in range(3)]
BLACK = np.zeros((1, 256, 256, 3), np.uint8)


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """One server for all tests that do not harm it."""
    with serving(tiny_model, max_files=8, max_body=3_000_000, max_pixels=1_000_000) as server:
        yield server


@pytest.fixture
def client(live: Live) -> Iterator[triton.InferenceServerClient]:
    """The stock client of that server."""
    with connected(live) as client:
        yield client


def answered_by_v1(server: Live, data: bytes, **query: Any) -> list[dict[str, Any]]:
    """What the first door says."""
    answer = server.client.post("/v1/predict", content=data, params=query)
    classes: list[dict[str, Any]] = answer.json()["predictions"][0]["classes"]
    return classes


def as_strings(classes: list[dict[str, Any]]) -> list[bytes]:
    """As the classification extension writes them."""
    return [f"{its['probability']:f}:{its['index']}:{its['label']}".encode() for its in classes]


def test_a_server_tells_that_it_lives_and_is_ready(client: triton.InferenceServerClient) -> None:
    """The server, and each of its models, with a version and without."""
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in ("alexnet", "alexnet_image"):
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready(model, "2")
    assert not client.is_model_ready("resnet")


def test_the_server_names_only_what_it_speaks(client: triton.InferenceServerClient) -> None:
    """perf_analyzer asks for statistics because the extension is named."""
    server = client.get_server_metadata()

    assert server["name"] == "alexnet-service"
    assert set(server["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "statistics",
    }


@pytest.mark.parametrize("version", ["", "1"])
def test_metadata_tells_what_goes_in_and_comes_out(
    client: triton.InferenceServerClient, version: str
) -> None:
    """The batch first, of any size."""
    network = client.get_model_metadata("alexnet", version)
    road = client.get_model_metadata("alexnet_image", version)

    assert network["versions"] == ["1"]
    assert network["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, 256, 256, 3]}
    ]
    assert network["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 1000]}
    ]
    assert road["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    assert road["outputs"] == [{"name": "classes", "datatype": "BYTES", "shape": [-1, 5]}]


def test_the_repository_has_both_models(client: triton.InferenceServerClient) -> None:
    """Ready, in their only version."""
    index = client.get_model_repository_index()

    assert [(its["name"], its["version"], its["state"]) for its in index] == [
        ("alexnet", "1", "READY"),
        ("alexnet_image", "1", "READY"),
    ]


def test_the_configuration_suits_the_sample_client(
    live: Live, client: triton.InferenceServerClient
) -> None:
    """What Triton's image_client asks of a model before it sends an image, and what it sends."""
    its, config = client.get_model_metadata("alexnet"), client.get_model_config("alexnet")

    assert len(its["inputs"]) == len(its["outputs"]) == len(config["input"]) == 1
    [taken], [given] = its["inputs"], its["outputs"]
    assert given["datatype"] == "FP32"
    assert config["max_batch_size"] == 8
    without_batch = given["shape"][1:]
    assert sum(size > 1 for size in without_batch) == 1  # a vector
    assert config["input"][0]["format"] == "FORMAT_NHWC"
    _, height, width, channels = taken["shape"]
    assert config["input"][0]["dims"] == [height, width, channels]
    assert config["input"][0]["data_type"] == f"TYPE_{taken['datatype']}"
    batch = np.stack([np.zeros((height, width, channels), np.uint8)] * 2)
    wanted = triton.InferRequestedOutput(given["name"], class_count=3)
    tensor = images(batch, name=taken["name"])
    classes = client.infer("alexnet", [tensor], outputs=[wanted]).as_numpy(given["name"])
    for row in classes:
        for text in row:
            value, index, label = text.decode().split(":")
            assert 0 <= float(value) <= 1
            assert 0 <= int(index) < 1000
            assert label


@pytest.mark.parametrize("model", ["alexnet", "alexnet_image"])
def test_the_configuration_is_one_that_strict_clients_can_read(
    live: Live, client: triton.InferenceServerClient, model: str
) -> None:
    """perf_analyzer reads the steps of an ensemble unchecked, and makes tensors of the dims."""
    its, config = client.get_model_metadata(model), client.get_model_config(model)

    assert ("ensemble_scheduling" in config) == (config["platform"] == "ensemble")
    assert its["platform"] == config["platform"]
    assert not config.keys() & {"sequence_batching", "model_transaction_policy"}
    for tensors, described in (("input", "inputs"), ("output", "outputs")):
        for tensor, its_own in zip(config[tensors], its[described], strict=True):
            assert tensor["name"] == its_own["name"]
            assert tensor["dims"], "without dims there is nothing to make a tensor of"
            assert all(size > 0 for size in tensor["dims"])
            assert its_own["shape"] == [-1, *tensor["dims"]]


def test_a_request_as_the_configuration_describes_it_is_answered(
    live: Live, client: triton.InferenceServerClient
) -> None:
    """Two rows, as perf_analyzer -b 2 sends them."""
    [its] = client.get_model_config("alexnet_image")["input"]
    rows = np.array([CATS[0], CATS[1]], object).reshape(2, *its["dims"])

    classes = client.infer("alexnet_image", [images(rows, name=its["name"])]).as_numpy("classes")

    assert classes.shape == (2, 5)


@pytest.mark.external
@pytest.mark.parametrize("way", [["--sync"], ["--async"]], ids=["sync", "async"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("model", ["alexnet", "alexnet_image"])
def test_perf_analyzer_measures_both_models(
    live: Live, tmp_path: Path, model: str, batch: int, way: list[str]
) -> None:
    """NVIDIA's own program; an image needs to be given, pixels it makes up."""
    data = ["--input-data", str(perf_analyzer_data(tmp_path))] if model == "alexnet_image" else []

    done = perf_analyzer(live, "-m", model, "-b", str(batch), *way, *data)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Inference count: {10 * batch}" in done.stdout


@pytest.mark.external
def test_perf_analyzer_says_that_the_text_it_makes_up_is_no_image(live: Live) -> None:
    """Rather than to crash, which it did of a configuration that it could not read."""
    done = perf_analyzer(live, "-m", "alexnet_image")

    assert done.returncode == 99
    assert "Unsupported image format" in done.stdout + done.stderr


def perf_analyzer(live: Live, *flags: str) -> "subprocess.CompletedProcess[str]":
    """What it prints of ten requests."""
    if (program := shutil.which("perf_analyzer")) is None:
        pytest.skip("needs NVIDIA's perf_analyzer: pip install perf_analyzer, with glibc 2.38")
    url = live.url.removeprefix("http://")
    return subprocess.run(
        [program, "-u", url, "--request-count", "10", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def perf_analyzer_data(folder: Path) -> Path:
    """An image as its --input-data: `b64` is the tensor's bytes, where 4 of length come first."""
    tensor = len(CATS[0]).to_bytes(4, "little") + CATS[0]
    file = folder / "data.json"
    file.write_text(json.dumps({"data": [{"image": {"b64": b64encode(tensor).decode()}}]}))
    return file


def test_the_configuration_tells_of_the_file_and_its_crops(
    live: Live, client: triton.InferenceServerClient
) -> None:
    """Which model answers is seen here as in /health."""
    health = live.client.get("/health").json()["model"]

    told = client.get_model_config("alexnet_image", "1")["parameters"]

    assert {name: told[name]["string_value"] for name in ("variant", "precision", "version")} == {
        name: health[name] for name in ("variant", "precision", "version")
    }
    assert told["crops"]["string_value"] == "ten,one,dense"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("version", ["", "1"])
def test_pixels_get_the_probabilities_of_the_first_door(
    live: Live, client: triton.InferenceServerClient, binary: bool, version: str
) -> None:
    """In binary and in JSON, both ways."""
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary)

    answer = client.infer(
        "alexnet", [images(pixels(CATS[0]), binary=binary)], version, [wanted], request_id="of mine"
    )

    probabilities = answer.as_numpy("probabilities")
    assert (probabilities.shape, probabilities.dtype) == ((1, 1000), np.float32)
    for its in answered_by_v1(live, CATS[0], top=1000):
        assert probabilities[0, its["index"]] == pytest.approx(its["probability"], abs=1e-7)
    head = answer.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == ("alexnet", "1", "of mine")
    assert ("data" in head["outputs"][0]) is not binary


@pytest.mark.parametrize("columns", [False, True], ids=["[N]", "[N, 1]"])
def test_encoded_images_get_the_classes_of_the_first_door(
    live: Live, client: triton.InferenceServerClient, columns: bool
) -> None:
    """A row each, in order; clients of ensembles send a column."""
    array = np.array(CATS, object)

    tensor = images(array.reshape(-1, 1) if columns else array, name="image")
    classes = client.infer("alexnet_image", [tensor]).as_numpy("classes")

    assert classes.shape == (3, 5)
    for row, data in zip(classes, CATS, strict=True):
        assert list(row) == as_strings(answered_by_v1(live, data))


def test_classification_says_how_many_classes(
    live: Live, client: triton.InferenceServerClient
) -> None:
    """Of both models, in binary and in JSON; there are never more than the network knows."""
    expected = as_strings(answered_by_v1(live, CATS[0], top=1000))
    for model, tensor, output in (
        ("alexnet", images(pixels(CATS[0])), "probabilities"),
        ("alexnet_image", encoded(CATS[0]), "classes"),
    ):
        for count in (1, 7, 10**6):
            for binary in (True, False):
                wanted = triton.InferRequestedOutput(output, binary, class_count=count)
                classes = client.infer(model, [tensor], outputs=[wanted]).as_numpy(output)
                assert classes.shape == (1, min(count, 1000))
                texts = [text if binary else text.encode() for text in classes[0]]
                assert texts == expected[:count]


def test_crops_are_a_parameter(live: Live, client: triton.InferenceServerClient) -> None:
    """As the query of the first door; what the model does not offer is refused."""
    for crops in ("ten", "one", "dense"):
        answer = client.infer("alexnet_image", [encoded(CATS[1])], parameters={"crops": crops})
        expected = as_strings(answered_by_v1(live, CATS[1], crops=crops))
        assert list(answer.as_numpy("classes")[0]) == expected
    answers = [
        client.infer("alexnet", [images(pixels(CATS[1]))], parameters={"crops": crops})
        for crops in ("ten", "one")
    ]
    ten, one = (answer.as_numpy("probabilities") for answer in answers)
    assert not np.allclose(ten, one)

    with pytest.raises(InferenceServerException, match="must be one of ten, one, dense") as caught:
        client.infer("alexnet_image", [encoded(CATS[1])], parameters={"crops": "eleven"})

    assert caught.value.status() == "422"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_and_answers_may_be_compressed(
    client: triton.InferenceServerClient, algorithm: str
) -> None:
    """With the header about the JSON's length as it was before."""
    plain = client.infer("alexnet", [images(pixels(*CATS))])

    packed = client.infer(
        "alexnet",
        [images(pixels(*CATS))],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )

    np.testing.assert_allclose(
        packed.as_numpy("probabilities"), plain.as_numpy("probabilities"), atol=1e-6
    )


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "status", "text"),
    [
        ("alexnet", [images(np.zeros((1, 224, 224, 3), np.uint8))], None, "400", "256, 256, 3"),
        ("alexnet", [images(np.zeros((256, 256, 3), np.uint8))], None, "400", "256, 256, 3"),
        ("alexnet", [images(np.zeros((1, 256, 256, 3), np.float32))], None, "400", "is UINT8"),
        ("alexnet", [images(np.zeros((0, 256, 256, 3), np.uint8))], None, "400", "no rows"),
        ("alexnet", [images(np.zeros((9, 256, 256, 3), np.uint8))], None, "413", "more than 8 row"),
        (
            "alexnet",
            [images(np.zeros((1, 256, 256, 3), np.uint8), name="x")],
            None,
            "400",
            "images",
        ),
        ("alexnet", [images(np.zeros((1, 256, 256, 3), np.uint8))] * 2, None, "400", "one input"),
        ("alexnet_image", [encoded(CATS[0])], ["labels"], "400", "outputs 'classes' and"),
        ("alexnet_image", [encoded(CATS[0])], ["classes"] * 2, "400", "each to be asked"),
        ("alexnet_image", [encoded(*CATS * 3)], None, "413", "more than 8 rows"),
        ("alexnet_image", [encoded(CATS[0], b"only text")], None, "415", "row 1: "),
        ("alexnet_image", [encoded(CATS[0][:999], CATS[0])], None, "422", "row 0: "),
        ("alexnet_image", [encoded(b"")], None, "400", "empty"),
        ("resnet", [encoded(CATS[0])], None, "404", "alexnet and alexnet_image"),
    ],
)
def test_what_is_wrong_is_said_to_the_client(
    client: triton.InferenceServerClient,
    model: str,
    inputs: list[triton.InferInput],
    outputs: list[str] | None,
    status: str,
    text: str,
) -> None:
    """In the exception that it raises, with the status."""
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]

    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, outputs=wanted)

    assert caught.value.status() == status
    assert text in caught.value.message()


def test_a_version_that_there_is_not_is_not_found(client: triton.InferenceServerClient) -> None:
    """Whatever is asked of it."""
    for ask in (
        client.get_model_metadata,
        client.get_model_config,
        client.get_inference_statistics,
    ):
        with pytest.raises(InferenceServerException, match="of version 1") as caught:
            ask("alexnet", "2")
        assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="of version 1"):
        client.infer("alexnet", [images(pixels(CATS[0]))], "2")


def test_shared_memory_is_refused(client: triton.InferenceServerClient) -> None:
    """It is not named among the extensions, and a client that tries it is told."""
    tensor = triton.InferInput("images", [1, 256, 256, 3], "UINT8")
    tensor.set_shared_memory("region", 196_608)

    with pytest.raises(InferenceServerException, match="no shared memory"):
        client.infer("alexnet", [tensor])


def test_clients_of_many_threads_get_each_their_own_answer(live: Live) -> None:
    """A client is for one thread; eight of them ask at once, five times each."""
    expected = [as_strings(answered_by_v1(live, data)) for data in CATS]

    def ask(number: int) -> None:
        with connected(live) as client:
            for turn in range(number, number + 5):
                answer = client.infer(
                    "alexnet_image", [encoded(CATS[turn % 3])], request_id=f"{number}.{turn}"
                )
                assert answer.get_response()["id"] == f"{number}.{turn}"
                assert list(answer.as_numpy("classes")[0]) == expected[turn % 3]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))


def test_one_client_may_ask_without_waiting(live: Live) -> None:
    """`async_infer`, over several connections."""
    expected = [as_strings(answered_by_v1(live, data)) for data in CATS]
    with connected(live, concurrency=4) as client:
        asked = [client.async_infer("alexnet_image", [encoded(CATS[n % 3])]) for n in range(12)]

        answers = [one.get_result() for one in asked]

    for number, answer in enumerate(answers):
        assert list(answer.as_numpy("classes")[0]) == expected[number % 3]


def test_rows_of_all_doors_share_a_batch(tiny_model: Path) -> None:
    """One image by /v1/predict, one as pixels, two encoded: a batch of four, which is full."""
    with serving(tiny_model, max_batch=4, threads=1) as server, server.gate.closed() as gate:

        def infer(model: str, tensor: triton.InferInput) -> None:
            with connected(server) as client:
                client.infer(model, [tensor])

        work: list[Callable[[], object]] = [
            lambda: server.client.post("/v1/predict", content=CATS[0]).raise_for_status(),
            lambda: infer("alexnet", images(pixels(CATS[1]))),
            lambda: infer("alexnet_image", encoded(*CATS[:2])),
        ]
        with ThreadPoolExecutor(4) as threads:
            first = threads.submit(server.service.classify, CATS[0])  # the engine is at this
            gate.until_held()
            together = [threads.submit(one) for one in work]
            server.until_pending(1 + 4)
            server.until_queued()
            gate.open()
            assert first.result()
            for one in together:
                one.result()
        with connected(server) as client:
            [statistics] = client.get_inference_statistics("alexnet")["model_stats"]

    runs = {its["batch_size"]: its["compute_infer"]["count"] for its in statistics["batch_stats"]}
    assert runs == {1: 1, 4: 1}
    assert statistics["execution_count"] == 2


def test_a_model_without_ten_crops_is_asked_for_those_that_it_has(
    tiny_model: Path, tmp_path: Path
) -> None:
    """What is asked for stands in the body: nothing is refused before it is read."""
    golden = json.loads(entry(tiny_model, "golden"))
    # The start-up image is asked for one crop then, and close enough to its answer for ten.
    close = json.dumps(golden | {"tolerance": 1.0})
    altered(tiny_model, tmp_path / "one.onnx", crops='{"one": 1}', golden=close)

    with serving(tmp_path / "one.onnx") as server, connected(server) as client:
        answer = client.infer("alexnet", [images(BLACK)], parameters={"crops": "one"})
        with pytest.raises(InferenceServerException, match="must be one of one"):
            client.infer("alexnet", [images(BLACK)])

    assert answer.as_numpy("probabilities").shape == (1, 1000)


def test_statistics_count_requests_rows_and_failures(tiny_model: Path) -> None:
    """In Triton's terms, for each model."""
    with serving(tiny_model) as server, connected(server) as client:
        before = client.get_inference_statistics()
        client.infer("alexnet", [images(pixels(*CATS))])
        client.infer("alexnet_image", [encoded(CATS[0])])
        with pytest.raises(InferenceServerException):
            client.infer("alexnet_image", [encoded(b"only text")])
        [road] = client.get_inference_statistics("alexnet_image", "1")["model_stats"]
        both = {its["name"]: its for its in client.get_inference_statistics()["model_stats"]}

    assert all(its["last_inference"] == 0 for its in before["model_stats"])
    assert both["alexnet_image"] == road
    assert (road["version"], road["inference_count"]) == ("1", 1)
    assert road["inference_stats"]["fail"]["count"] == 1
    network = both["alexnet"]
    assert network["inference_count"] == len(CATS) + 1
    assert network["execution_count"] == sum(
        batch["compute_infer"]["count"] for batch in network["batch_stats"]
    )
    for its in (network, road):
        assert its["last_inference"] > 0
        for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
            assert (
                its["inference_stats"][kind]["count"] == its["inference_stats"]["success"]["count"]
            )
        assert its["inference_stats"]["success"]["ns"] > 0


def test_what_infers_needs_the_key_and_what_describes_does_not(tiny_model: Path) -> None:
    """Anyone may look; only a client with a key is answered."""
    with serving(tiny_model, api_keys=KEY) as server, connected(server) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("alexnet")["name"] == "alexnet"
        assert client.get_model_config("alexnet")
        assert client.get_inference_statistics()
        assert client.get_model_repository_index()
        for model, tensor in (
            ("alexnet", images(pixels(CATS[0]))),
            ("alexnet_image", encoded(CATS[0])),
        ):
            for version in ("", "1"):
                with pytest.raises(InferenceServerException, match="API key") as caught:
                    client.infer(model, [tensor], version)
                assert caught.value.status() == "401"
                client.infer(model, [tensor], version, headers={"X-API-Key": KEY})


def test_the_rate_limit_counts_rows(tiny_model: Path) -> None:
    """Four rows an hour: three at once, and one more."""
    with serving(tiny_model, rate_limit="4/hour") as server, connected(server) as client:
        client.infer("alexnet", [images(pixels(*CATS))])
        with pytest.raises(InferenceServerException, match="4 images per hour") as caught:
            client.infer("alexnet_image", [encoded(*CATS[:2])])

    assert caught.value.status() == "429"


def test_a_server_that_drains_is_not_ready_but_lives(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted is answered; what comes now is refused."""
    monkeypatch.setattr(app, "FAREWELL", 0.0)  # it stays for what was accepted alone
    with (
        serving(tiny_model, shutdown_timeout=600) as server,
        ThreadPoolExecutor() as pool,
        server.gate.closed() as gate,
    ):

        def infer() -> object:
            with connected(server) as client:
                return client.infer("alexnet_image", [encoded(CATS[0])]).as_numpy("classes")

        accepted = pool.submit(infer)
        gate.until_held()

        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503)

        with connected(server) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready("alexnet")
            assert {its["state"] for its in client.get_model_repository_index()} == {"UNAVAILABLE"}
            with pytest.raises(InferenceServerException, match="draining") as caught:
                client.infer("alexnet_image", [encoded(CATS[0])])
        assert caught.value.status() == "503"
        assert not accepted.done()
        gate.open()
        assert accepted.result() is not None


def test_a_model_of_ones_own_has_its_own_classes(tmp_path: Path) -> None:
    """Three of them, with colons in their names, which the strings cannot hold."""
    labels = [[None, "a:b"], [None, "c"], [None, "d:e:f"]]
    altered(OWN, tmp_path / "own.onnx", labels=json.dumps(labels))

    with serving(tmp_path / "own.onnx") as server, connected(server) as client:
        assert client.get_model_metadata("alexnet")["outputs"][0]["shape"] == [-1, 3]
        assert client.get_model_config("alexnet")["output"][0]["dims"] == [3]
        assert client.get_model_metadata("alexnet_image")["outputs"][0]["shape"] == [-1, 3]
        probabilities = client.infer("alexnet", [images(pixels(CATS[0]))]).as_numpy("probabilities")
        classes = client.infer("alexnet_image", [encoded(CATS[0])]).as_numpy("classes")

    assert probabilities.shape == (1, 3)
    assert classes.shape == (1, 3)
    assert {text.decode().split(":", 2)[2] for text in classes[0]} == {"a;b", "c", "d;e;f"}


def test_health_answers_heads_and_is_never_stored(live: Live) -> None:
    """As the other health checks."""
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/alexnet/ready"):
        head = live.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["cache-control"] == "no-store"


def test_a_full_queue_refuses_before_the_body(tiny_model: Path) -> None:
    """With the time to come back, as at every door; the body is never sent."""
    with (
        serving(tiny_model, max_queue=1, max_files=1, timeout=600) as server,
        full(server, CATS[0]),
    ):
        refusals = [refused_without_a_body(server, path) for path in paths("alexnet")]

    assert refusals == [(503, "overloaded")] * 4
