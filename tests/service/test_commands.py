"""The `alexnet` command: in this process by its entry point, and once each as a process."""

import hashlib
import importlib
import json
import os
import pkgutil
import platform
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import service
from command_help import MEANINGS, Status
from service import app as server
from service.batch import job
from service.cli.application import SHELLS
from service.errors import NotReady, ServiceError
from service.http.middleware.errors import STATUSES
from service.loadtest import generator
from service.settings import SECRETS, Settings
from tests.support.clocks import Clock
from tests.support.commands import BUFFERED, Done, alexnet, alexnet_process, examples, plain
from tests.support.images import image
from tests.support.servers import PATIENCE, ROOT, Live, environment, serving, serving_process
from tests.support.terminals import on_real_terminal, on_terminal, speaking

COMMANDS = ("predict", "serve", "evaluate", "bench", "doctor", "inspect")
GUIDE = (ROOT / "docs" / "commands.md").read_text("utf-8")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image on the disk."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(image())
    return path


@pytest.fixture(scope="module")
def server_of_tiny(tiny_model: Path) -> Iterator[Live]:
    """One for all that only ask."""
    with serving(tiny_model) as live:
        yield live


def sentence(done: Done) -> str:
    """Assert that a command failed with one line; return it."""
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("alexnet: "), text
    assert len(text.splitlines()) == 1, text
    return text


def test_every_setting_is_a_flag() -> None:
    """Flags and environment have one source."""
    done = alexnet("serve", "--help")

    assert done.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in done.stdout.decode()


def test_every_setting_is_a_flag_that_says_what_to_give() -> None:
    """Units, files, choices: not the flag's name again."""
    text = alexnet("serve", "--help", about={"COLUMNS": "200"}).stdout.decode()
    values = dict(re.findall(r"│ --([\w-]+) +(\S+)", text))

    flags = {name.replace("_", "-") for name in set(Settings.model_fields) - set(SECRETS)}
    assert flags <= values.keys()
    assert values["max-body"] == "BYTES"
    assert values["timeout"] == values["max-delay"] == "SECONDS"
    assert values["max-pixels"] == "PIXELS"
    assert values["model"] == values["ssl-certfile"] == values["api-keys-file"] == "FILE"
    assert values["log-level"] == "debug|info|warning|error"
    assert values["tracing"] == "true|false"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    """Purpose, examples, statuses; within 80 columns, and no Python type for people."""
    done = alexnet(command, "--help")
    text = done.stdout.decode()

    assert done.returncode == 0
    assert (done.stderr, text.count("\x1b")) == (b"", 0)
    assert max(map(len, text.splitlines())) <= 80
    assert f"alexnet {command} " in text.partition("Examples:")[2]
    assert re.search(r"Exit status:\s+0 ", text)
    assert not re.search(r"<bool>|<str>|list\[|<float>|<int", text)


def test_alexnet_alone_shows_its_help() -> None:
    """With the status of a command line that lacks something."""
    alone, with_help = alexnet(), alexnet("--help")

    assert (alone.returncode, with_help.returncode) == (2, 0)
    assert alone.stdout.strip() == with_help.stdout.strip()
    assert all(f"│ {command} " in alone.stdout.decode() for command in COMMANDS)


