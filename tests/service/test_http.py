"""The HTTP interface, against a real server on a real port."""

import http.client
import io
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from service import errors
from service.app import create_app
from service.http.middleware.errors import STATUSES
from service.inference.engine import Engine
from service.settings import load_settings
from tests.support.images import image
from tests.support.servers import PATIENCE, InThread, Live, serving, serving_process, until

PREDICT = "/v1/predict"
CAT = (Path(__file__).parents[1] / "pictures" / "cat.jpg").read_bytes()
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[InThread]:
    """One server for all tests that do not harm it."""
    with serving(tiny_model, max_files=3, max_body=200_000, max_pixels=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def bundled(bundled_model: Path) -> Iterator[InThread]:
    """A server of the model that ships."""
    with serving(bundled_model) as server:
        yield server


def connected(server: Live) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE)


def head(length: int) -> bytes:
    return f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def check_refusal(answer: httpx2.Response, status: int, code: str) -> str:
    """Assert the one shape of errors; return the sentence."""
    body = answer.json()
    assert (answer.status_code, set(body), body["code"]) == (status, {"error", "code"}, code), body
    assert isinstance(body["error"], str)
    assert body["error"]
    return str(body["error"])


def leaves(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    """The classes of the error tree that have no children."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    if not children:
        yield kind
    for child in children:
        yield from leaves(child)


def test_the_status_table_has_every_error_that_can_meet_a_client() -> None:
    """Those of start-up and of commands never meet a client; all other leaves have a status."""
    elsewhere = (errors.StartError, errors.FileUnreadable)
    tree = {kind for kind in leaves(errors.ServiceError) if not issubclass(kind, elsewhere)}

    assert set(STATUSES) == tree


def test_a_raw_image_gets_five_classes(live: Live) -> None:
    """POST /v1/predict: five classes by default, the most probable first."""
    answer = live.client.post(PREDICT, content=image(), headers=JPEG)

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"model", "crops", "predictions"}
    assert set(body["model"]) == {"name", "variant", "precision", "version"}
    assert body["crops"] == "ten"
    [prediction] = body["predictions"]
    assert prediction["filename"] is None
    probabilities = [best["probability"] for best in prediction["classes"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert set(prediction["classes"][0]) == {"index", "wordnet_id", "label", "probability"}


def test_both_doors_give_the_same_numbers(live: Live) -> None:
    """A form and a raw body are two ways to one road."""
    raw = live.client.post(PREDICT, content=image(), headers=JPEG).json()
    form = live.client.post(PREDICT, files={"anything": ("cat.jpg", image())}).json()

    assert form["predictions"][0]["classes"] == raw["predictions"][0]["classes"]
    assert form["predictions"][0]["filename"] == "cat.jpg"


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/JPEG; q=1", None])
def test_a_raw_image_may_come_under_any_image_type_or_none(live: Live, kind: str | None) -> None:
    """What the bytes are is read from the bytes; curl users forget the header's details."""
    headers = {"Content-Type": kind} if kind else {}

    assert live.client.post(PREDICT, content=image(), headers=headers).status_code == 200


def test_one_bad_file_does_not_spoil_the_others(live: Live) -> None:
    """Its place, in the order of the form, holds an error."""
    files = [
        ("file", ("a.jpg", image())),
        ("file", ("b.txt", b"not an image at all, only text")),
        ("other", ("c.png", image("PNG"))),
    ]

    answer = live.client.post(PREDICT, files=files)

    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    assert (first["filename"], len(first["classes"])) == ("a.jpg", 5)
    assert set(second) == {"filename", "error", "code"}
    assert (second["filename"], second["code"]) == ("b.txt", "image_type_unsupported")
    assert (third["filename"], len(third["classes"])) == ("c.png", 5)


def test_only_if_all_files_fail_is_the_status_an_error(live: Live) -> None:
    """The first file's status, and a sentence that names it."""
    files = [("file", (f"{name}.txt", b"only text, nothing else")) for name in "ab"]

    answer = live.client.post(PREDICT, files=files)

    text = check_refusal(answer, 415, "image_type_unsupported")
    assert "none of the 2 files" in text
    assert "a.txt" in text


@pytest.mark.parametrize("top", [1, 7, 1000])
def test_top_says_how_many_classes(live: Live, top: int) -> None:
    """From 1 to all of them."""
    assert len(live.service.classify(image(), top=top).classes) == top


def test_each_choice_of_crops_answers_otherwise(bundled: Live) -> None:
    """The switch reaches the network."""
    choices = ("ten", "one", "dense")
    answers = [bundled.service.classify(CAT, crops=choice) for choice in choices]

    assert tuple(answer.crops for answer in answers) == choices
    cats = (281, 282, 285)  # tabby, tiger, Egyptian
    assert all(answer.best.index in cats for answer in answers)
    assert len({answer.classes for answer in answers}) == 3


@pytest.mark.parametrize("top", ["0", "1001", "-1", "five", "2.5", "", "9" * 5000])
def test_a_top_out_of_range_is_named_with_its_range(live: Live, top: str) -> None:
    """422: the parameter, its value, what it may be."""
    answer = live.client.post(PREDICT, params={"top": top}, content=image(), headers=JPEG)

    text = check_refusal(answer, 422, "parameter_invalid")
    assert f"top={top!r}" in text
    assert "from 1 to 1000" in text


def test_a_parameter_given_twice_is_refused(live: Live) -> None:
    twice = f"{PREDICT}?top=1&top=2"

    answer = live.client.post(twice, content=image(), headers=JPEG)

    text = check_refusal(answer, 422, "parameter_invalid")
    assert text == "top is given more than once; give it once"


def test_a_misspelt_parameter_is_refused_not_ignored(live: Live) -> None:
    answer = live.client.post(PREDICT, params={"crop": "one"}, content=image(), headers=JPEG)

    text = check_refusal(answer, 422, "parameter_invalid")
    assert text == (
        "there is no parameter 'crop' here; there are top, crops, threshold, renormalise, "
        "details, classes"
    )


def test_unknown_crops_are_refused_with_what_the_model_offers(live: Live) -> None:
    """The model says which crops it has."""
    answer = live.client.post(PREDICT, params={"crops": "six"}, content=image(), headers=JPEG)

    text = check_refusal(answer, 422, "parameter_invalid")
    assert "'six'" in text
    assert "ten" in text
    assert "one" in text


def test_an_empty_body_is_refused(live: Live) -> None:
    """400: there is nothing to read."""
    check_refusal(live.client.post(PREDICT, headers=JPEG), 400, "body_empty")


def test_a_type_that_is_no_image_is_refused_with_the_header_to_send(live: Live) -> None:
    """What `curl --data-binary` sends when nobody says otherwise."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    answer = live.client.post(PREDICT, content=image(), headers=headers)

    assert "-H 'Content-Type: image/jpeg'" in check_refusal(answer, 415, "media_type_unsupported")


def test_half_a_character_in_a_file_name_is_replaced(live: Live) -> None:
    part = b"--b\r\nContent-Disposition: form-data; name=a; filename=%s\r\n\r\n%s\r\n--b--\r\n"
    kind = "multipart/form-data; boundary=b; charset=utf-7"
    answers = [
        live.client.post(PREDICT, content=part % (b"+2AA-", data), headers={"Content-Type": kind})
        for data in (image(), b"no image")
    ]

    assert [answer.status_code for answer in answers] == [200, 415]
    assert answers[0].json()["predictions"][0]["filename"] == "?"


def test_a_form_may_hold_as_many_files_as_the_setting_says(tiny_model: Path) -> None:
    """More than the form parser would take by itself; the last one is an image."""
    form = [("file", b"only text, nothing else")] * 1000 + [("file", image())]
    with serving(tiny_model, max_files=1001, max_queue=1001) as server:
        answer = server.client.post(PREDICT, files=form)

    assert answer.status_code == 200
    *texts, last = answer.json()["predictions"]
    assert [found["code"] for found in texts] == ["image_type_unsupported"] * 1000
    assert len(last["classes"]) == 5


def test_a_form_in_a_charset_that_is_none_is_malformed(live: Live) -> None:
    """Found by fuzzing: it was a 500."""
    part = b'--b\r\nContent-Disposition: form-data; name="\xff"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b; charset=undefined"
    answer = live.client.post(PREDICT, content=part, headers={"Content-Type": kind})

    check_refusal(answer, 400, "request_malformed")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"no boundary here"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ncat.jpg\r\n--b--\r\n',
        ),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        ),
    ],
    ids=["no boundary", "garbage", "text only", "nothing", "no name"],
)
def test_a_form_without_a_readable_file_is_malformed(
    live: Live, headers: dict[str, str], body: bytes
) -> None:
    """400, however it came to be so."""
    answer = live.client.post(PREDICT, content=body, headers=headers)

    check_refusal(answer, 400, "request_malformed")


def test_a_body_announced_too_large_is_refused_before_it_is_sent(live: Live) -> None:
    """Content-Length is believed; the limit's name is in the sentence."""
    connection = http.client.HTTPConnection(*live.address, timeout=PATIENCE)
    connection.putrequest("POST", PREDICT)
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(10**10))
    connection.endheaders()

    answer = connection.getresponse()

    assert answer.status == 413
    body = answer.read()
    assert b"body_too_large" in body
    assert b"ALEXNET_MAX_BODY" in body
    connection.close()


