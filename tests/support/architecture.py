"""
The map of modules in docs/architecture.md: a line for each, from its docstring's first sentence.

    python -m tests.support.architecture        writes the lists of the page again
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = (
    *("command_help", "service", "model_export", "model_training"),
    *("benchmarks", "robustness", "client"),
)
LIST = re.compile(r"(<!-- modules: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def packages() -> list[str]:
    """The folders that hold modules, as paths from the root."""
    found = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    return sorted(found)


def listed(package: str) -> str:
    """What a folder is, and the Markdown list of its modules."""
    (_, package_text), *modules = lines(package)
    return f"{package_text}.\n\n" + "".join(f"- `{name}`: {text}\n" for name, text in modules)


def lines(package: str) -> Iterator[tuple[str, str]]:
    """Each module of a folder and the first sentence of its docstring; the package comes first."""
    for path in sorted(
        (ROOT / package).glob("*.py"), key=lambda path: (path.stem[:2] != "__", path)
    ):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        paragraph = " ".join(docstring.partition("\n\n")[0].split())
        sentence = re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0].removesuffix(".")
        yield path.name, sentence.replace("``", "`")


def drawn(page: str) -> str:
    """The page with its lists as they should be."""
    return LIST.sub(lambda match: match[1] + listed(match[2]) + match[4], page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
