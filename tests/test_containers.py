"""
What docs/containers.md says of the image and of compose.yaml, as far as no engine is needed; and
docker/smoke.sh, where there is one and it is asked for.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from service.settings import Settings
from tests.support.images import image
from tests.support.servers import PATIENCE, Live, certified, environment, serving

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
OURS = ("cpu", "gpu")
ASKED = "ALEXNET_TEST_CONTAINERS"


@dataclass
class Stage:
    """One `FROM` of the Dockerfile with what follows it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, instruction: str) -> list[str]:
        """What stands behind each of the stage's instructions of this name."""
        return [rest for name, rest in self.instructions if name == instruction]

    def sources(self) -> set[str]:
        """The stages that this one is built from."""
        copied = [re.match(r"--from=(\S+)", rest) for rest in self.arguments("COPY")]
        return {self.base} | {found[1] for found in copied if found}


@cache
def stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name; the last one, which has none, is `""`."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.M)).splitlines()
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(None, lines):
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name] = Stage(base, name)
        elif current is not None:
            current.instructions.append((instruction, rest))
    return found


def needed(name: str) -> set[str]:
    """The stages that are run to build this one."""
    names = {name}
    for source in stages()[name].sources() & stages().keys():
        names |= needed(source)
    return names


def line_of(name: str) -> Iterator[Stage]:
    """A stage and those that it stands on, the last one first."""
    stage: Stage | None = stages()[name]
    while stage:
        yield stage
        stage = stages().get(stage.base)


def told(instruction: str) -> list[str]:
    """What the image is told by an instruction, the word that counts first."""
    return [rest for stage in line_of("") for rest in reversed(stage.arguments(instruction))]


def in_context(path: str) -> bool:
    """Whether the build sees a file: .dockerignore's last word on it or on a folder of its."""
    patterns = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    seen = True
    here = [PurePosixPath(path), *PurePosixPath(path).parents[:-1]]
    for pattern in patterns:
        if pattern and not pattern.startswith("#"):
            plain = pattern.removeprefix("!")
            escaped = re.escape(plain).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(escaped, str(place)) for place in here):
                seen = pattern.startswith("!")
    return seen


def copied() -> list[str]:
    """What is copied from the context, with the build arguments' own defaults and both runtimes."""
    found = []
    for stage in stages().values():
        defaults = dict(rest.split("=", 1) for rest in stage.arguments("ARG"))
        for rest in stage.arguments("COPY"):
            words = [word for word in rest.split() if not word.startswith("--")]
            if "--from=" not in rest:
                for runtime in OURS:
                    values = defaults | {"RUNTIME": runtime}
                    found += [Template(word).substitute(values) for word in words[:-1]]
    return sorted(set(found))


def test_what_the_image_is_copied_from_is_there_and_in_the_context() -> None:
    assert {"requirements/cpu.txt", "requirements/gpu.txt"} < set(copied())
    for path in copied():
        assert (ROOT / path).exists(), f"the Dockerfile copies {path}"
        assert in_context(path), f".dockerignore leaves out {path}"
        assert not (ROOT / path).is_dir() or in_context(f"{path}/__init__.py")


@pytest.mark.parametrize("path", ["mine.onnx", "models/classes.txt", "a/b/c.pth", "x.pt"])
def test_ones_own_weights_are_in_the_context(path: str) -> None:
    assert in_context(path)


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv-test/lib/x.onnx",
        "api-keys",
        "docker/compose.yaml",
        "key.pem",
        "service/__pycache__/app.cpython-312.pyc",
        "tests/conftest.py",
    ],
)
def test_nothing_else_is_in_the_context(path: str) -> None:
    """Neither secrets nor what would only slow the build down."""
    assert not in_context(path)


def test_only_the_image_that_is_exported_needs_torch() -> None:
    """A builder that leaves out what the target does not need, leaves out the exporter."""
    assert needed("") == {"", "runtime", "wheels", "application", "project", "build"}
    assert needed("exported") - needed("") == {"exported", "export", "exporter"}


def test_without_arguments_the_image_is_the_small_one_and_the_first_lines_tell_the_other() -> None:
    assert stages()["wheels"].arguments("ARG") == ["RUNTIME=cpu"]
    assert "RUNTIME ?= cpu\n" in (ROOT / "Makefile").read_text("utf-8")
    beginning = (ROOT / "Dockerfile").read_text("utf-8").splitlines()[:6]
    assert any("docker build" in line and "RUNTIME=gpu" in line for line in beginning)


