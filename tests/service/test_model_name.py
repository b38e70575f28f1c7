"""ALEXNET_MODEL_NAME: what clients of other platforms call the model, in paths and in figures."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as families
from tritonclient import http as triton

from service.errors import SettingsInvalid
from service.settings import load_settings
from tests.support.admission import full, refused_without_a_body
from tests.support.images import image
from tests.support.servers import Live, serving

NAME = "flowers-v2.1"
BOTH = [NAME, f"{NAME}_image"]


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model, model_name=NAME) as server:
        yield server


def image_tensor() -> dict[str, Any]:
    data = [base64.b64encode(image()).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]}


def test_tritons_client_finds_both_models_by_their_names(live: Live) -> None:
    with triton.InferenceServerClient(live.url.removeprefix("http://")) as client:
        for name in BOTH:
            assert client.is_model_ready(name)
            assert client.get_model_metadata(name)["name"] == name
            assert client.get_model_config(name)["name"] == name
        index = client.get_model_repository_index()
        statistics = client.get_inference_statistics()

    assert [entry["name"] for entry in index] == BOTH
    assert [entry["name"] for entry in statistics["model_stats"]] == BOTH


def test_both_models_infer_and_their_answers_have_their_names(live: Live) -> None:
    name, of_images = BOTH
    pixels: dict[str, Any] = {
        "content": bytes(256 * 256 * 3),
        "headers": {"Inference-Header-Content-Length": "0"},
    }

    answers = [
        live.client.post(f"/v2/models/{name}/infer", **pixels),
        live.client.post(f"/v2/models/{of_images}/versions/1/infer", json=image_tensor()),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert f'"model_name":"{name}"'.encode() in answers[0].content
    assert answers[1].json()["model_name"] == of_images


def test_torchserves_path_has_the_name(live: Live) -> None:
    for path in (f"/predictions/{NAME}", f"/predictions/{NAME}/1.0"):
        assert live.client.post(path, content=image()).status_code == 200


def test_nothing_answers_to_the_default_name_any_more(live: Live) -> None:
    infer: dict[str, Any] = {"inputs": []}
    refused = live.client.post("/v2/models/alexnet/infer", json=infer)

    assert refused.status_code == 404
    assert " and ".join(BOTH) in refused.json()["error"]
    assert live.client.post("/predictions/alexnet", content=image()).status_code == 404
    assert live.client.get("/v2/models/alexnet_image").status_code == 404


def test_the_document_lists_the_names(live: Live) -> None:
    text = live.client.get("/openapi.json").text
    paths = live.client.get("/openapi.json").json()["paths"]

    assert paths["/v2/models/{model}"]["get"]["parameters"][0]["schema"]["enum"] == BOTH
    assert {f"/predictions/{NAME}", *(f"/v2/models/{name}/infer" for name in BOTH)} <= set(paths)
    assert "/alexnet" not in text


def test_metrics_and_log_have_the_names(tiny_model: Path) -> None:
    with serving(tiny_model, model_name=NAME, log_format="json") as server:
        server.client.post("/v1/predict", content=image())
        server.client.post(f"/v2/models/{BOTH[1]}/infer", json=image_tensor())
        counted = {
            (family.name, sample.labels["model"]): sample.value
            for family in families(server.client.get("/metrics").text)
            for sample in family.samples
            if family.name in ("nv_inference_count", "nv_inference_exec_count")
        }

    assert {model for _, model in counted} == set(BOTH)
    assert counted["nv_inference_count", NAME] == 2
    assert counted["nv_inference_exec_count", BOTH[1]] == 2
    assert server.logged(f'"model": "{BOTH[1]}"')


def test_a_full_queue_refuses_at_the_paths_of_the_name(tiny_model: Path) -> None:
    """Early, without a body, and as a failure of the model of that path."""
    paths = [
        *(f"/v2/models/{name}{version}/infer" for name in BOTH for version in ("", "/versions/1")),
        *(f"/predictions/{NAME}{version}" for version in ("", "/1.0")),
    ]
    with (
        serving(tiny_model, model_name=NAME, max_queue=1, max_files=1) as server,
        full(server, image()),
    ):
        refused = [refused_without_a_body(server, path) for path in paths]
        statistics = server.app.state.metrics.statistics
        failures = {name: model.failure for name, model in statistics.items()}

    assert refused == [(503, "overloaded")] * 6
    assert failures == {NAME: 2, BOTH[1]: 4}


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "two words", "é", "x" * 65, "stats"])
def test_a_name_that_no_path_could_have_is_refused(name: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_MODEL_NAME / --model-name is .*: expected"):
        load_settings(model_name=name)