@pytest.mark.parametrize("door", ["image/jpeg", "multipart/form-data; boundary=b"])
def test_a_body_that_grows_too_large_is_refused_on_the_way(live: Live, door: str) -> None:
    """Chunked: no length was announced."""
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    chunks = iter([head, *[bytes(50_000)] * 6])

    answer = live.client.post(PREDICT, content=chunks, headers={"Content-Type": door})

    check_refusal(answer, 413, "body_too_large")


def test_more_files_than_allowed_are_refused(live: Live) -> None:
    """413, with the limit's name."""
    files = [("file", (f"{number}.png", image("PNG", (8, 8)))) for number in range(4)]

    answer = live.client.post(PREDICT, files=files)

    assert "ALEXNET_MAX_FILES" in check_refusal(answer, 413, "too_many_files")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"plain text, and more of it", 415, "image_type_unsupported"),
        (image()[:2000], 422, "image_unreadable"),
        (image("PNG", (1200, 1000)), 413, "image_too_large"),
        (image("PNG", (2, 3000)), 422, "image_too_elongated"),
    ],
    ids=["text", "truncated", "large", "ribbon"],
)
def test_an_image_at_fault_is_refused(live: Live, data: bytes, status: int, code: str) -> None:
    """The same from both doors."""
    raw = live.client.post(PREDICT, content=data, headers=JPEG)
    form = live.client.post(PREDICT, files={"file": ("picture", data)})

    assert check_refusal(raw, status, code) == check_refusal(form, status, code)


