"""A server of its own process on a port of its own, as a user runs it."""

import io
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from service.client import Client

ROOT = Path(__file__).parents[2]


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALEXNET_")}
    given = {f"ALEXNET_{name.upper()}": str(value) for name, value in settings.items()}
    ours = {"ALEXNET_DEVICE": "cpu", "ALEXNET_LOG_FORMAT": "text"}
    return kept | ours | given | {"PYTHONUNBUFFERED": "1"}


def alexnet(
    *arguments: str, stdin: bytes = b"", **settings: object
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=environment(**settings),
        input=stdin,
        capture_output=True,
        timeout=60,
    )


@dataclass
class Live:
    """A server that runs, and clients of it: a raw one, and ours."""

    process: "subprocess.Popen[str]"
    url: str
    client: httpx2.Client
    service: Client
    log: list[str] = field(default_factory=list)


@contextmanager
def serving(
    model: Path, *, program: Sequence[str] = ("-m", "service", "serve"), **settings: Any
) -> Iterator[Live]:
    """Serve `model` until the block ends; the server chooses its port and tells it."""
    settings = {"port": 0, "model": model, **settings}
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    log: list[str] = []
    # Reads on once the server has started, lest a full pipe stop it.
    reader = threading.Thread(target=log.extend, args=(process.stdout,), daemon=True)
    try:
        url = ""
        for line in process.stdout:
            log.append(line)
            if found := re.search(r"answers at (https?://\S+)", line):
                url = found[1]
                break
        assert url, f"the server did not start: {''.join(log)}"
        reader.start()
        # Nobody has signed the tests' certificates.
        with (
            httpx2.Client(base_url=url, timeout=30, trust_env=False, verify=False) as client,
            Client(url, timeout=30, retries=0, verify=False) as service,
        ):
            yield Live(process, url, client, service, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
            if reader.is_alive():
                reader.join(5)
            process.stdout.close()


def certified(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate that `name` has signed itself, and its key; skips where it cannot be made."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the openssl command")
    paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
    subprocess.run(
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name}".split()
        + f"-out {paths[0]} -keyout {paths[1]}".split(),
        check=True,
        capture_output=True,
    )
    return paths


def picture(kind: str = "JPEG", size: tuple[int, int] = (320, 280)) -> bytes:
    """A small picture with something to see in it."""
    encoded = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(encoded, kind)
    return encoded.getvalue()
