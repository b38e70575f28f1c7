"""The OpenAPI document against a real server: what it does not describe is not answered."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest

from service.http.middleware.errors import STATUSES
from tests.support.images import image
from tests.support.servers import PATIENCE, InThread, Live, serving

PREDICT = "/v1/predict"
CLASSIFYING = {
    PREDICT,
    "/predictions/alexnet",
    "/v1/models/alexnet:predict",
    "/invocations",
    "/models/alexnet",
    "/v2/models/alexnet/infer",
    "/v2/models/alexnet_image/infer",
}
KEY = "alice-0123456789"

# TorchServe passes over parameters that it does not know; a file too many is 413.
CHECKS = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = ["4xx"]

[[operations]]
include-path = "/predictions/alexnet"
checks.negative_data_rejection.enabled = false
"""

# Whatever the document calls binary is an image; and classes are some of the model's.
HOOKS = """
from base64 import b64encode
from pathlib import Path
import schemathesis
from hypothesis import strategies

BYTES = Path(__file__).with_name("image.jpg").read_bytes()
IMAGE = strategies.just(BYTES)
schemathesis.openapi.format("binary", IMAGE)
schemathesis.openapi.format("byte", strategies.just(b64encode(BYTES).decode()))
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGE)

@schemathesis.hook
def before_call(context, case, kwargs):
    if "classes" in case.query:
        case.query["classes"] = ["281", "crane"]
"""

# What a user of a generated client writes.
USES_CLIENT = """
import sys
from io import BytesIO
from pathlib import Path
from generated.api.predict import predict
from generated.api.torchserve import predictions
from generated.client import AuthenticatedClient
from generated.models.predict_crops import PredictCrops
from generated.models.predict_details_item import PredictDetailsItem
from generated.models.predict_files_body import PredictFilesBody
from generated.types import File

url, key, image = sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()
client = AuthenticatedClient(base_url=url, token=key)

def file(name):
    return File(BytesIO(image), name, "image/jpeg")

form = PredictFilesBody(file=[file("a.jpg"), file("b.jpg")])
answer = predict.sync(client=client, body=form, top=2, crops=PredictCrops.ONE,
                      details=[PredictDetailsItem.VIEWS, PredictDetailsItem.HEATMAP])
for prediction in answer.predictions:
    print(prediction.filename, len(prediction.classes), len(prediction.views),
          prediction.heatmap.rows)
print(len(predictions.sync(client=client, body=file("a.jpg"), top=3).additional_properties))
print(predict.sync(client=AuthenticatedClient(url, "no"), body=form).code)
"""


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[InThread]:
    """A server with narrow limits, so that each is met."""
    with serving(
        tiny_model, api_keys=KEY, max_body=50_000, max_pixels=100_000, max_files=2
    ) as server:
        yield server


@pytest.fixture(scope="module")
def document(live: Live) -> dict[str, Any]:
    """The OpenAPI document."""
    read: dict[str, Any] = live.client.get("/openapi.json").json()
    return read


@pytest.mark.external  # half a minute
def test_whatever_is_sent_the_answer_is_one_that_the_document_describes(
    live: Live, document: dict[str, Any], tmp_path: Path
) -> None:
    """
    Schemathesis: a case for each corner of the document, then some at random.

    Not that what fits the document is accepted: it cannot say which bytes are an image.
    """
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json",
         "--header", f"Authorization: Bearer {KEY}",
         "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "1",
         "--request-timeout", str(PATIENCE), "--continue-on-failure", "--no-color"],
        cwd=tmp_path,
        env=os.environ | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(map(len, document["paths"].values()))
    assert f"{operations} selected / {operations} total" in done.stdout
    assert "Traceback" not in "".join(live.log)


@pytest.mark.external  # a quarter of a minute
def test_what_fits_the_document_is_not_refused(tiny_model: Path, tmp_path: Path) -> None:
    """
    Schemathesis again, where every file is an image.

    Not of the tensors of /v2: that as many values come as a shape says, no schema can demand.
    """
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "image.jpg").write_bytes(image())
    with serving(tiny_model, max_files=2, heatmaps=False) as server:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
             "--checks", "positive_data_acceptance", "--mode", "positive",
             "--exclude-path-regex", "/v2/.*/infer",
             "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "1",
             "--request-timeout", str(PATIENCE), "--continue-on-failure", "--no-color"],
            cwd=tmp_path,
            env=os.environ
            | {"NO_PROXY": "*", "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
        )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "POST /v1/predict" not in done.stdout  # which it lists where it fails
    assert sum('"POST /v1/predict' in line and " 200 in " in line for line in server.log) > 10


