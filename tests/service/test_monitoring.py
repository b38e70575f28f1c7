"""Prometheus's configuration, its alerts, Grafana's dashboard: on the metrics of real servers."""

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from tests.support.images import image
from tests.support.servers import PATIENCE, ROOT, Live, serving, until

DOCKER = ROOT / "docker"
CONFIG = DOCKER / "prometheus" / "prometheus.yml"
ALERTS = DOCKER / "prometheus" / "alerts.yml"
ALERT_TESTS = DOCKER / "prometheus" / "alerts_test.yml"
GRAFANA = DOCKER / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "alexnet.json"
DOCS = ROOT / "docs" / "monitoring.md"

PREDICT = "/v1/predict"
JPEG = {"Content-Type": "image/jpeg"}
FULL = 8  # images in the queue; so many in one form fill it
CLIENTS = 4
# Panels of what only misfortune brings.
RARE = ("Alerts", "Starts")
NAME = re.compile(r"\b(?:alexnet|nv_inference|process)_[a-z_]+\b")
SUFFIX = re.compile(r"_(?:bucket|sum|count|total|info)$")


def tool(name: str) -> str:
    """The path of a program of Prometheus's; skips where there is none."""
    if (path := shutil.which(name)) is None:
        pytest.skip(f"needs {name}: apt-get install prometheus, or https://prometheus.io/download/")
    return path


