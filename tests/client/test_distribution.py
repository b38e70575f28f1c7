"""The client's own distribution: built, installed without anything of the server, and used."""

import json
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alexnet_client
from tests.support.servers import PATIENCE, ROOT, Live, environment, serving

CAT = ROOT / "tests" / "pictures" / "cat.jpg"
CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text("utf-8"))["project"]
SERVER = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]

# What a program does with it: both clients, many images, a choice of classes, an address, an error.
PROGRAM = """
import asyncio, json, sys
from alexnet_client import AsyncClient, Client, DownloadFailed, ImageRefused

url, cat = sys.argv[1:]

async def again():
    async with AsyncClient(url, timeout=120) as client:
        one = await client.classify(cat, threshold=0.0)
        many = [it async for it in client.classify_many([cat, cat])]
        return [it.best.index for it in (one, *many)]

with Client(url, timeout=120) as client:
    best = client.classify(cat).best.index
    refused, unfetched = client.classify_many([b"no image", "http://127.0.0.1:1/cat.jpg"])
    views = client.classify(cat, details=["views"], classes=[best], renormalise=True).views
assert isinstance(refused, ImageRefused) and isinstance(unfetched, DownloadFailed)
assert asyncio.run(again()) == [best] * 3
loaded = [name for name in sys.modules if name.startswith(("service", "pydantic", "numpy"))]
print(json.dumps({"best": best, "views": len(views), "loaded": loaded}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's, built from its folder as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index"]
    subprocess.run(
        [*command, "--no-build-isolation", "-w", folder, ROOT / "client"],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("alexnet_client-*.whl")
    return built


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    with serving(tiny_model) as server:
        yield server


def test_it_needs_two_packages_and_has_the_version_and_the_licence_of_the_server() -> None:
    assert {Requirement(line).name for line in CLIENT["dependencies"]} == {"httpx2", "stamina"}
    assert alexnet_client.__version__ == SERVER["version"]
    assert (ROOT / "client" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_its_wheel_works_beside_nothing_but_what_it_asks_for(
    wheel: Path, live: Live, tmp_path: Path
) -> None:
    """In an environment with these packages alone, and what they need in turn."""
    venv.create(tmp_path, symlinks=True)
    python = tmp_path / "bin" / "python"
    (packages,) = tmp_path.glob("lib/python3*/site-packages")
    for needed in needed_for(CLIENT["dependencies"]):
        for name in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            (packages / name).symlink_to(str(needed.locate_file(name)))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True)

    works(python, live)


@pytest.mark.external
@pytest.mark.parametrize("version", PYTHONS)
def test_it_works_with_each_python_and_what_the_index_has_for_it(
    version: str, wheel: Path, live: Live, tmp_path: Path
) -> None:
    interpreter = shutil.which(f"python{version}")
    # pyenv has commands on the path of versions that are not switched on.
    if (
        interpreter is None
        or subprocess.run([interpreter, "-c", ""], capture_output=True).returncode
    ):
        pytest.skip(f"needs python{version}")
    subprocess.run([interpreter, "-m", "venv", tmp_path], check=True, capture_output=True)
    python = tmp_path / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", wheel], capture_output=True, text=True
    )
    if "(from versions: none)" in installed.stderr and "different python" not in installed.stderr:
        pytest.skip("needs a package index")
    assert installed.returncode == 0, installed.stderr

    works(python, live)


def needed_for(requirements: Iterable[str]) -> list[Distribution]:
    """What is installed here for these requirements, and for theirs."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found[name] = distribution(name)
            waiting += map(Requirement, found[name].requires or ())
    return [*found.values()]


def works(python: Path, live: Live) -> None:
    """The program, by this interpreter, with nothing of this process's environment on its path."""
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", PROGRAM, live.url, CAT],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )

    assert (done.returncode, done.stderr) == (0, "")
    best = live.service.classify(CAT).best.index
    assert json.loads(done.stdout) == {"best": best, "views": 10, "loaded": []}
