"""What /metrics tells: counters after known requests, histograms, gauges, Triton's names."""

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as families

from service.app import create_app
from service.cgroups import memory_limit
from service.inference.engine import Engine
from service.inference.queue import StageTimings
from service.settings import load_settings
from service.telemetry.metrics import Metrics, Snapshot
from service.telemetry.request_record import ModelNames, RequestRecord
from tests.support.images import image
from tests.support.servers import InThread, Live, serving, until

TENSOR_MODEL, IMAGE_MODEL = "alexnet", "alexnet_image"
PREDICT = "/v1/predict"
JPEG = {"Content-Type": "image/jpeg"}
BROKEN = b"\xff\xd8\xff\xe0 no image"
OPEN_METRICS = "application/openmetrics-text"

TRITON = (
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
)

Values = dict[str, float]


def read(text: str) -> Values:
    """Each sample by its name and labels, as they stand in the text."""
    values: Values = {}
    for family in families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{sample.labels[name]}"' for name in sorted(sample.labels))
            # The parser gives Triton's counters the ending that they lack.
            name = family.name if family.name.startswith("nv_") else sample.name
            values[name + (f"{{{labels}}}" if labels else "")] = sample.value
    return values


def of(live: Live) -> Values:
    return read(live.client.get("/metrics").text)


def family(values: Values, name: str) -> Values:
    """The samples of one name, by their labels alone."""
    return {key.removeprefix(name): value for key, value in values.items() if key.startswith(name)}


def wait_for(live: Live, condition: Callable[[Values], bool]) -> Values:
    """The metrics, as soon as they are so."""
    readings: list[Values] = []

    def holds() -> bool:
        readings.append(of(live))
        return condition(readings[-1])

    until(holds)
    return readings[-1]


def form(*images: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (f"{n}.jpg", data, "image/jpeg")) for n, data in enumerate(images)]


@pytest.fixture(scope="module")
def served(tiny_model: Path) -> Iterator[Live]:
    """Six requests are answered and some refused, in each of several ways."""
    with serving(tiny_model) as live:
        post = live.client.post
        for _ in range(5):
            assert post(PREDICT, content=image(), headers=JPEG).status_code == 200
        assert post(PREDICT, files=form(image(), BROKEN, image())).status_code == 200
        assert post(PREDICT, content=BROKEN, headers=JPEG).status_code == 422
        assert post(PREDICT, files=form(BROKEN, BROKEN)).status_code == 422
        assert post(PREDICT, headers=JPEG).status_code == 400
        assert post(PREDICT, content=b"cat", headers={"Content-Type": "x/y"}).status_code == 415
        assert post(f"{PREDICT}?crops=x", content=image(), headers=JPEG).status_code == 422
        assert live.client.get("/nothing").status_code == 404
        yield live


def test_no_row_of_a_v2_request_is_answered_if_one_is_not(tiny_model: Path) -> None:
    """The protocol has no error for a row: the client gets nothing."""
    rows = [base64.b64encode(data).decode() for data in (image(), b"none", image())]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": rows}
    with serving(tiny_model) as live:
        answer = live.client.post("/v2/models/alexnet_image/infer", json={"inputs": [tensor]})

        assert answer.status_code == 415
        assert family(of(live), "alexnet_images_total") == {
            '{outcome="refused",reason="image_type_unsupported"}': 3
        }


@pytest.fixture
def full(tiny_model: Path) -> Iterator[InThread]:
    """A server that is at one image; there are four more places, where images wait."""
    with (
        serving(tiny_model, max_queue=5, max_files=4, timeout=600) as live,
        ThreadPoolExecutor() as pool,
        live.gate.closed() as gate,
    ):
        first = pool.submit(live.service.classify, image())
        gate.until_held()
        yield live
        gate.open()
        assert first.result()


def test_requests_are_counted_by_route_method_and_status(served: Live) -> None:
    """Of /metrics itself only those before."""
    counted = family(of(served), "alexnet_http_requests_total")

    assert {labels: count for labels, count in counted.items() if '"/metrics"' not in labels} == {
        f'{{method="POST",route="{PREDICT}",status="200"}}': 6,
        f'{{method="POST",route="{PREDICT}",status="400"}}': 1,
        f'{{method="POST",route="{PREDICT}",status="415"}}': 1,
        f'{{method="POST",route="{PREDICT}",status="422"}}': 3,
        '{method="GET",route="other",status="404"}': 1,
    }


