"""What a server says of each request: in its log, for people or programs, and in its answer."""

import asyncio
import io
import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.responses import Response
from starlette.types import Scope

from service.cgroups import cpu_quota
from service.http.middleware import access_log
from service.http.routes import health
from service.inference.decoding_pool import DecodingPool
from service.inference.queue import StageTimings
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.telemetry.request_record import ModelNames, RequestRecord
from tests.support.commands import alexnet
from tests.support.images import image
from tests.support.servers import (
    PATIENCE,
    ROOT,
    InProcess,
    InThread,
    Live,
    environment,
    serving,
    serving_process,
)

PREDICT = "/v1/predict"
JPEG = {"content-type": "image/jpeg"}
STEPS = ("read", "decode", "queue", "run")

LINE = re.compile(
    r'[-0-9]{10} [:0-9]{8},\d{3} INFO    127\.0\.0\.1:\d+ "(\w+) (\S+) HTTP/1\.1" (\d{3}) '
    r"in \d+\.\d ms(?: \((.*)\))? (\S{1,128})\n"
)
TIMES = r"read \d+\.\d, decode \d+\.\d, queue \d+\.\d, run \d+\.\d; batch of 1"

# Its faults are real ones, before it serves: a warning, an error in an end, one in a thread.
FAULTY = """
import sys, threading, warnings
from service import app

class Odd:
    def __del__(self):
        raise ValueError("too late")

run = app.serve

def serve(*arguments, **more):
    warnings.warn("this is odd")
    Odd()
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    return run(*arguments, **more)

app.serve = serve
sys.argv = ["alexnet", "serve"]
from service.__main__ import main
main()
"""


AS_IF_LOGGED = "odd\n2026-11-23 19:00:00,000 INFO    forged \x1b[31m"


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two faults in requests that nobody foresaw: one in an image's, one in the server's own."""

    async def decode(self: DecodingPool, data: bytes) -> None:
        raise ArithmeticError(AS_IF_LOGGED)

    def reading(running: object) -> None:
        raise LookupError("no metrics today")

    monkeypatch.setattr(DecodingPool, "decode", decode)
    monkeypatch.setattr(health, "reading", reading)


def ended(server: InThread | InProcess) -> list[str]:
    """All that a server logs, once it has stopped as it should; of a process not yet its end."""
    if isinstance(server, InProcess):
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
    else:
        server.terminate()
        assert server.wait() == 0
    return server.log


def records(log: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a server that logs JSON: each must be an object."""
    return [json.loads(line) for line in log]


@pytest.fixture(scope="module")
def logged(tiny_model: Path) -> dict[str, list[str]]:
    """What two servers print, in text and in JSON, from start to end; the same is asked of both.

    The second is a process whose log is no terminal, and which is not told what to write there.
    """
    with serving(tiny_model, log_format="text", access_log="all") as text:
        ask(text)
        ended(text)
    with serving_process(tiny_model, log_format="auto", access_log="all") as process:
        ask(process)
        ended(process)
    assert "Finished server process" in process.log[-1]
    return {"text": text.log, "json": process.log}


def ask(server: Live) -> None:
    """Something of each kind, each with an id."""
    for path in ("/livez", "/nothing?here=1"):
        server.client.get(path, headers={"x-request-id": path.strip("/")[:7]})
    for top, name, data in ((1, "good", image()), (2, "bad", b"no image")):
        headers = {**JPEG, "x-request-id": name}
        server.client.post(PREDICT, params={"top": top}, content=data, headers=headers)
    files = {"a": image(), "b": image(), "c": b"bad"}
    server.client.post(PREDICT, files=files, headers={"x-request-id": "form"})


def line_of(logged: dict[str, list[str]], name: str) -> re.Match[str]:
    """The one line of the request with this id, in text."""
    (match,) = [m for line in logged["text"] if (m := LINE.fullmatch(line)) and m[5] == name]
    return match