def test_the_examples_of_the_help_work(
    server_of_tiny: Live, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are, one after the other; ports are those of the server, or free."""
    monkeypatch.setattr(generator, "time", Clock())
    ran = 0
    texts = [alexnet(*command.split(), "--help").stdout.decode() for command in ("", *COMMANDS)]
    for line in (line for text in texts for line in examples(text)):
        if re.search(r"FOLDER|alexnet serve|--install|--device cuda|alexnet\.onnx$", line):
            continue  # needs what is not here; a server does not end by itself
        line = line.replace("http://127.0.0.1:8000", server_of_tiny.url)
        line = line.replace("--port 8080", "--port 0")
        line = line.replace("scores.csv", str(tmp_path / "scores.csv"))
        line += " --seconds 0.2 --warm-up 0" if "bench http" in line else ""
        for done in piped(line, model=tiny_model, port=0):
            assert done.returncode == 0, f"{line}: {done.stderr.decode()}"
        ran += 1
    assert ran >= 14


def piped(line: str, **settings: Any) -> Iterator[Done]:
    """Run the commands of a line, each with what the one before has printed: ours here, the others
    in a shell."""
    before = b""
    for command in line.split("|"):
        command, _, file = command.partition("<")
        stdin = (ROOT / file.strip()).read_bytes() if file else before
        program, *arguments = shlex.split(command)
        if program == "alexnet":
            done = alexnet(*arguments, stdin=stdin, **settings)
        else:
            shell = ["bash", "-c", command]
            done = subprocess.run(shell, cwd=ROOT, input=stdin, capture_output=True)
        yield done
        before = done.stdout


def test_what_the_commands_print_as_processes_they_print_here(
    server_of_tiny: Live, tiny_model: Path, photo: Path
) -> None:
    """To the last byte, where it does not depend on the clock; so it is tried here in the rest."""
    labelled = photo.parent / "labelled" / "n02123045"
    labelled.mkdir(parents=True)
    photo.rename(labelled / "cat.jpg")
    for command in (["--version"], ["evaluate", str(labelled.parent), "--json"]):
        process, done = (run(*command, model=tiny_model) for run in (alexnet_process, alexnet))
        assert (process.returncode, process.stderr) == (0, done.stderr)
        assert process.stdout == done.stdout

    arguments = ("bench", server_of_tiny.url, "tests/pictures", "--rate", "20")
    bench = alexnet_process(*arguments, "--seconds", "0.5", "--warm-up", "0")
    assert (bench.returncode, bench.stderr) == (0, b"")
    assert "images/s" in bench.stdout.decode()


def test_a_server_is_a_process_that_sigterm_ends_well(tiny_model: Path) -> None:
    with serving_process(tiny_model) as server:
        assert server.client.get("/health").status_code == 200
    assert server.process.returncode == 0


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("predct", "'predict'"),
        ("predict --crop one x.jpg", ": --crops)"),
        ("serve --prot 80", ": --port)"),
        ("bench http://x --second 3", ": --seconds)"),
    ],
)
def test_a_typo_gets_a_suggestion(line: str, hint: str) -> None:
    """In one sentence, and with the command that helps."""
    done = alexnet(*line.split())
    as_json = alexnet(*line.split(), "--json")

    text = done.stderr.decode()
    assert (done.returncode, as_json.returncode) == (2, 2)
    assert done.stdout == b""
    assert hint in text
    assert "--help" in text
    assert len(text.splitlines()) == 1
    assert hint in json.loads(as_json.stderr)["error"]
    assert json.loads(as_json.stderr)["code"] == "usage"


def test_what_resembles_no_option_gets_no_suggestion() -> None:
    """--bogus has four signs of --docs."""
    done = alexnet("serve", "--bogus")

    assert done.returncode == 2
    assert done.stderr.decode() == (
        "alexnet: No such option: --bogus; alexnet serve --help shows what there is\n"
    )


@pytest.mark.parametrize("command", ["", "predict"])
def test_h_is_help(command: str) -> None:
    short, long = (alexnet(*command.split(), option) for option in ("-h", "--help"))

    assert (short.returncode, short.stdout) == (0, long.stdout)


def test_the_guide_has_every_code_that_a_command_can_end_with() -> None:
    """All that the service raises on purpose, but for what an answer of the server has."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if module.name != "service.ray_app":  # needs Ray
            importlib.import_module(module.name)
    raised = {kind.code for kind in raisable(ServiceError)} - {kind.code for kind in STATUSES}
    table = GUIDE.partition("| code | |")[2].partition("\n\n")[0]
    documented = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.+?) \|", table, re.M)))

    assert len(raised) > 10
    assert sorted(documented) == sorted(raised | {"usage", "output_unwritable"})
    assert f"`{NotReady.code}`" in GUIDE


def raisable(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """Those of the service's errors that have no children; tests have some of their own."""
    children = [one for one in kind.__subclasses__() if one.__module__.startswith("service.")]
    if not children:
        yield kind
    for child in children:
        yield from raisable(child)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("evaluate gone", "settings_invalid"),
        ("evaluate tests/pictures", "evaluation_failed"),
        ("inspect gone.onnx", "model_unusable"),
        ("predict --files-from gone --top 1", "file_unreadable"),
        ("bench http://127.0.0.1:9 tests/pictures", "load_impossible"),
        ("bench", "usage"),
    ],
)
def test_commands_end_with_the_codes_of_the_guide(command: str, code: str) -> None:
    done = alexnet(*command.split(), "--json")

    assert json.loads(done.stderr)["code"] == code


