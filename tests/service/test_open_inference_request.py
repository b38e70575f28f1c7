"""What no well-behaved client of the Open Inference Protocol sends, and what curl may."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import BodyTooLarge, RequestError, RequestMalformed
from service.http.middleware.errors import STATUSES
from service.http.routes.open_inference import infer_request
from service.http.routes.open_inference.served_models import models
from tests.support.images import image
from tests.support.servers import Live, serving

MODELS = models("alexnet")
NETWORK, ROAD = MODELS["alexnet"], MODELS["alexnet_image"]
INFER = {name: f"/v2/models/{name}/infer" for name in MODELS}
LENGTH = "Inference-Header-Content-Length"
MAX_BODY = 2_000_000
PIXELS = 256 * 256 * 3
IMAGE = image()


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """One server for all tests."""
    with serving(tiny_model, max_files=4, max_body=MAX_BODY) as server:
        yield server


def asking(name: str = "images", datatype: str = "UINT8", **its: Any) -> dict[str, Any]:
    """A request of one input, one row of pixels unless said otherwise."""
    return {"inputs": [{"name": name, "shape": [1, 256, 256, 3], "datatype": datatype, **its}]}


def images(*data: str, shape: list[int] | None = None) -> dict[str, Any]:
    """A request of images in JSON."""
    return asking("image", "BYTES", shape=shape or [len(data)], data=list(data))


def framed(request: object, after: bytes) -> tuple[bytes, dict[str, str]]:
    """JSON and bytes after it, and the header that tells them apart."""
    text = json.dumps(request).encode()
    return text + after, {LENGTH: str(len(text))}


def elements(*data: bytes) -> bytes:
    """A binary tensor of BYTES."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in data)


def refused(answer: httpx2.Response, status: int, text: str) -> None:
    """Assert the one shape of errors."""
    body = answer.json()
    assert (answer.status_code, set(body)) == (status, {"error", "code"}), body
    assert text in body["error"]


def test_images_may_come_in_json_as_base64(live: Live) -> None:
    """In one list, or in columns."""
    text = base64.b64encode(IMAGE).decode()
    nested = asking("image", "BYTES", shape=[2, 1], data=[[text], [text]])

    for request in (images(text, text), nested):
        answer = live.client.post(INFER["alexnet_image"], json=request)
        assert answer.status_code == 200, answer.text
        [output] = answer.json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("classes", "BYTES", [2, 5])
        assert output["data"][:5] == output["data"][5:]
        assert "id" not in answer.json()


BASE64 = base64.b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(IMAGE).decode(),
        "\r\n".join([*(BASE64[start : start + 64] for start in range(0, len(BASE64), 64)), ""]),
        base64.urlsafe_b64encode(IMAGE).decode(),
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(IMAGE).decode().rstrip("="),
        f"data:image/jpeg;base64,{BASE64}",
        f" DATA:;charset=utf-8;BASE64,\n{base64.encodebytes(IMAGE).decode()}",
    ],
    ids=["lines", "CRLF", "url-safe", "bare", "url-safe and bare", "data URL", "odd data URL"],
)
def test_base64_is_taken_as_people_send_it(live: Live, text: str) -> None:
    assert len(IMAGE) % 3, "an image whose base64 is padded"
    assert set("-_") & set(base64.urlsafe_b64encode(IMAGE).decode())

    answer = live.client.post(INFER["alexnet_image"], json=images(text))
    plain = live.client.post(INFER["alexnet_image"], json=images(BASE64))

    assert (answer.status_code, answer.json()) == (200, plain.json())


@pytest.mark.parametrize(
    "data",
    ["not base64!", "YWJjZ", "YW=Jj", "data:image/svg+xml,YWJj", 7, None, ["YWJj"], "größe"],
)
def test_images_in_json_that_are_not_base64_are_refused(live: Live, data: Any) -> None:
    """And the sentence says what is expected."""
    answer = live.client.post(INFER["alexnet_image"], json=asking(
        "image", "BYTES", shape=[1], data=[data]
    ))  # fmt: skip

    refused(answer, 400, "data")
    assert "base64" in answer.text or "one list" in answer.text


