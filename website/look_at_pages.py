"""Look at pages in a real browser: pictures at two widths in light and dark, axe-core, and no request that leaves them.

`python website/look_at_pages.py FOLDER PAGE...` writes the pictures into FOLDER. With `--runs RUNS`, it looks at the
report of every run in that folder, at a comparison, and at all pages of the board over them; runs of every kind are
trained there first by `python website/example_runs.py RUNS`. It needs Playwright and Chromium (CHROMIUM names another
program than Playwright's own), and axe-core, of which AXE names `axe.min.js`.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WIDTHS, SCHEMES = (390, 1440), ("light", "dark")

ROOT = Path(__file__).parents[1]

MOST_COMPARED = 6


def look_at(pages: list[tuple[str, str]], folder: Path) -> list[str]:
    """Take the pictures of pages, each a name and an address; returns what is wrong with them."""
    from playwright.sync_api import sync_playwright

    axe = Path(os.environ["AXE"]).read_text(encoding="utf-8") if "AXE" in os.environ else ""
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        for (name, url), width, scheme in itertools.product(pages, WIDTHS, SCHEMES):
            size = {"width": width, "height": 900}
            context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=bool(axe))
            shown = f"{name}-{width}-{scheme}"
            for fault in _faults(context.new_page(), url, folder / f"{shown}.png", axe):
                faults.append(f"{shown}: {fault}")
                sys.stderr.write(f"{faults[-1]}\n")  # at once: the other pages may take minutes
            context.close()
        browser.close()
    return faults


def _faults(tab: Any, url: str, picture: Path, axe: str) -> Iterator[str]:
    said: list[str] = []
    asked: list[str] = []
    # A page that is not there is shown with its status, which the browser notes of the page itself.
    tab.on("console", lambda message: said.append(message.text) if message.location.get("url") != tab.url else None)
    tab.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(url)
    tab.screenshot(path=picture, full_page=True)
    yield from (f"requests {one}" for one in asked if not _is_own(one, url))
    yield from said
    beyond = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if beyond > 0:
        yield f"{beyond} pixels wider than the screen"
    if axe:
        tab.evaluate(axe)
        for one in tab.evaluate("axe.run()")["violations"]:
            yield f"{one['id']}: {one['nodes'][0]['html'][:160]} ({len(one['nodes'])})"


def _is_own(asked: str, page: str) -> bool:
    """True for data, the file of the page, and for a page of the board whatever the board serves."""
    one, own = urlsplit(asked), urlsplit(page)
    is_same_file = one.path == own.path if own.scheme == "file" else True
    return one.scheme == "data" or ((one.scheme, one.netloc) == (own.scheme, own.netloc) and is_same_file)


def plain(name: str) -> str:
    """The name of a run as that of a file: a run may be called anything."""
    return re.sub(r"\W+", "-", name)


def lorans(*arguments: object) -> list[str]:
    """The command line of a command of this checkout."""
    return [sys.executable, "-m", "lora_ns", *map(str, arguments)]


def written_pages(runs: list[Path], folder: Path) -> Iterator[tuple[str, str]]:
    """Write the reports and a comparison of runs; yields the name and the address of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        file = folder / f"report-{plain(run.name)}.html"
        subprocess.run(lorans("report", run, "-o", file), check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
        if file.is_file():  # a damaged run has none
            yield file.stem, file.absolute().as_uri()
    if len(runs) > 1:
        file = folder / "diff.html"
        command = lorans("diff", *runs[:MOST_COMPARED], "--html", file)
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        yield file.stem, file.absolute().as_uri()


@contextlib.contextmanager
def board_over(runs: list[Path], folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Serve the board; yields the name and the address, with its token, of each kind of page."""
    command = lorans("board", folder, "--port", 0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            first = process.stdout.readline() if process.stdout else ""
            found = re.search(r"(http://\S+?)/?\?token=(\S+)", first)
            if found is None:
                sys.exit(f"the board printed no address: {first}")
            yield list(_pages_of_board(*found.groups(), runs, folder))
        finally:
            process.send_signal(signal.SIGINT)


def _pages_of_board(address: str, token: str, runs: list[Path], folder: Path) -> Iterator[tuple[str, str]]:
    from lora_ns.services.board.shelf import Shelf

    keys = {one.path.resolve(): one.key for one in Shelf(folder).runs().values()}
    chosen = [(run.name, keys[run.resolve()]) for run in runs if run.resolve() in keys]
    together = "&".join(f"run={key}" for _, key in chosen[:MOST_COMPARED])
    yield "board", f"{address}/?token={token}"
    yield "board-fault", f"{address}/?filter=nothing%3D1&token={token}"
    yield "board-missing", f"{address}/runs/none?token={token}"
    yield "board-compare", f"{address}/compare?{together}&token={token}"
    for name, key in chosen:
        yield f"board-{plain(name)}", f"{address}/runs/{key}?token={token}"


def main() -> None:
    """Look at the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="*")
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    named = [(f"{one.parent.name}-{one.stem}", one.absolute().as_uri()) for one in arguments.pages]
    wrong = look_at(named, arguments.folder)
    if arguments.runs:
        runs = sorted(file.parent.absolute() for file in arguments.runs.glob("*/manifest.json"))
        wrong += look_at(list(written_pages(runs, arguments.folder)), arguments.folder)
        with board_over(runs, arguments.runs.absolute()) as pages:
            wrong += look_at(pages, arguments.folder)
    sys.stdout.write("".join(f"{one}\n" for one in wrong) or "nothing is wrong\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