@pytest.mark.parametrize(
    "command", ["inspect gone.onnx", "evaluate gone", "predict gone.jpg --top 5"]
)
def test_errors_are_json_where_json_was_asked_for(command: str, tmp_path: Path) -> None:
    """On standard error, one object; an image's own error stands in the document."""
    done = alexnet(*command.split(), "--json")

    assert done.returncode == 1
    if command.startswith("predict"):
        assert json.loads(done.stdout)["predictions"][0]["code"] == "file_unreadable"
        assert done.stderr == b""
    else:
        assert set(json.loads(done.stderr)) == {"error", "code"}
        assert done.stdout == b""


COLOUR = re.compile(r"\x1b\[[\d;]*(3|4|9|10)\d")


@pytest.mark.parametrize(
    "command", ["--help", "inspect", "predict tests/pictures/cat.jpg", "doctor"]
)
def test_colours_are_for_terminals(command: str, tiny_model: Path) -> None:
    """Not for pipes, not with NO_COLOR, no escape sequence at all on a dumb one."""
    settings: dict[str, Any] = {"model": tiny_model, "port": 0}
    _, shown = on_terminal(*command.split(), **settings)
    _, colourless = on_terminal(*command.split(), about={"NO_COLOR": "1"}, **settings)
    _, dumb = on_terminal(*command.split(), about={"TERM": "dumb"}, **settings)
    piped = alexnet(*command.split(), **settings)

    assert "\x1b" in shown
    assert not COLOUR.search(colourless)
    assert "\x1b" not in dumb
    assert b"\x1b" not in piped.stdout + piped.stderr


def test_a_terminal_is_sent_what_is_sent_to_one_here(tiny_model: Path) -> None:
    """So its colours are tried here in the rest."""
    status, sent = on_real_terminal("inspect", model=tiny_model)

    assert "\x1b" in sent
    assert (status, sent.replace("\r\n", "\n")) == on_terminal("inspect", model=tiny_model)


def test_force_color_takes_a_pipe_for_a_terminal(tiny_model: Path) -> None:
    cat = "tests/pictures/cat.jpg"
    done = alexnet("predict", cat, model=tiny_model, about={"FORCE_COLOR": "1"})

    assert b"\x1b[" in done.stdout


