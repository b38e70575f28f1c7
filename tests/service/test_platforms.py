"""The contracts of other platforms, each as that platform's clients send it, to a real server."""

import gzip
import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import SettingsInvalid
from service.http.routes.json_base64 import MOST_COST
from service.settings import load_settings
from tests.support.admission import full, refused_without_a_body
from tests.support.images import IMAGES, image
from tests.support.ports import free_port
from tests.support.servers import PATIENCE, Live, serving

KSERVE, SAGEMAKER, HUGGING_FACE = "/v1/models/alexnet:predict", "/invocations", "/models/alexnet"
VERTEX = "/v1/endpoints/12/deployedModels/34:predict"
HEALTH = "/v1/endpoints/12/deployedModels/34"
PATHS = [KSERVE, SAGEMAKER, VERTEX, HUGGING_FACE]
INSTANCES = [KSERVE, SAGEMAKER, VERTEX]
RAW = [SAGEMAKER, HUGGING_FACE]
KEY = "alice-0123456789"
CAT = IMAGES / "cat.jpg"
FURTHER = {"predict_route": VERTEX, "health_route": HEALTH}


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model, max_files=3, max_body=300_000, max_pixels=500_000, **FURTHER) as one:
        yield one


def encoded(data: bytes) -> str:
    return b64encode(data).decode()


def asking(path: str, data: bytes, **more: Any) -> dict[str, Any]:
    """The JSON of one image, as the contract of this path has it."""
    if path == HUGGING_FACE:
        return {"inputs": encoded(data), **more}
    return {"instances": [{"b64": encoded(data)}], **more}


def classes(live: Live, data: bytes, **query: Any) -> list[dict[str, Any]]:
    """What /v1/predict says of an image."""
    answer = live.client.post("/v1/predict", content=data, params=query)
    found: list[dict[str, Any]] = answer.json()["predictions"][0]["classes"]
    return found


def expected(live: Live, path: str, data: bytes, **query: Any) -> Any:
    """The answer for one image at this path."""
    best = classes(live, data, **query)
    if path == HUGGING_FACE:
        return [{"label": each["label"], "score": each["probability"]} for each in best]
    return {"predictions": [{"classes": best}]}


