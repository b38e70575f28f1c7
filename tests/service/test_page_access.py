"""The page for everybody: axe-core, keyboard alone, small screens, both colour schemes."""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.support.images import IMAGES
from tests.support.models import TINY, altered, entry
from tests.support.pages import (
    DESK,
    SIZES,
    a_browser,
    a_locked_server,
    choose,
    compared,
    expect,
    opened,
    shows,
    unfold,
)
from tests.support.servers import Live, serving

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe: scripts/install test"
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.external

CAT = (IMAGES / "cat.jpg").read_bytes()
LONG = "a-photograph-with-a-name-that-nobody-would-want-to-read-to-its-end.jpg"

browser, locked = a_browser, a_locked_server

FOCUSED = """() => {
    const { activeElement: it } = document;
    const rings = [it, ...(it.closest("label, tr") ? [it.closest("label"), it.closest("tr"),
        it.closest("label")?.querySelector(".card")] : [])].filter(Boolean);
    return {
        tag: it.localName, id: it.id, name: it.name ?? "",
        text: (it.textContent || it.ariaLabel || "").trim(),
        ring: rings.map(getComputedStyle).some((style) => style.outlineStyle !== "none"
            && style.opacity !== "0" && style.clipPath === "none"),
    };
}"""


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    """A server with the bundled model, whose answers mean something."""
    with serving(bundled_model) as server:
        yield server


@pytest.fixture(scope="module")
def long_named(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A quick one that says of itself what the bundled model does; its names are all long."""
    told = {key: entry(bundled_model, key) for key in ("name", "weights", "accuracy", "exporter")}
    labels = [
        [wordnet_id, f"American Staffordshire terrier {number}, {label}"]
        for number, (wordnet_id, label) in enumerate(json.loads(entry(TINY, "labels")))
    ]
    path = tmp_path_factory.mktemp("long") / "long.onnx"
    with serving(altered(TINY, path, labels=json.dumps(labels), **told)) as server:
        yield server


def sound(page: "Page") -> None:
    """No violation that axe-core finds, and nothing to be scrolled to the side."""
    found: Any = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen


def give_and_answer(page: "Page") -> None:
    """Several pictures, one of them broken, one with a long name; evidence and a view shown."""
    choose(page, (LONG, CAT), ("broken.jpg", CAT[:9000]))
    shows(page, LONG)
    compared(page)
    page.get_by_role("switch").check()
    expect(page.locator("#heat")).to_be_visible()
    expect(page.locator("#busy")).to_be_hidden()


@pytest.mark.parametrize(
    ("size", "scheme"),
    [*zip(SIZES, cycle(("dark", "light")), strict=False)],
    ids=[str(width) for width, _ in SIZES],
)
def test_axe_finds_nothing_and_nothing_is_too_wide(
    browser: "Browser",
    long_named: Live,
    locked: Live,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    """Before there is an answer, where a key is asked for, with all that there is, with errors."""
    with opened(browser, locked, size=size, scheme=scheme) as page:
        sound(page)
        choose(page, ("cat.jpg", CAT))
        expect(page.locator("#door")).to_be_visible()
        sound(page)
    with opened(browser, long_named, size=size, scheme=scheme) as page:
        shows(page, "Cat")
        give_and_answer(page)
        sound(page)
        page.locator("[data-view='6'] input").check()
        page.locator("#rows tr").nth(1).click()
        expect(page.locator("#wrong")).to_be_visible()
        page.get_by_text("List of 1000 classes").click()
        page.get_by_label("Filter by name, index or WordNet id").fill("terrier 12")
        sound(page)


def test_the_page_is_used_by_keyboard_alone(browser: "Browser", long_named: Live) -> None:
    """In the order in which it is read, with a ring around whatever has the focus."""
    with opened(browser, long_named, size=DESK) as page:
        shows(page, "Cat")
        unfold(page)
        seen: list[str] = []
        while True:
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            if focused["tag"] == "body" or len(seen) > 40:
                break
            assert focused["ring"], focused
            seen.append(focused["id"] or focused["name"] or focused["text"].partition(",")[0])

        assert seen == [
            *("Model", "Code", "API", "Health", "file", "webcam"),
            *("Cat", "Panda", "Coffee", "Guitar", "Okapi", "Rocket"),
            *("heatswitch", "Crops and timing: ten crops", "crops", "compare", "view"),
            *("Copy the curl line", "Copy the Python line", "Show JSON", "List of 1000 classes"),
        ]

        with page.expect_file_chooser() as asked:
            page.locator("#file").press("Enter")
        assert asked.value.is_multiple()
        page.get_by_role("button", name="Panda").press("Enter")
        shows(page, "Panda")
        page.get_by_role("switch").press("Space")
        expect(page.locator("#heat")).to_be_visible()
        page.locator("#classes input").first.press("ArrowDown")
        second = page.locator("#classes .label").nth(1).inner_text()
        expect(page.locator("#heatwords")).to_contain_text(second)


def test_what_is_said_aloud_is_said_once(browser: "Browser", live: Live) -> None:
    """One short sentence for an answer, however often the page is drawn again."""
    with opened(browser, live, size=DESK) as page:
        shows(page, "Cat")
        compared(page)
        page.evaluate(
            """() => {
                window.said = [];
                new MutationObserver(() => said.push(document.querySelector("#status").textContent))
                    .observe(document.querySelector("#status"),
                             { childList: true, characterData: true, subtree: true });
            }"""
        )

        page.get_by_role("button", name="Panda").click()
        shows(page, "Panda")
        compared(page)
        page.locator("[data-view='2']").hover()
        page.locator("h1").hover()

        said = page.evaluate("said")
        assert len(said) == 1
        assert said[0].startswith("Panda: giant panda, ")


def test_the_chosen_crops_look_chosen_in_the_dark(browser: "Browser", live: Live) -> None:
    """Another ground than the others', clearly so."""
    with opened(browser, live, scheme="dark", size=DESK) as page:
        compared(page)
        grounds = page.evaluate(
            """[...document.querySelectorAll("#choices tbody tr")]
                .map((row) => getComputedStyle(row).backgroundColor)"""
        )

        assert grounds[0] != grounds[1]
        assert grounds[1] == grounds[2]


def test_the_main_thing_fits_on_a_screen(browser: "Browser", live: Live) -> None:
    """Picture, bars, what is folded and all ten crops, at 1280 x 800 without scrolling."""
    with opened(browser, live, size=DESK) as page:
        shows(page, "Cat")
        for part in ("#frame", "#classes", "#fold", "#views"):
            box = page.locator(part).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= DESK[1], part
