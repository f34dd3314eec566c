"""Rows of local files, and the place of every problem."""

import json
import sys
from importlib.util import find_spec

import pytest

from lora_ns.errors import DataError, MissingError
from lora_ns.rows import MOST_PROBLEMS, READERS, read_rows

ROWS = [{"a": "x", "b": "1"}, {"a": "zwei, drei\nvier", "b": 'quo"te é'}]


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


WRITERS = {
    ".jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".json": lambda: json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
    ".csv": 'a,b\nx,1\n"zwei, drei\nvier","quo""te é"\n'.encode,
    ".parquet": lambda: parquet(ROWS),
}
TEXTS = [kind for kind in READERS if kind != ".parquet"]


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    return file


def told(file):
    with pytest.raises(DataError) as caught:
        read_rows(file)
    return str(caught.value).replace(str(file), "FILE")


def test_every_kind_has_a_writer_to_try():
    assert list(WRITERS) == list(READERS)


@pytest.mark.parametrize("kind", READERS)
def test_every_kind_gives_the_same_rows(tmp_path, kind):
    if kind == ".parquet" and find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    file = written(tmp_path, f"rows{kind}", WRITERS[kind]())
    assert [dict(row.values) for row in read_rows(file)] == ROWS


@pytest.mark.parametrize("kind", TEXTS)
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, kind):
    file = written(tmp_path, f"rows{kind}", b"\xef\xbb\xbf" + WRITERS[kind]())
    assert [dict(row.values) for row in read_rows(file)] == ROWS


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_windows_line_ends_change_nothing(tmp_path, kind):
    file = written(tmp_path, f"rows{kind}", WRITERS[kind]().replace(b"\n", b"\r\n"))
    assert [dict(row.values) for row in read_rows(file)] == ROWS


def test_windows_line_ends_end_the_rows_of_a_table_too(tmp_path):
    file = written(tmp_path, "a.csv", b"a,b\r\n1,2\r\n3,4\r\n")
    assert [dict(row.values) for row in read_rows(file)] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("kind", READERS)
def test_the_kind_is_read_in_any_case(tmp_path, kind):
    if kind == ".parquet" and find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    assert len(read_rows(written(tmp_path, f"rows{kind.upper()}", WRITERS[kind]()))) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", b'{"a": 1}\n\n  \n{"a": 2}', ["FILE:1", "FILE:4"]),
        ("a.json", b'{"data": [{"a": 1}, {"a": 2}]}', ["FILE, row 1", "FILE, row 2"]),
        ("a.csv", b'a\n"1\n2"\n3\n', ["FILE:3", "FILE:4"]),
    ],
)
def test_a_row_knows_its_place(tmp_path, name, content, places):
    file = written(tmp_path, name, content)
    assert [row.where.replace(str(file), "FILE") for row in read_rows(file)] == places


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "FILE: no rows (put one row into it at least)"),
        ("a.jsonl", b"\n \n", "FILE: no rows (put one row into it at least)"),
        ("a.json", b"[]", "FILE: no rows (put one row into it at least)"),
        ("a.csv", b"", "FILE: no rows (put one row into it at least)"),
        ("a.csv", b"a,b\n", "FILE: no rows (put one row into it at least)"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": \n',
            "FILE:2: not JSON at column 7: expecting value (each line is one JSON object)",
        ),
        ("a.jsonl", b"[1]\n", 'FILE:1: a list instead of an object (a row is `{"column": value, ...}`)'),
        ("a.jsonl", b'"x"\n', 'FILE:1: a string instead of an object (a row is `{"column": value, ...}`)'),
        ("a.jsonl", b"null\n", 'FILE:1: null instead of an object (a row is `{"column": value, ...}`)'),
        ("a.jsonl", b"true\n", 'FILE:1: true or false instead of an object (a row is `{"column": value, ...}`)'),
        ("a.jsonl", b"7\n", 'FILE:1: a number instead of an object (a row is `{"column": value, ...}`)'),
        ("a.jsonl", b'{"a": "\xff"}\n', "FILE:1: not UTF-8 at byte 8 of the line (save the file as UTF-8)"),
        ("a.json", b'{"a": 1}', "FILE: an object instead of a list of rows"),
        ("a.json", b"3", "FILE: a number instead of a list of rows"),
        ("a.json", b'[{"a": 1}, 2]', 'FILE, row 2: a number instead of an object (a row is `{"column": value, ...}`)'),
        (
            "a.json",
            b'{"a": 1}\n{"a": 2}\n',
            "FILE:2: not JSON at column 1: extra data (a file with one object a line is called .jsonl)",
        ),
        ("a.json", b'[\n{"a": }]', "FILE:2: not JSON at column 7: expecting value (check the syntax)"),
        ("a.json", b'["\xff"]', "FILE: not UTF-8 at byte 3 (save the file as UTF-8)"),
        ("a.csv", b"a,b\n1\n", "FILE:2: 1 cells, and the header has 2 (check the quotes)"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "FILE:3: 3 cells, and the header has 2 (check the quotes)"),
        ("a.csv", b'a,b\n"1"x,2\n', "FILE:2: not CSV: ',' expected after '\"' (double a quote inside quotes)"),
        ("a.csv", b"a\n\xff\n", "FILE: not UTF-8 at byte 3 (save the file as UTF-8)"),
        ("a.xml", b"x", "FILE: cannot read `.xml` (known: .jsonl, .json, .csv, .parquet)"),
        ("rows", b"x", "FILE: cannot read `rows` (known: .jsonl, .json, .csv, .parquet)"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, expected):
    assert told(written(tmp_path, name, content)) == expected


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_a_broken_parquet_file_is_told(tmp_path):
    assert told(written(tmp_path, "a.parquet", b"no parquet at all")).startswith("FILE: not Parquet: ")