def promtool(*arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tool("promtool"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> list[dict[str, Any]]:
    return [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in parts if panel["type"] != "row"]


def dashboard_queries() -> list[tuple[str, str]]:
    """Each query of the dashboard with the panel's title, its variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [
        (panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]
    ]
    notes = dashboard["annotations"]["list"]
    queries += [(note["name"], note["expr"]) for note in notes if "expr" in note]
    return [(title, filled_in(query)) for title, query in queries]


def documented_queries() -> list[tuple[str, str]]:
    """Those of the page, from its blocks of PromQL."""
    blocks = re.findall(r"```promql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [("docs", filled_in(query)) for block in blocks for query in block.split("\n\n")]


def filled_in(query: str) -> str:
    query = query.replace("$__rate_interval", "5s").replace("$instance", ".*")
    return re.sub(r"\[\d+[mh]\]", "[5s]", query)  # our traffic is no older


@dataclass
class Watched:
    """The Prometheus that reads two servers, which are asked all the time."""

    api: httpx2.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus finds now; what it refuses fails the test."""
        answer = self.api.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        results: list[dict[str, Any]] = answer.json()["data"]["result"]
        return results

    def until_found(self, expression: str) -> None:
        """Wait until there is something, which one reading in a busy moment may miss."""
        until(partial(self.query, expression), expression)

    def up(self) -> bool:
        """Whether both servers were read the last time."""
        targets = self.api.get("/api/v1/targets").json()["data"]["activeTargets"]
        return [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2


class Traffic(threading.Thread):
    """Asks a server until it is stopped; keeps the statuses that it did not expect."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self.stopped = threading.Event()
        self.unexpected: list[int] = []
        self.client = httpx2.Client(base_url=live.url, timeout=PATIENCE, trust_env=False)

    def run(self) -> None:
        with self.client:
            while not self.stopped.wait(0.02):
                self.ask()

    def ask(self) -> None:
        """Answered, several images at once, refused."""
        form = [("file", (f"{n}.jpg", image(), "image/jpeg")) for n in range(FULL)]
        self.post(200, 503, content=image(), headers=JPEG)
        self.post(200, 503, files=form)
        self.post(422, 503, content=b"\xff\xd8\xff no image", headers=JPEG)
        self.post(400, 503, headers=JPEG)

    def post(self, *expected: int, **body: Any) -> None:
        status = self.client.post(PREDICT, **body).status_code
        if status not in expected:
            self.unexpected.append(status)


class LateTraffic(Traffic):
    """For a server that hardly ever answers in time."""

    def ask(self) -> None:
        self.post(504, 408, 200, content=image(), headers=JPEG)


@pytest.fixture(scope="module")
def exposed(tiny_model: Path) -> str:
    """The metrics of a server that has answered, refused, and let down."""
    with serving(tiny_model, max_queue=FULL, max_files=FULL) as live:
        traffic = Traffic(live)
        with traffic.client:
            traffic.ask()
        assert traffic.unexpected == []
        return live.client.get("/metrics").text


@contextmanager
def prometheus(servers: Sequence[Live], folder: Path) -> Iterator[httpx2.Client]:
    """The configuration that ships, pointed at our servers and in a hurry."""
    config = load(CONFIG)
    config["global"] |= {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [live.url.removeprefix("http://") for live in servers]}]
    (folder / CONFIG.name).write_text(yaml.safe_dump(config))
    shutil.copy(ALERTS, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / CONFIG.name}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        with httpx2.Client(base_url=f"http://{address}", timeout=PATIENCE, trust_env=False) as api:

            def ready() -> bool:
                assert process.poll() is None, "Prometheus has ended"
                try:
                    return api.get("/-/ready").status_code == 200
                except httpx2.TransportError:
                    return False

            until(ready, f"Prometheus is ready: {folder / 'log'}")
            yield api
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def watched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """While it has more to do than it can; the other waits longer for a batch than it may."""
    tool("prometheus")
    with (
        serving(tiny_model, max_queue=FULL, max_files=FULL) as live,
        serving(tiny_model, max_delay=10, timeout=0.2) as late,
        prometheus([live, late], tmp_path_factory.mktemp("prometheus")) as api,
    ):
        traffic = [LateTraffic(late), *(Traffic(live) for _ in range(CLIENTS))]
        for thread in traffic:
            thread.start()
        try:
            yield Watched(api)
        finally:
            for thread in traffic:
                thread.stopped.set()
            for thread in traffic:
                thread.join(PATIENCE)
    assert [thread.unexpected for thread in traffic] == [[] for _ in traffic]


@pytest.fixture(scope="module")
def well_watched(watched: Watched) -> Watched:
    """When what is rare has been read twice, so that it has a rate."""
    rare = 'rate(alexnet_http_errors_total{reason="%s"}[5s]) > 0'
    for reason in ("overloaded", "deadline_exceeded"):
        watched.until_found(rare % reason)
    return watched


@pytest.mark.external
def test_the_configuration_is_valid() -> None:
    """With the rules that it names."""
    checked = promtool("check", "config", CONFIG)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


@pytest.mark.external
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    """On series made for each of them."""
    checked = promtool("test", "rules", ALERT_TESTS)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_is_tested_in_both_directions() -> None:
    """Nor does one lack what its reader needs: how bad it is, what it is, what to do."""
    fires, rests = set[str](), set[str]()
    for test in load(ALERT_TESTS)["tests"]:
        for case in test["alert_rule_test"]:
            (fires if case["exp_alerts"] else rests).add(case["alertname"])

    names = {rule["alert"] for rule in alerts()}
    assert fires == rests == names
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])


@pytest.mark.external
def test_what_the_service_exposes_is_what_promtool_would_expose(exposed: str) -> None:
    """But for Triton's names, which are not ours to change."""
    checked = promtool("check", "metrics", stdin=exposed)

    complaints = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in complaints if not line.startswith("nv_inference_")] == []


@pytest.mark.external
def test_a_real_prometheus_reads_the_service_and_all_its_rules(well_watched: Watched) -> None:
    """And on a service that is well, though it has too much to do, none of those fires at once."""
    until(well_watched.up, "both are read")
    (group,) = well_watched.api.get("/api/v1/rules").json()["data"]["groups"]

    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in alerts()]
    for rule in group["rules"]:
        assert rule["health"] in ("ok", "unknown"), rule["lastError"]
    firing = 'ALERTS{alertstate="firing"}'
    assert well_watched.query(firing) == []


@pytest.mark.external
@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in alerts()])
def test_each_alert_compares_something_that_is_there(
    well_watched: Watched, rule: dict[str, Any]
) -> None:
    """Without its threshold, each of them has a value."""
    expression = filled_in(rule["expr"])
    well_watched.query(expression)
    if rule["alert"] == "AlexnetMemoryHigh" and not limited(well_watched):
        pytest.skip("only a container has a limit of memory")

    compared = re.split(r" (?:==|>) ", expression)[0]

    well_watched.until_found(compared)


@pytest.mark.external
@pytest.mark.parametrize(("title", "query"), dashboard_queries() + documented_queries())
def test_each_query_of_the_dashboard_and_the_page_finds_something(
    well_watched: Watched, title: str, query: str
) -> None:
    """What only happens in misfortune finds nothing, but is no error."""
    well_watched.query(query)
    if title not in RARE and not ("memory_limit" in query and not limited(well_watched)):
        well_watched.until_found(query)


