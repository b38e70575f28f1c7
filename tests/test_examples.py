"""
Every example in the documentation is run, or says why not.

    pytest tests/test_examples.py -m "" -k client      # docs/client.md alone

Each page is a test: its blocks are taken in their order.  What a writer of a page has to know:

* `sh` and `python` are run, in a copy of the checkout in which `.venv` and `.venv-test` stand for
  the environment of the tests.  They must succeed; an answer of 4xx or 5xx to curl is a failure
  unless the answer that is shown says `"error"`.  What a block exports, and where it goes to, holds
  for the next one; `.venv/bin` is on the path only if the page puts it there.  Python blocks share
  their names.
* At `localhost:8000` and `127.0.0.1:8000` a server of the bundled model answers (other ports are
  the page's own); a page's own `alexnet serve`, `make run` or `scripts/run` takes its place and
  goes on in the background.
* `FOLDER` holds ten images of two classes.  Whatever else is needed is made by a comment before
  the block, which no reader sees: `<!-- set-up`, commands on lines of their own, `-->`.
* A block in `json` or `text` directly after one of them, with nothing between, is its answer and
  is compared: `...` is anything, probabilities may differ by 0.1, times are this machine's; of JSON
  only what is shown is looked at, and of several answers the last ones.  Standard output and error
  are one, as on a terminal.
* Other languages are parsed: json, yaml, toml, ini, csv, js, promql, sql.
* `<!-- not run: why -->` on the line before keeps a block from being run, if the reason is one
  that counts (`tests/examples/claims.py`): Docker, a cluster, a GPU, the internet, hours, ...
* Files, options of our commands, variables and make targets that a page names must exist, whether
  it runs them or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples import answers, claims, installed, pages, stand_in
from tests.examples.workplace import Workplace
from tests.support.servers import serving

ROOT = Path(__file__).parents[1]
PAGES = pages.pages()


@pytest.fixture(scope="module")
def port(bundled_model: Path) -> Iterator[int]:
    """Where a server of the bundled model answers, for all pages that start none."""
    with serving(bundled_model, log_level="warning", timeout=3600, body_timeout=3600) as server:
        yield int(server.url.rpartition(":")[2])


@pytest.mark.external
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_are_true(page: str, port: int, tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, port=port)
    try:
        outcome = pages.run(page, workplace)
    finally:
        ended = workplace.close()

    if outcome.faults:
        pytest.fail("\n\n".join(outcome.faults), pytrace=False)
    assert not ended
    # Counted by another parser: none is left out, and none stands in an indented block.
    assert sorted(outcome.done) == pages.fences((ROOT / page).read_text("utf-8"))
    if outcome.missing:
        pytest.skip(f"all is true that could be tried; the rest needs {', '.join(outcome.missing)}")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    named = [block.source for _, block in pages.blocks(page)]
    named += re.findall(r"`([^`\n]+)`", re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.M | re.S))

    faults = {fault for source in named for fault in claims.faults(source, made=text)}

    if faults:
        pytest.fail("\n".join(sorted(faults)), pytrace=False)


# The harness itself: what is false in a page is found.


def faults_of(page: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is found in a page of this text."""
    path = workplace.folder / "page.md"
    path.write_text(page)
    monkeypatch.setattr(pages, "ROOT", workplace.folder)
    return pages.run("page.md", workplace).faults


