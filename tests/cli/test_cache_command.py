"""`lorans cache`: what it lists on a terminal and in a pipe, and what it removes."""

import json
import os

import pytest
from terminals import command, on_a_terminal, plain
from typer.testing import CliRunner

from lora_ns.cli.app import app


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of two entries, the second used later."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LORANS_CACHE", str(folder))
    monkeypatch.setenv("TZ", "UTC")
    for number, key in enumerate(("a" * 64, "b" * 64)):
        (folder / key).mkdir(parents=True)
        (folder / key / "rows").write_bytes(bytes(1_500_000 * (number + 1)))
        os.utime(folder / key, (86_400 * number, 86_400 * number))
    return folder


def listed():
    return CliRunner().invoke(app, ["cache"]).stdout.splitlines()


def test_a_pipe_gets_a_line_for_each_entry_the_last_used_first(cache):
    lines = listed()
    assert [line.split()[:3] for line in lines[:2]] == [["b" * 12, "3.0", "MB"], ["a" * 12, "1.5", "MB"]]
    assert lines[2:] == [f"2 cached, 4.5 MB in {cache}"]


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_gets_a_panel_of_the_same_entries(cache, columns):
    drawn = on_a_terminal(command("cache"), columns=columns)
    panel, _, total = plain(drawn).rpartition("╯\n")
    top, *rows, bottom = f"{panel}╯".splitlines()
    assert top.startswith("╭─ cache ─")
    assert bottom.startswith("╰")
    assert len({len(line) for line in (top, *rows, bottom)}) == 1
    assert len(top) <= 80
    assert [row.strip("│ ") for row in rows] == listed()[:2]
    assert total.split() == f"2 cached, 4.5 MB in {cache}".split()
    assert "\x1b" in drawn
    assert "\x1b" not in on_a_terminal(command("cache"), NO_COLOR="1")


def test_clear_removes_all_and_says_how_much(cache):
    assert CliRunner().invoke(app, ["cache", "--clear"]).stdout == f"4.5 MB freed in {cache}\n"
    assert listed() == [f"0 cached, 0.0 MB in {cache}"]
    assert plain(on_a_terminal(command("cache"))).split() == f"0 cached, 0.0 MB in {cache}".split()
    assert json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout) == {"folder": str(cache), "entries": []}
