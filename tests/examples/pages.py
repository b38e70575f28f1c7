"""
A page of the documentation -> its blocks, each made true or said to be false.

Sybil finds the fenced blocks.  A block in `sh` or `python` is run; one in `json` or `text` that
stands directly after it, with nothing but blank lines between, is what it answers; the others are
data.  `<!-- not run: why -->` before a block keeps it from being run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from sybil import Document, Example, Region, Sybil
from sybil.example import SybilFailure
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from tests.examples import answers, claims, notations
from tests.examples.workplace import Workplace

ROOT = Path(__file__).parents[2]
COMMANDS = ("sh", "python")
ANSWERS = ("json", "text")

MARK = re.compile(r"<!--\s*not run:\s*(?P<reason>.+?)\s*-->\s*\Z", re.DOTALL)
SET_UP = re.compile(r"<!--\s*set-up\n(?P<source>.+?)-->", re.DOTALL)


@dataclass
class Block:
    """A fenced block, and what the page says around it."""

    language: str
    source: str
    reason: str | None = None  # why it is not run
    answers: Block | None = None  # the block that it is the answer of
    answer: Block | None = None  # its own answer
    output: str | None = None  # what it printed, once it was run
    hidden: bool = False  # a page's set-up, in a comment


@dataclass
class Outcome:
    """What became of a page's blocks, by line."""

    done: dict[int, str] = field(default_factory=dict)  # run, compared, parsed, marked, directive
    faults: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)  # programs that are not installed here


def pages() -> list[str]:
    """Every page of the repository, as paths below its root."""
    found = [*ROOT.glob("*.md")]
    for folder in ("docs", "tests", "deploy", "docker", "model_export"):
        found += ROOT.glob(f"{folder}/**/*.md")
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def parsed(page: str) -> Document:
    """The page as Sybil's document; an example's `parsed` is a `Block`."""
    return Sybil([_blocks]).parse(ROOT / page)


def blocks(page: str) -> list[tuple[int, Block]]:
    """Its visible blocks and their lines, from 1."""
    examples: list[Example] = list(parsed(page).examples())
    return [(example.line, example.parsed) for example in examples if not example.parsed.hidden]


def fences(text: str) -> list[int]:
    """The lines of the blocks as another parser counts them; of an indented one less than 0."""
    tokens = MarkdownIt("commonmark").parse(text)
    lines = [(token.type, token.map[0] + 1) for token in tokens if token.map]
    return [line if kind == "fence" else -line for kind, line in lines if kind in _CODE]


_CODE = ("fence", "code_block")


def run(page: str, workplace: Workplace) -> Outcome:
    """Make each block of the page true, in its order; a fault does not end it."""
    outcome = Outcome()
    document = parsed(page)
    document.namespace.update(workplace=workplace, outcome=outcome)
    for example in document.examples():
        try:
            example.evaluate()
        except SybilFailure as failure:
            outcome.faults.append(f"{page}:{example.line}: {failure.result}")
    return outcome


def _blocks(document: Document) -> Iterable[Region]:
    lexer = RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))
    last: Block | None = None
    end = 0
    for region in lexer(document):
        between = document.text[end : region.start]
        yield from _set_ups(between, end)
        mark = MARK.search(between.rstrip(" "))
        block = Block(
            region.lexemes["language"].strip(),
            str(region.lexemes["source"]),
            " ".join(mark["reason"].split()) if mark else None,
        )
        follows = last is not None and not between.strip() and last.language in COMMANDS
        if last and follows and block.language in ANSWERS:
            block.answers, last.answer = last, block
        region.parsed, region.evaluator = block, _evaluate
        last, end = block, region.end
        yield region


def _set_ups(between: str, start: int) -> Iterator[Region]:
    for found in SET_UP.finditer(between):
        block = Block("sh", found["source"], hidden=True)
        yield Region(start + found.start(), start + found.end(), parsed=block, evaluator=_evaluate)


def _evaluate(example: Example) -> str | None:
    block: Block = example.parsed
    outcome: Outcome = example.namespace["outcome"]
    how, judge = _way(block)
    if not block.hidden:
        outcome.done[example.line] = how
    try:
        return judge(block, example.namespace["workplace"], example.line)
    except claims.Missing as missing:
        outcome.missing.add(str(missing))
        return None


Judge = Callable[[Block, Workplace, int], "str | None"]


def _way(block: Block) -> tuple[str, Judge]:
    if block.reason is not None:
        return "marked", _excuse
    if block.language in COMMANDS:
        return "run", _run
    if block.answers:
        return "compared", _compare
    if block.language.startswith("{") and "code" not in block.language:
        return "directive", lambda block, place, line: None  # Sphinx judges those
    return "parsed", _parse


def _excuse(block: Block, place: Workplace, line: int) -> str | None:
    command = block.language in COMMANDS
    return claims.reason(block.reason or "", block.source, command=command)


def _run(block: Block, place: Workplace, line: int) -> str | None:
    claims.needs(block.source)
    refused = bool(block.answer and re.search(r'"error"|HTTP/1.1"? [45]', block.answer.source))
    runs = place.sh if block.language == "sh" else place.python
    failed, block.output = runs(block.source, line=line, refused=refused)
    return f"it failed:\n{block.output}" if failed else None


def _compare(block: Block, place: Workplace, line: int) -> str | None:
    command = block.answers
    if command is None or command.output is None:
        return None if command and command.reason else "the command of this answer was not run"
    compare = answers.json_fault if block.language == "json" else answers.text_fault
    fault = compare(place.rewritten(block.source), command.output)
    return f"{fault}\nin what came out:\n{command.output}" if fault else None


def _parse(block: Block, place: Workplace, line: int) -> str | None:
    return notations.fault(block.language, block.source, place.folder)