def record_of(logged: dict[str, list[str]], name: str) -> dict[str, Any]:
    """Its one record in JSON."""
    every = [json.loads(line) for line in logged["json"]]
    (record,) = [record for record in every if record.get("request_id") == name]
    return dict(record)


# In text


def test_a_line_for_people_has_status_and_the_times_of_each_step(logged: Any) -> None:
    line = line_of(logged, "good")

    assert line.groups()[:3] == ("POST", f"{PREDICT}?top=1", "200")
    assert re.fullmatch(TIMES, line[4])


def test_a_line_for_people_says_why_an_image_was_refused_and_how_far_it_came(logged: Any) -> None:
    line = line_of(logged, "bad")

    assert line[3] == "415"
    assert re.fullmatch(r"image_type_unsupported; read \d+\.\d, decode \d+\.\d", line[4])


def test_what_is_about_no_image_has_no_steps(logged: Any) -> None:
    assert line_of(logged, "livez")[4] is None
    assert line_of(logged, "nothing")[4] == "not_found"


# Which answers are lines


def logged_paths(model: Path, **settings: Any) -> list[str]:
    """The paths of all lines, of a server that was asked for something of each kind."""
    with serving(model, log_format="json", **settings) as server:
        for path in ("/livez", "/v2/health/ready", "/metrics", "/static/page.js", "/"):
            assert server.client.get(path).status_code == 200
        assert server.client.get("/static-offline-docs/favicon.png").status_code == 200
        server.client.post(PREDICT, content=image(), headers=JPEG)
        assert server.client.get("/static/nothing.js").status_code == 404
        server.running.draining = True
        assert server.client.get("/readyz").status_code == 503
        server.running.draining = False
        return [record["path"] for record in records(ended(server)) if "path" in record]


def test_checks_scrapes_and_static_files_are_lines_only_if_they_fail(tiny_model: Path) -> None:
    assert logged_paths(tiny_model) == ["/", PREDICT, "/static/nothing.js", "/readyz"]


def test_all_answers_are_lines_if_that_is_wanted_or_none(tiny_model: Path) -> None:
    everything = logged_paths(tiny_model, access_log="all")

    assert {"/livez", "/metrics", "/static/page.js", PREDICT} <= {*everything}
    assert len(everything) == 9
    assert logged_paths(tiny_model, access_log="off") == []


# In JSON


def test_every_line_of_a_server_that_logs_json_is_an_object(logged: Any) -> None:
    """From its start to its end, whatever logs: uvicorn too; each has the four fields."""
    every = [json.loads(line) for line in logged["json"]]

    assert all({"timestamp", "level", "logger", "message"} <= record.keys() for record in every)
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
        for record in every
    )
    assert {"uvicorn.error", "service", "service.routes.observing"} == {
        record["logger"] for record in every
    }


def test_the_announcement_in_json_is_a_record_with_addresses(logged: Any) -> None:
    (record,) = [r for r in map(json.loads, logged["json"]) if "answers at" in r["message"]]

    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", record["url"])
    assert record["docs"] == f"{record['url']}/docs"


def test_the_first_record_of_a_start_says_what_serves(logged: Any) -> None:
    first = json.loads(logged["json"][0])

    assert first["message"] == (
        f"Serving {first['model']} {first['variant']} {first['precision']}, version "
        f"{first['version']}, on CPUExecutionProvider, threads: {cpu_quota()}, API keys: none"
    )
    assert (first["provider"], first["threads"]) == ("CPUExecutionProvider", cpu_quota())
    assert first["api_keys"] is False