def test_pixels_in_json_may_be_flat_or_nested(live: Live) -> None:
    """With the same answer as in binary."""
    values = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    requests = [asking(data=values.ravel().tolist()), asking(data=values.tolist())]
    body, headers = framed(asking(parameters={"binary_data_size": PIXELS}), values.tobytes())

    answers = [live.client.post(INFER["alexnet"], json=request) for request in requests]
    answers.append(live.client.post(INFER["alexnet"], content=body, headers=headers))

    data = [answer.json()["outputs"][0]["data"] for answer in answers]
    assert data[0] == data[1] == pytest.approx(data[2], abs=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        [0] * (PIXELS - 1),
        [0] * (PIXELS + 1),
        [],
        [256] + [0] * (PIXELS - 1),
        [-1] + [0] * (PIXELS - 1),
        [True] + [0] * (PIXELS - 1),
        [1.0] + [0] * (PIXELS - 1),
        ["1"] + [0] * (PIXELS - 1),
        [None] + [0] * (PIXELS - 1),
        [10**4000] + [0] * (PIXELS - 1),
        [[0] * PIXELS],
        [[[[0, 0, 0]] * 256] * 255 + [[[0, 0, 0]] * 255 + [[0, 0]]]],
        [[[[0, 0, 0]] * 256] * 255 + [[[0, 0, 0]] * 255 + [0]]],
        [0] + [[0, 0, 0]] * (PIXELS - 1),
    ],
    ids=["short", "long", "none", "large", "negative", "bool", "float", "string", "null", "huge",
         "half nested", "ragged", "ragged depth", "mixed"],
)  # fmt: skip
def test_pixels_in_json_that_are_no_pixels_are_refused(data: list[Any]) -> None:
    """Nothing is rounded, wrapped or filled up."""
    with pytest.raises(RequestError):
        infer_request.read(json.dumps(asking(data=data)).encode(), None, NETWORK, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, 256, 256, 3]},
        {"shape": [True, 256, 256, 3]},
        {"shape": [1.0, 256, 256, 3]},
        {"shape": ["1", 256, 256, 3]},
        {"shape": [2**64, 256, 256, 3]},
        {"shape": [10**4000, 256, 256, 3]},
        {"shape": [1, 256, 256]},
        {"shape": [1, 256, 256, 3, 1]},
        {"shape": [1] * 100_000},
        {"shape": ["x"] * 100_000},
        {"shape": []},
        {"shape": 1},
        {"shape": None},
        {"datatype": "FP32"},
        {"datatype": 8},
        {"name": "image"},
        {"name": None},
        {"name": "\ud800"},
        {"parameters": []},
        {"parameters": {"binary_data_size": PIXELS, "shared_memory_region": "r"}},
        {"parameters": {"binary_data_size": PIXELS - 1}},
        {"parameters": {"binary_data_size": PIXELS + 1}},
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"binary_data_size": True}},
        {"parameters": {"binary_data_size": float(PIXELS)}},
        {"parameters": {"binary_data_size": str(PIXELS)}},
        {"parameters": {"binary_data_size": 2**64}},
        {"parameters": {}},
        {"data": [0] * PIXELS},
    ],
)
def test_an_input_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    """Before anything as large as it says is made."""
    request = asking(parameters={"binary_data_size": PIXELS})
    request["inputs"][0].update(change)
    body, headers = framed(request, bytes(PIXELS))

    with pytest.raises(RequestError):
        infer_request.read(body, headers[LENGTH], NETWORK, 4)


@pytest.mark.parametrize("size", [0, PIXELS - 1, PIXELS + 1, 2 * PIXELS])
@pytest.mark.parametrize("raw", [False, True])
def test_a_tensor_that_is_not_as_large_as_its_shape_is_refused(size: int, raw: bool) -> None:
    """Though the request counts its bytes rightly, or does not count them."""
    body, headers = framed(asking(parameters={"binary_data_size": size}), bytes(size))
    if raw:
        body, headers = bytes(size), {LENGTH: "0"}

    with pytest.raises(RequestError):
        infer_request.read(body, headers[LENGTH], NETWORK, 4)


