"""Look at pages in a real browser: pictures at two widths in light and dark, axe-core, and no request that leaves them.

`python website/look_at_pages.py FOLDER PAGE...` writes the pictures into FOLDER. It needs Playwright and Chromium
(CHROMIUM names another program than Playwright's own), and axe-core, of which AXE names `axe.min.js`.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS, SCHEMES = (390, 1440), ("light", "dark")


def look_at(pages: list[Path], folder: Path) -> list[str]:
    """Take the pictures; returns what is wrong with the pages."""
    from playwright.sync_api import sync_playwright

    axe = Path(os.environ["AXE"]).read_text(encoding="utf-8") if "AXE" in os.environ else ""
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        for page, width, scheme in itertools.product(pages, WIDTHS, SCHEMES):
            size = {"width": width, "height": 900}
            context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=bool(axe))
            name = f"{page.parent.name}-{page.stem}-{width}-{scheme}"
            found = _faults(context.new_page(), page, folder / f"{name}.png", axe)
            faults += [f"{name}: {fault}" for fault in found]
            context.close()
        browser.close()
    return faults


def _faults(tab: Any, page: Path, picture: Path, axe: str) -> Iterator[str]:
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.absolute().as_uri())
    tab.screenshot(path=picture, full_page=True)
    yield from (f"requests {url}" for url in asked if not url.startswith(("file:", "data:")))
    yield from said
    beyond = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if beyond > 0:
        yield f"{beyond} pixels wider than the screen"
    if axe:
        tab.evaluate(axe)
        for one in tab.evaluate("axe.run()")["violations"]:
            yield f"{one['id']}: {one['nodes'][0]['html'][:160]} ({len(one['nodes'])})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    arguments = parser.parse_args()
    wrong = look_at(arguments.pages, arguments.folder)
    sys.stdout.write("".join(f"{one}\n" for one in wrong) or "nothing is wrong\n")
    sys.exit(bool(wrong))
