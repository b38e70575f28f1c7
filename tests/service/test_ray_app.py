"""The application as a deployment of Ray Serve, as far as no cluster is needed."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.errors import SettingsInvalid, StartError
from service.settings import Settings
from tests.support.clusters import MISSING
from tests.support.servers import ROOT

pytestmark = [
    # ray.serve defines its settings in a way that pydantic has deprecated.
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]

CONFIGS = ROOT / "deploy" / "ray"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_batch": 0}, "ALEXNET_MAX_BATCH / --max-batch is 0"),
        ({"max_bach": 8}, "MAX_BACH / --max-bach is 8"),
        ({"port": 8000}, "port means nothing behind Ray's proxy"),
        ({"api_keys": "secret"}, "api_keys cannot be in a Serve config"),
    ],
)
def test_a_bad_setting_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    ray_app = _ray_app()

    with pytest.raises(SettingsInvalid, match=sentence) as caught:
        ray_app.build(ray_app.Arguments(settings=settings))

    assert "secret" not in str(caught.value)


def _ray_app() -> Any:
    pytest.importorskip("ray.serve", reason=MISSING)
    from service import ray_app

    return ray_app


def test_a_replica_takes_no_more_than_its_queue_holds() -> None:
    """What waits in the proxy would be refused in the replica."""
    assert _ray_app().deployment({"max_queue": 20, "max_files": 20}).max_ongoing_requests == 20
    assert _ray_app().deployment({}).max_ongoing_requests == 64


@pytest.mark.parametrize(
    ("chosen", "given", "threads", "device"),
    [
        ({}, {"CPU": 2.0}, 2, "cpu"),
        ({}, {"CPU": 0.5}, 1, "cpu"),
        ({}, {}, 0, "cpu"),
        ({"threads": 3}, {"CPU": 2.0}, 3, "cpu"),
        ({}, {"CPU": 1.0, "GPU": 0.5}, 1, "cuda"),
        ({"device": "cuda"}, {"GPU": 1.0}, 0, "cuda"),
        ({"device": "cpu"}, {"GPU": 1.0}, 0, "cpu"),
    ],
)
def test_a_replica_keeps_to_what_ray_has_given_it(
    chosen: dict[str, Any], given: dict[str, float], threads: int, device: str
) -> None:
    settings = _ray_app().within(Settings(**{"device": "auto", **chosen}), given)

    assert (settings.threads, settings.device) == (threads, device)


def test_cuda_without_a_gpu_from_ray_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="Ray has given the replica no GPU"):
        _ray_app().within(Settings(device="cuda"), {"CPU": 2.0})


def test_the_number_of_a_gpu_is_refused_since_ray_chooses_it() -> None:
    with pytest.raises(SettingsInvalid, match="Ray chooses the GPU of each replica"):
        _ray_app().within(Settings(gpu=0), {"GPU": 1.0})


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_ray_knows_every_word_of_a_serve_config(config: Path) -> None:
    ray_app = _ray_app()
    from ray.serve.schema import ServeDeploySchema

    given = yaml.safe_load(config.read_text())
    schema = ServeDeploySchema(**given)
    (application,) = schema.applications
    (deployment,) = application.deployments

    # Unknown words are not refused, but left out.
    taken = schema.model_dump(mode="json", warnings=False)
    assert _words(given) <= _words(taken)
    assert application.import_path == "service.ray_app:build"
    assert deployment.name == ray_app.NAME
    ray_app.build(ray_app.Arguments(**application.args))


def _words(given: Any, path: str = "") -> set[str]:
    """The keys of nested mappings, each with those that it is under."""
    if isinstance(given, list):
        return {word for part in given for word in _words(part, path)}
    if not isinstance(given, dict):
        return set()
    return {f"{path}/{key}" for key in given}.union(
        *(_words(value, f"{path}/{key}") for key, value in given.items())
    )


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "service.ray_app", raising=False)

    with pytest.raises(StartError, match="Ray Serve is not installed: scripts/install run ray, "):
        import_module("service.ray_app")


def test_the_service_without_ray_serve_imports_no_ray() -> None:
    program = "import sys, service.app, service.__main__; sys.exit('ray' in sys.modules)"

    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