def test_the_image_runs_as_a_numeric_user_and_handles_its_own_signals() -> None:
    """Kubernetes' runAsNonRoot asks for a number; a shell would keep SIGTERM to itself."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", told("USER")[0])
    assert told("STOPSIGNAL")[0] == "SIGTERM"
    assert json.loads(told("ENTRYPOINT")[0]) == ["alexnet"]
    assert json.loads(told("CMD")[0]) == ["serve"]
    assert json.loads(told("HEALTHCHECK")[0].split("CMD", 1)[1])[0] == "python"
    assert "PYTHONUNBUFFERED=1" in " ".join(told("ENV")).split()


def test_the_images_variables_are_settings() -> None:
    ours = set(re.findall(r"ALEXNET_(\w+)=", " ".join(told("ENV"))))

    assert ours == {"HOST", "PORT", "MODEL"}
    assert {name.lower() for name in ours} <= Settings.model_fields.keys()


def test_the_labels_say_what_pyproject_says() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="(.*?)"', told("LABEL")[0]))

    assert labels["title"] == PROJECT["name"]
    assert labels["description"] == PROJECT["description"]
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels.keys() >= {"source", "revision"}


@pytest.mark.parametrize("name", OURS)
def test_compose_gives_the_service_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert not service.keys() & {"cap_add", "privileged", "user", "network_mode", "pid", "devices"}


def test_compose_rotates_all_logs() -> None:
    """The driver's own default keeps everything."""
    for service in COMPOSE["services"].values():
        assert service["logging"]["driver"] == "json-file"
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_compose_opens_nothing_to_other_machines() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"


@pytest.mark.parametrize("name", OURS)
def test_compose_starts_what_the_profile_is_called_after(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["profiles"] == [name]
    assert service["build"] == {"context": "..", "args": {"RUNTIME": name}}
    assert service["image"] == f"alexnet-service:{name}"
    assert service["environment"] == {"ALEXNET_DEVICE": {"cpu": "cpu", "gpu": "cuda"}[name]}


@pytest.mark.parametrize("name", OURS)
def test_composes_limits_leave_room_for_the_services_own(name: str) -> None:
    service, settings = COMPOSE["services"][name], Settings()
    gibibytes = int(service["mem_limit"].removesuffix("g"))
    held = settings.max_uploads + 16 * settings.max_decoding_pixels  # bytes a pixel, at most

    assert int(service["stop_grace_period"].removesuffix("s")) > settings.shutdown_timeout
    assert service["ulimits"]["nofile"] >= 2 * settings.max_connections + 384  # within_file_limit
    assert held < gibibytes * 2**30
    assert service["memswap_limit"] == service["mem_limit"]


def test_compose_gives_the_gpu_to_the_gpu_service_alone() -> None:
    (device,) = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]

    chosen = ["${ALEXNET_GPU:-0}"]
    assert device == {"driver": "nvidia", "device_ids": chosen, "capabilities": ["gpu"]}
    assert "deploy" not in COMPOSE["services"]["cpu"]