def test_what_does_not_exist_is_404_in_the_one_shape(live: Live) -> None:
    """On every path, the static files' too."""
    check_refusal(live.client.get("/nothing"), 404, "not_found")
    check_refusal(live.client.get("/static/nothing.js"), 404, "not_found")
    check_refusal(live.client.get("/static/..%2fapp.py"), 404, "not_found")


def test_a_wrong_method_is_405_and_says_which_is_right(live: Live) -> None:
    """The Allow header, as HTTP demands."""
    answer = live.client.get(PREDICT)

    check_refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert "it takes POST" in answer.json()["error"]
    assert live.client.put("/health").headers["allow"] == "GET, HEAD"
    assert live.client.get("/predictions/alexnet").headers["allow"] == "POST, PUT"


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_a_running_server_is_well(live: Live, path: str) -> None:
    """GET with a body, HEAD without."""
    assert live.client.get(path).status_code == 200
    head = live.client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_health_tells_what_runs_and_where(live: Live) -> None:
    """For people, with the details."""
    body: dict[str, Any] = live.client.get("/health").json()

    assert body["status"] == "ready"
    assert {"name", "variant", "precision", "version", "accuracy"} == set(body["model"])
    assert body["provider"].startswith("CPU") or body["provider"] == "cpu"
    assert body["device_requested"] == "cpu"
    assert body["warning"] is None
    assert body["queue"] == {"pending": 0, "limit": 256}


def test_the_documentation_comes_from_this_server_alone(live: Live) -> None:
    """It works where there is no internet."""
    page = live.client.get("/docs")

    assert page.status_code == 200
    assert "://" not in page.text
    assert live.client.get("/redoc").status_code == 404


def test_the_documentation_knows_both_doors_and_every_error(live: Live) -> None:
    """OpenAPI: both bodies, and an example for each code."""
    document = live.client.get("/openapi.json").json()["paths"][PREDICT]["post"]

    assert {"multipart/form-data", "image/*"} <= set(document["requestBody"]["content"])
    for kind, status in STATUSES.items():
        content = document["responses"][str(status)]["content"]["application/json"]
        assert content["examples"][kind.code]["value"]["code"] == kind.code


def test_the_server_does_not_tell_its_software(live: Live) -> None:
    """No Server header."""
    assert "server" not in live.client.get("/livez").headers


