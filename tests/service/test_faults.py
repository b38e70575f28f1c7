"""
What breaks while serving, and what becomes of it: who is answered, what the probes say, what the
log says, how the process ends.  Each fault is a real one, in a real process.
"""

from __future__ import annotations

import http.client
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from faults import HANGS, RAISES, plain, write_faulty
from live import ROOT, Live, certified, environment, picture, serving

from service.engine import inspect

PREDICT = "/v1/predict"
PATIENCE = 20  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def faulty_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faulty(tiny_model, tmp_path_factory.mktemp("faulty") / "faulty.onnx")


def until(told: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not told():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def copied(file: Path, to: Path) -> Path:
    shutil.copy(file, to)
    return to


def logged(server: Live, words: str) -> bool:
    return any(words in line for line in server.log)


def version(server: Live) -> str:
    return server.service.model().version


def another_version(server: Live, than: str) -> bool:
    return version(server) != than


def test_a_run_that_raises_fails_its_own_picture_alone(faulty_model: Path) -> None:
    form = {f"{mark}": plain(mark) for mark in (10, 20)}
    with serving(faulty_model, max_delay=0.3) as server, ThreadPoolExecutor() as clients:
        bad, *good = clients.map(
            lambda mark: server.client.post(PREDICT, content=plain(mark)), (RAISES, 10, 20)
        )
        after = server.client.post(PREDICT, files=form)
        ready = server.client.get("/readyz")
        mixed = server.client.post(PREDICT, files={**form, "bad": plain(RAISES)})
        alone = server.client.post(PREDICT, files={"a": plain(RAISES), "b": plain(RAISES)})

    assert (bad.status_code, bad.json()["code"]) == (500, "internal_error")
    assert [answer.status_code for answer in (*good, after, ready, mixed)] == [200] * 5
    assert [found.get("code") for found in mixed.json()["predictions"]] == [
        None,
        None,
        "internal_error",
    ]
    assert (alone.status_code, alone.json()["code"]) == (500, "internal_error")
    assert logged(server, "failed")


def test_a_run_that_hangs_ends_the_process_and_nobody_waits_for_it(faulty_model: Path) -> None:
    with (
        serving(faulty_model, run_timeout=1, shutdown_timeout=2) as server,
        ThreadPoolExecutor() as clients,
    ):
        first = clients.submit(server.client.post, PREDICT, content=plain(HANGS))
        until(lambda: bool(server.client.get("/health").json()["queue"]["pending"]))
        second = clients.submit(server.client.post, PREDICT, content=plain(10))

        answers = first.result(PATIENCE), second.result(PATIENCE)
        status = server.process.wait(PATIENCE)

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (503, "not_ready")
    ] * 2
    assert status == 70
    assert logged(server, "a run has not come back in 1 s")


def test_a_run_that_hangs_does_not_hold_up_a_stop(faulty_model: Path) -> None:
    with (
        serving(faulty_model, run_timeout=60, shutdown_timeout=1) as server,
        ThreadPoolExecutor() as clients,
    ):
        client = clients.submit(server.client.post, PREDICT, content=plain(HANGS))
        until(lambda: bool(server.client.get("/health").json()["queue"]["pending"]))
        began = time.monotonic()
        server.process.terminate()
        answer = client.result(PATIENCE)
        status = server.process.wait(PATIENCE)
        seconds = time.monotonic() - began

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert status == 70
    assert seconds < 10  # of a limit of one, and 60 for the run
    assert not logged(server, "Traceback")


def test_who_is_still_sending_does_not_hold_up_a_stop(tiny_model: Path) -> None:
    with serving(tiny_model, shutdown_timeout=1) as server:
        address = "127.0.0.1", urlsplit(server.url).port
        with socket.create_connection(address) as sender:
            sender.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n?")
            time.sleep(0.2)
            server.process.terminate()

            assert server.process.wait(PATIENCE) == 0


def test_a_stop_without_any_time_is_a_stop(tiny_model: Path) -> None:
    with serving(tiny_model, shutdown_timeout=0) as server:
        server.process.terminate()

        assert server.process.wait(PATIENCE) == 0


def test_signals_before_the_model_is_loaded_do_no_harm(tiny_model: Path) -> None:
    """SIGHUP has nothing to reload yet; SIGTERM ends with 0."""
    command = [sys.executable, "-m", "service", "serve"]
    settings = environment(port=0, model=tiny_model)
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        assert process.stdout
        handled = Path(f"/proc/{process.pid}/status")
        until(lambda: _ignores(handled, signal.SIGHUP))
        process.send_signal(signal.SIGHUP)
        assert any("answers at" in line for line in process.stdout)
        process.terminate()
        assert process.wait(PATIENCE) == 0

    with subprocess.Popen(command, cwd=ROOT, env=settings, stderr=subprocess.DEVNULL) as early:
        until(lambda: _ignores(Path(f"/proc/{early.pid}/status"), signal.SIGHUP))
        early.terminate()
        assert early.wait(PATIENCE) == 0