def test_null_is_as_good_as_nothing() -> None:
    """Clients with types send it for what they leave out."""
    request: dict[str, Any] = asking(data=None, parameters={"binary_data_size": PIXELS})
    body, headers = framed(
        request | {"id": None, "parameters": None, "outputs": None}, bytes(PIXELS)
    )
    output = {"name": "probabilities", "parameters": None}
    in_json = asking(data=[0] * PIXELS, parameters=None) | {"outputs": [output]}

    assert len(infer_request.read(body, headers[LENGTH], NETWORK, 4).rows) == 1
    assert len(infer_request.read(json.dumps(in_json).encode(), None, NETWORK, 4).rows) == 1


def test_data_in_two_places_is_refused() -> None:
    """Even where the second is empty."""
    request = asking(data=[0] * PIXELS, parameters={"binary_data_size": 0})

    with pytest.raises(RequestMalformed, match="either data in the JSON or binary_data_size"):
        infer_request.read(json.dumps(request).encode(), None, NETWORK, 4)


@pytest.mark.parametrize(("rows", "text"), [(0, "no rows"), (5, "more than 4 rows")])
def test_rows_are_counted_before_they_are_read(rows: int, text: str) -> None:
    """One or more, and no more than the configuration says."""
    request = asking(shape=[rows, 256, 256, 3], parameters={"binary_data_size": rows * PIXELS})
    body, headers = framed(request, bytes(rows * PIXELS))

    with pytest.raises(RequestError, match=text):
        infer_request.read(body, headers[LENGTH], NETWORK, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": []},
        {"inputs": {}},
        {"inputs": asking()["inputs"] * 2},
        {"inputs": [[]] * 100_000},
        {"outputs": {}},
        {"outputs": [{}]},
        {"outputs": [{"name": "classes"}]},
        {"outputs": [{"name": "probabilities"}] * 2},
        {"outputs": [{"name": "probabilities", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 0}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": True}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"classification": "5"}}]},
        {"outputs": [{"name": "probabilities", "parameters": {"shared_memory_region": "r"}}]},
        {"parameters": {"binary_data_output": "true"}},
        {"parameters": {"crops": 10}},
        {"id": 7},
        {"id": "x" * 2000},
    ],
)
def test_a_request_that_is_not_of_the_protocol_is_refused(change: dict[str, Any]) -> None:
    """The parts beside the data."""
    good = asking(parameters={"binary_data_size": PIXELS})
    for request in (good | change,):
        body, headers = framed(request, bytes(PIXELS))
        with pytest.raises(RequestError):
            infer_request.read(body, headers[LENGTH], NETWORK, 4)

    body, headers = framed(good, bytes(PIXELS))
    assert infer_request.read(body, headers[LENGTH], NETWORK, 4).id == ""


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff", b"{}", b'{"inputs":NaN}', b"[" * 100_000,
     b'{"inputs":' * 100_000, b'{"id":"\\ud800","inputs":[]}', b'{"inputs":' + b"1" * 10**6 + b"}"],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: bytes) -> None:
    """However deep or long."""
    with pytest.raises(RequestError):
        infer_request.read(text, None, NETWORK, 4)


@pytest.mark.parametrize(
    ("value", "number"),
    [(b"0", 2**19), (b"[]", 2**17), (b"{}", 2**17), (b'{"a":1}', 2**17), (b'"\\u0041"', 2**18)],
)
def test_json_that_would_take_long_to_read_is_refused_unread(value: bytes, number: int) -> None:
    """Nobody else is answered meanwhile; the sentence says that binary costs nothing."""
    text = b'{"inputs":[{"name":"images","shape":[1,256,256,3],"datatype":"UINT8","data":['

    with pytest.raises(BodyTooLarge, match="in binary"):
        infer_request.read(text + b",".join([value] * number) + b"]}]}", None, NETWORK, 4)


@pytest.mark.parametrize("header", ["-1", "1e1", "x", "", " ", "9" * 11, "9" * 5000, "50", "٣"])
def test_a_length_of_json_that_cannot_be_is_refused(header: str) -> None:
    """No number, or beyond the body."""
    with pytest.raises(RequestMalformed, match="must be the length of the JSON"):
        infer_request.read(b"{}", header, NETWORK, 4)


