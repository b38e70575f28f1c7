"""
A copy of the checkout as a reader has it after installing, with `FOLDER`, some images of theirs.

`.venv` and `.venv-test` stand for the environment that the tests run in.  They bear the stamp that
scripts/install leaves, so that it finds nothing to do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from PIL import Image

from tests.examples import stand_in

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sysconfig.get_path("scripts"))
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", ".*cache", ".hypothesis", "__pycache__", "build", "dist", "_build"
)
STAMP = """
echo "$1"
sum=$(cat pyproject.toml constraints.txt requirements/*.txt scripts/install | cksum)
echo "$PWD $("$2" --version) $sum"
"""


def checkout(folder: Path) -> None:
    """Make the copy there; a copy of every file, so that no example writes into the real one."""
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
    _environment(folder / ".venv", "cpu parquet ray")
    _environment(folder / ".venv-test", "test")
    for image, wordnet_id in (("cat.jpg", "n02124075"), ("espresso.jpg", "n07920052")):
        _variations(ROOT / "tests" / "pictures" / image, folder / "FOLDER" / wordnet_id)


def _variations(image: Path, folder: Path) -> None:
    """Five images of the same thing, each a little closer."""
    folder.mkdir(parents=True)
    with Image.open(image) as whole:
        for number in range(5):
            edge = 4 * number
            box = (edge, edge, whole.width - edge, whole.height - edge)
            whole.crop(box).resize((320, 280)).save(folder / f"{number}.jpg", quality=90)


def _environment(venv: Path, locks: str) -> None:
    programs = venv / "bin"
    programs.mkdir(parents=True)
    for program in PROGRAMS.iterdir():
        if not re.match("activate|alexnet|python", program.name):
            (programs / program.name).symlink_to(program)
    for name in SCRIPTS:
        # Those of the exporter and the trainer need torch, which only .venv-test has.
        if name == "alexnet" or venv.name == ".venv-test":
            _program(programs / name, f'exec "{sys.executable}" "{stand_in.__file__}" {name} "$@"')
    for name in ("python", "python3"):
        _program(programs / name, f'exec "{sys.executable}" "$@"')
    _program(programs / "activate", f'export VIRTUAL_ENV="{venv}" PATH="{programs}:$PATH"')
    stamp = subprocess.run(
        ["bash", "-euc", STAMP, "bash", locks, sys.executable],
        cwd=venv.parent,
        check=True,
        capture_output=True,
    )
    (venv / "installed").write_bytes(stamp.stdout)


def _program(path: Path, commands: str) -> None:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
