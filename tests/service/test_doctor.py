"""`alexnet doctor`: each thing that can be wrong is really wrong here."""

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import cgroups
from service.cli import doctor as doctors
from service.settings import Settings
from tests.support.commands import alexnet, plain
from tests.support.servers import PATIENCE, ROOT, certified, serving
from tests.support.terminals import on_terminal, speaking

ALL = {
    "settings",
    "python",
    "packages",
    "keys",
    "cores",
    "files",
    "runtime",
    "model",
    "provider",
    "memory",
    "port",
}

WITH_AN_ENGINE = {"provider", "memory"}

Check = dict[str, Any]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A machine with time and memory, whatever else runs on it."""
    free = tmp_path_factory.mktemp("proc") / "meminfo"
    free.write_text("MemAvailable:   64000000 kB\n")
    monkeypatch.setattr(cgroups, "MEMORY", free)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One for localhost, and its key."""
    return certified(tmp_path_factory.mktemp("certificate"))


def examined(*flags: str, status: int = 0, **settings: Any) -> list[Check]:
    """What it says as JSON; the port is one that is free."""
    chosen: dict[str, Any] = {"port": 0, **settings}
    done = alexnet("doctor", "--json", *flags, **chosen)
    assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["well"] == (status == 0)
    checks: list[Check] = report["checks"]
    return checks


def only(checks: list[Check], check: str, verdict: str) -> Check:
    """The one finding that is not well."""
    (bad,) = [finding for finding in checks if finding["verdict"] != "ok"]
    assert (bad["check"], bad["verdict"]) == (check, verdict)
    assert bad["remedy"]
    return bad


def test_all_is_well_with_the_bundled_model() -> None:
    """Status 0, and every check has looked."""
    checks = examined()

    assert {finding["check"] for finding in checks} == ALL
    assert {(finding["verdict"], finding["remedy"]) for finding in checks} == {("ok", None)}, checks
    (sha256,) = [finding["found"] for finding in checks if "SHA-256" in finding["found"]]
    assert json.loads(alexnet("inspect", "--json").stdout)["sha256"] in sha256


def test_it_takes_the_flags_of_serve() -> None:
    shown = alexnet("doctor", "--help").stdout.decode()

    assert all(f"--{name.replace('_', '-')}" in shown for name in Settings.model_fields)


def test_it_goes_on_whatever_is_broken(tmp_path: Path) -> None:
    """Settings, model, keys, certificate at once: all the other checks are there."""
    half = tmp_path / "half.onnx"
    half.write_bytes((ROOT / "service/bundled/alexnet.onnx").read_bytes()[:10_000])
    broken = {"model": half, "timeout": "soon", "max_queue": 3, "docs": "admin"}
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    certificate = tmp_path / "certificate.pem"
    certificate.write_text("no certificate")

    checks = examined(status=1, **broken, api_keys_file=keys, ssl_certfile=certificate)

    failed = [finding["check"] for finding in checks if finding["verdict"] == "failed"]
    assert failed == ["settings"] * 3 + ["keys", "certificate", "model"]
    assert {finding["check"] for finding in checks} == (ALL - WITH_AN_ENGINE) | {"certificate"}
    assert all(finding["remedy"] for finding in checks if finding["verdict"] == "failed")


def test_a_misspelt_variable_is_a_warning_with_the_right_word(tiny_model: Path) -> None:
    checks = examined(model=tiny_model, max_bach=3, zzz=1)

    findings = [
        (finding["found"], finding["remedy"])
        for finding in checks
        if finding["check"] == "settings"
    ]
    meant = "Did you mean ALEXNET_MAX_BATCH?"
    assert ("unknown setting ALEXNET_MAX_BACH (ignored)", meant) in findings
    assert sum("unknown setting" in what for what, _ in findings) == 2


def test_none_in_the_environment_means_none() -> None:
    """Not beside one that is misspelt."""
    assert doctors._variables({}) == "none in the environment"
    assert doctors._variables({"ALEXNET_PRT": "80"}) is None


