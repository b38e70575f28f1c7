"""
Where a page's examples run: a copy of the checkout, installed, with a server of the bundled model.

What a block exports, and the folder that it goes to, is there for the next block, as in a terminal.
An installer that would fetch something fails.
The documents' ports are free ones: whatever `localhost:8000` is, the page's server answers there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

from tests.examples import installed, stand_in

TIMEOUT = 600  # seconds for a block: only one that never ends takes so long
PORT = re.compile(r"((?:localhost|127\.0\.0\.1):|\bport[ =]|PORT=)(\d{4,5})\b", re.IGNORECASE)
# A server of the page's own, at the default port.
SERVES = re.compile(
    r"^(?!.*(?:PORT=|-port[ =])(?!8000))(?!.*--help)"
    r".*(?:\balexnet serve|\bmake run|\bscripts/run)\b",
    re.MULTILINE | re.IGNORECASE,
)

TERMINAL = r"""
set -euo pipefail
if [[ -f {left} ]]; then . {left}; fi
leave() {{
    export -p | grep -Ev '^declare -x (ALEXNET_PORT|CURL_HOME)='
    printf 'cd %q\n' "$PWD"
}}
trap 'leave >'{left} EXIT
{block}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Workplace:
    """One for each page; `close` ends what its examples started."""

    def __init__(self, folder: Path, *, port: int) -> None:
        """`port` is that of a server of the bundled model."""
        self.folder = folder / "alexnet-service"
        self._state = folder / "state"
        self._ports: defaultdict[int, int] = defaultdict(free_port, {8000: port})
        self._python: subprocess.Popen[str] | None = None
        self._groups: list[int] = []
        installed.checkout(self.folder)
        home = folder / "home"
        for made in (self._state / "servers", self._state / "tmp", home):
            made.mkdir(parents=True)
        # Neither a bar of curl's nor an answer that is an error goes by unseen.
        (home / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        (self._state / "refused").mkdir()
        (self._state / "refused" / ".curlrc").write_text("silent\nshow-error\n")
        self._variables = self._environ(home)

    def _environ(self, home: Path) -> dict[str, str]:
        ours = re.compile(r"ALEXNET_|PYTHON|VIRTUAL_ENV|OTEL_|RAY_|PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
        # The reader has nothing on the path but what the system and the page put there.
        path = os.pathsep.join(
            entry for entry in os.get_exec_path() if not Path(entry, "alexnet").exists()
        )
        return kept | {
            "PATH": path,
            "HOME": str(home),
            "PYTHON": sys.executable,
            "DEVICE": "cpu",
            "ALEXNET_DEVICE": "cpu",
            "TMPDIR": str(self._state / "tmp"),
            "COLUMNS": "100",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "EXAMPLES_OUTPUT": str(self._state / "output"),
            "EXAMPLES_SERVERS": str(self._state / "servers"),
        }

    def rewritten(self, text: str) -> str:
        """The text with ports and a /tmp of this page's own in the places of the documents'."""
        text = re.sub(r"(?<![\w.])/tmp/", f"{self._state}/tmp/", text)
        return PORT.sub(lambda found: f"{found[1]}{self._ports[int(found[2])]}", text)

    def sh(self, source: str, *, line: int, refused: bool) -> tuple[bool, str]:
        """Run commands as a terminal would; whether they failed, and all that they printed.

        `refused` is whether an answer that is an error is what the page shows."""
        if SERVES.search(source):
            self._ports[8000] = free_port()
        variables = self._variables | {"ALEXNET_PORT": str(self._ports[8000])}
        if refused:
            variables["CURL_HOME"] = str(self._state / "refused")
        left = self._state / "left"
        script = TERMINAL.format(left=shlex.quote(str(left)), block=self.rewritten(source))
        # A file and no pipe: a server that was left running holds it open.
        with (self._state / "output").open("w+") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            try:
                status: object = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = f"not over after {TIMEOUT} s"
            output.seek(0)
            printed = output.read()
        return status != 0, printed if status == 0 else f"{printed}\n(status: {status})"

    def python(self, source: str, *, line: int, refused: bool) -> tuple[bool, str]:
        """Run a block after the page's earlier ones; whether it failed, and what it printed."""
        if self._python is None:
            program = Path(__file__).with_name("interpreter.py")
            self._python = subprocess.Popen(
                [sys.executable, "-W", "error::DeprecationWarning:__main__", program],
                cwd=self.folder,
                env=self._variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._python
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({"source": self.rewritten(source), "line": line}) + "\n")
        process.stdin.flush()
        watchman = threading.Timer(TIMEOUT, process.kill)
        watchman.start()
        reply = process.stdout.readline()
        watchman.cancel()
        if not reply:
            return True, f"Python ended, or did not within {TIMEOUT} s"
        failed, printed = json.loads(reply)
        return failed, printed

    def close(self) -> list[str]:
        """End what the examples left running; what did not end as it should."""
        if self._python and self._python.stdin and self._python.stdout:
            self._python.stdin.close()
            self._python.wait(TIMEOUT)
            self._python.stdout.close()
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)  # what a block left behind with `&`
        records = list((self._state / "servers").glob("*.pid"))
        ended = {record.stem: stand_in.end(record) for record in records}
        return [
            f"the server at port {port} ended with status {status} on SIGTERM"
            for port, status in ended.items()
            if status
        ]
