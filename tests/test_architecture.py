"""docs/architecture.md names every module, in the words of its docstring."""

from tests.support.architecture import LIST, PAGE, drawn, lines, packages

AGAIN = "python -m tests.support.architecture writes the lists again"


def test_every_package_has_its_list() -> None:
    assert [match[2] for match in LIST.finditer(PAGE.read_text("utf-8"))] == packages()


def test_the_lists_are_those_of_the_tree() -> None:
    page = PAGE.read_text("utf-8")

    assert page == drawn(page), AGAIN


def test_every_module_says_what_it_holds() -> None:
    silent = [
        f"{package}/{name}" for package in packages() for name, text in lines(package) if not text
    ]

    assert silent == []