def test_a_length_of_zero_makes_the_body_one_row(live: Live) -> None:
    """Triton's raw binary request: `curl --data-binary @cat.jpg` is enough; binary comes back."""
    raw = {LENGTH: "0"}

    image = live.client.post(INFER["alexnet_image"], content=IMAGE, headers=raw)
    network = live.client.post(INFER["alexnet"], content=bytes(PIXELS), headers=raw)
    short = live.client.post(INFER["alexnet"], content=bytes(PIXELS - 1), headers=raw)
    empty = live.client.post(INFER["alexnet"], content=b"", headers=raw)

    for answer, shape in ((image, [1, 5]), (network, [1, 1000])):
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[LENGTH])
        [output] = json.loads(answer.content[:length])["outputs"]
        assert output["shape"] == shape
        assert output["parameters"]["binary_data_size"] == len(answer.content) - length
    refused(short, 400, "[1, 256, 256, 3]")
    refused(empty, 400, "empty")


@pytest.mark.parametrize(
    ("rows", "tensor"),
    [
        (2, elements(IMAGE)),
        (1, elements(IMAGE, IMAGE)),
        (1, elements(IMAGE)[:-1]),
        (1, elements(IMAGE) + b"\0"),
        (1, b"\xff\xff\xff\xff"),
        (1, b"\0\0\0"),
        (1, b""),
    ],
)
def test_elements_must_fill_their_tensor(rows: int, tensor: bytes) -> None:
    """No more and no less."""
    request = asking("image", "BYTES", shape=[rows], parameters={"binary_data_size": len(tensor)})
    body, headers = framed(request, tensor)

    with pytest.raises(RequestMalformed):
        infer_request.read(body, headers[LENGTH], ROAD, 4)


def test_pixels_are_views_of_the_body() -> None:
    """The one copy is made where the batch is joined."""
    request = asking(shape=[3, 256, 256, 3], parameters={"binary_data_size": 3 * PIXELS})
    body, headers = framed(request, bytes(3 * PIXELS))

    rows = infer_request.read(body, headers[LENGTH], NETWORK, 4).rows

    whole = np.frombuffer(body, np.uint8)
    assert len(rows) == 3
    for row in rows:
        assert isinstance(row, np.ndarray)
        assert row.shape == (256, 256, 3)
        assert np.shares_memory(row, whole)


def test_the_datatype_of_bytes_has_its_name_in_one_place() -> None:
    """The wire's branches are about it."""
    assert {its.input.datatype for its in MODELS.values()} == {"UINT8", infer_request.BYTES}


def test_binary_is_answered_to_those_who_ask_for_it(live: Live) -> None:
    """For the request, or for the output, which has the last word."""
    for by_request in (None, False, True):
        for by_output in (None, False, True):
            request = images(base64.b64encode(IMAGE).decode())
            if by_request is not None:
                request["parameters"] = {"binary_data_output": by_request}
            if by_output is not None:
                request["outputs"] = [{"name": "classes", "parameters": {"binary_data": by_output}}]

            answer = live.client.post(INFER["alexnet_image"], json=request)

            binary = by_request if by_output is None else by_output
            assert (LENGTH in answer.headers) is bool(binary)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP;q=0.5, br", "gzip"),
        ("br, deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.000", None),
        ("*", None),
    ],
)
def test_answers_are_packed_as_the_client_asks(live: Live, asked: str, given: str | None) -> None:
    """And only then."""
    answer = live.client.post(
        INFER["alexnet"], content=bytes(PIXELS), headers={LENGTH: "0", "Accept-Encoding": asked}
    )

    assert answer.status_code == 200
    assert answer.headers.get("content-encoding") == given
    length = int(answer.headers[LENGTH])  # as it is unpacked
    assert json.loads(answer.content[:length])["model_name"] == "alexnet"
    assert len(answer.content) == length + 4000