def test_a_full_disk_is_one_sentence(tiny_model: Path) -> None:
    """Nothing of Python's own at the end."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "service", "inspect", "--json"],
            cwd=ROOT,
            env=plain(BUFFERED, model=tiny_model),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )

    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "output_unwritable"


def test_the_statuses_are_those_of_the_code_and_of_the_guide() -> None:
    """One table: what ends a server or a job with 70 is the same 70."""
    documented = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", GUIDE.replace("\\|", "|"), re.M))

    assert set(MEANINGS) == set(Status)
    assert {server.CRASHED, job.ENGINE_DEAD} == {Status.CANNOT_GO_ON.value}
    assert Status.INTERRUPTED == 128 + signal.SIGINT
    assert Status.TERMINATED == 128 + signal.SIGTERM
    assert Status.BROKEN_PIPE == 128 + signal.SIGPIPE
    assert set(documented) == {str(status.value) for status in Status}
    for status, meaning in MEANINGS.items():  # the guide may say more
        assert documented[str(status.value)].replace("`", "").startswith(meaning)


def test_a_network_that_has_died_ends_predict_with_70(tiny_model: Path) -> None:
    """It hangs in its first run; the command does not wait for it."""
    code = (
        "import sys, threading\n"
        "from service.inference.engine import Engine\n"
        "Engine.outputs = lambda *given, **how: threading.Event().wait()\n"
        "Engine.check = lambda engine: None\n"
        "sys.argv = ['alexnet', 'predict', 'tests/pictures/cat.jpg']\n"
        "import service.__main__ as command; command.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(model=tiny_model, run_timeout=0.2),
        capture_output=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 70, done.stderr.decode()
    assert done.stderr.startswith(b"alexnet: ")


@pytest.mark.parametrize(
    ("scheme", "words", "told"),
    [
        ("http", b"SSH-2.0-OpenSSH_9.9\r\n", "did not answer in HTTP"),
        ("http", b"", "did not answer in HTTP"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
    ],
)
def test_bench_against_what_is_no_web_server_is_one_sentence(
    scheme: str, words: bytes, told: str
) -> None:
    """Something else listens there, or TLS is asked of a plain server."""
    with speaking(words) as port:
        text = sentence(alexnet("bench", f"{scheme}://127.0.0.1:{port}", "tests/pictures/cat.jpg"))

    assert told in text


COMPLETION = """\
eval "$(alexnet --show-completion bash)"
COMP_WORDS=(alexnet "$@"); COMP_CWORD=$#; COMPREPLY=()
_alexnet_completion alexnet
printf '%s\\n' "${COMPREPLY[@]}"
complete -p alexnet
"""


def test_bash_completes_by_the_script_that_is_shown(tmp_path: Path) -> None:
    """In a real bash."""
    command = tmp_path / "alexnet"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETION, "bash", "predict", "--crops", ""],
        cwd=ROOT,
        env=plain({"PATH": f"{tmp_path}:{os.environ['PATH']}"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    *words, registered = done.stdout.splitlines()
    assert words == ["ten", "one", "dense"], done.stderr
    assert registered == "complete -o default -F _alexnet_completion alexnet"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["pre"], ["predict"]),
        (["predict", "--cr"], ["--crops"]),
        (["predict", "--crops", ""], ["ten", "one", "dense"]),
        (["predict", "--device", "c"], ["cuda", "cpu"]),
        (["serve", "--log-level", ""], ["debug", "info", "warning", "error"]),
        (["--show-completion", "z"], ["zsh"]),
        (["predict", "tests/pic"], []),  # bash then offers files
    ],
)
def test_bash_completes_commands_flags_and_values(typed: list[str], offered: list[str]) -> None:
    """As that script asks for them."""
    variables = {
        "_ALEXNET_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["alexnet", *typed]),
        "COMP_CWORD": str(len(typed)),
    }
    done = alexnet(about=variables)

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == offered


def test_each_shell_has_its_own_script(tmp_path: Path) -> None:
    """The one that is named, whichever runs here; what is printed is what is installed."""
    shown = {}
    for shell in SHELLS:
        installing = alexnet("--install-completion", shell, about={"HOME": str(tmp_path)})
        shown[shell] = alexnet("--show-completion", shell).stdout.decode().strip()
        assert installing.returncode == 0, installing.stderr.decode()
    installed = {path.read_text().strip() for path in tmp_path.rglob("*alexnet*")}

    assert shown["zsh"].startswith("#compdef alexnet")
    assert "complete -o default -F" in shown["bash"]
    assert shown["fish"].startswith("complete --command alexnet")
    assert installed == set(shown.values())


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_other_shells_and_none_are_refused(option: str, tmp_path: Path) -> None:
    """In a sentence that has the ones there are; nothing is written."""
    for shell in ("tcsh", ""):
        done = alexnet(option, shell)

        assert (done.returncode, done.stdout) == (2, b"")
        assert f"{shell!r} is not one of bash, zsh, fish" in done.stderr.decode()
    assert alexnet(option).returncode == 2


def test_a_reader_of_the_help_may_leave() -> None:
    """Status 141, as for all other output."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--help"],
        cwd=ROOT,
        env=plain(BUFFERED),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (Status.BROKEN_PIPE, b"")


def test_help_does_not_load_the_runtime() -> None:
    """It comes at once."""
    code = (
        "import sys; sys.argv = ['alexnet', '--help']\n"
        "import service.__main__ as command\n"
        "try: command.main()\n"
        "except SystemExit: pass\n"
        "assert not {'onnxruntime', 'fastapi', 'numpy', 'aiohttp', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)

    assert done.returncode == 0, done.stderr.decode()


def test_version_is_one_line() -> None:
    """As JSON also what else decides how it answers."""
    done = alexnet("--version")
    facts = json.loads(alexnet("--json", "--version").stdout)

    assert done.returncode == 0
    assert done.stdout.decode() == f"alexnet {facts['alexnet']}\n"
    assert facts["python"] == platform.python_version()
    assert facts["onnxruntime"] or facts["onnxruntime-gpu"]


def test_predict_needs_no_server(tiny_model: Path, photo: Path) -> None:
    """Five classes, the best first."""
    done = alexnet("predict", str(photo), "--model", str(tiny_model))

    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.splitlines()) == 5


def test_predict_json_is_what_the_server_answers(tiny_model: Path, photo: Path) -> None:
    """The same shape; `-` is standard input."""
    done = alexnet(
        *("predict", str(photo), "-", "--json", "--top", "3", "--crops", "one"),
        stdin=image(),
        model=tiny_model,
    )

    assert done.returncode == 0, done.stderr.decode()
    body = json.loads(done.stdout)
    assert body["crops"] == "one"
    first, second = body["predictions"]
    assert (first["filename"], second["filename"]) == (str(photo), "-")
    assert len(first["classes"]) == 3
    assert first["classes"] == second["classes"]