def settled(value: Any) -> Any:
    """Probabilities to five digits: they may differ by rounding from batch to batch."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 5))


@pytest.mark.parametrize("path", PATHS)
def test_an_image_in_json_is_answered_as_the_platform_reads_it(live: Live, path: str) -> None:
    answer = live.client.post(path, json=asking(path, CAT.read_bytes()))

    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert settled(answer.json()) == settled(expected(live, path, CAT.read_bytes()))


@pytest.mark.parametrize("path", RAW)
@pytest.mark.parametrize("kind", ["image/jpeg", "application/x-image", "text/plain", None])
def test_the_image_itself_is_taken_whatever_it_is_called(
    live: Live, path: str, kind: str | None
) -> None:
    headers = {"Content-Type": kind} if kind else {}

    answer = live.client.post(path, content=CAT.read_bytes(), headers=headers)

    assert settled(answer.json()) == settled(expected(live, path, CAT.read_bytes()))


@pytest.mark.parametrize("path", [KSERVE, VERTEX])
def test_the_image_itself_is_no_json(live: Live, path: str) -> None:
    refused = live.client.post(path, content=CAT.read_bytes())

    assert (refused.status_code, refused.json()["code"]) == (400, "request_malformed")


@pytest.mark.parametrize("path", INSTANCES)
@pytest.mark.parametrize(
    "form",
    [
        lambda text: text,
        lambda text: {"b64": text},
        lambda text: {"image_bytes": text},
        lambda text: {"image_bytes": {"b64": text}},
        lambda text: "data:image/jpeg;base64," + text,
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    ],
)
def test_an_instance_has_any_of_these_forms(live: Live, path: str, form: Any) -> None:
    answer = live.client.post(path, json={"instances": [form(encoded(image()))]})

    assert answer.status_code == 200, answer.text
    assert settled(answer.json()) == settled(expected(live, path, image()))


def test_instances_are_answered_in_their_order(live: Live) -> None:
    images = [image(), CAT.read_bytes(), image(size=(300, 280))]
    instances = [{"b64": encoded(data)} for data in images]
    # As TensorFlow Serving's clients write it.
    sent = {"signature_name": "serving_default", "instances": instances}

    answer = live.client.post(KSERVE, json=sent).json()

    assert settled(answer["predictions"]) == settled(
        [{"classes": classes(live, data)} for data in images]
    )


@pytest.mark.parametrize("path", PATHS)
def test_top_and_crops_come_in_the_query_or_in_parameters_which_win(live: Live, path: str) -> None:
    wanted = settled(expected(live, path, image(), top=2, crops="one"))
    top = "top_k" if path == HUGGING_FACE else "top"
    given = asking(path, image(), parameters={top: 2, "crops": "one"})

    in_query = live.client.post(path, json=asking(path, image()), params={"top": 2, "crops": "one"})
    in_json = live.client.post(path, json=given, params={"top": 7, "crops": "ten"})

    assert settled(in_query.json()) == settled(in_json.json()) == wanted


@pytest.mark.parametrize("path", PATHS)
def test_without_parameters_they_may_be_null(live: Live, path: str) -> None:
    for parameters in (None, {}, {"top": None}, {"function_to_apply": "softmax"}):
        answer = live.client.post(path, json=asking(path, image(), parameters=parameters))
        assert answer.status_code == 200, answer.text


BAD = b"\xff\xd8\xff\xe0 no image"


@pytest.mark.parametrize("path", INSTANCES)
@pytest.mark.parametrize(
    ("sent", "status", "code", "words"),
    [
        (b"", 400, "body_empty", "body is empty"),
        (b"{", 400, "request_malformed", "cannot be read as JSON"),
        (b'{"instances": "x"}', 400, "request_malformed", "must be a list"),
        (b'{"inputs": "x"}', 400, "request_malformed", "'instances'"),
        (b'{"instances": []}', 400, "body_empty", "no image"),
        (b'{"instances": [""]}', 400, "body_empty", "instances[0] is empty"),
        (b'{"instances": [5]}', 400, "request_malformed", "image_bytes"),
        (b'{"instances": [{"b64": "YQ==", "x": 1}]}', 400, "request_malformed", "b64"),
        (b'{"instances": ["YQ==", "?"]}', 400, "request_malformed", "instances[1] is not base64"),
        (b'{"instances": ["YQ==", "\xc3\xa9"]}', 400, "request_malformed", "instances[1]"),
        (b'{"instances": ["YQ=="]}', 415, "image_type_unsupported", "Unsupported"),
        (b'{"instances": ["YQ==", "YQ==", "YQ==", "YQ=="]}', 413, "too_many_files", "more than 3"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(
    live: Live, path: str, sent: bytes, status: int, code: str, words: str
) -> None:
    refused = live.client.post(path, content=sent, headers={"Content-Type": "application/json"})

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert words in refused.json()["error"]


@pytest.mark.parametrize("path", RAW)
def test_a_list_that_is_called_json_is_no_image(live: Live, path: str) -> None:
    sent: dict[str, Any] = {"content": b"[1]", "headers": {"Content-Type": "application/json"}}

    assert live.client.post(path, **sent).json()["code"] == "request_malformed"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ([], "request_malformed"),
        ({"top": 0}, "parameter_invalid"),
        ({"top": True}, "parameter_invalid"),
        ({"top_k": 1001}, "parameter_invalid"),
        ({"crops": 10}, "parameter_invalid"),
        ({"crops": "five"}, "parameter_invalid"),
        ({"details": "views"}, "parameter_invalid"),
        ({"function_to_apply": "sigmoid"}, "parameter_invalid"),
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused(
    live: Live, path: str, parameters: Any, code: str
) -> None:
    refused = live.client.post(path, json=asking(path, image(), parameters=parameters))

    assert refused.json()["code"] == code, refused.text


def test_of_several_images_the_bad_one_is_named_and_none_is_answered(live: Live) -> None:
    instances = [encoded(image()), encoded(BAD)]

    refused = live.client.post(KSERVE, json={"instances": instances})

    assert (refused.status_code, refused.json()["code"]) == (422, "image_unreadable")
    assert refused.json()["error"].startswith("instances[1]: ")


@pytest.mark.parametrize("path", PATHS)
def test_the_limits_of_body_and_image_hold_here_too(live: Live, path: str) -> None:
    large = live.client.post(path, content=b"{" + b" " * 300_000)
    many_pixels = live.client.post(path, json=asking(path, image(size=(1000, 600))))

    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    assert (many_pixels.status_code, many_pixels.json()["code"]) == (413, "image_too_large")


@pytest.mark.parametrize("path", PATHS)
def test_json_that_takes_long_to_read_is_refused_before_it_is(tiny_model: Path, path: str) -> None:
    with serving(tiny_model, **FURTHER) as server:
        refused = server.client.post(path, content=b'{"instances": [' + b"1," * MOST_COST + b"1]}")

    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert "too long to read" in refused.json()["error"]


def test_keys_are_needed_and_the_rate_counts_every_image(tiny_model: Path) -> None:
    with serving(tiny_model, api_keys=KEY, rate_limit="4/hour", **FURTHER) as server:
        without = [server.client.post(path, json=asking(path, image())) for path in PATHS]
        headers = {"Authorization": f"Bearer {KEY}"}
        three = {"instances": [encoded(image())] * 3}
        post = server.client.post
        first = post(KSERVE, json=three, headers=headers)
        second = post(SAGEMAKER, json=three, headers=headers)
        third = post(HUGGING_FACE, content=image(), headers=headers)
        open_to_all = [server.client.get(path) for path in ("/v1/models/alexnet", HEALTH)]

    assert [answer.status_code for answer in without] == [401] * 4
    # The second is charged for its first image before its body is read, as everywhere.
    assert [first.status_code, second.status_code, third.status_code] == [200, 429, 429]
    assert [answer.status_code for answer in open_to_all] == [200, 200]


def test_a_full_queue_refuses_before_the_body(tiny_model: Path) -> None:
    with (
        serving(tiny_model, max_queue=1, max_files=1, **FURTHER) as server,
        full(server, image()),
    ):
        refused = [refused_without_a_body(server, path) for path in PATHS]

    assert refused == [(503, "overloaded")] * 4


def test_they_are_counted_with_the_model_that_takes_encoded_images(tiny_model: Path) -> None:
    with serving(tiny_model, **FURTHER) as server:
        for path in PATHS:
            assert server.client.post(path, json=asking(path, image())).status_code == 200
        text = server.client.get("/metrics").text

    assert 'nv_inference_request_success{model="alexnet_image",version="1"} 4.0' in text
    for path in PATHS:
        assert f'alexnet_http_requests_total{{method="POST",route="{path}",status="200"}} 1' in text


def test_the_paths_follow_the_models_name(tiny_model: Path) -> None:
    with serving(tiny_model, model_name="flowers") as server:
        status = server.client.get("/v1/models/flowers")
        there = [
            server.client.post(path.replace("alexnet", "flowers"), json=asking(path, image()))
            for path in (KSERVE, HUGGING_FACE)
        ]
        gone = [server.client.post(path, content=image()) for path in (KSERVE, HUGGING_FACE)]

    assert status.json()["name"] == "flowers"
    assert [answer.status_code for answer in there] == [200, 200]
    assert [answer.status_code for answer in gone] == [404, 404]


def test_the_models_status_is_what_both_platforms_read(tiny_model: Path) -> None:
    """KServe's `ready`, TensorFlow Serving's `state`; 503 while the service drains."""
    with serving(tiny_model, **FURTHER) as server:
        ready = server.client.get("/v1/models/alexnet")
        well = server.client.get(HEALTH)
        server.running.draining = True
        draining, unwell = (server.client.get(path) for path in ("/v1/models/alexnet", HEALTH))

    assert (ready.status_code, well.status_code) == (200, 200)
    assert ready.json() == {
        "name": "alexnet",
        "ready": True,
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ],
    }
    assert (draining.status_code, unwell.status_code) == (503, 503)
    assert draining.json()["ready"] is False
    assert draining.json()["model_version_status"][0]["state"] == "UNLOADING"


# Vertex AI's variables


def test_vertex_ais_variables_say_where_to_answer(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They win over the image's own ALEXNET_PORT."""
    port = free_port()
    monkeypatch.setenv("AIP_HTTP_PORT", str(port))
    monkeypatch.setenv("AIP_HEALTH_ROUTE", HEALTH)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", VERTEX)
    with serving(tiny_model, port=0) as server:
        well = server.client.get(HEALTH)
        answer = server.client.post(VERTEX, json=asking(VERTEX, image()))

    assert server.address[1] == port
    assert (well.status_code, answer.status_code) == (200, 200)
    assert load_settings(port=1).port == 1  # a flag wins