def test_errors_are_counted_by_their_reason(served: Live) -> None:
    """The codes of the answers."""
    assert family(of(served), "alexnet_http_errors_total") == {
        f'{{reason="body_empty",route="{PREDICT}"}}': 1,
        f'{{reason="image_unreadable",route="{PREDICT}"}}': 2,
        f'{{reason="media_type_unsupported",route="{PREDICT}"}}': 1,
        f'{{reason="parameter_invalid",route="{PREDICT}"}}': 1,
        '{reason="not_found",route="other"}': 1,
    }


def test_each_image_is_counted_by_its_outcome(served: Live) -> None:
    """Of a form too, where one is bad and the others are not."""
    assert family(of(served), "alexnet_images_total") == {
        '{outcome="answered",reason=""}': 7,
        '{outcome="refused",reason="image_unreadable"}': 4,
    }


def test_the_histograms_hold_what_was_answered(served: Live) -> None:
    """Refusals are in none of them: they would make a full service look fast."""
    values = of(served)

    route = f'{{route="{PREDICT}"}}'
    assert values[f"alexnet_request_duration_seconds_count{route}"] == 6
    assert values["alexnet_decode_duration_seconds_count"] == 7
    assert values["alexnet_queue_duration_seconds_count"] == 7
    assert values["alexnet_batch_images_sum"] == 7
    runs = values["alexnet_batch_images_count"]
    assert 6 <= runs <= 7
    assert values["alexnet_run_duration_seconds_count"] == runs
    # One after the other: what the network took is part of what the requests took.
    total = values[f"alexnet_request_duration_seconds_sum{route}"]
    assert 0 < values["alexnet_run_duration_seconds_sum"] < total
    for name in ("decode", "queue"):
        assert values[f"alexnet_{name}_duration_seconds_sum"] >= 0


def test_the_best_classs_probability_is_counted_of_each_image_answered(tiny_model: Path) -> None:
    """Of a form's good images, and of none if /v2 refuses all for one row."""
    with serving(tiny_model) as live:
        files = form(image(), BROKEN, image(size=(300, 200)))
        best = [
            prediction["classes"][0]["probability"]
            for prediction in live.client.post(PREDICT, files=files).json()["predictions"]
            if "classes" in prediction
        ]
        rows = [base64.b64encode(data).decode() for data in (image(), BROKEN)]
        tensor = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "data": rows}
        refused = live.client.post("/v2/models/alexnet_image/infer", json={"inputs": [tensor]})
        values = of(live)

    assert (len(best), refused.status_code) == (2, 422)
    assert values["alexnet_best_class_probability_count"] == 2
    assert values["alexnet_best_class_probability_sum"] == pytest.approx(sum(best))
    for border in ("0.05", "0.2", "1.0"):
        below = sum(probability <= float(border) for probability in best)
        assert values[f'alexnet_best_class_probability_bucket{{le="{border}"}}'] == below


def test_buckets_grow_from_half_a_millisecond_to_a_minute(served: Live) -> None:
    """A border is at ALEXNET_TIMEOUT's default, and batches count in powers of two."""
    text = served.client.get("/metrics").text
    histograms = {family.name: family for family in families(text) if family.type == "histogram"}

    assert set(histograms) == {
        *(f"alexnet_{step}_duration_seconds" for step in ("request", "decode", "queue", "run")),
        "alexnet_batch_images",
        "alexnet_best_class_probability",
    }
    for name, histogram in histograms.items():
        buckets = [sample for sample in histogram.samples if sample.name.endswith("_bucket")]
        borders = [float(sample.labels["le"]) for sample in buckets]
        counts = [sample.value for sample in buckets]
        whole = next(sample.value for sample in histogram.samples if sample.name.endswith("_count"))
        assert borders == sorted(borders)
        assert counts == sorted(counts)
        assert counts[-1] == whole
        if name == "alexnet_batch_images":
            assert borders[:5] == [1, 2, 4, 8, 16]
        elif name == "alexnet_best_class_probability":
            assert (borders[0], borders[-2]) == (0.05, 1)
        else:
            assert (borders[0], borders[-2]) == (0.0005, 60)
            assert 30 in borders


