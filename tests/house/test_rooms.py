"""docs/architecture.md shows the rooms as they are, and each file that the pages for contributors name exists."""

import re

import pytest
from rooms import PACKAGE, PAGE, PROJECT, imports, reach, reduced, rooms, with_drawing

TEXT = PAGE.read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
ROOMS = "|".join(rooms())
IN_PACKAGE = sorted(set(re.findall(rf"`((?:{ROOMS})/[\w./]*)`", TEXT)))
GUIDES = [PROJECT / name for name in ("CONTRIBUTING.md", "AGENTS.md", "docs/architecture.md")]
IN_PROJECT = sorted(
    {
        name
        for guide in GUIDES
        for name in re.findall(r"(?:lora_ns|tests|docs|recipes|\.ci)/[\w./-]*[\w/]", guide.read_text("utf-8"))
    }
)


def test_the_picture_is_what_the_rooms_import():
    assert with_drawing(TEXT) == TEXT, "`python tests/house/rooms.py` draws it again"


def test_every_room_is_listed_once():
    assert sorted(LISTED) == sorted(rooms())


def test_no_room_imports_one_that_is_listed_after_it():
    graph = imports()
    below = {room: set(LISTED[:place]) for place, room in enumerate(LISTED)}
    assert {room: found - below[room] for room, found in graph.items() if found - below[room]} == {}


def test_the_picture_leaves_out_only_what_follows_from_the_rest():
    graph = {"a": frozenset("bcd"), "b": frozenset("cd"), "c": frozenset("d"), "d": frozenset()}
    assert reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": frozenset()}
    real = imports()
    assert {room: reach(reduced(real), room) for room in real} == {room: reach(real, room) for room in real}


@pytest.mark.parametrize("name", IN_PACKAGE)
def test_a_file_of_the_package_that_is_named_exists(name):
    assert (PACKAGE / name).exists()


@pytest.mark.parametrize("name", IN_PROJECT)
def test_a_file_of_the_project_that_is_named_exists(name):
    assert (PROJECT / name).exists()