def test_a_variable_of_vertex_ais_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", "http")
    with pytest.raises(SettingsInvalid, match=r"^AIP_HTTP_PORT is 'http': "):
        load_settings()


@pytest.mark.parametrize("path", ["predict", "", "/{model}", "/a b", "/predict?top=5"])
def test_a_route_must_be_a_path(path: str) -> None:
    with pytest.raises(SettingsInvalid, match="expected a path such as /predict"):
        load_settings(predict_route=path)


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ("predict_route", "/v1/predict"),
        ("predict_route", "/predictions/alexnet"),
        ("predict_route", HUGGING_FACE),
        ("health_route", "/"),
        ("health_route", "/v2/models/alexnet"),
    ],
)
def test_a_route_must_not_be_another_endpoints(tiny_model: Path, field: str, path: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"another endpoint .* choose"):
        serving(tiny_model, **{field: path}).__enter__()


@pytest.mark.parametrize(
    ("path", "health"),
    [(KSERVE, "/ping"), (SAGEMAKER, "/v1/models/alexnet"), (VERTEX, VERTEX)],
)
def test_a_route_may_be_one_that_answers_alike(tiny_model: Path, path: str, health: str) -> None:
    with serving(tiny_model, predict_route=path, health_route=health) as server:
        assert server.client.get(health).status_code == 200
        assert server.client.post(path, json=asking(path, image())).status_code == 200


