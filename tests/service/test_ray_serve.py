"""The application under Ray Serve, on two nodes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import pytest

from tests.support.clusters import CPUS, PATIENCE, Nodes
from tests.support.images import grey, image
from tests.support.models import FAULTY, HANGS
from tests.support.ports import free_port
from tests.support.servers import ROOT, serving

pytestmark = [
    pytest.mark.external,
    # ray.serve defines its settings in a way that pydantic has deprecated.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]

JPEG = {"Content-Type": "image/jpeg"}
IN_HAND = 4  # requests that a replica takes at once
CLIENTS = 16  # more than two replicas take: some wait in the proxy
APP = "alexnet"


@dataclass
class Serving:
    """Ray Serve on a cluster, whose proxy answers at `url`."""

    url: str
    client: httpx2.Client
    nodes: Nodes
    deployed: dict[str, Any] = field(default_factory=dict)

    def deploy(self, model: Path, *, settings: Mapping[str, Any] = {}, **options: Any) -> None:
        """Our application in place of the one before; returns when it answers."""
        from ray import serve

        from service import ray_app

        self.deployed = {}
        chosen = {"model": str(model), **settings}
        replicas = ray_app.deployment(chosen).options(health_check_timeout_s=PATIENCE, **options)
        serve.run(replicas.bind(chosen), name=APP)
        self.deployed = {"model": model, "settings": settings, **options}

    def clear(self) -> None:
        """No application, so that the next one starts as it does on a new cluster."""
        from ray import serve

        self.deployed = {}
        serve.delete(APP, _blocking=False)
        wait_until(lambda: APP not in serve.status().applications)

    def predict(self, data: bytes = b"", **options: Any) -> httpx2.Response:
        """Send one image."""
        return self.client.post("/v1/predict", content=data or image(), headers=JPEG, **options)


def alive() -> dict[str, tuple[int, str]]:
    """The process id and the node of each replica by its name."""
    import ray

    def place(replica: object) -> tuple[int, str]:  # inner, since replicas cannot import this file
        return os.getpid(), ray.get_runtime_context().get_node_id()

    found: dict[str, tuple[int, str]] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{APP}#"):
            try:
                replica: Any = ray.get_actor(**actor)
                found[actor["name"]] = ray.get(replica.__ray_call__.remote(place), timeout=PATIENCE)
            except (ValueError, ray.exceptions.RayActorError):  # it has just ended
                continue
    return found


def in_hand(name: str) -> int:
    """Requests that a replica has accepted and not answered, as Ray counts them there."""
    import ray

    replica: Any = ray.get_actor(name, namespace="serve")
    count: Any = replica.__ray_call__.remote(
        lambda actor: actor._replica_impl.get_num_ongoing_requests()
    )
    found: int = ray.get(count, timeout=PATIENCE)
    return found


def running() -> int:
    """How many replicas Ray Serve takes for healthy."""
    from ray import serve

    (deployment,) = serve.status().applications[APP].deployments.values()
    states: Mapping[Any, int] = deployment.replica_states
    return states.get("RUNNING", 0)


def wait_until(true: Callable[[], bool]) -> None:
    """Return when it is, or fail."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not so within {PATIENCE} s"
        time.sleep(0.1)


@dataclass
class Sent:
    """One request under load."""

    began: float
    ended: float
    status: int  # 0 without an answer
    version: str = ""


