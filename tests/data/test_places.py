"""The places of rows are kept short, and each row gets its own back."""

import pytest

from lora_ns.data.places import place_of, read_places, stretches, write_places

ROWS = [
    "a.jsonl:1",
    "a.jsonl:2",
    "a.jsonl:4",
    "b:x.jsonl:5",
    "b:x.jsonl:6",
    "hub",
    "hub",
    "a.jsonl:0",
    "a.jsonl:1",
    "7",
    ":8",
]


def test_each_row_gets_its_place_back(tmp_path):
    write_places(tmp_path / "places.json", stretches(ROWS))
    found = read_places(tmp_path / "places.json")
    assert [place_of(found, row) for row in range(1, len(ROWS) + 1)] == ROWS
    assert place_of(found, len(ROWS) + 1) is None


def test_files_have_no_folders_because_cached_rows_may_come_from_another_one():
    assert stretches(["/data/a.jsonl:1", "/data/a.jsonl:2"]) == [("a.jsonl", 1, 2)]


def test_rows_that_follow_one_another_take_no_room():
    assert stretches(f"a.jsonl:{number}" for number in range(1, 100_001)) == [("a.jsonl", 1, 100_000)]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[["a", "b", "c"]]', '[["a", 1]]'])
def test_a_damaged_file_has_no_places(tmp_path, text):
    (tmp_path / "places.json").write_text(text)
    assert read_places(tmp_path / "places.json") == []
    assert read_places(tmp_path / "missing.json") == []
