"""
Draws docs/page.png, the README's image: the page of the bundled model, as a browser shows it.

    scripts/screenshots

Wants Chromium, at /usr/bin/chromium or where CHROMIUM says.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
SIZE = {"width": 1280, "height": 800}
COLOURS = 256  # a palette keeps the file small


@contextmanager
def server() -> Iterator[str]:
    """A server of the bundled model on a port of its own; its address."""
    given = {"ALEXNET_PORT": "0", "ALEXNET_DEVICE": "cpu", "ALEXNET_LOG_FORMAT": "text"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        cwd=DOCS.parent,
        env=os.environ | given | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if found := re.search(r"answers at (http://\S+)", line):
                yield found[1]
                return
        sys.exit("the server did not start")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Take the image once the page has all its answers."""
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with server() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(2):  # the first time everything is slow; its times are not shown
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(url)
            page.locator("#classes li").nth(4).wait_for()
            taken = page.screenshot(animations="disabled")
            page.close()
        browser.close()
    with Image.open(BytesIO(taken)) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        small.save(DOCS / "page.png", optimize=True)


if __name__ == "__main__":
    main()