@dataclass
class Load:
    """Clients that ask without a pause, each for itself."""

    url: str
    sent: list[Sent] = field(default_factory=list)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Until the block ends."""
        ending = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._ask, ending) for _ in range(CLIENTS)]
            try:
                wait_until(lambda: len(self.sent) > CLIENTS)
                yield
            finally:
                ending.set()
        for client in clients:
            client.result()

    def _ask(self, ending: threading.Event) -> None:
        data = image()
        with httpx2.Client(base_url=self.url, timeout=PATIENCE, trust_env=False) as client:
            while not ending.is_set():
                began, status, version = time.monotonic(), 0, ""
                try:
                    answer = client.post("/v1/predict", content=data, headers=JPEG)
                    status = answer.status_code
                    if status == 200:
                        version = answer.json()["model"]["version"]
                except httpx2.TransportError:
                    pass
                self.sent.append(Sent(began, time.monotonic(), status, version))

    @property
    def lost(self) -> list[Sent]:
        return [request for request in self.sent if request.status != 200]


@pytest.fixture(scope="module")
def ray_serve(nodes: Nodes) -> Iterator[Serving]:
    """A cluster with Ray's proxy on one of its nodes: in truth they share one machine's ports."""
    with (
        nodes.connected(),
        patch("ray.serve._private.api.HTTP_PROXY_TIMEOUT", PATIENCE),
        patch("ray.serve._private.client.HTTP_PROXY_TIMEOUT", PATIENCE),
    ):
        import ray
        from ray import serve

        port = free_port()
        serve.start("HeadOnly", {"host": "127.0.0.1", "port": port})
        url = f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            yield Serving(url, client, nodes)
        serve.shutdown()  # type: ignore[no-untyped-call]
        wait_until(
            lambda: ray.available_resources().get("CPU") == 2 * CPUS  # type: ignore[no-untyped-call]
        )


TWO_REPLICAS: dict[str, Any] = {
    "autoscaling_config": {"min_replicas": 2, "max_replicas": 2},
    "max_ongoing_requests": IN_HAND,
    "ray_actor_options": {"num_cpus": CPUS},
}


@pytest.fixture(scope="module", params=["two replicas"])
def _together(request: pytest.FixtureRequest) -> None:
    """A parameter, since tests of one are run together, in whatever order."""


@pytest.fixture
def two_replicas(_together: None, ray_serve: Serving, tiny_model: Path) -> Serving:
    """A replica on each node."""
    wanted = {
        "model": tiny_model,
        "settings": {"max_delay": 0.3},  # seconds that a request stays in its replica's hands
        **TWO_REPLICAS,
    }
    if ray_serve.deployed != wanted:
        ray_serve.deploy(**wanted)
    return ray_serve


def test_each_of_two_nodes_has_a_replica(two_replicas: Serving) -> None:
    places = alive().values()

    assert len({process for process, _ in places}) == 2
    assert len({node for _, node in places}) == 2


def test_answers_are_those_of_a_single_process(two_replicas: Serving, tiny_model: Path) -> None:
    cat = (ROOT / "tests" / "pictures" / "cat.jpg").read_bytes()
    form = [("files", ("one.jpg", cat)), ("files", ("two.png", image("PNG")))]
    asked: list[dict[str, Any]] = [
        {"content": cat, "headers": JPEG},
        {"content": image("WEBP"), "headers": JPEG, "params": {"crops": "dense", "top": 3}},
        {"files": form, "params": {"crops": "one"}},
        {"content": b"no image", "headers": JPEG},
        {"content": b"", "headers": JPEG},
        {"content": cat, "headers": JPEG, "params": {"top": 0}},
        {"content": bytes(21 * 2**20), "headers": JPEG},
    ]

    with serving(tiny_model) as single:
        for request in asked:
            expected = single.client.post("/v1/predict", **request)
            for _ in range(3):  # by this replica or that one
                answer = two_replicas.client.post("/v1/predict", **request)
                assert (answer.status_code, answer.json()) == (
                    expected.status_code,
                    expected.json(),
                )


def test_a_request_id_is_one_and_the_same_on_both_sides(two_replicas: Serving) -> None:
    answer = two_replicas.client.get("/livez", headers={"X-Request-ID": "seven"})

    assert answer.headers.get_list("x-request-id") == ["seven"]


def test_a_killed_replica_loses_only_what_it_had_in_hand_and_is_replaced(
    two_replicas: Serving,
) -> None:
    before = alive()
    (name, (victim, _)), *_ = before.items()
    load = Load(two_replicas.url)

    with load.on():
        wait_until(lambda: in_hand(name) == IN_HAND)  # so that there is something to lose
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: len(alive().keys() - before.keys()) == 1 and running() == 2)
        replaced = time.monotonic()
        wait_until(lambda: load.sent[-1].began > replaced)

    in_flight = [request for request in load.sent if request.began < killed < request.ended]
    assert len(in_flight) > IN_HAND  # so others were in the other's hands, or waited
    assert len(load.lost) <= IN_HAND
    assert all(request.began < killed < request.ended for request in load.lost)
    assert len({node for _, node in alive().values()}) == 2
    assert all(two_replicas.predict().status_code == 200 for _ in range(10))


def test_a_model_is_replaced_under_load_without_loss(
    two_replicas: Serving, other_model: Path
) -> None:
    load = Load(two_replicas.url)

    with load.on():
        two_replicas.deploy(other_model, **TWO_REPLICAS)
        replaced = time.monotonic()
        wait_until(lambda: load.sent[-1].began > replaced)

    assert not load.lost
    assert len({request.version for request in load.sent}) == 2
    assert len({request.version for request in load.sent if request.began > replaced}) == 1


def test_load_calls_a_second_replica(ray_serve: Serving, tiny_model: Path) -> None:
    ray_serve.clear()
    ray_serve.deploy(
        tiny_model,
        settings={"max_delay": 0.05},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 2,
            "target_ongoing_requests": 2,
            "upscale_delay_s": 0.2,
            "look_back_period_s": 11,  # more than Ray's interval by default
        },
        ray_actor_options={"num_cpus": CPUS},
    )
    wait_until(lambda: running() == 1)
    load = Load(ray_serve.url)

    with load.on():
        wait_until(lambda: running() == 2)

    assert not load.lost


def test_a_replica_that_can_no_longer_answer_is_replaced(
    ray_serve: Serving,
) -> None:
    """A run of the network hangs."""
    ray_serve.clear()
    ray_serve.deploy(FAULTY, settings={"run_timeout": 0.5}, health_check_period_s=0.5)
    before = alive()
    assert len(before) == 1

    assert ray_serve.predict(grey(HANGS)).status_code == 503

    wait_until(lambda: len(alive().keys() - before.keys()) == 1 and running() == 1)
    assert ray_serve.client.get("/readyz").status_code == 200


def test_a_client_that_leaves_frees_what_it_held(ray_serve: Serving, tiny_model: Path) -> None:
    ray_serve.clear()
    ray_serve.deploy(tiny_model, settings={"body_timeout": 3600, "timeout": 3600})
    host, port = ray_serve.client.base_url.host, ray_serve.client.base_url.port
    half = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + bytes(1000)

    with socket.create_connection((host, port or 80)) as leaving:
        leaving.sendall(half)
        wait_until(lambda: in_flight(ray_serve) == 1)

    wait_until(lambda: in_flight(ray_serve) == 0)


def in_flight(served: Serving) -> float:
    """Requests accepted and not yet answered, as the only replica counts them."""
    (found,) = re.findall(
        r"^alexnet_requests_in_flight (\S+)$", served.client.get("/metrics").text, re.M
    )
    return float(found)


def test_what_cannot_start_says_why_in_the_status(ray_serve: Serving) -> None:
    assert "/nowhere.onnx" in refusal(ray_serve, Path("/nowhere.onnx"))


def test_a_gpu_that_is_only_said_to_be_there_is_missed_in_the_status(
    ray_serve: Serving, tiny_model: Path
) -> None:
    with ray_serve.nodes.another(num_cpus=1, num_gpus=1):
        said = refusal(
            ray_serve,
            tiny_model,
            settings={"device": "auto"},
            ray_actor_options={"num_gpus": 1},
        )

    assert "CUDA" in said


def refusal(ray_serve: Serving, model: Path, **options: Any) -> str:
    """Deploy what cannot start; what Ray Serve says of it."""
    from ray import serve

    with pytest.raises(RuntimeError):
        ray_serve.deploy(model, max_constructor_retry_count=1, **options)

    (deployment,) = serve.status().applications[APP].deployments.values()
    message: str = deployment.message
    return message


def test_the_serve_config_is_deployed_by_the_command(ray_serve: Serving) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "run"]
    command += ["--non-blocking", "--address", address, "deploy/ray/serve.yaml"]

    ray_serve.clear()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)

    wait_until(lambda: b'"name":"alexnet"' in ray_serve.predict().content)
    wait_until(lambda: running() == 1)
    assert ray_serve.client.get("/metrics").status_code == 404
    logs = Path(os.environ["RAY_TMPDIR"]).glob("ray/session_latest/logs/worker-*.err")
    said = "".join(log.read_text() for log in logs)
    assert "alexnet on CPUExecutionProvider, threads: 2" in said