def _ignores(status: Path, number: int) -> bool:
    masks = dict(line.split(":\t") for line in status.read_text().splitlines() if ":\t" in line)
    return bool(int(masks["SigIgn"], 16) >> (number - 1) & 1)


DYING = """
import sys
from service.batching import Batcher

async def _serve(self, batch):
    raise LookupError("a fault of the dispatcher's own")

Batcher._serve = _serve
sys.argv = ["alexnet", "serve"]
from service.__main__ import main
main()
"""


def test_a_dispatcher_that_dies_ends_the_process_and_nobody_waits_for_it(tiny_model: Path) -> None:
    with serving(tiny_model, program=["-c", DYING]) as server:
        answer = server.client.post(PREDICT, content=picture())
        status = server.process.wait(PATIENCE)

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert status == 70
    assert logged(server, "LookupError: a fault of the dispatcher's own")


@contextmanager
def clients_of(server: Live, number: int = 8) -> Iterator[list[int | str]]:
    """Clients that ask on and on, each on a connection of its own; yields what they got."""
    outcomes: list[int | str] = []
    body = picture()
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port)
            fresh = True
            try:
                while not done.is_set() and (fresh or connection.sock):
                    connection.request("POST", PREDICT, body)
                    answer = connection.getresponse()
                    outcomes.append(answer.status)
                    answer.read()
                    fresh = False
            except ConnectionRefusedError:
                return  # nobody listens any more
            except (OSError, http.client.HTTPException) as error:
                # A connection that nobody had accepted yet when the port was closed is no loss.
                if not fresh:
                    outcomes.append(repr(error))
            finally:
                connection.close()

    with ThreadPoolExecutor(number) as pool:
        asking = [pool.submit(ask_on) for _ in range(number)]
        try:
            yield outcomes
        finally:
            done.set()
            for client in asking:
                client.result(PATIENCE)


def test_a_stop_under_load_answers_everybody(tiny_model: Path) -> None:
    with serving(tiny_model) as server, clients_of(server) as outcomes:
        until(lambda: len(outcomes) > 50)
        server.process.terminate()
        status = server.process.wait(PATIENCE)
        log = "".join(server.log)

    assert status == 0
    assert set(outcomes) <= {200, 503}
    assert outcomes.count(200) == log.count('/v1/predict HTTP/1.1" 200')
    assert "Traceback" not in log


def test_an_idle_client_is_told_of_the_stop_before_its_connection_is_closed(
    tiny_model: Path,
) -> None:
    with serving(tiny_model) as server:
        client = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port)
        client.request("GET", "/readyz")
        before = client.getresponse()
        before.read()
        server.process.terminate()
        time.sleep(0.25)
        client.request("GET", "/readyz")
        after = client.getresponse()
        client.close()

    assert (before.status, before.getheader("connection")) == (200, None)
    assert (after.status, after.getheader("connection")) == (503, "close")


def test_after_a_kill_it_starts_again_on_the_same_port(tiny_model: Path) -> None:
    with serving(tiny_model) as server, clients_of(server) as outcomes:
        until(lambda: len(outcomes) > 20)
        server.process.kill()
        server.process.wait(PATIENCE)
        port = int(server.url.rsplit(":", 1)[1])
    before = sorted(ROOT.iterdir())

    with serving(tiny_model, port=port) as again:
        assert again.service.classify(picture()).classes
    assert sorted(ROOT.iterdir()) == before


def test_a_new_model_takes_over_on_sighup_and_no_request_is_lost(
    tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    with serving(model) as server, clients_of(server) as outcomes:
        old = version(server)
        for following in (other_model, tiny_model, other_model):
            until(lambda: len(outcomes) > 20)
            outcomes.clear()
            new = copied(following, tmp_path / "new.onnx")
            served_no_more = partial(another_version, server, version(server))
            new.rename(model)
            server.process.send_signal(signal.SIGHUP)
            until(served_no_more)
        until(lambda: len(outcomes) > 20)
        answer = server.client.post(PREDICT, content=picture()).json()
        health = server.client.get("/health").json()

    assert set(outcomes) == {200}
    assert answer["model"]["version"] == health["model"]["version"] != old
    assert health["warning"] is None


@pytest.mark.parametrize("fault", ["cut short", "a flipped bit", "missing", "no model"])
def test_a_new_model_that_fails_its_checks_is_refused_and_the_old_one_serves_on(
    tiny_model: Path, tmp_path: Path, fault: str
) -> None:
    """It is even written over the file that is being served."""
    model = copied(tiny_model, tmp_path / "model.onnx")
    with serving(model) as server:
        before = version(server)
        damage(model, fault)
        unaware = server.service.classify(picture())
        server.process.send_signal(signal.SIGHUP)
        until(lambda: logged(server, "The model stays as it was"))
        answer = server.service.classify(picture())
        health = server.service.health()
        shutil.copy(tiny_model, model)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: logged(server, "The model has been read again"))
        mended = server.service.health()

    assert unaware.model.version == answer.model.version == before
    assert health.status == "ready"
    assert "model" in str(health.warning)
    assert str(tmp_path) not in str(health.warning)
    assert mended.warning is None


def test_a_new_model_that_never_finishes_its_check_neither_takes_over_nor_holds_up_the_stop(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    first_value = int(inspect(model).golden_picture()[0, 0, 0, 0])
    keys = tmp_path / "keys"
    keys.write_text("key-number-one-of-two")
    old, new = ({"X-API-Key": f"key-number-{name}-of-two"} for name in ("one", "two"))
    with serving(model, api_keys_file=keys) as server:
        before = version(server)
        write_faulty(tiny_model, model, hangs=first_value)
        server.process.send_signal(signal.SIGHUP)
        time.sleep(1)
        keys.write_text("key-number-two-of-two")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.client.post(PREDICT, headers=old).status_code == 401)
        answer = server.client.post(PREDICT, content=picture(), headers=new)
        server.process.terminate()
        status = server.process.wait(PATIENCE)

    assert answer.status_code == 200
    assert answer.json()["model"]["version"] == before
    assert status == 0


def test_a_renewed_certificate_is_shown_after_sighup(tiny_model: Path, tmp_path: Path) -> None:
    """Keys and certificate that cannot be read, or do not belong together, change nothing."""
    (old, old_key), (new, new_key) = certified(tmp_path, "old"), certified(tmp_path, "new")
    with serving(tiny_model, ssl_certfile=old, ssl_keyfile=old_key) as server:
        address = "127.0.0.1", urlsplit(server.url).port or 0
        first = ssl.get_server_certificate(address)
        renewed = new.read_text()
        kept = []
        wrong = {
            "no certificate": "The certificate stays as it was",
            renewed: "KEY_VALUES_MISMATCH",
        }
        for text, complaint in wrong.items():
            old.write_text(text)
            server.process.send_signal(signal.SIGHUP)
            until(partial(logged, server, complaint))
            kept.append(ssl.get_server_certificate(address))
        warning = server.client.get("/health").json()["warning"]
        new.rename(old)
        new_key.rename(old_key)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: logged(server, "The certificate has been read again"))
        second = ssl.get_server_certificate(address)
        log = "".join(server.log)

    assert kept == [first, first]
    assert "reload" in warning
    assert log.count("The certificate stays as it was") == 2
    assert "Traceback" not in log
    assert second == renewed != first


def damage(model: Path, fault: str) -> None:
    whole = model.read_bytes()
    if fault == "cut short":
        model.write_bytes(whole[: len(whole) // 2])
    elif fault == "a flipped bit":
        model.write_bytes(whole[:1000] + bytes([whole[1000] ^ 4]) + whole[1001:])
    elif fault == "missing":
        model.unlink()
    else:
        model.write_bytes(b"no model at all" * 100)


def without_rights() -> list[str]:
    """What takes from root its right to read everything; nothing for others."""
    rights = "-dac_override,-dac_read_search"
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("needs setpriv, of util-linux, as root may read every file")
    return [tool, f"--bounding-set={rights}", f"--inh-caps={rights}"]


@pytest.mark.parametrize("fault", ["cut short", "a flipped bit", "missing", "no model", "not ours"])
def test_a_model_that_cannot_be_served_ends_the_start_with_one_sentence(
    tiny_model: Path, tmp_path: Path, fault: str
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    wrapper = []
    if fault == "not ours":
        model.chmod(0)
        wrapper = without_rights()
    else:
        damage(model, fault)

    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "service", "serve", "--port", "0", "--model", str(model)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(model) in done.stderr
    if fault == "not ours":
        assert "Permission denied" in done.stderr


def no_room() -> None:
    """In the child: not one byte more may be written to any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def test_a_full_disk_stops_no_server(tiny_model: Path) -> None:
    """Neither uploads nor the log need room; where there is none for the log, it is lost."""
    form = {f"{number}": (f"{number}.jpg", picture() + bytes(3_000_000)) for number in range(3)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT, env=environment(port=port, model=tiny_model), preexec_fn=no_room,
            stdout=full, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            until(lambda: _answers(client))
            large = client.post(PREDICT, files={**form, "good": picture()})
        process.terminate()
        status = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()

    assert large.status_code == 200
    assert all("classes" in found for found in large.json()["predictions"])
    assert status == 0


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False
