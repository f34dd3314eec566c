"""Rows of local files, and the place of every problem."""

import json

import pytest

from lora_ns.errors import DataError
from lora_ns.rows import read_rows

ROWS = [{"a": "x", "b": "1"}, {"a": "zwei, drei", "b": 'quo"te'}]
WRITERS = {
    "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS),
    "json": lambda: json.dumps(ROWS),
    "csv": lambda: 'a,b\r\nx,1\r\n"zwei, drei","quo""te"\r\n',
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_kind_gives_the_same_rows(tmp_path, kind, mark):
    file = tmp_path / f"rows.{kind}"
    file.write_bytes((mark + WRITERS[kind]()).encode())
    assert [dict(row.values) for row in read_rows(file)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b"", "{}: no rows (put one row into it at least)"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": \n',
            "{}:2: not JSON at column 7: expecting value (each line is one JSON object)",
        ),
        ("a.jsonl", b"[1]\n", '{}:1: a list instead of an object (a row is `{{"column": value, ...}}`)'),
        ("a.jsonl", b'{"a": "\xff"}\n', "{}:1: not UTF-8 at byte 8 of the line (save the file as UTF-8)"),
        ("a.json", b'{"a": 1}', "{}: an object instead of a list of rows"),
        ("a.csv", b"a,b\n1\n", "{}:2: 1 cells, and the header has 2 (check the quotes)"),
        ("a.xml", b"x", "{}: cannot read `.xml` (known: .jsonl, .json, .csv, .parquet)"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, told):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(file)
    assert str(caught.value) == told.format(file)


def test_many_problems_are_five_and_a_count(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("x\n" * 1000)
    with pytest.raises(DataError) as caught:
        read_rows(file)
    assert [problem.what for problem in caught.value.problems][5:] == ["and 995 more like these"]


def test_a_type_that_changes_late_is_just_a_value(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": null}\n' * 10_000 + '{"a": "text"}\n')
    assert read_rows(file)[-1].values == {"a": "text"}