@pytest.mark.external
def test_a_client_that_openapi_python_client_generates_runs(live: Live, tmp_path: Path) -> None:
    """Its program brings what such clients need; it asks for an older Typer than this project."""
    if (program := shutil.which("openapi-python-client")) is None:
        pytest.skip("needs openapi-python-client: pipx install openapi-python-client")
    (tmp_path / "openapi.json").write_bytes(live.client.get("/openapi.json").content)
    (tmp_path / "use.py").write_text(USES_CLIENT)
    (tmp_path / "image.jpg").write_bytes(image())
    python = Path(program).resolve().with_name("python")
    for command in (
        [
            program,
            "generate",
            "--path",
            "openapi.json",
            "--output-path",
            "generated",
            "--meta",
            "none",
        ],
        [str(python), "use.py", live.url, KEY, "image.jpg"],
    ):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"NO_PROXY": "*"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert done.stdout.splitlines() == ["a.jpg 2 1 8", "b.jpg 2 1 8", "3", "unauthorized"]


def test_operations_have_names_that_programs_can_use(document: dict[str, Any]) -> None:
    """Generated clients call their functions so."""
    names = {
        (method, path): operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    assert len({*names.values()}) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{3,30}", name) for name in names.values())
    assert names["post", PREDICT] == "predict"
    assert names["post", "/predictions/alexnet"] == "predictions"
    assert names["get", "/v2/health/ready"] == "v2_ready"


def test_the_document_says_which_crops_and_how_many_files(
    live: InThread, document: dict[str, Any]
) -> None:
    """Of the model that runs, and the settings of the server."""
    files, one = (
        document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        for path in (PREDICT, "/predictions/alexnet")
    )
    crops = document["paths"][PREDICT]["post"]["parameters"][1]

    assert crops["schema"]["enum"] == [*live.app.state.service.engine.model.crops]
    binary = {"type": "string", "format": "binary"}
    assert files["properties"] == {
        "file": {"type": "array", "items": binary, "minItems": 1, "maxItems": 2}
    }
    assert one["properties"] == {"file": binary}


def test_every_status_is_described_with_its_headers(document: dict[str, Any]) -> None:
    """Also those that no request can force, and those of the layers below the routes."""
    responses = document["paths"][PREDICT]["post"]["responses"]

    assert set(responses) == {"200", "405", "500", *map(str, STATUSES.values())}
    assert set(responses["401"]["headers"]) == {"WWW-Authenticate"}
    assert set(responses["405"]["headers"]) == {"Allow"}
    assert set(responses["429"]["headers"]) == {"Retry-After"}
    assert set(responses["503"]["headers"]) == {"Retry-After"}


@pytest.mark.parametrize("folder", ["http://host/", "https://host/vision/", "http://host/a/b/"])
def test_the_document_says_that_the_service_is_where_it_was_fetched(
    document: dict[str, Any], folder: str
) -> None:
    """Below whatever path a proxy has put before it; tests/test_proxies.py tries it."""
    [server] = document["servers"]

    assert urljoin(f"{folder}openapi.json", server["url"]) == folder


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics"])
def test_the_checks_describe_what_any_request_may_meet(document: dict[str, Any], path: str) -> None:
    """A header that is too large, a method that is wrong, a connection too many."""
    responses = document["paths"][path]["get"]["responses"]

    assert {"200", "400", "405", "408", "431", "500", "503"} == set(responses)


def test_the_range_of_top_is_written_where_programs_read_it(document: dict[str, Any]) -> None:
    """As JSON Schema, whose words are not pydantic's."""
    top = document["paths"][PREDICT]["post"]["parameters"][0]

    assert (top["name"], top["schema"]["minimum"], top["schema"]["maximum"]) == ("top", 1, 1000)


def test_keys_are_described_where_they_are_needed(live: Live, tiny_model: Path) -> None:
    """Either header will do, for what classifies; without keys nothing is said of them."""
    with serving(tiny_model, rate_limit="1/hour") as without:
        silent = without.client.get("/openapi.json").json()
        answers = [without.client.post(PREDICT, content=image()) for _ in "12"]
    document = live.client.get("/openapi.json").json()

    schemes = document["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("name")) for scheme in schemes.values()} == {
        ("http", None),
        ("apiKey", "X-API-Key"),
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            needed: list[object] = [{name: []} for name in schemes] if path in CLASSIFYING else []
            assert operation.get("security", []) == needed
    assert "securitySchemes" not in silent["components"]
    assert "security" not in silent["paths"][PREDICT]["post"]
    check_described(silent, answers[1], 429)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"x", 401),
        ({"X-API-Key": KEY}, b"", 400),
        ({"X-API-Key": KEY}, b"x" * 60_000, 413),
        ({"X-API-Key": KEY}, b"some text, no image", 415),
        ({"X-API-Key": KEY}, image()[:500], 422),
        ({"X-API-Key": KEY}, image(), 200),
    ],
)
def test_answers_are_as_described(
    live: Live, document: dict[str, Any], headers: dict[str, str], body: bytes, status: int
) -> None:
    """With every header that the document names for their status."""
    answer = live.client.post(PREDICT, content=body, headers=headers)

    check_described(document, answer, status)


def check_described(document: dict[str, Any], answer: httpx2.Response, status: int) -> None:
    """Assert the status, its headers and the type of its body."""
    assert answer.status_code == status, answer.text
    described = document["paths"][PREDICT]["post"]["responses"][str(status)]
    for name in described.get("headers", {}):
        assert answer.headers[name]
    assert answer.headers["content-type"] in described["content"]