# With curl, as the platforms' pages write it


def curl(live: Live, path: str, *how: str) -> Any:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("needs the curl command")
    done = subprocess.run(
        [program, "--silent", "--noproxy", "*", "--max-time", str(PATIENCE), live.url + path, *how],
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", PATHS)
def test_curl_d_sends_json_by_another_name(live: Live, path: str, tmp_path: Path) -> None:
    """`curl -d` calls it a form, as in TensorFlow Serving's own examples."""
    (file := tmp_path / "request.json").write_text(json.dumps(asking(path, CAT.read_bytes())))

    answer = curl(live, path, "-d", f"@{file}")

    assert settled(answer) == settled(expected(live, path, CAT.read_bytes()))


@pytest.mark.parametrize("path", RAW)
def test_curl_sends_the_image_itself(live: Live, path: str) -> None:
    answer = curl(live, path, "--data-binary", f"@{CAT}", "-H", "Content-Type: image/jpeg")

    assert settled(answer) == settled(expected(live, path, CAT.read_bytes()))


def test_a_body_may_be_packed(live: Live) -> None:
    body = gzip.compress(json.dumps(asking(KSERVE, image())).encode())

    answer = live.client.post(KSERVE, content=body, headers={"Content-Encoding": "gzip"})

    assert answer.status_code == 200