def test_the_dashboard_asks_for_what_there_is(exposed: str) -> None:
    """Each name that it has, and each that the alerts and the page have, is exposed."""
    there = {sample.name for family in families(exposed) for sample in family.samples}
    there |= {name.removesuffix("_total") for name in there if name.startswith("nv_")}
    there |= {"alexnet_memory_limit_bytes"}  # in a container

    queries = [query for _, query in dashboard_queries() + documented_queries()]
    queried = {name for query in queries for name in NAME.findall(query)}
    queried |= {name for rule in alerts() for name in NAME.findall(rule["expr"])}

    assert len(queried) > 20
    assert queried <= there


def test_the_page_lists_every_metric_and_every_alert(exposed: str) -> None:
    """And none that is not there."""
    there = {SUFFIX.sub("", name) for name in re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE)}
    there = {name for name in there if not name.startswith("process_")}
    there |= {"alexnet_memory_limit_bytes"}

    listed = re.findall(r"^\| `(\w+)(?:\{[^}]*\})?` \|", DOCS.read_text(), re.MULTILINE)

    alarms = {name for name in listed if name.startswith("Alexnet")}
    assert alarms == {rule["alert"] for rule in alerts()}
    assert {SUFFIX.sub("", name) for name in listed} - alarms == there


def limited(watched: Watched) -> bool:
    return bool(watched.query("alexnet_memory_limit_bytes"))


def test_the_dashboard_is_one_that_grafana_loads() -> None:
    """Each panel has its own place and number, and the data source that is chosen."""
    dashboard = json.loads(DASHBOARD.read_text())
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert dashboard["schemaVersion"] == 39  # of Grafana 11.0; later ones bring it up to theirs
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "instance",
    ]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat", "heatmap")
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert '{instance=~"$instance"' in target["expr"] or "ALERTS" in target["expr"]


def test_the_monitoring_profile_is_as_closed_as_the_service() -> None:
    """From this machine only, nothing to write but its own volume, no privileges, no password."""
    compose = load(DOCKER / "compose.yaml")
    monitoring = {
        name: service
        for name, service in compose["services"].items()
        if "monitoring" in service["profiles"]
    }

    assert set(monitoring) == {"prometheus", "grafana"}
    for service in monitoring.values():
        assert service["profiles"] == ["monitoring"]
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {"mem_limit", "memswap_limit", "pids_limit", "tmpfs"} <= set(service)
        for volume in service["volumes"]:
            source, _, mode = (*volume.split(":"), "")[:3]
            if source.startswith("."):
                assert (DOCKER / source).is_dir()
                assert mode == "ro"
            else:
                assert source in compose["volumes"]
    grafana = monitoring["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_what_is_mounted_is_where_each_looks_for_it() -> None:
    """The configuration in Prometheus; data source, provider and dashboard in Grafana."""
    services = load(DOCKER / "compose.yaml")["services"]
    mounted = {
        name: dict(reversed(volume.split(":")[:2]) for volume in services[name]["volumes"])
        for name in ("prometheus", "grafana")
    }
    (source,) = load(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = load(GRAFANA / "provisioning" / "dashboards" / "alexnet.yaml")["providers"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert (DOCKER / mounted["prometheus"]["/etc/prometheus"]) == CONFIG.parent
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == load(CONFIG)["global"]["scrape_interval"]
    assert (DOCKER / mounted["grafana"][provider["options"]["path"]]) == DASHBOARD.parent
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"
    for kind in ("datasources", "dashboards"):
        folder = mounted["grafana"][f"/etc/grafana/provisioning/{kind}"]
        assert (DOCKER / folder) == GRAFANA / "provisioning" / kind


def test_prometheus_looks_for_the_services_of_compose() -> None:
    """By their names and their port, whichever profile is up."""
    services = load(DOCKER / "compose.yaml")["services"]
    (job,) = load(CONFIG)["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]

    instances = {
        name: service for name, service in services.items() if "alexnet" in service["image"]
    }
    assert set(discovery["names"]) == set(instances)
    for service in instances.values():
        assert all(port.endswith(f":{discovery['port']}") for port in service["ports"])
    assert job["job_name"] == "alexnet"