def test_a_value_that_is_called_like_a_setting_is_no_setting(tiny_model: Path) -> None:
    """The port is checked that was given, though a wrong device is called like it."""
    with speaking(b"") as port:
        findings = examined(status=1, model=tiny_model, device="ALEXNET_PORT", port=port)

    bad = {
        finding["check"]: finding["found"] for finding in findings if finding["verdict"] == "failed"
    }
    assert list(bad) == ["settings", "port"]
    assert str(port) in bad["port"]


def test_a_model_without_accuracy_is_a_warning(tiny_model: Path) -> None:
    bad = only(examined(model=tiny_model), "model", "warning")

    assert "--record" in bad["remedy"]


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    """One byte of it."""
    damaged = tmp_path / "damaged.onnx"
    data = bytearray((ROOT / "service/bundled/alexnet.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)

    bad = only(examined(status=1, model=damaged), "model", "failed")

    assert str(damaged) in bad["found"]
    assert "checksum" in bad["found"]


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    bad = only(examined(status=1, model=tmp_path / "gone.onnx"), "model", "failed")

    assert "gone.onnx" in bad["found"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU here")
def test_cuda_without_a_gpu_is_a_problem() -> None:
    bad = only(examined("--device", "cuda", status=1), "provider", "failed")

    assert "CUDA" in bad["found"]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU here")
def test_a_numbered_gpu_without_one_is_a_problem_and_not_the_cpu() -> None:
    bad = only(examined("--gpu", "1", device="auto", status=1), "provider", "failed")

    assert bad["found"].startswith("CUDA is not in use")


@pytest.mark.parametrize(
    ("installed", "words"), [(0, "not installed"), (2, "overwrite each other")]
)
def test_no_runtime_and_two_runtimes_are_told(
    installed: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not need one is checked all the same."""
    if installed:
        for name in ("onnxruntime", "onnxruntime_gpu"):
            record = tmp_path / f"{name}-99.0.dist-info" / "METADATA"
            record.parent.mkdir()
            record.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)

    checks = examined(status=1)

    (bad,) = [finding for finding in checks if finding["verdict"] == "failed"]
    assert bad["check"] == "runtime"
    assert words in bad["found"]
    assert bad["remedy"]
    assert {finding["check"] for finding in checks} == ALL - WITH_AN_ENGINE - {"model"}


def test_a_port_of_another_program_is_a_problem(tiny_model: Path) -> None:
    """Whether it listens or not."""
    with socket.socket() as bound, socket.create_server(("127.0.0.1", 0)) as listening:
        bound.bind(("127.0.0.1", 0))
        for taken in (bound, listening):
            port = taken.getsockname()[1]
            checks = examined(status=1, model=tiny_model, port=port)

            (bad,) = [check for check in checks if check["check"] == "port"]
            assert bad["verdict"] == "failed"
            assert f"127.0.0.1:{port}" in bad["found"]
            assert "--port" in bad["remedy"]


def test_a_port_where_this_service_answers_already_is_told_as_by_serve(tiny_model: Path) -> None:
    """In the same words, since no other would start there."""
    with serving(tiny_model) as server:
        port = int(server.url.rpartition(":")[2])
        checks = examined(status=1, model=tiny_model, port=port)
        starting = alexnet("serve", model=tiny_model, port=port)

    (bad,) = [check for check in checks if check["check"] == "port"]
    assert (bad["verdict"], starting.returncode) == ("failed", 1)
    assert starting.stderr.decode() == f"alexnet: {bad['found']}; {bad['remedy']}\n"


@pytest.mark.parametrize(
    "wrong",
    [{"cors_origins": "example.com"}, {"predict_route": "/v1/predict"}, {"api_keys": ""}],
    ids=["origin", "path", "keys"],
)
def test_what_serve_refuses_beside_that_is_told_in_its_words(
    tiny_model: Path, wrong: dict[str, Any]
) -> None:
    """It is found while the application is built."""
    checks = examined(status=1, model=tiny_model, **wrong)
    starting = alexnet("serve", model=tiny_model, port=0, **wrong)

    (bad,) = [check for check in checks if check["verdict"] == "failed"]
    assert starting.stderr.decode().rstrip(".\n") == f"alexnet: {bad['found']}; {bad['remedy']}"


def test_a_certificate_is_tried_with_its_key(
    tiny_model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of another, none, and one that ends soon."""
    file, key = certificate
    _, other = certified(tmp_path, "other")

    pair = examined(model=tiny_model, ssl_certfile=file, ssl_keyfile=key)
    wrong = examined(status=1, model=tiny_model, ssl_certfile=file, ssl_keyfile=other)
    gone = examined(status=1, model=tiny_model, ssl_certfile=tmp_path / "gone.pem")

    findings = [
        next(finding for finding in checks if finding["check"] == "certificate")
        for checks in (pair, wrong, gone)
    ]
    assert [finding["verdict"] for finding in findings] == ["warning", "failed", "failed"]
    assert "2 days" in findings[0]["found"] or "1 day" in findings[0]["found"]
    assert str(file) in findings[1]["found"]
    assert "gone.pem" in findings[2]["found"]


def test_an_expired_certificate_is_a_problem(
    tiny_model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The server would start, and no client would take it."""
    _, key = certificate
    request, old = tmp_path / "request.pem", tmp_path / "old.pem"
    for command in (
        f"req -new -key {key} -subj /CN=localhost -out {request}",
        f"x509 -req -in {request} -signkey {key} -days -1 -out {old}",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)

    checks = examined(status=1, model=tiny_model, ssl_certfile=old, ssl_keyfile=key)

    (findings,) = [finding for finding in checks if finding["check"] == "certificate"]
    assert findings["verdict"] == "failed"
    assert "expired" in findings["found"]
    assert "renewed" in findings["remedy"]


def test_keys_that_others_may_read_are_a_warning(tiny_model: Path, tmp_path: Path) -> None:
    """As the server logs it; and a file that holds none is a problem."""
    keys = tmp_path / "keys"
    keys.write_text("alice-0123456789abcdef\n")
    keys.chmod(0o644)

    checks = examined(model=tiny_model, api_keys_file=keys)

    assert ("keys", "warning", "chmod o= closes it") in [
        (finding["check"], finding["verdict"], finding["remedy"]) for finding in checks
    ]


def test_an_open_address_without_keys_is_a_warning(tiny_model: Path) -> None:
    checks = examined(model=tiny_model, host="0.0.0.0")

    assert next(finding for finding in checks if finding["check"] == "keys")["verdict"] == "warning"


def test_too_little_memory_and_too_many_threads_are_warnings(tiny_model: Path) -> None:
    checks = examined(model=tiny_model, max_uploads=10**15, threads=1000)

    warned = {finding["check"]: finding for finding in checks if finding["verdict"] == "warning"}
    assert "ALEXNET_MAX_UPLOADS" in warned["memory"]["remedy"]
    assert "1000" in warned["cores"]["found"]


def test_too_few_files_are_a_warning(tiny_model: Path) -> None:
    """As the server logs it; in a process, which alone has so few."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "doctor", "--json"],
        cwd=ROOT,
        env=plain(model=tiny_model, port=0),
        capture_output=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )

    (files,) = [
        finding for finding in json.loads(done.stdout)["checks"] if finding["check"] == "files"
    ]
    assert files["verdict"] == "warning"
    assert "ulimit -n" in files["remedy"]


def test_people_get_signs_and_what_to_do(tiny_model: Path) -> None:
    """In colours on a terminal; ASCII where that is all that can be written."""
    done = alexnet("doctor", model=tiny_model, port=0)
    status, sent = on_terminal("doctor", model=tiny_model, port=0)
    _, ascii_only = on_terminal(
        "doctor", about={"PYTHONIOENCODING": "ascii"}, model=tiny_model, port=0
    )

    text = done.stdout.decode()
    assert (done.returncode, status) == (0, 0)
    assert "✓  python" in text
    assert "!  model" in text
    assert "-> alexnet evaluate" in text
    assert text.endswith("0 problems, 1 warning.\n")
    assert "\x1b" not in text
    assert "\x1b[32m✓" in sent
    assert "✓" not in ascii_only