def test_a_full_queue_is_503_and_says_when_to_return(tiny_model: Path) -> None:
    """A queue of one, whose image is held in its run."""
    with (
        serving(tiny_model, max_queue=1, max_files=1) as server,
        ThreadPoolExecutor() as pool,
        server.gate.closed() as gate,
    ):
        first = pool.submit(server.client.post, PREDICT, content=image(), headers=JPEG)
        gate.until_held()

        answer = server.client.post(PREDICT, content=image(), headers=JPEG)

        check_refusal(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert server.client.get("/readyz").status_code == 200
        gate.open()
        assert first.result().status_code == 200


def test_a_deadline_that_passes_is_504(tiny_model: Path) -> None:
    """No run ends in the time that a request has: the first is in one, the second waits for it."""
    with (
        serving(tiny_model, timeout=0.1) as server,
        server.gate.closed(),
    ):
        for _ in range(2):
            answer = server.client.post(PREDICT, content=image(), headers=JPEG)

            check_refusal(answer, 504, "deadline_exceeded")


def test_a_fault_of_ours_is_500_and_tells_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the traceback, the client a sentence; the next request is served."""
    engine = Engine.load(tiny_model, device="cpu", threads=1)
    run = engine.outputs

    def broken(names: Any, images: NDArray[np.uint8], crops: int, **how: Any) -> Any:
        if crops == 1:
            raise ZeroDivisionError("a secret")
        return run(names, images, crops, **how)

    monkeypatch.setattr(engine, "outputs", broken)
    app = create_app(load_settings(model=tiny_model), engine)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(PREDICT, params={"crops": "one"}, content=image())
        after = client.post(PREDICT, content=image())

    assert "secret" not in check_refusal(answer, 500, "internal_error")
    assert after.status_code == 200


def test_a_client_that_leaves_while_sending_is_no_fault(tiny_model: Path) -> None:
    """Nothing in the log but its request."""
    with serving(tiny_model) as server:
        with closing(connected(server)) as caller:
            caller.sendall(head(9) + b"abc")
            until(lambda: server.running.in_flight, "a request in flight")
        until(lambda: not server.running.in_flight, "none in flight")

        assert server.client.get("/livez").status_code == 200

    assert "Traceback" not in "".join(server.log)
    assert not server.logged("ERROR")


def test_work_for_a_client_that_hung_up_is_dropped(live: InThread) -> None:
    """Its place in the queue is free long before its batch would have run."""
    body = image()
    with ThreadPoolExecutor() as pool, live.gate.closed() as gate:
        running = pool.submit(live.client.post, PREDICT, content=body, headers=JPEG)
        gate.until_held()
        with closing(connected(live)) as caller:
            caller.sendall(head(len(body)) + body)
            live.until_pending(2)

        live.until_pending(1)

        assert live.client.get("/livez").status_code == 200
        gate.open()
        assert running.result().status_code == 200


def test_a_server_told_to_stop_finishes_what_it_accepted(tiny_model: Path) -> None:
    """Unready at once, no new work, the old work answered, exit status 0."""
    with (
        serving(tiny_model, shutdown_timeout=PATIENCE) as server,
        ThreadPoolExecutor() as pool,
        server.gate.closed() as gate,
    ):
        accepted = pool.submit(server.client.post, PREDICT, content=image(), headers=JPEG)
        gate.until_held()

        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503)

        assert server.client.get("/health").json()["status"] == "draining"
        ping = server.client.get("/ping")
        assert (ping.status_code, ping.json()) == (503, {"status": "Unhealthy"})
        late = server.client.post(PREDICT, content=image(), headers=JPEG)
        check_refusal(late, 503, "not_ready")
        gate.open()
        assert accepted.result().status_code == 200
        assert server.wait() == 0
        assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_told_to_stop_by_a_signal_finishes_what_it_accepted(
    tiny_model: Path, number: int
) -> None:
    """Its client is still sending when the signal comes."""
    body = image()
    with (
        serving_process(tiny_model, shutdown_timeout=PATIENCE) as server,
        closing(connected(server)) as sender,
    ):
        sender.sendall(head(len(body)) + body[:100])
        until(lambda: "alexnet_requests_in_flight 1.0" in server.client.get("/metrics").text)

        server.process.send_signal(number)
        until(lambda: server.client.get("/readyz").status_code == 503)
        sender.sendall(body[100:])

        assert sender.recv(100).startswith(b"HTTP/1.1 200")
        assert server.process.wait(PATIENCE) == 0

    assert "Traceback" not in "".join(server.log)


def test_large_images_are_shrunk_while_decoding_only_if_the_setting_says_so(
    bundled: Live, bundled_model: Path
) -> None:
    """The same large image gives a slightly different answer."""
    large = io.BytesIO()
    Image.open(io.BytesIO(CAT)).resize((2048, 1536), Image.Resampling.BICUBIC).save(large, "JPEG")

    def probability(server: Live) -> float:
        answer = server.client.post(PREDICT, content=large.getvalue(), headers=JPEG).json()
        return float(answer["predictions"][0]["classes"][0]["probability"])

    with serving(bundled_model, scaled_decoding=True) as scaling:
        scaled = probability(scaling)
    whole, again = probability(bundled), probability(bundled)

    assert whole == again
    assert 0 < abs(whole - scaled) < 0.1
