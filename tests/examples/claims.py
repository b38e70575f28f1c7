"""
What a page says without its being run: names of things that must exist, and reasons.

Files below the repository's folders, options of our commands, `ALEXNET_` variables, make targets,
build arguments and profiles; and why a block is not run, which must be one of a few true reasons.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
import yaml

from service.settings import Settings

Command = Any  # Typer has click's classes inside itself, and says nothing of their types

ROOT = Path(__file__).parents[2]

# Programs that no Python package brings: where they are missing, what needs them is skipped.
PROGRAMS = ("curl", "jq", "kubectl", "node", "openssl", "promtool")

# Each reason, and what a block with it must have in it to be believed.
REASONS = {
    "Docker": r"\bdocker\b|^FROM ",
    "cluster": r"\bkubectl\b|\bhelm\b|\bray\b|\bserve (?:run|deploy|status)\b|kind:|apiVersion:",
    "GPU": r"\bgpu|cuda|nvidia",
    "registry": r"\bdocker (?:push|tag|pull)\b|docker build -t \S+/",
    "internet": r"git clone|\bpip install\b|https://|apt-get|--weights owt"
    r"|--variant owt(?!.*--weights)|scripts/(?:lock|audit|bundle)|make (?:bundle|check|test)",
    "hour": r"scripts/\w+|make \w+|alexnet-(?:train|distill)|python -m benchmarks\.",
    "minute": r"scripts/\w+|make \w+|alexnet-(?:train|distill|export)|python -m benchmarks\.",
    "systemd": r"systemctl|\[Service\]|\[Unit\]",
    "nginx": r"\bserver \{|proxy_pass|location|nginx",
    "Caddy": r"reverse_proxy|caddy",
    "browser": r"document\.|window\.|performance\.|fetch\(",
    "formula": r"=",
    "illustration": r"",
    "photographs": r"alexnet evaluate",
}
DRAWN = ("formula", "illustration")  # which commands are not

VARIABLES_OF_OTHERS = {"ALEXNET_TEST_CONTAINERS", "ALEXNET_TEST_KSERVE"}


class Missing(Exception):
    """A program is not installed here; its name."""


def needs(source: str) -> None:
    """Raises `Missing` if commands ask for a program that is not here."""
    for program in PROGRAMS:
        if re.search(rf"(?<![\w/.-]){program}\b(?!/)", source) and shutil.which(program) is None:
            raise Missing(program)


def reason(said: str, source: str, *, command: bool) -> str | None:
    """What is wrong with the reason for not running a block, None if nothing is."""
    kinds = [kind for kind in REASONS if re.search(rf"\b{kind}", said, re.IGNORECASE)]
    kinds = [kind for kind in kinds if not (command and kind in DRAWN)]
    if not kinds:
        return f"{said!r} is not one of the reasons that count: {', '.join(REASONS)}"
    if any(re.search(REASONS[kind], source, re.MULTILINE) for kind in kinds):
        return None
    return f"nothing in it is why it could not be run: {said!r}"


def faults(text: str, *, made: str = "") -> Iterator[str]:
    """Names in commands that are nothing here; `made` is what the page itself creates."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"(kubectl.*) service/\S+", r"\1", text)  # an object of the cluster
    for path in re.findall(rf"(?<![\w/.$~-])(?:{'|'.join(_folders())})/[\w./-]*\w", text):
        theirs = any(
            path == name or path.startswith(f"{name.rstrip('/')}/") for name in _made(made)
        )
        if not (ROOT / path).exists() and not theirs:
            yield f"there is no {path}"
    for module in re.findall(rf"python3? -m ((?:{'|'.join(_folders())})(?:\.\w+)*)\b", text):
        path = module.replace(".", "/")
        if not (ROOT / path).is_dir() and not (ROOT / f"{path}.py").exists():
            yield f"there is no module {module}"
    for variable in sorted(set(re.findall(r"\bALEXNET_\w*[A-Z]\b", text)) - _variables()):
        yield f"{variable} is not read by anything"
    for target in re.findall(r"^(?:\w+=\S+ )*make (?!-)(\w+)", text, re.MULTILINE):
        if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE):
            yield f"there is no target {target} in the Makefile"
    for argument in re.findall(r"--build-arg (\w+)=", text):
        if not re.search(rf"^ARG {argument}\b", (ROOT / "Dockerfile").read_text("utf-8"), re.M):
            yield f"the Dockerfile has no build argument {argument}"
    if "compose.yaml" in text:
        for profile in set(re.findall(r"--profile (\w+)", text)) - _profiles():
            yield f"compose.yaml has no profile {profile}"
    commands = r"(?:^|[|;&(] *|\.venv(?:-test)?/bin/|\w=\S* )(alexnet(?:-\w+)?)( [^|;&\n#`]*)"
    for program, arguments in re.findall(commands, text, re.MULTILINE):
        if program in _programs():
            yield from _options(program, arguments.split())


def _options(program: str, words: list[str]) -> Iterator[str]:
    command, name = _programs()[program], program
    commands: dict[str, Command] | None = getattr(command, "commands", None)
    if commands is not None and words and re.fullmatch("[a-z]+", words[0]):
        if words[0] not in commands:
            yield f"{program} has no command {words[0]}"
            return
        name, command = f"{program} {words[0]}", commands[words[0]]
    if words[:1] == ["plot"]:
        return  # `alexnet-train plot` is a command of its own
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    for word in words:
        option = word.partition("=")[0].strip("'\"[](),.:")
        if re.fullmatch(r"--?[a-zA-Z][\w-]*", option) and option not in known | {"--help"}:
            yield f"{name} has no option {option}"


@cache
def _programs() -> dict[str, Command]:
    """Our commands with their options, as Typer knows them."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    modules = {name: import_module(entry.partition(":")[0]) for name, entry in declared.items()}
    apps = {name: getattr(m, "app", None) or m.train_app for name, m in modules.items()}
    return {name: typer.main.get_command(app) for name, app in apps.items()}


@cache
def _variables() -> set[str]:
    read = {f"ALEXNET_{name.upper()}" for name in Settings.model_fields}
    for path in [*ROOT.glob("service/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        read |= set(re.findall(r'"(ALEXNET_\w+)"', path.read_text("utf-8")))
    return read | VARIABLES_OF_OTHERS


@cache
def _profiles() -> set[str]:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text("utf-8"))
    services = compose["services"].values()
    return {profile for service in services for profile in service.get("profiles", [])}


@cache
def _folders() -> list[str]:
    kept = (path for path in ROOT.iterdir() if path.is_dir() and path.name[0] not in "._")
    return sorted(path.name for path in kept if path.name not in ("build", "dist", "run"))


def _made(page: str) -> list[str]:
    """What the page makes: copies, folders, what is written."""
    pattern = r"(?:cp -r \S+|mkdir(?: -p)?|-o|--output|[^-]>|--\w+-out)[ =]*([\w][\w./-]*)"
    return re.findall(pattern, page)