def test_a_start_warns_of_misspelt_settings_and_of_an_address_that_is_open_to_all(
    tiny_model: Path,
) -> None:
    """As doctor does; the others are as they should be."""
    settings: dict[str, Any] = {"host": "0.0.0.0", "log_format": "text", "threads": 1}
    with serving_process(tiny_model, **settings, max_bach=3, zzz=1) as server:
        careless = ended(server)
    with serving_process(tiny_model, **settings, api_keys="let-me-in-please-0") as server:
        careful = ended(server)

    assert [line.partition(" WARNING ")[2] for line in careless if " WARNING " in line] == [
        "unknown setting ALEXNET_MAX_BACH (ignored). Did you mean ALEXNET_MAX_BATCH?\n",
        "unknown setting ALEXNET_ZZZ (ignored). See alexnet serve --help.\n",
        "every client that reaches 0.0.0.0 is answered; set ALEXNET_API_KEYS_FILE / "
        "--api-keys-file, or let a proxy ask for keys\n",
    ]
    assert " WARNING " not in "".join(careful)
    assert re.search(r"INFO    Serving .*, threads: 1, API keys: required\n", careful[0])


def test_a_record_of_an_answer_has_a_field_for_each_thing(logged: Any) -> None:
    record = record_of(logged, "good")

    assert record["level"] == "INFO"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", record["client"])
    assert {
        "method": "POST",
        "path": f"{PREDICT}?top=1",
        "http_version": "1.1",
        "status": 200,
        "batch": 1,
        "pictures": 1,
        "model": "tiny",
        "route": PREDICT,
    }.items() <= record.items()
    assert all(record[f"{name}_ms"] >= 0 for name in STEPS)
    assert record["duration_ms"] > 0
    assert "code" not in record


def test_a_record_of_a_refusal_has_its_code_and_the_steps_that_it_came_to(logged: Any) -> None:
    record = record_of(logged, "bad")

    assert (record["status"], record["code"]) == (415, "image_type_unsupported")
    assert {"read_ms", "decode_ms"} <= record.keys()
    assert not {"queue_ms", "run_ms", "batch"} & record.keys()


def test_the_record_of_an_answer_names_the_model_as_the_answer_does(tiny_model: Path) -> None:
    """Which is the file's own name; those of the protocol's two models are for its endpoints."""
    with serving(tiny_model, log_format="json") as server:
        answer = server.client.post(PREDICT, content=image(), headers=JPEG).json()
        server.client.post("/v2/models/alexnet_image/infer", json={})
        lines = [record for record in records(ended(server)) if "model" in record]

    assert [line["model"] for line in lines] == [answer["model"]["name"], "alexnet_image"]


def test_a_form_is_one_record_that_counts_its_images(logged: Any) -> None:
    """The times are those of the image that was answered last."""
    record = record_of(logged, "form")

    assert (record["status"], record["pictures"]) == (200, 3)
    assert 1 <= record["batch"] <= 2
    assert all(f"{name}_ms" in record for name in STEPS)


def test_faults_and_warnings_are_records_too(tiny_model: Path) -> None:
    """A warning, an error in a thread, one in a finaliser; each traceback is one field."""
    with serving_process(tiny_model, program=("-c", FAULTY), log_format="json") as server:
        ended(server)
    logged = records(server.log)

    tracebacks = [record["traceback"] for record in logged if "traceback" in record]
    assert any("this is odd" in record["message"] for record in logged)
    assert any("ZeroDivisionError" in traceback for traceback in tracebacks)
    assert any("too late" in traceback for traceback in tracebacks)


@pytest.mark.usefixtures("faulty")
def test_all_that_is_logged_of_a_request_carries_its_id(tiny_model: Path) -> None:
    """Tracebacks too: of an image that fails, and the server's own of what nobody foresaw."""
    with serving(tiny_model, log_format="json") as server:
        failed = server.client.post(
            PREDICT, content=image(), headers={**JPEG, "x-request-id": "failing"}
        )
        broken = server.client.get("/metrics", headers={"x-request-id": "broken"})
        logged = records(ended(server))

    assert (failed.status_code, broken.status_code) == (500, 500)
    for kind, name in (("ArithmeticError", "failing"), ("LookupError", "broken")):
        ids = {r.get("request_id") for r in logged if kind in r.get("traceback", "")}
        assert ids == {name}
        (record,) = [r for r in logged if r.get("request_id") == name and "status" in r]
        assert record["status"] == 500