@pytest.fixture(scope="module")
def workplace(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with pytest.MonkeyPatch.context() as patch:
        # As after activating the tests' environment, which is not the reader's.
        patch.setenv("PATH", f"{installed.PROGRAMS}{os.pathsep}{os.environ['PATH']}")
        made = Workplace(tmp_path_factory.mktemp("workplace"), port=port)
    yield made
    assert made.close() == []


ASKED = "```sh\ncurl localhost:8000/ping\n```\n"


FALSE = {
    "No such option": "```sh\n.venv/bin/alexnet predict --no-such-flag x.jpg\n```",
    "status: 1": "```sh\nfalse\ntrue\n```",
    "404": "```sh\ncurl localhost:8000/nothing\n```",
    "command not found": "```sh\nalexnet --version\n```",
    "No such file": "```sh\n.venv/bin/alexnet-export --help\n```",
    "there is no 'rai'": "```sh\nscripts/install run rai\n```",
    "No matching distribution": "```sh\n.venv/bin/pip download --no-deps idna\n```",
    "NameError: name 'y'": "```python\nx = 1\n```\n\n```python\nprint(x + y)\n```",
    "'Healthy', and 'Unwell' is shown": ASKED + '\n```json\n{"status": "Unwell"}\n```',
    "did not come: stale": ASKED + "\n```text\nstale\n```",
    "no command's answer": "```text\nnobody's answer\n```",
    "in which language": "```\nno language\n```",
    "nothing here reads cobol": "```cobol\nMOVE\n```",
    "not yaml": "```yaml\na: [\n```",
    "not json": "```json\n{a}\n```",
    "not one of the reasons": "<!-- not run: I did not feel like it -->\n```sh\nfalse\n```",
    "'an illustration' is not one": "<!-- not run: an illustration -->\n```sh\nls\n```",
    "nothing here reads {code-block} sh": "```{code-block} sh\nfalse\n```",
    "nothing in it is why": "<!-- not run: needs a GPU -->\n```sh\nls\n```",
}


@pytest.mark.external
@pytest.mark.parametrize(("fault", "page"), FALSE.items(), ids=FALSE)
def test_what_is_false_in_a_page_is_found(
    fault: str, page: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = faults_of(page, workplace, monkeypatch)

    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.external
def test_an_error_that_is_shown_excuses_no_other(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "```sh\ncurl localhost:8000/nothing\n```\n\n"

    found = faults_of(asked + '```json\n{"error": ...}\n```\n\n' + asked, workplace, monkeypatch)

    assert len(found) == 1
    assert found[0].startswith("page.md:9: it failed")


@pytest.mark.external
@pytest.mark.parametrize(
    "page",
    [
        ASKED + '\n```json\n{"status": "Healthy"}\n```',
        '```sh\ncurl localhost:8000/nothing\n```\n\n```json\n{"error": ..., "code": ...}\n```',
        "```sh\nexport GREETING=hello; cd docs\n```\n\n"
        "```sh\necho $GREETING; basename $PWD; cd ..\n```\n\n"
        "```text\nhello\ndocs\n```",
        "<!-- set-up\necho made >made\n-->\n```sh\ncat made\n```\n\n```text\nmade\n```",
        "<!-- not run: needs a cluster -->\n```sh\nkubectl get nodes\n```\n\n```text\nnode\n```",
    ],
    ids=["an answer", "an error that is shown", "a terminal", "a set-up", "no answer to compare"],
)
def test_what_is_true_in_a_page_is_not(
    page: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults_of(page, workplace, monkeypatch) == []


@pytest.mark.external
def test_a_server_that_a_page_starts_is_the_one_that_answers_then(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Workplace(tmp_path, port=port)

    page = "```sh\nmake run\n```\n\n```sh\ncurl localhost:8000/ping; echo localhost:8000\n```"
    faults = faults_of(page, own, monkeypatch)

    assert (faults, own.rewritten("localhost:8000") == f"localhost:{port}") == ([], False)
    assert own.close() == []
    assert not stand_in.answers(int(own.rewritten("localhost:8000").rpartition(":")[2]))


@pytest.mark.parametrize(
    ("shown", "got", "fits"),
    [
        ("0.60 tabby", "0.57 tabby", True),
        ("0.60 tabby", "0.41 tabby", False),
        ("60.1%  tabby", "58.8%  tabby", True),
        ("60.1%  tabby", "40.2%  tabby", False),
        ("0.60 tabby", "0.60 tiger", False),
        ("in 12.5 ms", "in 3 ms", True),
        ("version f8fa80aa7a7f", "version 632330a5e9ee", False),
        ("a ... d", "a b c d", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\nd", "a\nb\nd", False),
        ("a", "a\nb", False),
        ("2026-11-23 19:45:31,291 INFO", "2027-01-01 01:02:03,456 INFO", True),
        ("████▌ 0.61", "███  0.55", True),
    ],
)
def test_text_is_compared_but_for_what_is_this_machines(shown: str, got: str, fits: bool) -> None:
    assert (answers.text_fault(shown, got) is None) == fits


@pytest.mark.parametrize(
    ("shown", "got", "fits"),
    [
        ('{"a": 1}', '{"a": 1, "b": 2}', True),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ('{"a": 1, ...}', 'noise {"a": 1}', True),
        ('{"p": 0.6}', '{"p": 0.65}', True),
        ('{"p": 0.6}', '{"p": 0.75}', False),
        ("[1, ..., 4]", "[1, 2, 3, 4]", True),
        ("[1, ..., 5]", "[1, 2, 3, 4]", False),
        ("[1, 2]", "[1, 2, 3]", False),
        ('{"a": {"b": [...]}}', '{"a": {"b": [1]}}', True),
        ('["0.60:285:cat", ...]', '["0.61:285:cat", "x"]', True),
        ('["0.60:285:cat", ...]', '["0.61:281:cat", "x"]', False),
        ('{"run_ms": 1.5, "pictures": 1}', '{"run_ms": 90.25, "pictures": 1}', True),
        ('{"pictures": 1}', '{"pictures": 2}', False),
        ('{"a": 1} {"a": 2}', '{"a": 1}{"a": 2}', True),
        ('{"a": 1} {"a": 2}', '{"a": 2}', False),
    ],
)
def test_of_json_what_is_shown_is_compared(shown: str, got: str, fits: bool) -> None:
    assert (answers.json_fault(shown, got) is None) == fits


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        ("cat tests/pictures/dog.jpg", "there is no tests/pictures/dog.jpg"),
        (".venv/bin/python -m benchmarks.heatmap FOLDER", "there is no module benchmarks.heatmap"),
        ("python -m benchmarks.heatmaps FOLDER; python -m service serve", None),
        (".venv/bin/alexnet serve --ports 1", "alexnet serve has no option --ports"),
        ("alexnet-train plot a b -o c.png", None),
        ("alexnet-train FOLDER --epoch 1", "alexnet-train has no option --epoch"),
        ("alexnet swerve", "alexnet has no command swerve"),
        ("ALEXNET_PROT=1 ls", "ALEXNET_PROT is not read by anything"),
        ("make cake", "there is no target cake in the Makefile"),
        ("docker build --build-arg RUNTINE=cpu .", "the Dockerfile has no build argument RUNTINE"),
        (
            "docker compose -f docker/compose.yaml --profile cup up",
            "compose.yaml has no profile cup",
        ),
        ("ALEXNET_PORT=8001 make run; .venv/bin/alexnet serve --port 8001", None),
    ],
)
def test_what_is_named_is_looked_up(named: str, fault: str | None) -> None:
    assert list(claims.faults(named)) == ([] if fault is None else [fault])


def test_a_block_that_stands_indented_or_unclosed_is_not_lost() -> None:
    assert pages.fences("```sh\nls\n```\n\ntext\n\n    indented\n\n- ```sh\n  ls\n  ```\n") == [
        1,
        -7,
        9,
    ]