def test_predict_fails_if_any_image_fails(tiny_model: Path, photo: Path, tmp_path: Path) -> None:
    """The others are still answered; each failure has its line."""
    text = tmp_path / "notes.txt"
    text.write_text("nothing to see here")
    missing = tmp_path / "missing.jpg"

    done = alexnet("predict", str(text), str(photo), str(missing), model=tiny_model)

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 5
    lines = done.stderr.decode().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(text), str(missing)]


def test_predict_names_the_crops_that_the_model_offers(tiny_model: Path, photo: Path) -> None:
    """A wrong choice is one sentence."""
    done = alexnet("predict", str(photo), "--crops", "six", model=tiny_model)

    assert "ten, one" in sentence(done)


def test_inspect_shows_what_is_in_the_file(tiny_model: Path) -> None:
    """For people, and as JSON."""
    table = alexnet("inspect", str(tiny_model)).stdout.decode()
    facts = json.loads(alexnet("inspect", str(tiny_model), "--json").stdout)

    assert facts["crops"] == {"ten": 10, "one": 1, "dense": 2}
    assert facts["classes"] > 1
    assert facts["size"] == tiny_model.stat().st_size
    assert facts["version"] == facts["sha256"][:12]
    assert hashlib.sha256(tiny_model.read_bytes()[:-78]).hexdigest() == facts["sha256"]
    for name in ("sha256", "variant", "precision", "classes", "weights", "accuracy", "version"):
        assert name in table
        assert name in facts


def test_inspect_on_a_terminal_is_one_screen(bundled_model: Path) -> None:
    """Of 80 columns and 40 lines, with each choice of crops in a line of its own."""
    _, shown = on_terminal("inspect", model=bundled_model)
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()

    assert len(lines) <= 40
    assert [crops for line in lines for crops in ("ten", "one", "dense")
            if f"accuracy, {crops} " in line] == ["ten", "one", "dense"]  # fmt: skip
    assert "top1 0.443 (0.4 to 0.487)" in " ".join(" ".join(lines).split())


def test_inspect_in_a_pipe_has_a_fact_a_line(tiny_model: Path) -> None:
    """However long it is; what a crop is called, not what the graph's input takes for it."""
    lines = alexnet("inspect", str(tiny_model)).stdout.decode().splitlines()
    facts = json.loads(alexnet("inspect", str(tiny_model), "--json").stdout)
    values = dict(line.split("\t") for line in lines)

    assert values["sha256"] == facts["sha256"]
    assert values["crops"] == "ten, one, dense"
    assert not any(line.endswith(" ") for line in lines)


def test_a_port_that_is_taken_is_one_sentence(tiny_model: Path) -> None:
    """It says which flag fixes it, before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        done = alexnet("serve", "--port", str(port), model=tiny_model)

    text = sentence(done)
    assert str(port) in text
    assert "--port" in text


@pytest.mark.parametrize("port", ["70000", "http"])
def test_a_setting_out_of_range_is_one_sentence(port: str) -> None:
    """The flag and the variable are refused alike."""
    assert sentence(alexnet("serve", "--port", port)) == sentence(alexnet("serve", port=port))


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    """It names the file."""
    assert "gone.onnx" in sentence(alexnet("serve", "--port", "0", model=tmp_path / "gone.onnx"))


def test_a_damaged_model_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    """Half a file is not a model."""
    damaged = tmp_path / "half.onnx"
    damaged.write_bytes(tiny_model.read_bytes()[: tiny_model.stat().st_size // 2])

    assert "half.onnx" in sentence(alexnet("serve", "--port", "0", model=damaged))


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there may be a GPU here")
def test_cuda_without_a_gpu_refuses_to_start(tiny_model: Path) -> None:
    """Never silently the wrong device."""
    text = sentence(alexnet("serve", "--port", "0", model=tiny_model, device="cuda"))

    assert "cuda" in text.lower()


def test_without_a_runtime_the_extra_to_install_is_named(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither onnxruntime nor onnxruntime-gpu is there."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    text = sentence(alexnet("serve", "--port", "0", model=tiny_model))

    assert "cpu" in text
    assert "gpu" in text