@pytest.mark.usefixtures("faulty")
def test_a_traceback_in_text_has_no_line_that_looks_like_a_record(tiny_model: Path) -> None:
    """Nor one that a terminal obeys, though the error holds both."""
    with serving(tiny_model, log_format="text") as server:
        headers = {**JPEG, "x-request-id": "failing"}
        server.client.post(PREDICT, content=image(), headers=headers)
        lines = ended(server)

    assert any(line.startswith("  Traceback") for line in lines)
    (forged,) = [line for line in lines if "forged" in line]
    assert forged == "  2026-11-23 19:00:00,000 INFO    forged \\x1b[31m\n"
    assert any(line.endswith("An image could not be classified failing\n") for line in lines)


# Which of the two


def test_auto_is_json_where_the_log_is_no_terminal(logged: Any) -> None:
    assert records(logged["json"])


def test_auto_is_text_on_a_terminal(tiny_model: Path) -> None:
    terminal, program_end = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT,
            env=environment(port=0, model=tiny_model, log_format="auto"),
            stdin=subprocess.DEVNULL,
            stdout=program_end,
            stderr=program_end,
        )
        try:
            output = b""
            while not (b"answers at" in output and output.endswith(b"\n")):
                assert select.select([terminal], [], [], PATIENCE)[0]
                output += os.read(terminal, 4096)
        finally:
            process.terminate()
            status = process.wait(PATIENCE)
    finally:
        os.close(program_end)
        os.close(terminal)

    assert status == 0
    lines = output.decode().splitlines()
    assert any(re.fullmatch(r"\S+ \S+ INFO    Application startup complete\.", x) for x in lines)
    assert any(re.match(r"AlexNet answers at http://\S+  \(docs: ", line) for line in lines)


def test_a_start_that_fails_is_a_sentence_in_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which settings it has, it may not know yet; people and orchestrators read it as it is."""
    with caplog.at_level(logging.root.level):  # which the command sets
        monkeypatch.setattr(logging.root, "handlers", [])
        done = alexnet("serve", "--port", "0", model=tmp_path / "gone.onnx", log_format="json")

    assert done.returncode == 1
    assert re.fullmatch(rb"alexnet: .*gone\.onnx.*\n", done.stderr)
    assert done.stdout == b""


# What untrusted clients may try


FORGERIES = (
    b"/a%0d%0a2026-11-23%2019:00:00,000%20INFO%20forged%1b[31m",
    b'/quoted"%22%20200',
    b"/" + bytes(range(0x21, 0x7F)).translate(None, b'#?"\\') + b'?"\\\\n\x7e',
    "/höhe%ff%fe?q=%c3%28".encode("latin-1"),
    b"/v1/predict?x=" + b"A" * 3000,
)


def hurl(server: Live, target: bytes, *headers: bytes) -> bytes:
    """Send these very bytes, and read the answer to its end."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    head = [b"GET %s HTTP/1.1" % target, b"Host: a", b"Connection: close", *headers]
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as wire:
        wire.sendall(b"\r\n".join([*head, b"", b""]))
        return b"".join(iter(lambda: wire.recv(65536), b""))


@pytest.mark.parametrize("kind", ["text", "json"])
def test_no_client_forges_a_line(tiny_model: Path, kind: str) -> None:
    """Neither with its target, nor with an id, nor with the address that a proxy would tell."""
    heads = (
        b"X-Request-ID: a b",
        b"X-Request-ID: caf\xe9",
        b'X-Forwarded-For: 1.2.3.4 "GET / HTTP/1.1" 200 in 0.1 ms',
        b"X-Forwarded-For: \xe2\x80\xae\xc2\x9b31m\x85",
        b"X-Forwarded-For: \x1b[2J",
    )
    with serving(tiny_model, log_format=kind, access_log="all") as server:
        before = len(server.log)
        answers = [hurl(server, target) for target in FORGERIES]
        answers += [hurl(server, b"/livez", head) for head in heads]
        lines = ended(server)[before:]

    # The parser lets through no control character and, in a target, no byte above ASCII: that is
    # no request.
    taken = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 400")]
    assert len(taken) == len(answers) - 2
    lines = [line for line in lines if "HTTP/1.1" in line]
    assert len(lines) == len(taken)
    assert all(line.removesuffix("\n").isprintable() and line.isascii() for line in lines)
    if kind == "text":
        who_and_what = r'\S+ \S+ INFO    [^\s"]+ "GET [^\s"\\]+ HTTP/1\.1" '
        shape = who_and_what + r"\d{3} in \d+\.\d ms( \(\w+\))? \w{32}\n"
        assert [line for line in lines if not re.fullmatch(shape, line)] == []
    else:
        ids = [json.loads(line)["request_id"] for line in lines]
        assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)


