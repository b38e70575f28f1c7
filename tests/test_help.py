"""The help of all four commands has one style; their examples are tested with the commands."""

import re

import pytest

from command_help import MEANINGS
from tests.support.commands import examples
from tests.support.golden import help_pages

PAGES = dict(help_pages())


def test_there_is_help_of_all_four_programs() -> None:
    programs = {"alexnet", "alexnet-export", "alexnet-train", "alexnet-distill"}
    assert programs | {"alexnet-train-plot", "alexnet-distill-weights"} <= PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_help_has_a_purpose_examples_and_exit_statuses(name: str) -> None:
    """And no Python types: words that say what to give."""
    text = PAGES[name]
    options, _, rest = text.partition("Examples:")
    statuses = re.findall(r"^ {3}(\d+) +\S", rest.partition("Exit status:")[2], re.MULTILINE)

    assert 2 <= len(examples(text)) <= 7
    assert {"0", "1", "2"} <= set(statuses) <= {str(status.value) for status in MEANINGS}
    assert re.search(r"--help +-h ", options)
    assert not re.search("<[a-z|]+>", options, re.IGNORECASE)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", PAGES)
def test_many_options_are_in_panels(name: str) -> None:
    unnamed = PAGES[name].partition("─ Options ─")[2].partition("╰")[0]

    assert len(re.findall(r"^│ [* ] {0,2} ?--", unnamed, re.MULTILINE)) <= 8
