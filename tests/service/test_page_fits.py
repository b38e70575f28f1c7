"""The page on screens of every width: nothing overflows, jumps, or hides what matters."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.http.routes.page import CHOICES, SAMPLES, STATIC
from tests.support.images import IMAGES
from tests.support.pages import (
    DESK,
    PHONE,
    a_browser,
    choose,
    compared,
    expect,
    opened,
    shows,
)
from tests.support.servers import Live, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.external

CAT = (IMAGES / "cat.jpg").read_bytes()
browser = a_browser

WIDTHS = (320, 390, 768, 1024, 1280)

# What lies beyond the right edge of its column, but for what is hidden, and the dots at 100 %.
OVERFLOWING = """() => [...document.querySelectorAll("main > section")].flatMap((section) => {
    const { right } = section.getBoundingClientRect();
    return [...section.querySelectorAll("*:not(.dots i, .scroll *, .unseen)")]
        .filter((part) => part.getBoundingClientRect().right > right + 0.5)
        .map((part) => `${part.localName}.${part.className} in ${section.className}`);
})"""
TIMED = """(time) => {
    const cells = [...document.querySelectorAll("#choices tbody .time")];
    for (const cell of cells) cell.textContent = time;
    return {
        widths: [...document.querySelectorAll("#choices thead th")].map((it) => it.offsetWidth),
        heights: cells.map((it) => it.offsetHeight),
        overflowing: cells.filter((it) => it.scrollWidth > it.clientWidth).length,
    };
}"""
SCROLLED = "document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def live(bundled_model: Path) -> Iterator[Live]:
    """A server with the bundled model, whose answers have long names."""
    with serving(bundled_model) as server:
        yield server


def bottom(page: "Page", selector: str) -> float:
    """Where an element ends, in pixels below the window's top."""
    found: float = page.locator(selector).first.evaluate("it => it.getBoundingClientRect().bottom")
    return found


def test_no_answer_is_wider_than_its_place(browser: "Browser", live: Live) -> None:
    """Every sample with every choice of crops, on every screen, whatever the names are."""
    with opened(browser, live, size=DESK) as page:
        for sample in SAMPLES:
            page.get_by_role("button", name=sample.name).click()
            compared(page)
            for choice in CHOICES:
                page.locator(f"[data-crops={choice.value}]").click()
                shows(page, f"{sample.name} · {choice.name}")
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 800})
                    assert page.evaluate(OVERFLOWING) == [], (sample.name, choice.name, width)
                    assert page.evaluate(SCROLLED) <= 0, (sample.name, choice.name, width)


def test_on_a_phone_the_answer_is_in_sight(browser: "Browser", live: Live) -> None:
    """A sample's and one's own: its name and its first bar."""
    with opened(browser, live, size=PHONE, touch=True) as page:
        shows(page, "Cat")
        assert bottom(page, "#classes .track") <= PHONE[1]

        rocket = (STATIC / "samples" / "rocket.jpg").read_bytes()  # with a long sentence
        choose(page, ("rocket.jpg", rocket), *[(f"{number}.jpg", CAT) for number in range(5)])

        shows(page, "rocket.jpg")
        expect(page.locator("#rows .probability", has_text="%")).to_have_count(6)
        assert bottom(page, "#classes .track") <= PHONE[1]


def test_nobody_is_told_to_drop_images_by_finger(browser: "Browser", live: Live) -> None:
    """A mouse can; and only a phone has a camera to offer."""
    for touch in (True, False):
        with opened(browser, live, touch=touch) as page:
            shows(page, "Cat")
            expect(page.get_by_text("or drop or paste them")).to_be_visible(visible=not touch)
            expect(page.get_by_text("Take a photo")).to_be_visible(visible=touch)


def test_the_table_scrolls_to_the_picture_that_is_chosen(browser: "Browser", live: Live) -> None:
    """And the page stays where it is."""
    with opened(browser, live, size=DESK) as page:
        choose(page, *[(f"{number}.jpg", CAT) for number in range(12)])
        shows(page, "0.jpg")
        page.locator("#files").evaluate("files => files.scrollIntoView({ block: 'end' })")
        before = page.evaluate("scrollY")
        expect(page.locator("#rows tr").last).not_to_be_in_viewport()

        page.locator("#previous").evaluate("button => button.click()")

        shows(page, "11.jpg")
        expect(page.locator("#rows tr").last).to_be_in_viewport(ratio=0.95)
        assert page.evaluate("scrollY") == before


def test_a_time_of_more_digits_moves_nothing(browser: "Browser", live: Live) -> None:
    """The columns keep their widths, and the rows their heights."""
    with opened(browser, live, size=DESK) as page:
        compared(page)
        seen = [page.evaluate(TIMED, time) for time in ("...", "9.5\xa0ms", "104\xa0ms")]

        assert seen[0] == seen[1] == seen[2]
        assert seen[0]["overflowing"] == 0
