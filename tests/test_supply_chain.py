"""What is installed is what was locked, what is known to be vulnerable is found, and what
SECURITY.md says of model files and of the image's health check holds."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from onnx import TensorProto, helper
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.errors import ModelUnusable
from service.inference.engine import Engine
from service.inference.model_file import MARK, TAIL
from tests.support.servers import PATIENCE, ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
TRAIN = [wanted for wanted in EXTRAS["train"] if not wanted.startswith("alexnet-service")]
PROJECT = PYPROJECT["project"]["dependencies"]
WANTED = {  # what each lock is for
    "build": PYPROJECT["dependency-groups"]["build"],
    "cpu": PROJECT + EXTRAS["cpu"],
    "gpu": PROJECT + EXTRAS["gpu"],
    "export": PROJECT + EXTRAS["cpu"] + EXTRAS["export"],
    "train": PROJECT + EXTRAS["cpu"] + EXTRAS["export"] + TRAIN,
    "parquet": PROJECT + EXTRAS["parquet"],
    "ray": PROJECT + EXTRAS["ray"],
    "test": PROJECT + EXTRAS["cpu"] + EXTRAS["export"] + EXTRAS["ray"] + TRAIN + EXTRAS["test"],
    "fuzz": EXTRAS["fuzz"],
}
UNHASHED = {"torch"}  # its CPU build is on an index of its own: SECURITY.md


def entries(path: Path) -> dict[str, Requirement]:
    """A lock's requirements by name; the hashes are left out."""
    text = re.sub(r"#.*|--hash=\S+|\\\n", "", path.read_text("utf-8"))
    found = [Requirement(line.strip()) for line in text.splitlines() if line.strip()]
    return {canonicalize_name(entry.name): entry for entry in found}


LOCKS = {path.stem: entries(path) for path in (ROOT / "requirements").glob("*.txt")}
CONSTRAINTS = entries(ROOT / "constraints.txt")


def version(entry: Requirement) -> str:
    """The one version that a requirement allows."""
    found = re.fullmatch(r"==([^*,]+)", str(entry.specifier))
    assert found, f"{entry} is not one exact version"
    return found[1]


def test_there_is_a_lock_for_everything_that_is_installed() -> None:
    assert LOCKS.keys() == WANTED.keys()


@pytest.mark.parametrize("name", WANTED)
def test_every_line_of_a_lock_is_an_exact_version_with_its_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    requirement = r"[a-z0-9.-]+==[\w.]+(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"

    assert re.fullmatch(rf"(?:#.*\n)*(?:{requirement})+", text)


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_has_what_pyproject_asks_for(name: str) -> None:
    for wanted in map(Requirement, WANTED[name]):
        if wanted.name in UNHASHED:
            continue
        locked = LOCKS[name][canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version(locked)), f"run scripts/lock for {wanted}"


def test_all_locks_are_parts_of_one_resolution() -> None:
    for lock in LOCKS.values():
        for name, entry in lock.items():
            assert version(entry) == version(CONSTRAINTS[name])
    assert CONSTRAINTS.keys() - {name for lock in LOCKS.values() for name in lock} == UNHASHED


def test_no_lock_holds_both_runtimes() -> None:
    assert not [
        name for name, lock in LOCKS.items() if {"onnxruntime", "onnxruntime-gpu"} <= lock.keys()
    ]


@pytest.mark.parametrize("path", ["scripts/install", "Dockerfile"])
def test_nothing_is_installed_without_its_hash_but_torch(path: str) -> None:
    text = re.sub(r"^ *#.*\n|\\\n|2?>/dev/null", "", (ROOT / path).read_text("utf-8"), flags=re.M)
    calls = re.findall(r"(?:-m pip\b|\bpip)[^&|\n]*? (?:install|wheel) [^&|\n]*", text)

    assert len(calls) >= 3
    for call in calls:
        offline = "--no-index" in call and "--no-deps" in call  # the project itself
        torch = (
            call.rstrip().endswith(" torch")
            and "--no-deps" in call
            and "-c constraints.txt" in call
        )
        assert "--require-hashes" in call or offline or torch


