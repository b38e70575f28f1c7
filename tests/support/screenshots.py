"""
Screenshots of the page in each of its states, on five sizes of screen, for people to look at.

    python -m tests.support.screenshots FOLDER [STATE ...]

Writes FOLDER/STATE-WIDTH.png, and on a desk STATE-dark.png.  Takes minutes, and wants Chromium as
the page's tests do.  docs/page.png is made by scripts/screenshots.
"""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from service.http.routes.page import SAMPLES, STATIC
from service.settings import BUNDLED
from tests.support.images import IMAGES
from tests.support.models import OWN, altered
from tests.support.pages import (
    DESK,
    PHONE,
    SIZES,
    SMALL_PHONE,
    choose,
    expect,
    give,
    launched,
    opened,
    shows,
)
from tests.support.servers import InThread, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONES: Final = (SMALL_PHONE, PHONE)  # with a finger in place of a mouse
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "rate-limited": {"rate_limit": "1/minute"},
    "smaller-copy": {"max_body": 50_000},
}

CAT = (IMAGES / "cat.jpg").read_bytes()
PICTURES = [(sample.file, (STATIC / "samples" / sample.file).read_bytes()) for sample in SAMPLES]


def sample(page: "Page", live: InThread) -> None:
    """What there is to see at once."""
    shows(page, "Cat")


def dropped(page: "Page", live: InThread) -> None:
    """A picture of one's own."""
    give(page, "drop", PICTURES[2])
    shows(page, PICTURES[2][0])


def broken(page: "Page", live: InThread) -> None:
    """A file that was cut short."""
    choose(page, ("cut-short.jpg", CAT[:9000]))
    expect(page.locator("#wrong")).to_be_visible()


def five_files(page: "Page", live: InThread) -> None:
    """One of them cut short."""
    choose(page, *PICTURES[:4], ("cut-short.jpg", CAT[:9000]))
    expect(page.locator("#filecount")).to_contain_text("4 of 5")
    shows(page, PICTURES[0][0])


def seventy_files(page: "Page", live: InThread) -> None:
    """With a long table."""
    many = [(f"{number}-{name}", data) for number, (name, data) in enumerate(12 * PICTURES)]
    choose(page, *many[:70])
    expect(page.locator("#filecount")).to_contain_text("70 of 70")
    shows(page, many[0][0])


def panorama(page: "Page", live: InThread) -> None:
    """Of which the network gets an eighth."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as cat:
        wide = Image.new("RGB", (8 * 300, 300))
        for place in range(8):
            wide.paste(cat.resize((300, 300)), (300 * place, 0))
        wide.save(encoded, "JPEG")
    choose(page, ("panorama.jpg", encoded.getvalue()))
    shows(page, "panorama.jpg")


def unsure(page: "Page", live: InThread) -> None:
    """A best class below a third."""
    page.get_by_role("button", name="Rocket").click()
    expect(page.locator("#best")).to_have_text("Not sure")


def rate_limited(page: "Page", live: InThread) -> None:
    """The second picture within a minute."""
    shows(page, "Cat")
    choose(page, PICTURES[1])
    expect(page.locator("#retry")).to_be_visible()


def custom_labels(page: "Page", live: InThread) -> None:
    """Three classes of one's own."""
    choose(page, ("cat.jpg", CAT))
    shows(page, "cat.jpg")
    page.get_by_text("List of 3 classes").click()


def heatmap_running(page: "Page", live: InThread) -> None:
    """With its progress; the request never leaves the browser."""
    shows(page, "Cat")
    page.route("**/v1/predict?details=heatmap", lambda route: None)
    page.get_by_role("switch").click()
    expect(page.locator("#heatwait")).to_be_visible()


def heatmap(page: "Page", live: InThread) -> None:
    """With its scale."""
    shows(page, "Cat")
    page.get_by_role("switch").click()
    expect(page.locator("#heat")).to_be_visible()


def no_server(page: "Page", live: InThread) -> None:
    """It has ended since the page was opened."""
    shows(page, "Cat")
    live.terminate()
    live.wait()
    choose(page, PICTURES[1])
    expect(page.locator("#wrong")).to_be_visible()


def smaller_copy(page: "Page", live: InThread) -> None:
    """Of a file that is larger than the server takes."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(CAT)) as cat:
        cat.save(encoded, "BMP")
    choose(page, ("cat.bmp", encoded.getvalue()))
    expect(page.locator("#copy")).to_be_visible()


def class_list(page: "Page", live: InThread) -> None:
    """Filtered."""
    shows(page, "Cat")
    page.get_by_text("List of 1000 classes").click()
    page.get_by_label("Filter by name, index or WordNet id").fill("cat")


def webcam(page: "Page", live: InThread) -> None:
    """Its window; on a phone there is none."""
    shows(page, "Cat")
    button = page.get_by_text("Webcam")
    if button.is_visible():
        button.click()
        expect(page.get_by_role("dialog")).to_be_visible()


STATES: Final[dict[str, Callable[["Page", InThread], None]]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        *(sample, dropped, broken, five_files, seventy_files, panorama, unsure, rate_limited),
        *(custom_labels, heatmap_running, heatmap, no_server, smaller_copy, class_list, webcam),
    )
}


def photograph(page: "Page", path: Path) -> None:
    """The whole page, one screen below the other: Chromium's own way forgets that it is a phone."""
    size = page.viewport_size
    height = page.evaluate("document.documentElement.scrollHeight")
    assert size is not None
    whole = Image.new("RGB", (size["width"], height))
    for top in range(0, height, size["height"]):
        page.evaluate("top => scrollTo(0, top)", top)
        with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as screen:
            whole.paste(screen, (0, int(page.evaluate("scrollY"))))
    whole.save(path)


def take(browser: "Browser", folder: Path, name: str, own_model: Path) -> None:
    """One state in all sizes; behind the webcam's window nothing scrolls."""
    model = own_model if name == "custom-labels" else BUNDLED
    views = [(size, "light", str(size[0])) for size in SIZES] + [(DESK, "dark", "dark")]
    for size, scheme, suffix in views:
        with (
            serving(model, **SETTINGS.get(name, {})) as live,
            opened(
                browser,
                live,
                size=size,
                scheme="dark" if scheme == "dark" else "light",
                touch=size in PHONES,
                permissions=["camera"],
            ) as page,
        ):
            STATES[name](page, live)
            page.mouse.move(0, 0)
            path = folder / f"{name}-{suffix}.png"
            if page.get_by_role("dialog").is_visible():
                page.screenshot(path=path)
            else:
                photograph(page, path)


def main(folder: Path, wanted: list[str]) -> None:
    """Take the states that are wanted, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = json.dumps([[None, "apple"], [None, "pear"], [None, "quince"]])
    with launched() as browser, TemporaryDirectory() as scratch:
        own_model = altered(OWN, Path(scratch, "own.onnx"), labels=labels, name="fruit")
        for name in wanted or STATES:
            take(browser, folder, name, own_model)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
