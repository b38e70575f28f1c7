"""
What breaks while serving, and what becomes of it: who is answered, what the probes say, what the
log says, how the process ends.

Each fault is a real one.  Those that end a process, or would keep a thread busy for years, are met
in a process of their own.
"""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from service import app as application
from service.inference.batching import Batcher
from service.inference.queue import Entry
from tests.support.commands import alexnet
from tests.support.images import grey, image
from tests.support.models import FAULTY, HANGING, HANGS, RAISES
from tests.support.servers import (
    LATER,
    PATIENCE,
    ROOT,
    Live,
    certified,
    environment,
    serving,
    serving_process,
    until,
)

PREDICT = "/v1/predict"


def connected(server: Live) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE)


def sent(body: bytes) -> bytes:
    """A request with this body."""
    return (
        f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def copied(file: Path, to: Path) -> Path:
    shutil.copy(file, to)
    return to


def version(server: Live) -> str:
    return server.service.model().version


def another_version(server: Live, than: str) -> bool:
    return version(server) != than


def test_a_run_that_raises_fails_its_own_image_alone() -> None:
    form = {f"{mark}": grey(mark) for mark in (10, 20)}
    with serving(FAULTY) as server, ThreadPoolExecutor() as clients:
        ask = partial(server.client.post, PREDICT)
        with server.gate.closed() as gate:
            clients.submit(ask, content=grey(30))
            gate.until_held()
            asking = [clients.submit(ask, content=grey(mark)) for mark in (RAISES, 10, 20)]
            server.until_pending(4)
        bad, *good = (client.result(PATIENCE) for client in asking)
        after = ask(files=form)
        ready = server.client.get("/readyz")
        mixed = ask(files={**form, "bad": grey(RAISES)})
        alone = ask(files={"a": grey(RAISES), "b": grey(RAISES)})

    assert (bad.status_code, bad.json()["code"]) == (500, "internal_error")
    assert [answer.status_code for answer in (*good, after, ready, mixed)] == [200] * 5
    assert [prediction.get("code") for prediction in mixed.json()["predictions"]] == [
        None,
        None,
        "internal_error",
    ]
    assert (alone.status_code, alone.json()["code"]) == (500, "internal_error")
    assert server.logged("A run of 3 images failed")


def test_a_run_that_hangs_ends_the_process_and_nobody_waits_for_it() -> None:
    """Neither the client whose image is in it, nor the one whose image comes after."""
    with (
        serving_process(FAULTY, max_batch=1, run_timeout=1) as server,
        closing(connected(server)) as first,
        closing(connected(server)) as other,
    ):
        first.sendall(sent(grey(HANGS)))
        other.sendall(sent(grey(HANGS)))
        answers = [all_of(client) for client in (first, other)]
        status = server.process.wait(PATIENCE)

    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"not_ready"' in answer
    assert status == 70
    assert server.logged("a run has not come back in 1 s")


def all_of(client: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    return b"".join(iter(partial(client.recv, 4096), b""))


def test_a_run_that_hangs_does_not_hold_up_a_stop() -> None:
    with (
        serving_process(FAULTY, shutdown_timeout=0.5) as server,
        ThreadPoolExecutor() as clients,
    ):
        client = clients.submit(server.client.post, PREDICT, content=grey(HANGS))
        server.until_pending(1)
        server.process.terminate()
        answer = client.result(PATIENCE)
        status = server.process.wait(PATIENCE)

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert status == 70
    assert not server.logged("Traceback")


def test_who_is_still_sending_does_not_hold_up_a_stop(tiny_model: Path) -> None:
    with (
        serving(tiny_model, shutdown_timeout=0.1) as server,
        closing(connected(server)) as sender,
    ):
        sender.sendall(sent(bytes(9))[:-1])
        until(lambda: server.running.in_flight, "a request in flight")
        server.terminate()

        assert server.wait() == 0


def test_a_stop_without_any_time_is_a_stop(tiny_model: Path) -> None:
    with serving(tiny_model, shutdown_timeout=0) as server:
        server.terminate()

        assert server.wait() == 0


def test_signals_before_the_model_is_loaded_do_no_harm(tiny_model: Path) -> None:
    """SIGHUP has nothing to reload yet; SIGTERM ends with 0."""
    with starting(tiny_model) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout
        assert any("answers at" in line for line in process.stdout)
        process.terminate()
        assert process.wait(PATIENCE) == 0

    with starting(tiny_model) as process:
        process.terminate()
        assert process.wait(PATIENCE) == 0


@contextmanager
def starting(model: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that has just begun to start; a moment before, signals would have ended it."""
    with subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environment(port=0, model=model),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            until(lambda: _prepared(Path(f"/proc/{process.pid}/status")))
            yield process
        finally:
            process.kill()


def _prepared(status: Path) -> bool:
    """Whether SIGTERM is caught and SIGHUP ignored; under nohup it is from the beginning."""
    masks = dict(line.split(":\t") for line in status.read_text().splitlines() if ":\t" in line)
    masked = (("SigCgt", signal.SIGTERM), ("SigIgn", signal.SIGHUP))
    return all(int(masks[name], 16) >> (number - 1) & 1 for name, number in masked)


def test_a_dispatcher_that_dies_ends_the_server_and_nobody_waits_for_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dying(batcher: Batcher, batch: Sequence[Entry], one_core: bool) -> None:
        raise LookupError("a fault of the dispatcher's own")

    monkeypatch.setattr(Batcher, "_serve", dying)
    with serving(tiny_model) as server:
        answer = server.client.post(PREDICT, content=image())
        status = server.wait()

    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert status == 70
    assert server.logged("LookupError: a fault of the dispatcher's own")


@contextmanager
def clients_of(server: Live, number: int = 4) -> Iterator[list[int | str]]:
    """Clients that ask on and on, each on a connection of its own, until they have been refused
    three times; yields what they got."""
    outcomes: list[int | str] = []
    body = image()
    done = threading.Event()

    def ask_on() -> None:
        refusals = 0
        while not done.is_set() and refusals < 3:
            connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
            fresh = True
            try:
                while not done.is_set() and (fresh or connection.sock):
                    connection.request("POST", PREDICT, body)
                    answer = connection.getresponse()
                    outcomes.append(answer.status)
                    refusals += answer.status == 503
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


@pytest.fixture
def long_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections stay open at the end until their clients have been told that it is."""
    assert application.FAREWELL >= 0.25  # seconds; clients need some
    monkeypatch.setattr(application, "FAREWELL", LATER)


@pytest.mark.usefixtures("long_farewell")
def test_a_stop_under_load_answers_everybody(tiny_model: Path) -> None:
    with (
        serving(tiny_model, shutdown_timeout=LATER) as server,
        clients_of(server) as outcomes,
    ):
        until(lambda: len(outcomes) > 50)
        server.terminate()
        status = server.wait()
        log = "".join(server.log)

    assert status == 0
    assert set(outcomes) <= {200, 503}
    assert outcomes.count(200) == log.count('/v1/predict HTTP/1.1" 200')
    assert "Traceback" not in log


@pytest.mark.usefixtures("long_farewell")
def test_an_idle_client_is_told_of_the_stop_before_its_connection_is_closed(
    tiny_model: Path,
) -> None:
    with serving(tiny_model, shutdown_timeout=LATER) as server:
        client = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
        client.request("GET", "/readyz")
        before = client.getresponse()
        before.read()
        server.terminate()
        until(lambda: server.running.draining, "the stop")
        client.request("GET", "/readyz")
        after = client.getresponse()
        client.close()
        assert server.wait() == 0

    assert (before.status, before.getheader("connection")) == (200, None)
    assert (after.status, after.getheader("connection")) == (503, "close")


@contextmanager
def port() -> Iterator[int]:
    """A port that the system gives to nobody else, while servers may listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_after_a_kill_it_starts_again_on_the_same_port(tiny_model: Path, tmp_path: Path) -> None:
    with port() as chosen:
        with (
            serving_process(tiny_model, port=chosen, folder=tmp_path) as server,
            clients_of(server) as outcomes,
        ):
            until(lambda: len(outcomes) > 20)
            server.process.kill()
            server.process.wait(PATIENCE)
        with serving(tiny_model, port=chosen) as again:
            assert again.address == server.address
            assert again.service.classify(image()).classes

    assert not list(tmp_path.iterdir())


def test_a_new_model_takes_over_on_sighup_and_no_request_is_lost(
    tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    with serving(model) as server, clients_of(server) as outcomes:
        old = version(server)
        for following in (other_model, tiny_model, other_model):
            until(lambda: len(outcomes) > 8)
            outcomes.clear()
            new = copied(following, tmp_path / "new.onnx")
            served_no_more = partial(another_version, server, version(server))
            new.rename(model)
            server.reload()
            until(served_no_more)
        until(lambda: len(outcomes) > 8)
        answer = server.client.post(PREDICT, content=image()).json()
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
        unaware = server.service.classify(image())
        server.reload()
        until(lambda: server.logged("The model stays as it was"))
        answer = server.service.classify(image())
        health = server.service.health()
        shutil.copy(tiny_model, model)
        server.reload()
        until(lambda: server.logged("The model has been read again"))
        until(lambda: server.service.health().warning is None, "no warning any more")

    assert unaware.model.version == answer.model.version == before
    assert health.status == "ready"
    assert "model" in str(health.warning)
    assert str(tmp_path) not in str(health.warning)


ANNOUNCED = """
import sys
from service.inference.engine import Engine

check = Engine.check

def announced(self):
    print("checking", self.model.path, flush=True)
    check(self)

Engine.check = announced
sys.argv = ["alexnet", "serve"]
from service.__main__ import main
main()
"""


def test_a_new_model_that_never_finishes_its_check_neither_takes_over_nor_holds_up_the_stop(
    tiny_model: Path, tmp_path: Path
) -> None:
    """SIGHUP as it comes: by a signal."""
    model = copied(tiny_model, tmp_path / "model.onnx")
    keys = tmp_path / "keys"
    keys.write_text("key-number-one-of-two")
    old, new = ({"X-API-Key": f"key-number-{name}-of-two"} for name in ("one", "two"))
    with serving_process(model, program=["-c", ANNOUNCED], api_keys_file=keys) as server:
        before = version(server)
        copied(HANGING, model)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: sum("checking" in line for line in server.log) == 2, "the check")
        keys.write_text("key-number-two-of-two")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.client.post(PREDICT, headers=old).status_code == 401)
        answer = server.client.post(PREDICT, content=image(), headers=new)
        server.process.terminate()
        status = server.process.wait(PATIENCE)

    assert answer.status_code == 200
    assert answer.json()["model"]["version"] == before
    assert status == 0


def test_a_renewed_certificate_is_shown_after_sighup(tiny_model: Path, tmp_path: Path) -> None:
    """Keys and certificate that cannot be read, or do not belong together, change nothing."""
    (old, old_key), (new, new_key) = certified(tmp_path, "old"), certified(tmp_path, "new")
    with serving(tiny_model, ssl_certfile=old, ssl_keyfile=old_key) as server:
        first = ssl.get_server_certificate(server.address)
        renewed = new.read_text()
        kept = []
        wrong = {
            "no certificate": "The certificate stays as it was",
            renewed: "KEY_VALUES_MISMATCH",
        }
        for text, complaint in wrong.items():
            old.write_text(text)
            server.reload()
            until(partial(server.logged, complaint))
            kept.append(ssl.get_server_certificate(server.address))
        warning = server.client.get("/health").json()["warning"]
        new.rename(old)
        new_key.rename(old_key)
        server.reload()
        until(lambda: server.logged("The certificate has been read again"))
        second = ssl.get_server_certificate(server.address)
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


@pytest.mark.parametrize("fault", ["cut short", "a flipped bit", "missing", "no model"])
def test_a_model_that_cannot_be_served_ends_the_start_with_one_sentence(
    tiny_model: Path, tmp_path: Path, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    damage(model, fault)

    done = alexnet("serve", "--port", "0", "--model", str(model))

    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert str(model) in done.stderr.decode()
    assert capfd.readouterr().err == ""  # what is not Python's goes there


def without_rights() -> list[str]:
    """What takes from root its right to read everything; nothing for others."""
    rights = "-dac_override,-dac_read_search"
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("needs setpriv, of util-linux, as root may read every file")
    return [tool, f"--bounding-set={rights}", f"--inh-caps={rights}"]


def test_a_model_that_is_not_ours_to_read_ends_the_start_with_one_sentence(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = copied(tiny_model, tmp_path / "model.onnx")
    model.chmod(0)

    command = [*without_rights(), sys.executable, "-m", "service", "serve"]
    done = subprocess.run(
        [*command, "--port", "0", "--model", str(model)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(model) in done.stderr
    assert "Permission denied" in done.stderr


# Not one byte more may be written to any file.
NO_ROOM = """
import resource
import signal
import sys

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.argv = ["alexnet", "serve"]
from service.__main__ import main
main()
"""


def test_a_full_disk_stops_no_server(tiny_model: Path) -> None:
    """Neither uploads nor the log need room; where there is none for the log, it is lost."""
    form = {f"{number}": (f"{number}.jpg", image() + bytes(3_000_000)) for number in range(3)}
    with ExitStack() as block:
        chosen = block.enter_context(port())
        full = block.enter_context(Path("/dev/full").open("w"))
        process = block.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", NO_ROOM],
                cwd=ROOT,
                env=environment(port=chosen, model=tiny_model),
                stdout=full,
                stderr=subprocess.STDOUT,
            )
        )
        block.callback(process.kill)
        address = f"http://127.0.0.1:{chosen}"
        client = block.enter_context(
            httpx2.Client(base_url=address, trust_env=False, timeout=PATIENCE)
        )
        until(lambda: _answers(client))
        large = client.post(PREDICT, files={**form, "good": image()})
        process.terminate()
        status = process.wait(PATIENCE)

    assert large.status_code == 200
    assert all("classes" in prediction for prediction in large.json()["predictions"])
    assert status == 0


def _answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False