def test_small_answers_are_not_packed(live: Live) -> None:
    """Five classes would hardly shrink."""
    answer = live.client.post(INFER["alexnet_image"], content=IMAGE, headers={LENGTH: "0"})

    assert "gzip" in answer.request.headers["accept-encoding"]
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("kind", ["image/jpeg", "text/html", "multipart/form-data; boundary=b", ""])
def test_content_types_are_not_looked_at(live: Live, kind: str) -> None:
    """The stock client sends none; others send what they like."""
    request = images(base64.b64encode(IMAGE).decode())

    answer = live.client.post(
        INFER["alexnet_image"],
        content=json.dumps(request).encode(),
        headers={"Content-Type": kind} if kind else {},
    )

    assert answer.status_code == 200, answer.text


def test_an_unknown_model_is_not_found_on_every_path(live: Live) -> None:
    """With the names of those that there are."""
    for path in ("", "/ready", "/config", "/stats"):
        refused(live.client.get(f"/v2/models/resnet{path}"), 404, "alexnet and alexnet_image")
        refused(live.client.get(f"/v2/models/alexnet/versions/2{path}"), 404, "'2'")
        assert live.client.get(f"/v2/models/alexnet/versions/1{path}").status_code == 200
    refused(live.client.post("/v2/models/resnet/infer", content=b"x"), 404, "'resnet'")
    refused(live.client.post("/v2/models/alexnet/versions/9/infer", content=b"x"), 404, "'9'")
    assert live.client.get(INFER["alexnet"]).status_code == 405


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.text(max_size=10) | st.sampled_from(
        ["name", "shape", "datatype", "data", "parameters", "binary_data_size"]
    ), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip
SIZES = st.integers(-1, 5) | st.sampled_from([256, 3, 2**31, 2**64])
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["images", "image"]) | VALUES,
        "datatype": st.sampled_from(["UINT8", "BYTES"]) | VALUES,
        "shape": st.lists(SIZES, max_size=5) | st.just([1, 256, 256, 3]) | VALUES,
        "data": st.lists(st.integers(-1, 300) | st.text(max_size=8), max_size=5) | VALUES,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size"]), SIZES) | VALUES,
    },
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(INPUTS, max_size=2) | VALUES,
        "outputs": VALUES,
        "parameters": VALUES,
        "id": VALUES,
    },
)
BODIES = st.binary(max_size=300) | REQUESTS.map(lambda request: json.dumps(request).encode())


@settings(max_examples=400, deadline=None)
@given(
    model=st.sampled_from([NETWORK, ROAD]),
    body=BODIES,
    after=st.binary(max_size=40),
    header=st.none() | st.integers(0, 400).map(str) | st.text(max_size=5) | st.just("all"),
)
def test_whatever_the_bytes_are_rows_or_a_refusal_come_out(
    model: Any, body: bytes, after: bytes, header: str | None
) -> None:
    """Of the errors that have a status."""
    if header == "all":
        header = str(len(body))
    outcome: infer_request.Query | RequestError
    try:
        outcome = infer_request.read(body + after, header, model, 4)
    except RequestError as error:
        outcome = error

    if isinstance(outcome, RequestError):
        assert type(outcome) in STATUSES
    else:
        assert 1 <= len(outcome.rows) <= 4


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    model=st.sampled_from(list(MODELS)),
    body=BODIES,
    headers=st.fixed_dictionaries(
        {},
        optional={
            LENGTH: st.integers(-1, 400).map(str)
            | st.text("0123456789abc, ;", max_size=8).map(str.strip),
            "Content-Encoding": st.sampled_from(
                ["gzip", "deflate", "br", "zstd", "identity", "gzip,gzip", "sdch"]
            ),
            "Accept-Encoding": st.text("gzipdeflate;q=01., *", max_size=20).map(str.strip),
        },
    ),
)
def test_a_server_never_answers_arbitrary_bytes_with_500(
    live: Live, model: str, body: bytes, headers: dict[str, str]
) -> None:
    """Headers included; each refusal has the one shape."""
    answer = live.client.post(INFER[model], content=body, headers=headers)

    assert answer.status_code in (200, 400, 413, 415, 422)
    if answer.status_code != 200:
        assert set(answer.json()) == {"error", "code"}