@contextmanager
def advisories(*vulnerable: str) -> Iterator[str]:
    """The address of a database that knows these vulnerable packages, and answers as OSV does."""

    class Database(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"id": "X-1", "summary": "Made up.", "affected": []}
            known = question["package"]["name"] in vulnerable
            answer = json.dumps({"vulns": [found]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def with_our_python(**variables: str) -> dict[str, str]:
    """This process's environment, in which the scripts find the tests' packages."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": here, **variables}


def audit(address: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "scripts" / "audit"],
        env=with_our_python(OSV_URL=address, no_proxy="*"),
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,  # it asks for each of some hundred packages
    )


def test_the_audit_fails_for_known_vulnerabilities() -> None:
    with advisories("torch", "onnxruntime-gpu") as address:
        done = audit(address)

    assert done.returncode == 1
    for name in ("torch", "onnxruntime-gpu"):
        assert re.search(rf"^{name} +{version(CONSTRAINTS[name])} +X-1", done.stdout, re.M)


def test_the_audit_passes_when_nothing_is_known() -> None:
    with advisories() as address:
        done = audit(address)

    assert done.returncode == 0
    assert "No known vulnerabilities found" in done.stderr


def test_the_audit_says_that_it_was_skipped_when_nobody_answers() -> None:
    with advisories() as address:
        pass

    done = audit(address)

    assert done.returncode == 0
    assert done.stdout.startswith("audit skipped: ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("runtime", ["cpu", "gpu"])
def test_the_document_of_an_image_names_the_packages_and_the_model_in_it(runtime: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "sbom", runtime],
        env=with_our_python(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(done.stdout) is None
    document = json.loads(done.stdout)
    components = {component["name"]: component for component in document["components"]}
    model = components.pop("alexnet.onnx")
    linux = {"sys_platform": "linux", "python_full_version": "3.12.0"}
    assert {name: component["version"] for name, component in components.items()} == {
        entry.name: version(entry)
        for entry in LOCKS[runtime].values()
        if entry.marker is None or entry.marker.evaluate(linux)
    }
    assert components.keys() >= {
        "uvloop",
        {"cpu": "onnxruntime", "gpu": "onnxruntime-gpu"}[runtime],
    }
    assert "colorama" in LOCKS[runtime].keys() - components.keys()  # it is Windows's
    for name, component in components.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
    content = (ROOT / "service/bundled/alexnet.onnx").read_bytes()
    assert model["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}]
    project = document["metadata"]["component"]
    assert (project["name"], project["version"]) == (
        f"{PYPROJECT['project']['name']}:{runtime}",
        PYPROJECT["project"]["version"],
    )


def with_external_data(model: Path, path: Path, location: str) -> Path:
    """The model file with a constant whose 16 bytes are in another file."""
    proto = onnx.load_from_string(model.read_bytes()[:-TAIL])
    constant = proto.graph.initializer.add()
    constant.name, constant.data_type = "elsewhere", TensorProto.UINT8
    constant.dims.append(16)
    constant.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        constant.external_data.add(key=key, value=value)
    node = helper.make_node("Identity", ["elsewhere"], ["read"])
    proto.graph.node.append(node)
    proto.graph.output.append(helper.make_tensor_value_info("read", TensorProto.UINT8, [16]))
    content = proto.SerializeToString()
    path.write_bytes(content + MARK + hashlib.sha256(content).hexdigest().encode())
    return path


@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "link"])
def test_a_model_file_that_reaches_outside_its_folder_is_refused(
    location: str, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    model = with_external_data(
        tiny_model, tmp_path / "models" / "model.onnx", location.format(folder=tmp_path)
    )

    with pytest.raises(ModelUnusable, match="External data path"):
        Engine.load(model, device="cpu")


@pytest.mark.parametrize(
    "load",
    [
        "from service.inference.engine import Engine; Engine.load(pathlib.Path(model))",
        "import model_export, onnxruntime; onnxruntime.InferenceSession(model)",
    ],
)
def test_the_runtime_does_not_report_to_its_maker(
    load: str, tiny_model: Path, tmp_path: Path
) -> None:
    """Official builds of ONNX Runtime do since 1.29, and begin with an id in the user's cache."""
    unset = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    subprocess.run(
        [sys.executable, "-c", f"import pathlib, sys; model = sys.argv[1]; {load}", tiny_model],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in unset}
        | {"HOME": str(tmp_path)},
        check=True,
        capture_output=True,
    )

    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