def test_tritons_counters_have_tritons_names_and_labels(served: Live) -> None:
    """The network, and the road with decoding before it, through which all of these came."""
    values = of(served)

    for name in TRITON:
        reasons = (
            [f'reason="{reason}",' for reason in REASONS] if name.endswith("failure") else [""]
        )
        assert set(family(values, name)) == {
            f'{{model="{model}",{reason}version="1"}}'
            for model in (TENSOR_MODEL, IMAGE_MODEL)
            for reason in reasons
        }
    network, road = (
        {
            name: values[f'{name}{{model="{model}",version="1"}}']
            for name in TRITON
            if not name.endswith("failure")
        }
        for model in (TENSOR_MODEL, IMAGE_MODEL)
    )
    failed = family(values, "nv_inference_request_failure")
    assert road["nv_inference_request_success"] == network["nv_inference_request_success"] == 6
    # None of the network's: they never came so far.
    assert {labels: count for labels, count in failed.items() if count} == {
        '{model="alexnet_image",reason="OTHER",version="1"}': 5
    }
    assert road["nv_inference_count"] == network["nv_inference_count"] == 7
    assert road["nv_inference_exec_count"] == 6
    assert network["nv_inference_exec_count"] == values["alexnet_batch_images_count"]
    assert network["nv_inference_compute_input_duration_us"] == 0
    assert road["nv_inference_compute_input_duration_us"] > 0
    for of_model in (network, road):
        steps = sum(of_model[f"nv_inference_{step}_duration_us"] for step in STEPS)
        assert of_model["nv_inference_request_duration_us"] == pytest.approx(steps, abs=len(STEPS))
    assert values['nv_inference_pending_request_count{model="alexnet",version="1"}'] == 0


REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
STEPS = ("queue", "compute_input", "compute_infer", "compute_output")


def test_the_gauges_say_what_computes_and_how_full_it_is(served: Live) -> None:
    """With the limits beside what is limited."""
    values = of(served)

    settings = load_settings()
    for name, value in (
        ("alexnet_ready", 1),
        ("alexnet_degraded", 0),
        ("alexnet_images_pending", 0),
        ("alexnet_images_limit", settings.max_queue),
        ("alexnet_batch_images_limit", settings.max_batch),
        ("alexnet_requests_in_flight", 0),
        ("alexnet_uploads_held_bytes", 0),
        ("alexnet_uploads_limit_bytes", settings.max_uploads),
        ('alexnet_provider{provider="CPUExecutionProvider",requested="cpu"}', 1),
        ('alexnet_reload_failed{what="model"}', 0),
    ):
        assert values[name] == value, name
    (model,) = family(values, "alexnet_info")
    for label in ("model", "variant", "precision", "version"):
        assert f'{label}="' in model
    assert values["process_resident_memory_bytes"] > 0
    assert values["process_cpu_seconds_total"] > 0
    assert values.get("alexnet_memory_limit_bytes") == memory_limit()


def test_who_accepts_openmetrics_gets_it(served: Live) -> None:
    """The same samples, ended as that format demands."""
    answer = served.client.get(
        "/metrics", headers={"Accept": f"{OPEN_METRICS};version=1.0.0;q=0.6"}
    )

    assert answer.headers["content-type"] == f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"
    assert answer.text.endswith("# EOF\n")
    parsed = open_metrics(answer.text)  # type: ignore[no-untyped-call]
    by_name: dict[str, Metric] = {family.name: family for family in parsed}
    assert by_name["alexnet_images"].type == "counter"
    assert by_name["alexnet_queue_duration_seconds"].type == "histogram"
    assert by_name["nv_inference_count"].samples[0].name == "nv_inference_count"