def formatted(formatter: logging.Formatter, message: str, **extra: Any) -> str:
    """A record of a message that holds what it should not, as a line or more."""
    try:
        raise ValueError("first\nsecond\x1b[31m")
    except ValueError:
        record = logging.getLogger("any").makeRecord(
            "any", logging.ERROR, "file", 1, message, (), sys.exc_info(), extra=extra
        )
    return formatter.format(record)


ODD = "a\nb\r\x1b[31m\x7f\x9b\u2028\u202e\ud800é"


def test_text_writes_as_escapes_what_ends_a_line_or_commands_a_terminal() -> None:
    first, *others = formatted(logs.Text(logs.TEXT), ODD).split("\n")

    assert first.endswith(r" ERROR   a\nb\r\x1b[31m\x7f\x9b\u2028\u202e\ud800é")
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert others[-1] == "  second\\x1b[31m"


def test_json_is_one_line_of_ascii_with_the_traceback_in_a_field() -> None:
    line = formatted(logs.Json(), ODD, color_message="for terminals", path="é")

    assert line.isascii()
    assert line.isprintable()
    record = json.loads(line)
    assert record["message"] == ODD
    assert record["traceback"].splitlines()[-2:] == ["ValueError: first", "second\x1b[31m"]
    assert record["path"] == "é"
    assert "color_message" not in record


def test_the_sum_of_refusals_is_nobodys_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written later, on behalf of many."""
    monkeypatch.setattr(access_log, "PAUSE", 0.01)
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.addFilter(logs._about)
    handler.setFormatter(logs.Json())
    logger = logging.getLogger("service.routes.observing")
    logger.addHandler(handler)
    scope: Scope = {access_log.QUIET: True}

    async def refused_twice() -> None:
        logs.ABOUT.set({"request_id": "the first"})
        middleware = access_log.AccessLog(
            Response(status_code=503), Metrics(Mock(), ModelNames("alexnet"))
        )
        middleware.log(scope, RequestRecord("the first", 0.0))
        middleware.log(scope, RequestRecord("the second", 0.0))
        async with asyncio.timeout(PATIENCE):
            while not lines.getvalue():  # noqa: ASYNC110  written by a timer
                await asyncio.sleep(0.01)

    try:
        asyncio.run(refused_twice())
    finally:
        logger.removeHandler(handler)

    record = json.loads(lines.getvalue())
    assert "2 requests refused" in record["message"]
    assert "request_id" not in record


# The answer's own headers


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """A server with keys."""
    with serving(tiny_model, api_keys="let-me-in-please-0", max_body=100_000) as server:
        yield server


KEY = {"x-api-key": "let-me-in-please-0"}
CASES: dict[int, Callable[[Live, dict[str, str]], Any]] = {
    200: lambda live, more: live.client.post(PREDICT, content=image(), headers=JPEG | KEY | more),
    401: lambda live, more: live.client.post(PREDICT, content=image(), headers=JPEG | more),
    404: lambda live, more: live.client.get("/nothing", headers=more),
    405: lambda live, more: live.client.delete(PREDICT, headers=more),
    413: lambda live, more: live.client.post(
        PREDICT, content=bytes(200_000), headers=JPEG | KEY | more
    ),
}


@pytest.mark.parametrize("status", CASES)
def test_every_answer_has_the_id_that_its_request_came_with(live: Live, status: int) -> None:
    answer = CASES[status](live, {"x-request-id": "0af7651916cd43dd-1/2"})

    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == ["0af7651916cd43dd-1/2"]


@pytest.mark.parametrize("status", CASES)
def test_a_request_without_an_id_is_given_one(live: Live, status: int) -> None:
    ids = {CASES[status](live, {}).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in ids)


@pytest.mark.parametrize("offered", [b"", b"two words", b"x" * 129, b"caf\xe9", b"caf\xc3\xa9"])
def test_an_id_that_does_not_belong_into_a_log_is_not_taken(live: Live, offered: bytes) -> None:
    answer = hurl(live, b"/livez", b"X-Request-ID: " + offered)

    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", answer)


def timing(header: str) -> dict[str, tuple[float, str]]:
    """`run;dur=14.9;desc="batch of 3"` -> `{"run": (14.9, "batch of 3")}`."""
    entries = {}
    for metric in header.split(", "):
        match = re.fullmatch(r'(\w+);dur=(\d+\.\d)(?:;desc="([^"]*)")?', metric)
        assert match, metric
        entries[match[1]] = (float(match[2]), match[3] or "")
    return entries


def test_the_answer_tells_the_times_of_its_steps(live: Live) -> None:
    """In the order in which they are done; the run's description is its batch."""
    answer = CASES[200](live, {})

    entries = timing(answer.headers["server-timing"])
    assert list(entries) == [*STEPS, "total"]
    assert entries["run"][1] == "batch of 1"
    # They do not overlap; each of the five is rounded to a tenth.
    assert sum(entries[name][0] for name in STEPS) <= entries["total"][0] + 0.3


