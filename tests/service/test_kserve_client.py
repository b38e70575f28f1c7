"""
KServe's own client, unmodified, to a real server.

In an environment of its own, since what it needs beside it (60 packages, an older psutil) would
change the versions of this one.
"""

import json
import os
import subprocess
import venv
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import IMAGES
from tests.support.servers import PATIENCE, Live, serving

KSERVE = "kserve==0.21.0"
PROGRAM = """
import asyncio, json, sys
import httpx
from kserve import InferenceRESTClient, RESTConfig

url, name, text = sys.argv[1:]

async def main():
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        found = {"ready": await client.is_model_ready(url, name)}
        for form, instance in (("text", text), ("b64", {"b64": text}),
                               ("image_bytes", {"image_bytes": {"b64": text}})):
            answer = await client.infer(url, {"instances": [instance]}, model_name=name)
            found[form] = answer["predictions"][0]["classes"][0]["label"]
        try:
            await client.infer(url, {"instances": ["?"]}, model_name=name)
        except httpx.HTTPStatusError as error:
            found["error"] = str(error)
    print(json.dumps(found))

asyncio.run(main())
"""

ASKED = "ALEXNET_TEST_KSERVE"

pytestmark = [
    pytest.mark.external,
    pytest.mark.skipif(os.environ.get(ASKED) != "1", reason=f"60 packages; {ASKED}=1 asks"),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the client."""
    folder = tmp_path_factory.mktemp("kserve")
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    install: list[str | Path] = [
        interpreter,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary",
        ":all:",
        KSERVE,
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=10 * PATIENCE)
    if done.returncode:
        pytest.skip(f"{KSERVE} cannot be installed: {done.stderr.splitlines()[-1:]}")
    return interpreter


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    with serving(bundled_model, model_name="cats") as server:
        yield server


def test_kserves_client_asks_as_it_always_does(python: Path, live: Live) -> None:
    cat = b64encode((IMAGES / "cat.jpg").read_bytes()).decode()
    command: list[str | Path] = [python, "-c", PROGRAM, live.url, "cats", cat]

    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    error = found.pop("error")
    assert found == {"ready": True, **dict.fromkeys(("text", "b64", "image_bytes"), "Egyptian cat")}
    assert "instances[0] is not base64" in error