def test_tritons_counters_are_counters_where_their_names_may_be(served: Live) -> None:
    """OpenMetrics demands an ending that Triton's names lack."""
    for accept, kind in (("text/plain", "counter"), (OPEN_METRICS, "unknown")):
        lines = served.client.get("/metrics", headers={"Accept": accept}).text.splitlines()
        kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE nv_"))
        assert kinds.pop("nv_inference_pending_request_count") == "gauge"
        assert kinds == dict.fromkeys(TRITON, kind)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("overloaded", "REJECTED"),
        ("deadline_exceeded", "REJECTED"),
        ("client_left", "CANCELED"),
        ("internal_error", "BACKEND"),
        ("not_ready", "OTHER"),
        ("image_unreadable", "OTHER"),
    ],
)
def test_a_failure_has_tritons_word_for_its_reason(code: str, reason: str) -> None:
    metrics = counting()
    record = RequestRecord("id", 1.0, model=IMAGE_MODEL, status=500, code=code, ended=2.0)

    metrics.count({"type": "http", "path": PREDICT, "method": "POST"}, record)

    values = family(read(metrics.text()[0].decode()), "nv_inference_request_failure")
    assert [labels for labels, count in values.items() if count] == [
        f'{{model="alexnet_image",reason="{reason}",version="1"}}'
    ]


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        f"{OPEN_METRICS};version=one",
        f"{OPEN_METRICS};version=9.9.9;escaping=values",
        f"{OPEN_METRICS};version=,;;=",
        f"{OPEN_METRICS};version=\xe9\xff",
    ],
)
def test_whatever_is_accepted_the_metrics_come(served: Live, accept: str) -> None:
    """In one of two formats, whose names are ours: nothing of the header is echoed."""
    answer = served.client.get("/metrics", headers=[(b"Accept", accept.encode("latin-1"))])

    assert answer.status_code == 200
    assert answer.headers["content-type"] in (
        "text/plain; version=0.0.4; charset=utf-8",
        f"{OPEN_METRICS}; version=1.0.0; charset=utf-8",
    )
    assert answer.headers["cache-control"] == "no-store"


def test_head_has_the_headers_alone(served: Live) -> None:
    """For checks that want no body."""
    answer = served.client.head("/metrics")

    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) > 1000
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == b""


def sent(live: Live, *images: bytes) -> socket.socket:
    """A form on its way, whose client waits for no answer."""
    with httpx2.Client(base_url=live.url) as client:
        request = client.build_request("POST", PREDICT, files=form(*images))
        body = request.read()
    address = httpx2.URL(live.url)
    connection = socket.create_connection((address.host, address.port or 80))
    lines = [f"POST {PREDICT} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def test_a_full_queue_is_counted_with_what_it_refused_and_who_left(full: InThread) -> None:
    """A refusal at the threshold is a failure of the model that its path is for."""
    before = of(full)
    with sent(full, *[image()] * 4):
        during = wait_for(full, lambda now: now["alexnet_images_pending"] == 1 + 4)
        full.until_queued()  # all four are decoded
        refused = full.client.post(PREDICT, content=image(), headers=JPEG)
    after = wait_for(full, lambda now: now["alexnet_requests_in_flight"] == 1)

    assert refused.status_code == 503
    assert during["alexnet_uploads_held_bytes"] > 4 * len(image())
    assert during["alexnet_requests_in_flight"] == 2
    assert during['nv_inference_pending_request_count{model="alexnet",version="1"}'] == 1 + 4
    assert difference(before, after, "alexnet_http_requests_total") == {
        f'{{method="POST",route="{PREDICT}",status="499"}}': 1,
        f'{{method="POST",route="{PREDICT}",status="503"}}': 1,
    }
    assert difference(before, after, "alexnet_http_errors_total") == {
        f'{{reason="client_left",route="{PREDICT}"}}': 1,
        f'{{reason="overloaded",route="{PREDICT}"}}': 1,
    }
    assert difference(before, after, "alexnet_images_total") == {
        '{outcome="abandoned",reason="client_left"}': 4,
    }
    assert difference(before, after, "nv_inference_request_failure") == {
        '{model="alexnet_image",reason="CANCELED",version="1"}': 1,
        '{model="alexnet_image",reason="REJECTED",version="1"}': 1,
    }
    assert difference(before, after, "alexnet_request_duration_seconds_count") == {
        f'{{route="{PREDICT}"}}': 1
    }
    assert difference(before, after, "alexnet_decode_duration_seconds_count") == {"": 4}
    assert difference(before, after, "alexnet_queue_duration_seconds_count") == {}


def test_a_form_that_does_not_fit_is_refused_with_all_its_images(full: Live) -> None:
    """What is known of them is how many they were."""
    before = of(full)
    with sent(full, *[image()] * 3):
        wait_for(full, lambda now: now["alexnet_images_pending"] == 1 + 3)
        refused = full.client.post(PREDICT, files=form(image(), image()))
    after = wait_for(full, lambda now: now["alexnet_requests_in_flight"] == 1)

    assert refused.status_code == 503
    assert difference(before, after, "alexnet_images_total") == {
        '{outcome="abandoned",reason="client_left"}': 3,
        '{outcome="refused",reason="overloaded"}': 2,
    }


def test_a_deadline_that_passed_is_a_failure(tiny_model: Path) -> None:
    """And such a request is among the slow ones, not left out."""
    with serving(tiny_model, timeout=1) as live, live.gate.closed():
        before = of(live)
        answer = live.client.post(PREDICT, files=form(image(), image()))
        after = wait_for(live, lambda now: now["alexnet_requests_in_flight"] == 0)

    assert answer.status_code == 504
    assert difference(before, after, "alexnet_images_total") == {
        '{outcome="failed",reason="deadline_exceeded"}': 2
    }
    assert difference(before, after, "alexnet_request_duration_seconds_count") == {
        f'{{route="{PREDICT}"}}': 1
    }
    slow = family(after, "alexnet_request_duration_seconds_sum")[f'{{route="{PREDICT}"}}']
    assert slow >= 1


def difference(before: Values, after: Values, name: str) -> Values:
    """How much each of the samples of one name has grown, of those that have; but for /metrics."""
    changed = family(after, name)
    for labels, value in family(before, name).items():
        changed[labels] -= value
    return {
        labels: value
        for labels, value in changed.items()
        if value and 'route="/metrics"' not in labels
    }


def test_a_file_that_cannot_be_read_again_is_a_gauge(tiny_model: Path, tmp_path: Path) -> None:
    """Until it can."""
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model.read_bytes())
    failed = 'alexnet_reload_failed{what="model"}'
    with serving(model) as live:
        model.write_bytes(b"half a file")
        live.reload()
        values = wait_for(live, lambda now: now[failed] == 1)
        assert values["alexnet_ready"] == 1

        model.write_bytes(tiny_model.read_bytes())
        live.reload()
        wait_for(live, lambda now: now[failed] == 0)


