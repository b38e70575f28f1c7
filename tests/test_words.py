"""Modules, classes and functions are named in the words of the field; imports are public."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("command_help", "service", "model_export", "model_training"),
    *("benchmarks", "robustness", "client"),
)
PRIVATE_MODULES = """
    awaiting bare blocking bodies budget cores doors gauges harvest ingredients journal
    leaving lessons memory mix observing outcome place prober questions replies reloading
    road scenery scorer spans squares steps stopping tally tritons truth views waiting watch
    wire words
"""
PRIVATE_NAMES = """
    Asker Budget Crowd Doors Greeter Greeting Harvest Journal Lessons OtherOrigins Place
    Places Said Steps Tally Truth Waiting Way Wishes beside drop_the_gone journal last_words
    lesson road stretches tritons with_a_key without_keys
"""


def test_no_module_has_a_private_name() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]

    assert len(paths) > 100
    assert {path.stem for path in paths} & set(PRIVATE_MODULES.split()) == set()


def test_no_class_or_function_has_a_private_name() -> None:
    names = {
        node.name: str(path)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert len(names) > 1000
    private = set(PRIVATE_NAMES.split())
    assert {name: path for name, path in names.items() if name in private} == {}


def test_no_text_for_users_speaks_in_the_first_person() -> None:
    """The service has no "we": error texts, help, the API's descriptions."""
    texts = {
        (str(path), node.lineno): node.value
        for package in ("command_help", "service", "model_export", "model_training", "client")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert len(texts) > 1000
    first = re.compile(r"(?<!\d )\b(we|our|ours|us)\b", re.IGNORECASE)  # 80 us is a time
    assert {place: text for place, text in texts.items() if first.search(text)} == {}


def test_no_private_module_is_imported() -> None:
    """Of another project, it may be gone in its next version."""
    imported = {
        module: str(path)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for module in modules(node)
    }

    assert "typer.core" in imported
    private = {module for module in imported if re.search(r"\._(?!_)", module)}
    assert {module: imported[module] for module in private} == {}


def modules(node: ast.AST) -> list[str]:
    """What a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []
