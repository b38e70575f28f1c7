"""
How many small faults the tests notice: a sample of mutants of the three packages.

    coverage run -m pytest && coverage combine            which test runs which line
    python -m tests.support.mutants .coverage             60 mutants; says which survive

Each mutant changes one place of one file, in a copy of the checkout, and meets the tests that run
that line (those that run the file, where a line is run by processes or fixtures only).
The same seed chooses the same mutants as long as the packages are the same.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pytest
from coverage import CoverageData

PACKAGES = ("command_help", "service", "model_export", "model_training", "client")
MOST_TESTS = 60  # that a mutant meets
TIMEOUT = 600  # seconds; a mutant that hangs the tests is noticed
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.Div: "*",
    ast.FloorDiv: "*",
}


@dataclass(frozen=True)
class Mutant:
    """One place of a file, as character offsets of a line's text, and what it becomes."""

    path: str
    line: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The file's text with the fault in it."""
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1]
        lines[self.line - 1] = line[: self.start] + self.text + line[self.end :]
        return "".join(lines)

    def parses(self, root: Path) -> bool:
        """Whether it is Python: a parenthesis may have been lost with an operator."""
        try:
            ast.parse(self.apply((root / self.path).read_text("utf-8")))
        except SyntaxError:
            return False
        return True

    def shown(self, root: Path) -> str:
        """`path:line: what it says now`."""
        changed = self.apply((root / self.path).read_text("utf-8")).splitlines()[self.line - 1]
        return f"{self.path}:{self.line}: {changed.strip()}"


def mutants(root: Path) -> Iterator[Mutant]:
    """Every mutant of the packages, in the order of their files and lines."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            source = path.read_text("utf-8")
            if source.isascii():  # ast counts bytes
                for line, start, end, text in sorted(_places(source)):
                    yield Mutant(str(path.relative_to(root)), line, start, end, text)


def _places(source: str) -> Iterator[tuple[int, int, int, str]]:
    lines = source.splitlines()

    def between(left: ast.expr, right: ast.expr, text: str) -> Iterator[tuple[int, int, int, str]]:
        """The operator between two operands, where it stands on their line."""
        if left.end_lineno == right.lineno and left.end_col_offset is not None:
            start, end = left.end_col_offset, right.col_offset
            gap = lines[right.lineno - 1][start:end]
            if (sign := re.fullmatch(r"( *)([^ ()]+(?: [a-z]+)?)( *)", gap)) is not None:
                yield right.lineno, start, end, f"{sign[1]}{text}{sign[3]}"

    tree = ast.parse(source)
    for node in _code(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            yield from between(node.left, node.comparators[0], COMPARISONS[type(node.ops[0])])
        elif isinstance(node, ast.BoolOp):
            other = "or" if isinstance(node.op, ast.And) else "and"
            yield from between(node.values[0], node.values[1], other)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield from between(node.left, node.right, ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node.lineno, node.col_offset, node.operand.col_offset, ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield node.lineno, node.col_offset, node.end_col_offset or 0, repr(value)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no annotations, no imports for types only, no f-strings' insides."""
    if isinstance(node, (ast.JoinedStr, ast.AnnAssign)):
        value = getattr(node, "value", None)
        children = [value] if value is not None else []
    elif isinstance(node, ast.arg) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ):
        children = []
    else:
        yield node
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns:
            children.remove(node.returns)
    for child in children:
        yield from _code(child)


class Runs:
    """Which tests run a line, by a coverage file with the contexts of test functions."""

    def __init__(self, data: Path, root: Path) -> None:
        self._data = CoverageData(str(data))
        self._data.read()
        self._files = {
            next(
                (name[name.index(f"/{p}/") + 1 :] for p in PACKAGES if f"/{p}/" in name), name
            ): name
            for name in self._data.measured_files()
        }
        self._tests = {path.stem: path for path in sorted((root / "tests").rglob("test_*.py"))}
        self._root = root

    def of(self, mutant: Mutant) -> list[str]:
        """The ids of the tests to run."""
        contexts = self._data.contexts_by_lineno(self._files.get(mutant.path, ""))
        found = self._ids(contexts.get(mutant.line, []))
        found = found or self._ids({name for names in contexts.values() for name in names})
        return sorted(random.Random(0).sample(found, min(MOST_TESTS, len(found))))

    def _ids(self, contexts: list[str] | set[str]) -> list[str]:
        ids = set()
        for context in contexts:
            module, _, function = context.rpartition(".")
            path = self._tests.get(module.rpartition(".")[2])
            if path and f"def {function}(" in path.read_text("utf-8"):
                ids.add(f"{path.relative_to(self._root)}::{function}")
        return sorted(ids)


def noticed(mutant: Mutant, copy: Path, tests: list[str], options: list[str]) -> bool:
    """Whether a test fails on it."""
    path = copy / mutant.path
    source = path.read_text("utf-8")
    path.write_text(mutant.apply(source), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options]
    try:
        done = subprocess.run(
            [*command, *tests], cwd=copy, capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(source, "utf-8")
    if done.returncode == pytest.ExitCode.USAGE_ERROR:
        raise RuntimeError(done.stderr.decode())
    return done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def main() -> None:
    """Say what becomes of each, and how many are noticed; the same as JSON with --output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0].strip())
    parser.add_argument("data", type=Path, help="a coverage file with contexts")
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the checkout")
    parser.add_argument("--again", type=Path, help="only those that this --output says are noticed")
    parser.add_argument("--all", action="store_true", help="every test meets every mutant")
    parser.add_argument("--option", action="append", default=[], help="for pytest")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    root = given.root.resolve()
    if given.again:
        told = json.loads(given.again.read_text("utf-8"))
        chosen = [Mutant(**entry["mutant"]) for entry in told if entry["noticed"]]
    else:
        everything = list(mutants(root))
        random.Random(given.seed).shuffle(everything)
        chosen = list(islice((one for one in everything if one.parses(root)), given.number))
    runs = Runs(given.data, root)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        ignored = shutil.ignore_patterns(".git", ".venv*", ".*cache", "__pycache__", "build")
        shutil.copytree(root, copy, ignore=ignored)
        for mutant in chosen:
            tests = [] if given.all else runs.of(mutant)
            fate = bool(tests or given.all) and noticed(mutant, copy, tests, given.option)
            results.append({"mutant": asdict(mutant), "noticed": fate, "tests": len(tests)})
            print("noticed " if fate else "SURVIVES", mutant.shown(root), f"({len(tests)} tests)")
            sys.stdout.flush()
            if given.output:
                given.output.write_text(json.dumps(results, indent=1))
    print(f"{sum(bool(one['noticed']) for one in results)} of {len(results)} are noticed")


if __name__ == "__main__":
    main()
