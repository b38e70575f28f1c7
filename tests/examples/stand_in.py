"""
Stands for our commands in the workplace of a page's examples: `stand_in.py alexnet serve ...`.

They are the real ones, as pyproject.toml declares them, but `alexnet serve` comes back as soon as
the server answers and leaves it running, as if the reader had gone to another terminal.  A server
that the page left at the same port before is ended first, by SIGTERM.
"""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds, for a start and for an end
PATIENT = {"ALEXNET_RUN_TIMEOUT": "600", "ALEXNET_TIMEOUT": "600"}  # seconds, on a busy machine

# A shell waits for the server, so that somebody knows its exit status.
KEEP = """
"${@:3}" & echo $! >"$1.new"; mv "$1.new" "$1"
status=0; wait $! || status=$?
echo $status >"$2.new"; mv "$2.new" "$2"
"""


def answers(port: int) -> bool:
    """Whether a server on this machine is ready at the port, over HTTP or TLS."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=trusting))
    for scheme in ("http", "https"):
        try:
            with opener.open(f"{scheme}://127.0.0.1:{port}/readyz", timeout=5):
                return True
        except OSError:
            pass
    return False


def end(record: Path) -> int | None:
    """End the server of this record; its exit status, None if it had to be killed."""
    pid, done = int(record.read_text()), record.with_suffix(".status")
    deadline = time.monotonic() + PATIENCE
    sent = signal.SIGTERM
    while not done.exists():
        os.kill(pid, sent)
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        sent, deadline = signal.SIGKILL, deadline + PATIENCE
    record.unlink()
    return int(done.read_text())


def _is(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.stat())


def serve(command: list[str], port: int, records: Path) -> int:
    """Start the server, wait until it answers; 0, or the status with which it ended instead."""
    record = records / f"{port}.pid"
    if record.exists():
        end(record)
    status = record.with_suffix(".status")
    status.unlink(missing_ok=True)
    log = record.with_suffix(".log")
    with log.open("wb") as terminal:
        # Its own terminal, unless the page sends its output into a file.
        shown = Path(os.environ.get("EXAMPLES_OUTPUT", log))
        output, error = (terminal if _is(fd, shown) else fd for fd in (1, 2))
        subprocess.Popen(
            ["bash", "-c", KEEP, "bash", record, status, *command],
            env=PATIENT | os.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=error,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE
    while not answers(port):
        if status.exists():
            record.unlink(missing_ok=True)
            sys.stderr.write(log.read_text())
            return int(status.read_text()) or 1
        if time.monotonic() > deadline:
            print(f"the server does not answer at port {port}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    return 0


def command(program: str, arguments: list[str]) -> list[str]:
    """What runs one of the project's commands in this environment."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    module, _, function = declared[program].partition(":")
    start = f"import sys; sys.argv[0] = {program!r}; from {module} import {function}; {function}()"
    return [sys.executable, "-c", start, *arguments]


def main() -> int:
    program, *arguments = sys.argv[1:]
    run = command(program, arguments)
    # What bash starts by `&` ignores Ctrl-C: the page does its own waiting and ending.
    behind = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if [program, *arguments[:1]] != ["alexnet", "serve"] or "--help" in arguments or behind:
        os.execv(run[0], run)
    said = re.search(r"--port[ =](\d+)", " ".join(arguments))
    variable = os.environ.get("AIP_HTTP_PORT") or os.environ["ALEXNET_PORT"]
    port = int(said[1] if said else variable)
    return serve(run, port, Path(os.environ["EXAMPLES_SERVERS"]))


if __name__ == "__main__":
    sys.exit(main())
