"""TorchServe's door through the clients that its users have: curl and plain HTTP."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.http.routes.torchserve import by_label, paths
from service.inference.predictions import Prediction
from tests.support.images import IMAGES, image
from tests.support.servers import PATIENCE, Live, serving

PATHS = paths("alexnet")
CAT = IMAGES / "cat.jpg"


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model) as server:
        yield server


def v1(live: Live, **query: Any) -> dict[str, float]:
    """What /v1/predict says of the cat, by label."""
    answer = live.client.post("/v1/predict", content=CAT.read_bytes(), params=query).json()
    return {best["label"]: best["probability"] for best in answer["predictions"][0]["classes"]}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", [["-T", str(CAT)], ["-F", f"data=@{CAT}"]])
def test_torchserves_own_curl_commands_get_its_answer(
    live: Live, path: str, how: list[str]
) -> None:
    """-T is a PUT without a Content-Type, -F a POST with a form."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs the curl command")

    done = subprocess.run(
        [curl, "--silent", "--noproxy", "*", "--max-time", str(PATIENCE), live.url + path, *how],
        capture_output=True,
        check=True,
    )

    assert json.loads(done.stdout) == pytest.approx(v1(live), abs=1e-5)
    assert len(json.loads(done.stdout)) == 5


@pytest.mark.parametrize("kind", ["application/jpg", "application/x-www-form-urlencoded"])
def test_an_image_may_be_called_anything(live: Live, kind: str) -> None:
    """As TorchServe's own benchmark does, and curl --data-binary by default."""
    headers = {"Content-Type": kind}

    answer = live.client.post(PATHS[0], content=CAT.read_bytes(), headers=headers)

    assert answer.json() == pytest.approx(v1(live), abs=1e-5)


def test_the_most_probable_label_comes_first(bundled_model: Path) -> None:
    with serving(bundled_model) as server:
        answer = server.client.post(PATHS[0], content=CAT.read_bytes()).json()

    assert list(answer.values()) == sorted(answer.values(), reverse=True)
    assert next(iter(answer)) == "Egyptian cat"


def test_top_and_crops_are_taken_as_elsewhere(live: Live) -> None:
    query: dict[str, Any] = {"top": 2, "crops": "one"}

    answer = live.client.put(PATHS[0], content=CAT.read_bytes(), params=query).json()

    assert answer == pytest.approx(v1(live, **query), abs=1e-5)
    assert len(answer) == 2


def test_ping_says_healthy_while_images_are_classified(live: Live) -> None:
    """test_http.py has the other half, with a server that drains."""
    pong = live.client.get("/ping")

    assert (pong.status_code, pong.json()) == (200, {"status": "Healthy"})
    assert pong.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"content": b""}, 400, "body_empty"),
        ({"content": b"no image"}, 415, "image_type_unsupported"),
        ({"content": image()[:500]}, 422, "image_unreadable"),
        ({"content": image(), "params": {"crops": "five"}}, 422, "parameter_invalid"),
        ({"files": [("data", image()), ("data", image())]}, 400, "request_malformed"),
        ({"data": {"instances": "x"}}, 415, "image_type_unsupported"),
    ],
)
def test_what_cannot_be_classified_is_refused_in_our_shape(
    live: Live, request_: dict[str, Any], status: int, code: str
) -> None:
    refused = live.client.post(PATHS[0], **request_)

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert refused.json()["error"]


def test_a_model_or_version_that_is_not_here_is_not_found(live: Live) -> None:
    for path in ("/predictions/resnet-18", "/predictions/alexnet/2.0"):
        assert live.client.post(path, content=image()).status_code == 404


def test_it_is_behind_the_keys_but_ping_is_not(tiny_model: Path) -> None:
    with serving(tiny_model, api_keys="alice-0123456789") as server:
        refused = [server.client.request(m, PATHS[0], content=image()) for m in ("POST", "PUT")]
        pong = server.client.get("/ping")

    assert [answer.status_code for answer in refused] == [401, 401]
    assert pong.status_code == 200


def test_two_classes_of_one_name_keep_both_their_probabilities() -> None:
    """ImageNet has a crane that flies and one that lifts."""
    cranes = [
        Prediction(134, "n02012849", "crane", 0.5),
        Prediction(517, "n03126707", "crane", 0.25),
        Prediction(1, None, "goldfish", 0.125),
    ]

    assert by_label(cranes) == {
        "crane (n02012849)": 0.5,
        "crane (n03126707)": 0.25,
        "goldfish": 0.125,
    }