def test_a_parquet_file_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = written(tmp_path, "a.parquet", b"")
    with pytest.raises(MissingError) as caught:
        read_rows(file)
    assert str(caught.value) == f"{file}: reading Parquet needs pyarrow (`pip install pyarrow`)"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_file_is_told(tmp_path, kind):
    assert told(tmp_path / f"none{kind}") == "FILE: no such file (check the path)"


@pytest.mark.parametrize("kind", READERS)
def test_a_folder_is_no_file(tmp_path, kind):
    folder = tmp_path / f"folder{kind}"
    folder.mkdir()
    assert told(folder) == "FILE: is not a file (check the path)"


def test_what_the_disk_refuses_is_told(tmp_path, monkeypatch):
    file = written(tmp_path, "a.jsonl", b"{}")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "open", refuse)
    assert told(file) == "FILE: cannot be read: Permission denied"


def test_a_few_problems_are_all_told(tmp_path):
    lines = told(written(tmp_path, "a.jsonl", b"x\n" * MOST_PROBLEMS)).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"FILE:{number + 1}" for number in range(MOST_PROBLEMS)]


def test_many_problems_are_five_and_a_count(tmp_path):
    lines = told(written(tmp_path, "a.jsonl", b'{"a": 1}\n' + b"x\n" * 2000)).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "FILE:2",
        "FILE:3",
        "FILE:4",
        "FILE:5",
        "FILE:6",
        "and 1,995 more like these",
    ]


def test_a_type_that_changes_late_is_just_a_value(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"a": null}\n' * 1_000 + b'{"a": "text"}\n{"b": [1]}\n')
    assert [row.values for row in read_rows(file)][-3:] == [{"a": None}, {"a": "text"}, {"b": [1]}]


@pytest.mark.parametrize("content", ['{"a": %s}' % ("1" * 5000), "[" * 100_000])
@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_json_that_python_refuses_is_told(tmp_path, kind, content):
    assert told(written(tmp_path, f"a{kind}", content.encode())).startswith(
        f"FILE{':1' * (kind == '.jsonl')}: cannot be read: "
    )


def test_a_long_text_in_a_table_is_just_a_value(tmp_path):
    file = written(tmp_path, "a.csv", b"a\n" + b"x" * 200_000)
    assert [row.values for row in read_rows(file)] == [{"a": "x" * 200_000}]


def test_a_column_that_is_there_twice_is_told(tmp_path):
    assert (
        told(written(tmp_path, "a.csv", b"a,b,a\n1,2,3\n")) == "FILE:1: column `a` is there twice (rename one of them)"
    )


def test_a_limit_reads_no_further_than_it_has_to(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": 2}\nnot read\n')
    assert [row.values for row in read_rows(file, limit=2)] == [{"a": 1}, {"a": 2}]


def test_a_broken_line_before_the_limit_is_told(tmp_path):
    file = written(tmp_path, "a.jsonl", b'x\n{"a": 2}\n')
    with pytest.raises(DataError, match="not JSON"):
        read_rows(file, limit=1)