def test_a_gpu_that_cannot_be_used_is_a_gauge(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's warning is why."""
    engine = Engine.load(tiny_model, device="cpu")
    app = create_app(load_settings(model=tiny_model, device="cpu"), engine)
    monkeypatch.setattr(engine, "warning", "CUDA could not be loaded")
    monkeypatch.setattr(engine, "device_requested", "auto")

    with TestClient(app) as client:
        values = read(client.get("/metrics").text)

    assert values["alexnet_degraded"] == 1
    assert values['alexnet_provider{provider="CPUExecutionProvider",requested="auto"}'] == 1


class Route:
    """As the router writes it into the scope."""

    path = "/v2/models/alexnet/infer"


def counting(routes: Sequence[str] = ()) -> Metrics:
    """Metrics of a service that stands still."""
    facts = {"provider": "CPUExecutionProvider", "device_requested": "cpu"}
    still = Snapshot(
        pending=0,
        limit=256,
        batch_limit=16,
        in_flight=0,
        held=0,
        held_limit=2**28,
        memory_limit=None,
        ready=True,
        degraded=False,
        reloads={},
        facts=facts,
    )
    return Metrics(lambda: still, ModelNames("alexnet"), routes)


def test_pixels_ask_the_network_alone() -> None:
    """They are not decoded: their reading is the network's input, and no time of decoding."""
    metrics = counting()
    steps = [StageTimings(1.5, 1.5, 2.5, 4.5, 2), StageTimings(1.5, 1.5, 1.5, 2.0, 1)]
    record = RequestRecord("id", 1.0, 1.5, TENSOR_MODEL, steps, [None, None], 200, None, 5.0)

    before = time.time_ns() // 10**6
    metrics.count({"type": "http", "path": Route.path, "method": "POST", "route": Route}, record)
    metrics.ran(2, 2.0)
    metrics.ran(2, 1.0)

    network, road = metrics.statistics[TENSOR_MODEL], metrics.statistics[IMAGE_MODEL]
    assert (road.success, road.executions, road.inferences) == (0, 0, 0)
    assert (network.success, network.executions, network.inferences) == (1, 2, 2)
    assert network.batches == {2: (2, 3_000_000_000)}
    seconds = [
        nanoseconds / 1e9
        for nanoseconds in (
            network.success_ns,
            network.input_ns,
            network.queue_ns,
            network.infer_ns,
            network.output_ns,
        )
    ]
    assert seconds == [4.0, 0.5, 1.0, 2.0, 0.5]  # of the image that was answered last
    assert before <= network.last <= time.time_ns() // 10**6
    values = read(metrics.text()[0].decode())
    assert values["alexnet_decode_duration_seconds_count"] == 0
    assert values["alexnet_queue_duration_seconds_sum"] == 1.0


def test_tensors_of_the_open_inference_protocol_ask_the_network_alone(tiny_model: Path) -> None:
    """Two images as pixels: one request, and no decoding."""
    tensor = bytes(2 * 256 * 256 * 3)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "UINT8",
                    "shape": [2, 256, 256, 3],
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ]
        }
    ).encode()
    with serving(tiny_model, threads=1) as live:
        answer = live.client.post(
            "/v2/models/alexnet/infer",
            content=header + tensor,
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        values = of(live)

    assert answer.status_code == 200, answer.text
    for name, network in (("request_success", 1), ("count", 2), ("exec_count", 1)):
        assert family(values, f"nv_inference_{name}") == {
            '{model="alexnet",version="1"}': network,
            '{model="alexnet_image",version="1"}': 0,
        }
    assert family(values, "alexnet_images_total") == {'{outcome="answered",reason=""}': 2}
    assert values["alexnet_decode_duration_seconds_count"] == 0
    assert values["alexnet_queue_duration_seconds_count"] == 2
    (route,) = family(values, "alexnet_request_duration_seconds_count")
    assert "/v2/models/" in route


def test_two_clocks_never_make_a_time_negative() -> None:
    """One may be a little behind the other."""
    metrics = counting()
    steps = [StageTimings(0.9, 0.9, 1.5, 2.5, 1)]
    record = RequestRecord("id", 1.0, 1.0, TENSOR_MODEL, steps, [None], 200, None, 2.25)

    metrics.count({"type": "http", "path": Route.path, "method": "POST", "route": Route}, record)

    statistics = metrics.statistics[TENSOR_MODEL]
    assert (statistics.input_ns, statistics.output_ns) == (0, 0)
    assert statistics.success_ns == statistics.queue_ns + statistics.infer_ns


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/alexnet/infer", TENSOR_MODEL),
        ("/v2/models/alexnet/versions/1/infer", TENSOR_MODEL),
        ("/v2/models/alexnet_image/infer", IMAGE_MODEL),
        ("/predictions/alexnet", IMAGE_MODEL),
        ("/predictions/alexnet/1.0", IMAGE_MODEL),
        (PREDICT, IMAGE_MODEL),
    ],
)
def test_a_refusal_at_the_threshold_fails_the_model_of_its_path(path: str, model: str) -> None:
    """Nobody has asked the router yet."""
    metrics = counting(routes=[path])
    scope = {"type": "http", "path": path, "method": "POST"}

    metrics.count(scope, RequestRecord("id", 1.0, status=503, code="overloaded", ended=1.25))
    metrics.count(scope, RequestRecord("id", 1.0, status=401, code="unauthorized", ended=1.25))

    assert metrics.statistics[model].failure == 1
    assert metrics.statistics[model].failure_ns == 250_000_000
    assert sum(model.failure for model in metrics.statistics.values()) == 1


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "3221225472\n"}, 3 * 2**30),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/memory.max": "1000\n", "a/b/memory.max": "max\n"}, 1000),
        ("0::/gone\n", {"memory.max": "1000\n"}, 1000),
        ("5:cpu:/\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "1000\n"}, 1000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ("", {}, None),
    ],
)
def test_the_memory_that_a_container_may_take(
    tmp_path: Path, lines: str, files: dict[str, str], limit: int | None
) -> None:
    """In both versions of control groups, with or without a limit."""
    own = tmp_path / "own"
    own.write_text(lines)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)

    assert memory_limit(tmp_path / "groups", own) == limit
    assert memory_limit(tmp_path / "groups", tmp_path / "missing") is None
