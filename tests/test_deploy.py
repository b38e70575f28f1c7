"""What `deploy/` says of Kubernetes and KServe is valid, and true of the service itself."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings, load_settings
from tests.support.images import image
from tests.support.servers import PATIENCE, Live, certified, serving, serving_process

# kubectl builds each overlay once for all of them.
pytestmark = pytest.mark.external

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ADAPTER = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text("utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]

OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
BUILDS = [(name, ()) for name in OVERLAYS] + [
    (overlay, (component,)) for overlay in ("cpu", "gpu") for component in COMPONENTS
]
# The example's components, those too that it has as comments: a copy of it has some of them.
OFFERED = re.findall(
    r"^  (?:# )?- (\.\./\.\./components/[\w-]+|model)$",
    (KUBERNETES / "overlays" / "example" / "kustomization.yaml").read_text("utf-8"),
    re.M,
)
BUILDS += [("mine", ()), *(("mine", (path,)) for path in OFFERED), ("mine", tuple(OFFERED))]
OLDEST = "1.30"  # the kubelet's own pause before SIGTERM
OLDEST_WITH_IMAGES = "1.31"  # as volumes
# Of the Prometheus operator, KEDA and KServe: nothing that we install has their schemas.
FOREIGN = {"PodMonitor", "ScaledObject", "ServingRuntime", "InferenceService"}

Object = dict[str, Any]


@cache
def kustomized(folder: Path) -> list[Object]:
    """What `kubectl apply -k` would send."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("needs kubectl (Debian: apt-get install kubernetes-client)")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # a warning, such as of a field that is going away
    return list(yaml.safe_load_all(done.stdout))


