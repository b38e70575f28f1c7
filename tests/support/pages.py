"""
Pages in a real Chromium: they may ask nobody but their server, and must not complain.

A module makes a fixture its own by a name: `browser = a_browser`.
"""

import base64
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.support.servers import PATIENCE, Live, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FilePayload, Page

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: scripts/install test"
)
expect = sync_api.expect
expect.set_options(timeout=1000 * PATIENCE)

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ELSEWHERE = "elsewhere.test"  # this machine by a name that browsers do not take for it
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",  # a webcam that shows a pattern
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
]
KEY = "alice-0123456789"
REFUSED = "Failed to load resource"  # a refusal's status, which the browser itself writes
PHONE, SMALL_PHONE, DESK = (390, 844), (320, 640), (1280, 800)
SIZES = (SMALL_PHONE, PHONE, (768, 1024), (1024, 768), DESK)

_unused: list["Page"] = []

GIVE = """([kind, files]) => {
    const transfer = new DataTransfer();
    for (const { name, type, text } of files) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
    }
    const about = { bubbles: true, cancelable: true };
    const where = document.querySelector("footer");
    if (kind === "paste") {
        where.dispatchEvent(new ClipboardEvent("paste", { ...about, clipboardData: transfer }));
    } else {
        for (const name of ["dragenter", "dragover", "drop"]) {
            where.dispatchEvent(new DragEvent(name, { ...about, dataTransfer: transfer }));
        }
    }
}"""


@contextmanager
def launched() -> Iterator["Browser"]:
    """A browser for the tests of a module."""
    if not CHROMIUM.exists():
        pytest.skip(
            f"needs Chromium, which is not at {CHROMIUM} (Debian: apt-get install chromium; "
            "CHROMIUM=PATH names another)"
        )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=ARGUMENTS, timeout=1000 * PATIENCE
        )
        yield browser
        _unused.clear()
        browser.close()


@pytest.fixture(scope="module")
def a_browser() -> Iterator["Browser"]:
    """One for all tests of a module."""
    with launched() as one:
        yield one


@pytest.fixture(scope="module")
def a_locked_server(tiny_model: Path) -> Iterator[Live]:
    """A server that asks for a key."""
    with serving(tiny_model, api_keys=KEY) as server:
        yield server


@contextmanager
def opened(
    browser: "Browser",
    live: Live,
    path: str = "/",
    *,
    tolerated: str = REFUSED,
    size: tuple[int, int] = PHONE,
    scheme: Literal["light", "dark"] = "light",
    permissions: Sequence[str] = (),
    touch: bool = False,
    frozen: bool = False,
) -> Iterator["Page"]:
    """
    A page of `size` pixels; what it says on the console must match `tolerated`.

    Where its time is `frozen`, it goes on with `page.clock.resume()`.
    """
    complaints: list[str] = []
    asked: list[str] = []
    listeners: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: asked.append(request.url),
    }
    with _page(browser, permissions=permissions, touch=touch, frozen=frozen) as shown:
        shown.set_viewport_size({"width": size[0], "height": size[1]})
        shown.emulate_media(color_scheme=scheme)
        for event, listener in listeners.items():
            shown.on(event, listener)
        shown.goto(live.url + path)
        yield shown
        for event, listener in listeners.items():
            shown.remove_listener(event, listener)
    unforeseen = [text for text in complaints if not re.search(tolerated, text)]
    assert unforeseen == [], unforeseen
    foreign = [url for url in asked if not url.startswith((live.url, "blob:", "data:"))]
    assert foreign == [], foreign


@contextmanager
def _page(
    browser: "Browser", *, permissions: Sequence[str], touch: bool, frozen: bool
) -> Iterator["Page"]:
    """
    An empty page: where nothing is particular about it one that a test before has left.

    That takes half the time: a new one starts a process, which has all scripts to compile.
    """
    usual = not (permissions or touch or frozen)
    if usual and _unused:
        page = _unused.pop()
    else:
        context = browser.new_context(
            permissions=list(permissions), reduced_motion="reduce", has_touch=touch, is_mobile=touch
        )
        context.set_default_timeout(1000 * PATIENCE)
        if frozen:
            context.clock.install(time=0)
            context.clock.pause_at(1)
        page = context.new_page()
    try:
        yield page
        page.unroute_all()
        page.mouse.move(0, 0)
        page.goto("about:blank")
    except BaseException:
        usual = False  # in whatever state it is
        raise
    finally:
        if usual:
            _unused.append(page)
        else:
            page.context.close()


def choose(page: "Page", *files: tuple[str, bytes]) -> None:
    """Give the page files, as the system's dialogue would."""
    given: list[FilePayload] = [
        {"name": name, "mimeType": _type(name), "buffer": data} for name, data in files
    ]
    page.set_input_files("#file", given)


def give(page: "Page", kind: Literal["drop", "paste"], *files: tuple[str, bytes]) -> None:
    """Drop files on the page's last line, or paste them there."""
    told = [
        {"name": name, "type": _type(name), "text": base64.b64encode(data).decode()}
        for name, data in files
    ]
    page.evaluate(GIVE, [kind, told])


def shows(page: "Page", name: str) -> None:
    """Wait until the page shows what is known of the picture of this name."""
    expect(page.locator("#whose")).to_contain_text(name)


def bars(page: "Page") -> list[dict[str, Any]]:
    """What the bars say, as text and as drawn."""
    return [
        {
            "label": row.locator(".label").inner_text(),
            "wordnet": row.locator(".wordnet").inner_text(),
            "probability": row.locator(".probability").inner_text().replace("\xa0", " "),
            "width": row.locator(".bar").evaluate("bar => parseFloat(bar.style.width)"),
        }
        for row in page.locator("#classes li").all()
    ]


def unfold(page: "Page") -> None:
    """Open what is folded: choices of crops, and timing."""
    page.locator("#fold").evaluate("fold => { fold.open = true; }")


def compared(page: "Page", choices: int = 3) -> None:
    """Ask for a comparison of the choices of crops, and wait until each has its answer."""
    unfold(page)
    page.locator("#compare").click()
    page.mouse.move(0, 0)  # and point at nothing
    expect(page.locator("#choices .three ol")).to_have_count(choices)


def _type(name: str) -> str:
    kinds = {
        "heic": "image/heic",
        "bmp": "image/bmp",
        "avif": "image/avif",
        "jpg": "image/jpeg",
        "png": "image/png",
        "webp": "image/webp",
        "txt": "text/plain",
    }
    return kinds[name.rpartition(".")[2]]
