"""The addresses of the board, and what each answers."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.errors import LoransError, UsageError
from lora_ns.report.curves import Curves, read_curves
from lora_ns.services.board import pages
from lora_ns.services.board.access import HEADERS, Guard
from lora_ns.services.board.shelf import Shelf, Shelved, marks_of
from lora_ns.services.list_runs import check_key, parse_condition, sorted_runs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

MOST_COMPARED = 8
"""Runs that are compared at once: more lines in a plot cannot be told apart."""


def application(folder: Path, token: str | None, host: str, port: int) -> tuple[ASGIApp, Shelf]:
    """Return the board of a folder as an ASGI application, and its runs.

    Args:
        folder: the folder with the runs.
        token: the token that a browser has to bring; None for none.
        host: the address at which it is served.
        port: its port.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    board = Board(Shelf(folder))
    routes = [
        Route("/", board.first_page),
        Route("/rows", board.rows),
        Route("/runs.json", board.as_json),
        Route("/compare", board.compare),
        Route("/runs/{key}", board.run),
        Route("/runs/{key}/live", board.live),
        Route("/runs/{key}/report", board.report),
    ]
    return Guard(Starlette(routes=routes), token=token, host=host, port=port), board.shelf


class Board:
    """The pages over the runs of a shelf. Each method answers a request, in a thread of its own."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._state = lru_cache(maxsize=64)(self._draw_state)

    def first_page(self, request: Request) -> Response:
        """Answer with the table of all runs."""
        chosen, sort, fault = self._chosen(request)
        rows = pages.table_rows(chosen, time.time())
        found = len(self.shelf.runs())
        count = f"{len(chosen):,} of {found:,} runs" if len(chosen) < found else f"{found:,} runs"
        query = [*request.query_params.multi_items()]
        live = f"/rows?{request.url.query}" if request.url.query else "/rows"
        body = pages.listing(str(self.shelf.folder), rows, count, query, sort, fault, live, _tag(rows))
        return _page("Runs", body, is_live=True)

    def rows(self, request: Request) -> Response:
        """Answer with the rows of the table, if they have changed."""
        chosen, _, _ = self._chosen(request)
        return _fragment(request, pages.table_rows(chosen, time.time()))

    def as_json(self, _request: Request) -> Response:
        """Answer with the overviews of all runs."""
        from starlette.responses import Response

        from lora_ns.files.strict_json import strict_json

        runs = [{"key": one.key, "name": one.name, **_table(one)} for one in self.shelf.runs().values()]
        return Response(strict_json({"runs": runs}), headers=HEADERS, media_type="application/json")

    def _chosen(self, request: Request) -> tuple[list[Shelved], str, str]:
        """Return the runs that the address asks for, the key that sorts them, and what is wrong with it."""
        shelved = {one.overview.run: one for one in self.shelf.runs().values()}
        runs = [one.overview for one in shelved.values()]
        sort, fault = request.query_params.get("sort") or "-created", ""
        texts = [text for value in request.query_params.getlist("filter") for text in value.split()]
        try:
            conditions = [parse_condition(text) for text in texts]
            for key in (sort.removeprefix("-"), *(one.key for one in conditions)):
                check_key(key, runs, "filter")
            runs = [run for run in runs if all(one.holds(run) for one in conditions)]
            runs = sorted_runs(runs, sort)
        except UsageError as error:
            sort, fault = "-created", str(error)
            runs = sorted_runs(runs, sort)
        return [shelved[run.run] for run in runs], sort, fault

    def run(self, request: Request) -> Response:
        """Answer with the page of a run."""
        one = self._asked(request)
        if one is None:
            return _missing()
        fragment = self._fragment_of(one)
        body = pages.run_page(one, f"/runs/{one.key}/live", fragment, _tag(fragment))
        return _page(one.name, body, is_live=True)

    def live(self, request: Request) -> Response:
        """Answer with what changes on the page of a run, if it has changed."""
        one = self._asked(request)
        return _missing() if one is None else _fragment(request, self._fragment_of(one))

    def report(self, request: Request) -> Response:
        """Answer with the report of a run: the file in it, or one that is made now."""
        from starlette.responses import HTMLResponse

        from lora_ns.report.page import POLICY

        one = self._asked(request)
        if one is None:
            return _missing()
        try:
            text = _report(one)
        except LoransError as error:
            return _page("No report", pages.message("No report", str(error)), status=404)
        return HTMLResponse(text, headers={**HEADERS, "Content-Security-Policy": f"sandbox; {POLICY}"})

    def compare(self, request: Request) -> Response:
        """Answer with the comparison of the selected runs."""
        from lora_ns.services.compare_page import compared
        from lora_ns.services.diff_runs import diff_runs

        known = self.shelf.runs()
        keys = list(dict.fromkeys(request.query_params.getlist("run")))
        if not 2 <= len(keys) <= MOST_COMPARED or not all(key in known for key in keys):
            text = f"Select 2 to {MOST_COMPARED} runs on the first page, then press the button below the table."
            return _page("Compare", pages.message("Compare runs", text), status=400)
        try:
            found = diff_runs([known[key].path for key in keys])
        except LoransError as error:
            return _page("Compare", pages.message("These runs cannot be compared", str(error)), status=409)
        return _page("Compare", pages.comparison(found.names, compared(found)))

    def _asked(self, request: Request) -> Shelved | None:
        return self.shelf.runs().get(request.path_params["key"])

    def _fragment_of(self, one: Shelved) -> str:
        return self._state(one, marks_of(one.path), int(time.time() // _MINUTE))

    def _draw_state(self, one: Shelved, _marks: object, minute: int) -> str:
        """Draw the state of a run; kept until its files change, or a minute has passed."""
        from lora_ns.run.tail import last_warnings
        from lora_ns.services.compare_page import figures

        try:
            curves = read_curves(one.files.metrics)
        except LoransError as error:
            curves = Curves(notes=(str(error),))
        warnings = [*curves.notes, *last_warnings(one.files.log)]
        plots = figures([one.name], [curves])
        return pages.run_state(one, _verdict(one, curves), plots, warnings, minute * _MINUTE)


_MINUTE = 60.0


def _table(one: Shelved) -> Mapping[str, object]:
    return {name: value for name, value in asdict(one.overview).items() if name != "manifest"}


def _verdict(one: Shelved, curves: Curves) -> tuple[str, str] | None:
    """Return the tone and the sentence of the verdict on a run, if its manifest is one of this version."""
    from pydantic import ValidationError

    from lora_ns.report.verdict import judge
    from lora_ns.run.manifest import Manifest, as_written_now

    run = one.overview
    if run.status in {"damaged", "killed"}:
        return None
    try:
        manifest = Manifest.model_validate_json(json.dumps(as_written_now(dict(run.manifest))))
        found = judge(manifest, curves)
    except (ValidationError, ValueError, KeyError, TypeError):
        return None
    return found.tone, found.sentence


def _report(one: Shelved) -> str:
    """Return the report of a run: the page in it, or one of its present state if the run has gone on since.

    Raises:
        UsageError: if the manifest cannot be read.
    """
    from lora_ns.files.reading import read_text
    from lora_ns.report.facts import gather
    from lora_ns.report.sections import page
    from lora_ns.run.directory import RunDir
    from lora_ns.run.overview import changed

    run = RunDir(one.path)
    written = changed(run.report)
    later = max(changed(file) or 0.0 for file in (run.manifest_file, run.metrics))
    if written is not None and written >= later and not run.report.is_symlink():  # a link may lead to any file
        return read_text(run.report)
    return page(gather(run))


def _tag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'


def _fragment(request: Request, text: str) -> Response:
    from starlette.responses import HTMLResponse, Response

    tag = _tag(text)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**HEADERS, "ETag": tag})
    policy = {"Content-Security-Policy": "default-src 'none'"}
    return HTMLResponse(text, headers={**HEADERS, **policy, "ETag": tag})


def _page(title: str, body: str, is_live: bool = False, status: int = 200) -> Response:
    from starlette.responses import HTMLResponse

    nonce = secrets.token_urlsafe(16)
    policy = {"Content-Security-Policy": f"{pages.policy(nonce)}; frame-ancestors 'none'"}
    return HTMLResponse(pages.document(title, body, nonce, is_live), status, {**HEADERS, **policy})


def _missing() -> Response:
    return _page("No such run", pages.message("No such run", "It may have been moved or removed."), status=404)