@cache
def built(overlay: str, components: tuple[str, ...] = ()) -> list[Object]:
    """An overlay, and components on top of it as in an overlay of one's own."""
    if overlay == "mine":
        return copied(components)
    base = KUBERNETES / "overlays" / overlay
    if not components:
        return kustomized(base)
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        own = {
            "resources": [os.path.relpath(base, folder)],
            "components": [
                os.path.relpath(KUBERNETES / "components" / component, folder)
                for component in components
            ],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
        return kustomized(folder)


def copied(components: tuple[str, ...]) -> list[Object]:
    """The example as docs/kubernetes.md has it copied, with these of its components alone."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve() / "kubernetes"
        shutil.copytree(KUBERNETES, folder)
        own = shutil.copytree(folder / "overlays" / "example", folder / "overlays" / "mine")
        written = yaml.safe_load((own / "kustomization.yaml").read_text("utf-8"))
        written["components"] = list(components)
        (own / "kustomization.yaml").write_text(yaml.safe_dump(written))
        return kustomized(own)


def of_kind(objects: list[Object], kind: str) -> Object:
    """The only object of its kind."""
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def container(pod: Object) -> Object:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def pod_of(objects: list[Object]) -> Object:
    """The specification of the Deployment's pods."""
    pod = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def environment_of(objects: list[Object]) -> dict[str, str]:
    """What the Deployment's container finds in its environment."""
    its = container(pod_of(objects))
    found: dict[str, str] = {}
    for source in its["envFrom"]:
        settings = of_kind(objects, "ConfigMap")
        assert source["configMapRef"]["name"] == settings["metadata"]["name"]
        found |= settings["data"]
    return found | {variable["name"]: variable["value"] for variable in its.get("env", [])}


def inference_services() -> list[Object]:
    """The one with a runtime, and the one without."""
    custom = (DEPLOY / "kserve" / "inferenceservice-custom.yaml").read_text("utf-8")
    return [of_kind(kustomized(DEPLOY / "kserve"), "InferenceService"), yaml.safe_load(custom)]


def kserve() -> dict[str, tuple[Object, Object]]:
    """Each way to run under KServe: the container, and the pod's specification around it."""
    runtime = of_kind(kustomized(DEPLOY / "kserve"), "ServingRuntime")["spec"]
    of_runtime, custom = (each["spec"]["predictor"] for each in inference_services())
    merged = container(runtime) | {"lifecycle": of_runtime["model"]["lifecycle"]}
    return {
        "runtime": (merged, {"volumes": runtime["volumes"]}),
        "custom": (container(custom), {"volumes": custom["volumes"]}),
    }


def variables(its: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in its["env"]}


@pytest.fixture(params=BUILDS, ids=lambda build: "+".join((build[0], *build[1])))
def build(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    """Every overlay, and each component on either of the two."""
    chosen: tuple[str, tuple[str, ...]] = request.param
    return chosen


@pytest.fixture
def objects(build: tuple[str, tuple[str, ...]]) -> list[Object]:
    return built(*build)


# Valid


@cache
def validate(text: str, version: str) -> None:
    """Against the OpenAPI schemas of that Kubernetes; unknown fields are refused.  Snapshot those
    takes its time, and most objects are the same in every build."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("version", ["oldest", "newest"])
def test_every_object_is_what_kubernetes_calls_valid(objects: list[Object], version: str) -> None:
    volumes = pod_of(objects)["volumes"]
    oldest = OLDEST_WITH_IMAGES if any("image" in volume for volume in volumes) else OLDEST
    asked = oldest if version == "oldest" else kubernetes_validate.latest_version()

    for each in objects:
        if each["kind"] not in FOREIGN:
            validate(json.dumps(each), asked)


@pytest.mark.parametrize("way", ["runtime", "custom"])
def test_the_containers_that_kserve_starts_are_what_kubernetes_calls_valid(way: str) -> None:
    its, around = kserve()[way]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "alexnet"},
        "spec": {"containers": [its], **around},
    }

    for version in (OLDEST, kubernetes_validate.latest_version()):
        validate(json.dumps(pod), version)


# True of the service


def accepted(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings as the service reads them from this environment."""
    ours = {name for name in given if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= Settings.model_fields.keys()
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name in ours:
        monkeypatch.setenv(name, given[name])
    return load_settings()


def test_the_settings_are_the_services_own_and_the_ports_are_those_of_the_pods(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = accepted(environment_of(objects), monkeypatch)

    ports = {port["name"]: port["containerPort"] for port in container(pod_of(objects))["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert (settings.host, settings.admin_host) == ("0.0.0.0", "0.0.0.0")
    (served,) = of_kind(objects, "Service")["spec"]["ports"]
    assert served["targetPort"] == "http"
    told = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert told["prometheus.io/port"] == str(settings.admin_port)
    allowed = of_kind(objects, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in allowed for port in rule["ports"]} == ports.keys()


def test_the_second_port_is_open_to_prometheus_alone_and_nothing_goes_out(
    build: tuple[str, tuple[str, ...]], objects: list[Object]
) -> None:
    policy = of_kind(objects, "NetworkPolicy")["spec"]
    (admin,) = [rule for rule in policy["ingress"] if {"port": "admin"} in rule["ports"]]

    assert admin["ports"] == [{"port": "admin"}]
    assert admin["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    out = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert out == ({4318, 53} if "tracing" in build[1] else set())  # the collector, and its name


@pytest.mark.parametrize("way", ["runtime", "custom"])
def test_under_kserve_the_settings_are_the_services_own_and_the_port_is_the_pods(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    its, _ = kserve()[way]

    settings = accepted(variables(its), monkeypatch)

    (port,) = its["ports"]
    assert (port["name"], port["containerPort"]) == ("http1", settings.port)
    assert settings.host == "0.0.0.0"


def test_variables_that_kubernetes_makes_up_for_a_service_do_not_become_settings(
    objects: list[Object],
) -> None:
    """A Service called alexnet would bring ALEXNET_PORT=tcp://10.0.0.1:80."""
    assert pod_of(objects)["enableServiceLinks"] is False
    for service in inference_services():
        assert service["spec"]["predictor"]["enableServiceLinks"] is False


def moved(given: dict[str, str], **files: object) -> dict[str, Any]:
    """A pod's settings at addresses of this machine, without a GPU.  `files` are elsewhere here."""
    settings: dict[str, Any] = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in given.items()
        if name.startswith(PREFIX)
    }
    settings |= {"host": "127.0.0.1", "port": 0, "device": "cpu", **files}
    if "admin_port" in settings:
        settings |= {"admin_host": "127.0.0.1", "admin_port": 0}
    settings.pop("model", None)
    return settings


@contextmanager
def running(
    given: dict[str, str], arguments: list[str], model: Path, **files: object
) -> Iterator[tuple[Live, dict[int, httpx2.Client]]]:
    """The service as a pod runs it, and a client for each port that it has there."""
    assert arguments == ["serve"]
    with ExitStack() as block:
        live = block.enter_context(serving(model, **moved(given, **files)))
        scheme, _, here = live.url.partition(":")
        ports = {given[f"{PREFIX}PORT"]: here.rpartition(":")[2]}
        if f"{PREFIX}ADMIN_PORT" in given:
            ports[given[f"{PREFIX}ADMIN_PORT"]] = live.app.state.service.admin_port
        clients = {
            int(port): block.enter_context(
                httpx2.Client(
                    base_url=f"{scheme}://127.0.0.1:{here}",
                    trust_env=False,
                    verify=False,
                    timeout=PATIENCE,
                )
            )
            for port, here in ports.items()
        }
        yield live, clients


def test_the_image_runs_what_the_container_is_given(tiny_model: Path) -> None:
    objects = built("cpu")
    arguments = container(pod_of(objects))["args"]

    assert 'ENTRYPOINT ["alexnet"]' in DOCKERFILE
    settings = moved(environment_of(objects))
    with serving_process(tiny_model, program=("-m", "service", *arguments), **settings) as live:
        assert live.client.get("/readyz").status_code == 200


def probes(its: Object) -> Iterator[tuple[str, int, str]]:
    """Path, port and scheme of each of a container's probes."""
    named = {port["name"]: port["containerPort"] for port in its["ports"]}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if name in its:
            asked = its[name]["httpGet"]
            port = asked["port"]
            yield asked["path"], named.get(port, port), asked.get("scheme", "HTTP").lower()


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "example"])
def test_a_pod_answers_its_probes_and_shows_its_metrics_on_the_second_port_alone(
    overlay: str, tiny_model: Path, tmp_path: Path
) -> None:
    objects = built(overlay)
    its = container(pod_of(objects))
    given = environment_of(objects)
    keys = tmp_path / "api-keys"
    keys.write_text("a-key-that-nobody-has\n")
    keys.chmod(0o600)
    files = {"api_keys_file": keys} if "ALEXNET_API_KEYS_FILE" in given else {}

    with running(given, its["args"], tiny_model, **files) as (_, clients):
        answers = [clients[port].get(path) for path, port, _ in probes(its)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        told = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        at = told["prometheus.io/path"], int(told["prometheus.io/port"])
        assert clients[at[1]].get(at[0]).status_code == 200
        assert clients[int(given["ALEXNET_PORT"])].get(at[0]).status_code == 404
        asked = clients[int(given["ALEXNET_PORT"])].post(
            "/v1/predict", content=image(), headers={"Content-Type": "image/jpeg"}
        )
        assert asked.status_code == (401 if files else 200)


def test_with_tls_the_probes_speak_it_too(tiny_model: Path, tmp_path: Path) -> None:
    objects = built("cpu", ("tls",))
    its = container(pod_of(objects))
    certificate, key = certified(tmp_path)

    with running(
        environment_of(objects),
        its["args"],
        tiny_model,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    ) as (live, clients):
        for path, port, scheme in probes(its):
            assert live.url.startswith(f"{scheme}://")
            assert clients[port].get(path).status_code == 200


def test_with_tls_prometheus_asks_by_it_too() -> None:
    """By the pods' addresses, which no certificate names."""
    (endpoint,) = of_kind(built("cpu", ("monitoring", "tls")), "PodMonitor")["spec"][
        "podMetricsEndpoints"
    ]

    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})


@pytest.mark.parametrize("way", ["runtime", "custom"])
def test_under_kserve_the_probes_are_answered_and_the_service_is_called_as_its_model(
    way: str, tiny_model: Path
) -> None:
    its, _ = kserve()[way]
    (port,) = its["ports"]

    with running(variables(its), its["args"], tiny_model) as (_, clients):
        main = clients[port["containerPort"]]
        for path, at, _ in probes(its):
            assert clients[at].get(path).status_code == 200
        for each in inference_services():
            answer = main.get(f"/v2/models/{each['metadata']['name']}")
            assert answer.status_code == 200
        assert main.get("/metrics").status_code == 404


def test_a_model_that_kserve_downloads_is_where_the_service_looks() -> None:
    runtime = of_kind(kustomized(DEPLOY / "kserve"), "ServingRuntime")["spec"]
    predictor = of_kind(kustomized(DEPLOY / "kserve"), "InferenceService")["spec"]["predictor"]

    assert variables(container(runtime))["ALEXNET_MODEL"] == "/mnt/models/alexnet.onnx"
    wanted = {"name": predictor["model"]["modelFormat"]["name"], "version": "1"}
    assert wanted.items() <= runtime["supportedModelFormats"][0].items()
    assert predictor["model"]["protocolVersion"] in runtime["protocolVersions"]


# The promises of the manifests to each other


def test_what_was_accepted_has_its_time_between_the_pause_and_the_kill(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pod_of(objects)
    settings = accepted(environment_of(objects), monkeypatch)
    pause = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]

    # 2 s to write the last answers out and to end.
    assert pod["terminationGracePeriodSeconds"] >= pause + settings.shutdown_timeout + 2


def test_under_kserve_too(monkeypatch: pytest.MonkeyPatch) -> None:
    its, _ = kserve()["runtime"]
    predictor = of_kind(kustomized(DEPLOY / "kserve"), "InferenceService")["spec"]["predictor"]
    settings = accepted(variables(its), monkeypatch)
    pause = its["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert predictor["terminationGracePeriodSeconds"] >= pause + settings.shutdown_timeout + 2


def test_the_pods_meet_the_restricted_standard_that_their_namespace_enforces(
    objects: list[Object],
) -> None:
    labels = of_kind(objects, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = pod_of(objects)
    (user,) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    (uid, gid) = map(int, user)

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (uid, gid)
    assert pod["securityContext"].get("fsGroup", gid) == gid
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(pod)["securityContext"] == LOCKED
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim", "image"}
    assert pod["automountServiceAccountToken"] is False
    assert of_kind(objects, "ServiceAccount")["automountServiceAccountToken"] is False


LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.mark.parametrize("way", ["runtime", "custom"])
def test_under_kserve_the_container_has_as_few_rights(way: str) -> None:
    its, _ = kserve()[way]

    assert LOCKED.items() <= its["securityContext"].items()
    assert f"USER {its['securityContext']['runAsUser']}:" in DOCKERFILE
    assert its["securityContext"]["runAsNonRoot"] is True


def test_tmp_is_the_only_place_that_can_be_written(objects: list[Object]) -> None:
    pod = pod_of(objects)
    writable = [each for each in container(pod)["volumeMounts"] if not each.get("readOnly")]

    assert [mount["mountPath"] for mount in writable] == ["/tmp"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == writable[0]["name"]]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


def test_a_volume_comes_and_goes_with_its_mount(objects: list[Object]) -> None:
    pod = pod_of(objects)

    assert {each["name"] for each in pod["volumes"]} == {
        each["name"] for each in container(pod)["volumeMounts"]
    }


def test_the_example_asks_for_nothing_but_a_secret_and_offers_the_rest() -> None:
    """What it offers beside needs kinds, or a Kubernetes, that not every cluster has."""
    assert OFFERED == ["../../components/api-keys", "../../components/monitoring", "model"]
    example = built("example")
    assert not {each["kind"] for each in example} & FOREIGN
    assert {kind for each in pod_of(example)["volumes"] for kind in each.keys() - {"name"}} == {
        "emptyDir",
        "secret",
    }
    (named,) = [each for each in pod_of(built("mine", ("model",)))["volumes"] if "image" in each]
    assert (
        named["image"]["reference"] == "registry.example.com/alexnet-model:2"
    )  # not the component's


def test_what_is_read_from_a_file_is_mounted(objects: list[Object]) -> None:
    given = environment_of(objects)
    mounts = [Path(each["mountPath"]) for each in container(pod_of(objects))["volumeMounts"]]

    for name in ("API_KEYS_FILE", "SSL_CERTFILE", "SSL_KEYFILE", "MODEL"):
        if (path := given.get(PREFIX + name)) is not None:
            assert Path(path).parent in mounts


def test_an_image_has_a_version_and_is_pulled_once(
    build: tuple[str, tuple[str, ...]], objects: list[Object]
) -> None:
    its = container(pod_of(objects))
    runtime = "gpu" if build[0] == "gpu" else "cpu"
    device = environment_of(objects)["ALEXNET_DEVICE"]

    assert its["image"].rpartition(":")[2] == f"{VERSION}-{runtime}"
    assert its["imagePullPolicy"] == "IfNotPresent"
    assert device == {"gpu": "cuda", "cpu": "cpu"}[runtime]
    for volume in pod_of(objects)["volumes"]:
        if "image" in volume:
            assert re.search(r":(?!latest$)[\w.-]+$", volume["image"]["reference"])


@pytest.mark.parametrize("way", ["runtime", "custom"])
def test_under_kserve_too_an_image_has_a_version(way: str) -> None:
    its, _ = kserve()[way]

    assert its["image"] == f"alexnet-service:{VERSION}-cpu"
    assert its["imagePullPolicy"] == "IfNotPresent"


def test_the_quota_is_whole_cores_so_that_threads_are_as_many(objects: list[Object]) -> None:
    """service/cgroups.py takes the limit; only where requests equal limits is it also promised."""
    resources = container(pod_of(objects))["resources"]

    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"].isdigit()
    for its, _ in kserve().values():
        assert its["resources"]["limits"] == its["resources"]["requests"]
        assert its["resources"]["limits"]["cpu"].isdigit()


def test_only_the_gpu_overlay_asks_for_a_gpu(
    build: tuple[str, tuple[str, ...]], objects: list[Object]
) -> None:
    pod = pod_of(objects)
    tolerated = [toleration["key"] for toleration in pod.get("tolerations", [])]
    asked = container(pod)["resources"]["limits"].get("nvidia.com/gpu")

    assert (asked, tolerated) == (("1", ["nvidia.com/gpu"]) if build[0] == "gpu" else (None, []))
    # `all`, the image's value, stays for the device plugin to replace; without a GPU it must go.
    assert environment_of(objects).get("NVIDIA_VISIBLE_DEVICES") == (
        None if build[0] == "gpu" else "void"
    )


def test_every_selector_finds_the_pods(objects: list[Object]) -> None:
    labels = of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        of_kind(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "Service")["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    selectors += [
        spread["labelSelector"]["matchLabels"]
        for spread in pod_of(objects)["topologySpreadConstraints"]
    ]
    selectors += [
        each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] == "PodMonitor"
    ]

    for selector in selectors:
        assert selector
        assert selector.items() <= labels


def test_all_is_in_one_namespace(objects: list[Object]) -> None:
    name = of_kind(objects, "Namespace")["metadata"]["name"]

    assert {each["metadata"]["namespace"] for each in objects if each["kind"] != "Namespace"} == {
        name
    }


def scaled(objects: list[Object]) -> tuple[int, int, str]:
    """Fewest and most replicas, and the Deployment that has them."""
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            assert (target["apiVersion"], target["kind"]) == ("apps/v1", "Deployment")
            return spec["minReplicas"], spec["maxReplicas"], target["name"]
        if each["kind"] == "ScaledObject":
            return spec["minReplicaCount"], spec["maxReplicaCount"], spec["scaleTargetRef"]["name"]
    raise AssertionError("nothing scales")


def test_neither_a_drained_node_nor_a_rollout_takes_the_last_replica(
    objects: list[Object],
) -> None:
    deployment = of_kind(objects, "Deployment")
    fewest, most, target = scaled(objects)
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    rollout = deployment["spec"]["strategy"]["rollingUpdate"]

    assert target == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each apply would undo the autoscaler's work
    assert 1 <= budget["maxUnavailable"] < fewest <= most  # 0 would block a drain for ever
    assert rollout["maxUnavailable"] < fewest
    assert rollout["maxUnavailable"] + rollout["maxSurge"] >= 1


def test_a_process_that_ends_with_status_70_is_started_again(objects: list[Object]) -> None:
    assert pod_of(objects).get("restartPolicy", "Always") == "Always"


# Scaling


def metric(objects: list[Object]) -> Object:
    """The HorizontalPodAutoscaler's metric of pods."""
    metrics = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    (found,) = [each["pods"] for each in metrics if each["type"] == "Pods"]
    assert isinstance(found, dict)
    return found


def query(series: str, namespace: str, pod: str) -> str:
    """What the adapter asks Prometheus, its template filled in."""
    (rule,) = ADAPTER["rules"]
    filled = {
        "<<.Series>>": series,
        "<<.LabelMatchers>>": f'namespace="{namespace}",pod=~"{pod}"',
        "<<.GroupBy>>": "pod",
    }
    text = str(rule["metricsQuery"])
    for gap, value in filled.items():
        text = text.replace(gap, value)
    assert "<<" not in text
    return text


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_autoscaler_asks_for_what_the_adapter_makes_of_metrics_that_the_service_has(
    overlay: str, tiny_model: Path
) -> None:
    (rule,) = ADAPTER["rules"]
    objects = built(overlay)
    given = environment_of(objects)

    assert metric(objects)["metric"]["name"] == rule["name"]["as"]
    series = re.match(r"\w+", rule["seriesQuery"])
    assert series
    assert re.fullmatch(rule["name"]["matches"], series[0])
    used = set(re.findall(r"\balexnet_\w+", rule["metricsQuery"])) | {series[0]}
    with running(given, container(pod_of(objects))["args"], tiny_model) as (_, clients):
        told = clients[int(given["ALEXNET_ADMIN_PORT"])].get("/metrics").text
    assert used <= set(re.findall(r"^(alexnet_\w+)", told, re.M))


def test_all_scalers_ask_for_the_same_figure(tmp_path: Path) -> None:
    """Two pods: one where ten images a second wait 0.4 s each, one that nobody asks."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    (keda,) = of_kind(built("cpu", ("keda",)), "ScaledObject")["spec"]["triggers"]
    service = of_kind(kustomized(DEPLOY / "kserve"), "InferenceService")
    (external,) = service["spec"]["predictor"]["autoScaling"]["metrics"]
    namespaces = {"alexnet": "alexnet-a|alexnet-b", "alexnet-kserve": ""}
    series = []
    for namespace, pods in (
        ("alexnet", ("alexnet-a", "alexnet-b")),
        (service["metadata"]["namespace"], ("alexnet-predictor-a", "alexnet-predictor-b")),
    ):
        for pod, waited in zip(pods, (60, 0), strict=True):  # seconds in 15 s, by 150 images
            for what, each in (("sum", waited), ("count", 150 if waited else 0)):
                name = f"alexnet_queue_duration_seconds_{what}"
                labels = f'namespace="{namespace}",pod="{pod}"'
                series.append({"series": f"{name}{{{labels}}}", "values": f"0+{each}x20"})
    assert set(namespaces) == {"alexnet", service["metadata"]["namespace"]}
    expected: dict[str, list[Object]] = {
        query("alexnet_queue_duration_seconds_count", "alexnet", "alexnet-a|alexnet-b"): [
            {"labels": '{pod="alexnet-a"}', "value": 0.4},
            {"labels": '{pod="alexnet-b"}', "value": 0},
        ],
        keda["metadata"]["query"]: [{"labels": "{}", "value": 0.4}],
        external["external"]["metric"]["query"]: [{"labels": "{}", "value": 0.4}],
    }
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": text, "eval_time": "4m", "exp_samples": samples}
                    for text, samples in expected.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))

    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_all_scalers_aim_at_the_same_wait() -> None:
    """A quarter of a second, averaged over the replicas, which is what KEDA does by default."""
    (keda,) = of_kind(built("cpu", ("keda",)), "ScaledObject")["spec"]["triggers"]
    predictor = of_kind(kustomized(DEPLOY / "kserve"), "InferenceService")["spec"]["predictor"]
    (external,) = predictor["autoScaling"]["metrics"]

    for overlay in OVERLAYS:
        assert metric(built(overlay))["target"] == {"type": "AverageValue", "averageValue": "250m"}
    assert keda["metricType"] == "AverageValue"
    assert keda["metadata"]["threshold"] == "0.25"
    # A string: KServe hands it on as it is written, and KEDA reads no `250m`.
    assert external["external"]["target"] == {"type": "Value", "value": "0.25"}


def test_scaling_is_quick_upwards_and_slow_downwards() -> None:
    behaviour = of_kind(built("cpu"), "HorizontalPodAutoscaler")["spec"]["behavior"]
    keda = of_kind(built("cpu", ("keda",)), "ScaledObject")["spec"]["advanced"]

    assert behaviour["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert keda["horizontalPodAutoscalerConfig"]["behavior"] == behaviour


def test_the_service_is_scraped_often_enough_for_a_rate_over_a_minute() -> None:
    monitored = [built("cpu", ("monitoring",)), kustomized(DEPLOY / "kserve")]

    for objects in monitored:
        (endpoint,) = of_kind(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
        assert int(endpoint["interval"].removesuffix("s")) * 2 <= 60
        job = {"targetLabel": "job", "replacement": "alexnet"}  # that alerts and dashboard ask for
        assert job in endpoint["relabelings"]
    assert "[1m]" in ADAPTER["rules"][0]["metricsQuery"]


def test_under_kserve_prometheus_is_led_to_the_second_port() -> None:
    (endpoint,) = of_kind(kustomized(DEPLOY / "kserve"), "PodMonitor")["spec"][
        "podMetricsEndpoints"
    ]
    its, _ = kserve()["runtime"]
    (port,) = its["ports"]
    lead, _ = endpoint["relabelings"]

    assert endpoint["port"] == port["name"]
    address = re.sub(lead["regex"], lead["replacement"].replace("$", "\\"), "10.0.0.1:8080")
    assert address == f"10.0.0.1:{variables(its)['ALEXNET_ADMIN_PORT']}"


# The page


def test_the_page_builds_loads_and_pushes_the_images_that_the_overlays_ask_for() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
    named = set(re.findall(r"(?:[\w.]+/)?alexnet-service:[\w.-]+", page))
    asked = {container(pod_of(built(overlay)))["image"] for overlay in OVERLAYS}

    assert named == asked
    made = re.findall(r"^docker (?:build|tag) .*?(\S*alexnet-service:\S+)(?: \.)?$", page, re.M)
    assert set(made) == asked