def test_a_refusal_tells_how_far_it_came(live: Live) -> None:
    unreadable = live.client.post(PREDICT, content=image()[:2000], headers=JPEG | KEY)
    too_large = CASES[413](live, {})

    assert list(timing(unreadable.headers["server-timing"])) == ["read", "decode", "total"]
    assert list(timing(too_large.headers["server-timing"])) == ["total"]


@pytest.mark.parametrize("status", [401, 404])
def test_what_asks_for_nothing_to_be_classified_has_no_times(live: Live, status: int) -> None:
    """Nor does who has no key: it need not know how long that takes to find out."""
    assert "server-timing" not in CASES[status](live, {}).headers


def test_the_step_in_which_an_image_was_refused_ends_with_the_answer() -> None:
    """Where it is not known when it left."""
    assert access_log.stage_spans(StageTimings(), 9.0) == []
    assert access_log.stage_spans(StageTimings(1.0), 9.0) == [("decode", 1.0, 9.0)]
    assert access_log.stage_spans(StageTimings(1.0, 2.0), 9.0)[1:] == [("queue", 2.0, 9.0)]
    assert access_log.stage_spans(StageTimings(1.0, 2.0, 4.0), 9.0)[2:] == [("run", 4.0, 9.0)]
    assert access_log.stage_spans(StageTimings(1.0, 2.0, 4.0, 7.0), 9.0)[2:] == [("run", 4.0, 7.0)]


@pytest.mark.external
def test_a_browser_shows_the_times_of_each_step(tiny_model: Path) -> None:
    """The page's own request, as the browser's developer tools see it."""
    from tests.support.pages import launched, opened, shows

    with serving(tiny_model) as server, launched() as browser, opened(browser, server) as page:
        shows(page, "Cat")
        entries = page.evaluate(
            "performance.getEntriesByType('resource')"
            ".filter(entry => entry.name.includes('/v1/predict'))"
            ".map(entry => entry.serverTiming.map(each => each.toJSON()))"
        )

    assert [each["name"] for each in entries[0]] == [*STEPS, "total"]
    assert entries[0][3]["description"] == "batch of 1"
    assert entries[0][4]["duration"] > 0