def docker_compose() -> list[str]:
    """The command, as a plug-in of Docker's or by itself; neither needs an engine for this."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, text=True)
            if done.returncode == 0 and " v1." not in done.stdout:
                return command
    pytest.skip("needs Docker Compose 2 or later: https://docs.docker.com/compose/install/")


@pytest.mark.external
@pytest.mark.parametrize("profiles", [["cpu"], ["gpu"], ["cpu", "monitoring"]], ids="+".join)
def test_docker_compose_reads_the_file_as_it_is_meant(profiles: list[str]) -> None:
    services = composed(profiles)

    assert {name for its in services.values() for name in its["profiles"]} == set(profiles)
    for its in services.values():
        assert its["read_only"]
        assert all(port["host_ip"] == "127.0.0.1" for port in its["ports"])


@pytest.mark.external
def test_compose_starts_one_container_for_each_gpu() -> None:
    first = composed(["gpu"])["gpu"]
    second = composed(["gpu"], ALEXNET_GPU="1", ALEXNET_PORT="8001")["gpu"]

    assert [its["ports"][0]["published"] for its in (first, second)] == ["8000", "8001"]
    devices = [its["deploy"]["resources"]["reservations"]["devices"] for its in (first, second)]
    assert [[device["device_ids"] for device in each] for each in devices] == [[["0"]], [["1"]]]


def composed(profiles: list[str], **variables: str) -> dict[str, Any]:
    """The services of these profiles, as Docker Compose understands the file."""
    chosen = [f"--profile={name}" for name in profiles]
    command = [*docker_compose(), "-f", str(DOCKER / "compose.yaml"), *chosen, "config"]

    done = subprocess.run(
        [*command, "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment() | variables,
    )

    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def health_check(**settings: object) -> int:
    """The status with which the image's health check ends where the service has these settings."""
    file = DOCKER / "healthcheck.py"
    patient = re.sub(
        r"^TIMEOUT = [\d.]+", f"TIMEOUT = {PATIENCE}", file.read_text("utf-8"), flags=re.M
    )
    names: dict[str, Any] = {"__name__": "__main__"}
    with patch.dict(os.environ, environment(**settings), clear=True):
        try:
            exec(compile(patient, file, "exec"), names)
        except SystemExit as end:
            return int(end.code or 0)
        except OSError:
            return 1  # as Python ends
        finally:
            names["connection"].close()
    return 0


def port_of(server: Live) -> int:
    return int(server.url.rpartition(":")[2])


def test_the_health_check_fails_while_the_service_drains(tiny_model: Path) -> None:
    """Accepted work is still done, but nobody should be sent here."""
    with serving(tiny_model) as server, ThreadPoolExecutor() as pool, server.gate.closed() as gate:
        before = health_check(host="0.0.0.0", port=port_of(server))
        accepted = pool.submit(server.client.post, "/v1/predict", content=image())
        gate.until_held()

        server.terminate()
        until_draining(server)
        during = health_check(host="0.0.0.0", port=port_of(server))

        gate.open()
        assert accepted.result().status_code == 200
        assert (before, during) == (0, 1)
    assert health_check(port=port_of(server)) == 1


def test_the_health_check_asks_where_vertex_ai_has_put_the_service(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tiny_model) as server:
        monkeypatch.setenv("AIP_HTTP_PORT", str(port_of(server)))

        assert health_check(port=1) == 0


def until_draining(server: Live) -> None:
    end = time.monotonic() + PATIENCE
    while server.client.get("/readyz").json()["status"] != "draining":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_health_check_asks_the_second_port_where_there_is_one(tiny_model: Path) -> None:
    """All connections of the main one are taken."""
    with (
        serving(tiny_model, max_connections=1, admin_port=0) as server,
        socket.create_connection(("127.0.0.1", port_of(server))) as caller,
    ):
        caller.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        main = health_check(port=port_of(server))
        admin = server.app.state.service.admin_port
        second = health_check(port=port_of(server), admin_port=admin)

    assert (main, second) == (1, 0)


def test_the_health_check_believes_a_certificate_of_any_name(
    tiny_model: Path, tmp_path: Path
) -> None:
    certificate, key = certified(tmp_path, "alexnet.example")
    with serving(tiny_model, ssl_certfile=certificate, ssl_keyfile=key) as server:
        port = port_of(server)

        assert health_check(port=port, ssl_certfile=certificate) == 0
        assert health_check(port=port) == 1


def test_without_an_engine_the_smoke_test_says_what_is_missing(tmp_path: Path) -> None:
    """It gets that far: what it sends is there."""
    for tool in ("bash", "cat", "dirname", "mktemp", "rm", "true"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    (tmp_path / "curl").symlink_to(tmp_path / "true")

    done = subprocess.run(
        [DOCKER / "smoke.sh"], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )

    assert done.returncode == 1
    assert "neither a Docker engine nor buildah and crun here" in done.stderr


@pytest.mark.external
@pytest.mark.skipif(
    os.environ.get(ASKED) != "1",
    reason=f"set {ASKED}=1 to build and run the cpu image: needs a Docker engine, or as root "
    "buildah, crun and debootstrap",
)
def test_the_cpu_image_is_built_runs_answers_and_stops() -> None:
    done = subprocess.run(
        [DOCKER / "smoke.sh"], capture_output=True, text=True, timeout=1200, cwd=ROOT
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("-- all well\n")
