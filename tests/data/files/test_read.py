"""Rows of local files, and the place of every problem."""

import gzip
import importlib
import json
import os
import sys
from importlib.util import find_spec

import pytest

import lora_ns.data.files.json
import lora_ns.data.files.lines
import lora_ns.data.files.packing
from lora_ns.data.files import read as rows
from lora_ns.data.files.kinds import KINDS, PACKED
from lora_ns.data.files.layout import PLAIN, Layout
from lora_ns.data.files.packing import PACKINGS
from lora_ns.data.files.read import each_row, read_files, read_rows
from lora_ns.data.files.tables import sniff_delimiter
from lora_ns.data.rows import MOST_PROBLEMS, left_out_note
from lora_ns.errors import DataError, MissingError

ROWS = [{"a": "x", "b": "1"}, {"a": "zwei, drei\nvier", "b": 'quo"te é'}]
CONLL_KINDS = (".conll", ".iob", ".bio")
SENTENCES = [{"tokens": ["é", "x"], "tags": ["B-a", "O"]}, {"tokens": ["#"], "tags": ["O"]}]
ROWS_OF = {
    ".tsv": [{"a": "x", "b": "1"}, {"a": "zwei, drei", "b": 'quo"te é'}],
    ".txt": [{"text": "zwei,\ndrei\n"}],
    **dict.fromkeys(CONLL_KINDS, SENTENCES),
}
"""The rows of the kinds that cannot hold `ROWS`."""
KNOWN = ".jsonl, .json, .csv, .tsv, .txt, .conll, .iob, .bio, each also with .gz or .zst, .parquet, .arrow"


def set_limit(monkeypatch, name, value):
    for kind in ("json", "lines", "packing", "tables", "texts"):
        module = importlib.import_module(f"lora_ns.data.files.{kind}")
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def arrow(rows, write="new_file"):
    import pyarrow

    table = pyarrow.Table.from_pylist(rows)
    sink = pyarrow.BufferOutputStream()
    with getattr(pyarrow.ipc, write)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue().to_pybytes()


def zstd(content):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(content)


WRITERS = {
    ".jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ".json": lambda: json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
    ".csv": 'a,b\nx,1\n"zwei, drei\nvier","quo""te é"\n'.encode,
    ".tsv": 'a\tb\nx\t1\nzwei, drei\tquo"te é\n'.encode,
    ".txt": "zwei,\ndrei\n".encode,
    **dict.fromkeys(CONLL_KINDS, "é B-a\nx O\n\n# O\n".encode),
    ".parquet": lambda: parquet(ROWS),
    ".arrow": lambda: arrow(ROWS),
}
PACKERS = {".gz": gzip.compress, ".zst": zstd}
TEXTS = list(PACKED)


def needs_its_library(kind):
    if kind in {".parquet", ".arrow"} and find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")


def values(file, **how):
    return [dict(row.values) for row in read_files([file], **how).rows]


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    return file


def told(file):
    with pytest.raises(DataError) as caught:
        read_rows(file)
    return str(caught.value).replace(str(file), "FILE")


def test_every_kind_has_a_writer_to_try():
    assert list(WRITERS) == list(KINDS)
    assert len(KINDS) == sum(len(kind.suffixes) for kind in set(KINDS.values()))  # no suffix is of two kinds
    assert all(suffix == suffix.lower() and suffix not in PACKINGS for suffix in KINDS)
    assert list(PACKERS) == list(PACKINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows(tmp_path, kind):
    needs_its_library(kind)
    assert values(written(tmp_path, f"rows{kind}", WRITERS[kind]())) == ROWS_OF.get(kind, ROWS)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", TEXTS)
def test_a_packed_file_gives_the_same_rows_in_the_same_places(tmp_path, kind, packing):
    plain = written(tmp_path, f"rows{kind}", WRITERS[kind]())
    packed = written(tmp_path, f"rows{kind}{packing}", PACKERS[packing](WRITERS[kind]()))
    found = [(row.where.replace(str(packed), str(plain)), row.values) for row in read_rows(packed)]
    assert found == [(row.where, row.values) for row in read_rows(plain)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_file_may_be_packed_in_parts(tmp_path, packing):
    parts = [PACKERS[packing](b'{"a": %d}\n' % number * 30_000) for number in range(3)]
    rows = values(written(tmp_path, f"rows.jsonl{packing}", b"".join(parts)))
    assert [row["a"] for row in rows] == [number for number in range(3) for _ in range(30_000)]


def test_a_stream_of_arrow_is_read_like_a_file(tmp_path):
    needs_its_library(".arrow")
    file = written(tmp_path, "rows.arrow", arrow(ROWS, "new_stream"))
    assert [(row.where, row.values) for row in read_rows(file)] == [
        (f"{file}, row {number}", row) for number, row in enumerate(ROWS, start=1)
    ]


def test_quotes_in_a_table_with_tabs_are_part_of_the_cell(tmp_path):
    file = written(tmp_path, "a.tsv", b'a\tb\n"x\t"y" z\n""\t\'\n')
    assert values(file) == [{"a": '"x', "b": '"y" z'}, {"a": '""', "b": "'"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b'x,"1"\r\n"y, z",2\r\n'),
        ("a.tsv", b"x\t1\ny, z\t2\n"),
        ("a.txt", b"\xef\xbb\xbfx\t1\ny, z\t2\n"),
    ],
)
def test_a_table_without_a_header_has_the_columns_that_are_named(tmp_path, name, content):
    file = written(tmp_path, name, content)
    packed = written(tmp_path, f"{name}.gz", gzip.compress(content))
    expected = [{"text": "x", "label": "1"}, {"text": "y, z", "label": "2"}]
    for path in (file, packed):
        rows = read_rows(path, layout=Layout(("text", "label")))
        assert [(row.where, row.values) for row in rows] == [
            (f"{path}:{n}", v) for n, v in enumerate(expected, start=1)
        ]
    assert list(each_row([file], Layout(("text", "label")))) == read_rows(file, layout=Layout(("text", "label")))


def test_a_header_that_is_named_once_more_is_no_row(tmp_path):
    file = written(tmp_path, "a.csv", b"text,label\nx,1\n")
    assert [row.where for row in read_rows(file, layout=Layout(("text", "label")))] == [f"{file}:2"]


def test_names_of_columns_say_how_many_cells_a_row_has(tmp_path):
    file = written(tmp_path, "a.txt", b"Dummy\nx\t1\n")
    assert [row.where for row in read_files([file], max_bad_rows=1, layout=Layout(("a", "b"))).rows] == [f"{file}:2"]
    with pytest.raises(DataError, match=r"a\.txt:1: 1 cell, but `column_names` has 2 \(check the tabs\)"):
        read_rows(file, layout=Layout(("a", "b")))


def test_files_that_name_their_columns_do_not_mind_those_of_tables(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"b": 1}\n')
    assert values(file) == [row.values for row in read_rows(file, layout=Layout(("a",)))]


# What separates the cells of a table


@pytest.mark.parametrize("packing", ["", *PACKINGS])
@pytest.mark.parametrize(
    ("line", "names", "mark"),
    [
        ("a,b", (), ","),
        ("a\tb", (), "\t"),
        ("a;b", (), ";"),
        ("a|b", (), "|"),
        ('"a, ""b"; c";d', (), ";"),
        ('"a;b"', (), ","),
        ('"a;', (), ","),
        ("a;b|c", (), ","),
        ("a, x;b", (), ","),
        ("a;b\tc", (), "\t"),
        ("yes;no;x", ("id", "text", "label"), ";"),
        ("yes;no;x", ("text", "label"), ","),
        ('"yes;no"|x', ("text", "label"), "|"),
        ("a", (), ","),
        ("", (), ","),
        ("a, c\tb", (), ","),
        ("1\tyes, it is\tx", ("id", "text", "label"), "\t"),
        ("yes; it is,x", ("text", "label"), ","),
        ('"a, b",c', ("text", "label"), ","),
        ("alone", ("text",), ","),
    ],
)
def test_the_first_line_of_a_table_shows_what_separates_its_cells(tmp_path, line, names, mark, packing):
    content = f"\ufeff{line}\nmore, and\tmore\n".encode()
    file = written(tmp_path, f"a.csv{packing}", PACKERS[packing](content) if packing else content)
    assert sniff_delimiter(file, names) == mark


TABLES_WITH_TABS = b'text\tlabel\n"so" good, he said\tpos\nan open " quote\tneg\n'


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.csv", Layout()), ("a.tsv", Layout()), ("a.csv", Layout(delimiter="\t")), ("a.txt", Layout(delimiter="\t"))],
)
def test_a_table_with_tabs_is_read_alike_whatever_its_name(tmp_path, name, layout):
    assert values(written(tmp_path, name, TABLES_WITH_TABS), layout=layout) == [
        {"text": '"so" good, he said', "label": "pos"},
        {"text": 'an open " quote', "label": "neg"},
    ]


@pytest.mark.parametrize("mark", [";", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_table_with_another_mark_is_read_as_one_with_commas(tmp_path, mark, quote):
    lines = [["question", "answer"], ["q 1,5", "a"], ["q 2,5", ""]]
    text = "".join(mark.join(f"{quote}{cell}{quote}" for cell in line) + "\n" for line in lines)
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert values(written(tmp_path, "a.csv", text.encode())) == rows


def test_a_first_line_that_leaves_the_mark_open_is_told_how_to_name_it(tmp_path):
    assert 'if its cells are separated by `;`, write `delimiter = ";"`' in told(
        written(tmp_path, "a.csv", b'a, x;b\n"q";"a"\n')
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_a_delimiter_that_is_named_is_taken_and_quotes_hold_cells_together(tmp_path, name):
    file = written(tmp_path, name, b'a|b\n"x|y"|2,3\n')
    assert values(file, layout=Layout(delimiter="|")) == [{"a": "x|y", "b": "2,3"}]


# Objects in a .json file


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"prompt": "a", "completion": "b"}, [{"prompt": "a", "completion": "b"}]),
        ({"messages": [{"role": "user"}]}, [{"messages": [{"role": "user"}]}]),
        ({"prompt": [{"role": "user"}], "completion": [{"role": "assistant"}]}, None),
        ({"data": [{"a": 1}]}, [{"a": 1}]),
        ({"tokens": ["a", "b"], "tags": ["O"], "id": 7}, None),
    ],
)
def test_one_object_is_one_row(tmp_path, content, rows):
    assert values(written(tmp_path, "a.json", json.dumps(content).encode())) == (rows or [content])


@pytest.mark.parametrize(
    "content", [{"a": ["x", "y"], "b": ["1", "2"]}, {"a": {"0": "x", "1": "y"}, "b": {"0": "1", "1": "2"}}]
)
def test_a_table_by_its_columns_is_refused_with_what_to_write(tmp_path, content):
    file = written(tmp_path, "a.json", json.dumps(content).encode())
    assert told(file) == 'FILE: an object instead of a list of rows (write `[{"column": value, ...}, ...]`)'


# Text, line by line


@pytest.mark.parametrize("packing", ["", *PACKINGS])
def test_a_line_of_a_text_file_is_a_row_if_asked(tmp_path, packing):
    content = "\ufeffone\r\n\n  \ntwo\u2028still two\f\n  three".encode()
    file = written(tmp_path, f"a.txt{packing}", PACKERS[packing](content) if packing else content)
    rows = read_rows(file, layout=Layout(sample_by="line"))
    assert [(row.where, row.values["text"]) for row in rows] == [
        (f"{file}:1", "one"),
        (f"{file}:4", "two\u2028still two\f"),
        (f"{file}:5", "  three"),
    ]


# What Arrow adds


def test_keys_that_arrow_adds_to_objects_are_not_there(tmp_path):
    needs_its_library(".parquet")
    calls = [{"name": "sky", "arguments": {"city": "Rome"}}, {"name": "add", "arguments": {"a": 2, "b": [None, 3]}}]
    rows = [{"calls": [call], "meta": {"deep": call}, "note": None, "n": 1} for call in calls]
    for name, write in {"a.parquet": parquet, "a.arrow": arrow}.items():
        assert values(written(tmp_path, name, write(rows))) == rows


def test_a_null_that_json_says_stays(tmp_path):
    row = {"calls": [{"arguments": {"city": None}}]}
    assert values(written(tmp_path, "a.jsonl", json.dumps(row).encode())) == [row]


def test_a_text_file_is_one_row_as_it_stands(tmp_path):
    file = written(tmp_path, "a.txt", b"\xef\xbb\xbf one\r\n\n two\n")
    assert [(row.where, row.values) for row in read_rows(file)] == [(str(file), {"text": " one\r\n\n two\n"})]


CONLL = {
    "tabs, and spaces in a word": ("a b\tB-x\n", [["a b"]], [["B-x"]]),
    "columns between": ("a NN I-NP O\nb NN I-NP B-x\n", [["a", "b"]], [["O", "B-x"]]),
    "documents": ("-DOCSTART- -X- O\n\na n O\n-DOCSTART- -X- O\nb n O\n", [["a"], ["b"]], [["O"], ["O"]]),
    "remarks": ("# id = 7\n# text = a b\na O\nb O\n\n#7\nc O\n", [["a", "b"], ["c"]], [["O", "O"], ["O"]]),
    "a word that looks like a remark": ("#x O\n# B-x\n# O\n", [["#x", "#", "#"]], [["O", "B-x", "O"]]),
    "blank lines": ("\n\na O\n \n\t\n\nb O\n\n", [["a"], ["b"]], [["O"], ["O"]]),
    "no end of line": ("a O\nb O", [["a", "b"]], [["O", "O"]]),
    "other white space": ("a\u00a0b O\n\u2028 O\n\u200b O\n", [["a\u00a0b", "\u2028", "\u200b"]], [["O"] * 3]),
}


@pytest.mark.parametrize(("text", "words", "tags"), CONLL.values(), ids=CONLL)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_sentence_of_conll_is_a_row(tmp_path, text, words, tags, end):
    rows = values(written(tmp_path, "a.conll", text.replace("\n", end).encode()))
    assert [row["tokens"] for row in rows] == words
    assert [row["tags"] for row in rows] == tags


@pytest.mark.parametrize("kind", TEXTS)
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, kind):
    file = written(tmp_path, f"rows{kind}", b"\xef\xbb\xbf" + WRITERS[kind]())
    assert values(file) == ROWS_OF.get(kind, ROWS)


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_windows_line_ends_change_nothing(tmp_path, kind):
    file = written(tmp_path, f"rows{kind}", WRITERS[kind]().replace(b"\n", b"\r\n"))
    assert [dict(row.values) for row in read_rows(file)] == ROWS


def test_windows_line_ends_end_the_rows_of_a_table_too(tmp_path):
    file = written(tmp_path, "a.csv", b"a,b\r\n1,2\r\n3,4\r\n")
    assert [dict(row.values) for row in read_rows(file)] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_read_in_any_case(tmp_path, kind):
    needs_its_library(kind)
    assert values(written(tmp_path, f"rows{kind.upper()}", WRITERS[kind]())) == ROWS_OF.get(kind, ROWS)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", b'{"a": 1}\n\n  \n{"a": 2}', ["FILE:1", "FILE:4"]),
        ("a.json", b'{"data": [{"a": 1}, {"a": 2}]}', ["FILE, row 1", "FILE, row 2"]),
        ("a.csv", b'a\n"1\n2"\n3\n', ["FILE:2", "FILE:4"]),
    ],
)
def test_a_row_knows_its_place(tmp_path, name, content, places):
    file = written(tmp_path, name, content)
    assert [row.where.replace(str(file), "FILE") for row in read_rows(file)] == places


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b"", "FILE: no rows (it needs at least one row)"),
        ("a.jsonl", b"\n \n", "FILE: no rows (it needs at least one row)"),
        ("a.json", b"[]", "FILE: no rows (it needs at least one row)"),
        ("a.csv", b"", "FILE: no rows (it needs at least one row)"),
        ("a.csv", b"a,b\n", "FILE: no rows (it needs at least one row)"),
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
        ("a.json", b"{}", 'FILE: an object instead of a list of rows (write `[{"column": value, ...}, ...]`)'),
        ("a.json", b"3", 'FILE: a number instead of a list of rows (write `[{"column": value, ...}, ...]`)'),
        ("a.json", b'[{"a": 1}, 2]', 'FILE, row 2: a number instead of an object (a row is `{"column": value, ...}`)'),
        (
            "a.json",
            b'{"a": 1}\n{"a": 2}\n',
            "FILE:2: not JSON at column 1: extra data (a file with one object a line is called .jsonl)",
        ),
        ("a.json", b'[\n{"a": }]', "FILE:2: not JSON at column 7: expecting value (check the syntax)"),
        ("a.json", b'["\xff"]', "FILE: not UTF-8 at byte 3 (save the file as UTF-8)"),
        ("a.csv", b"a,b\n1\n", "FILE:2: 1 cell, but the header has 2 (check the quotes)"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "FILE:3: 3 cells, but the header has 2 (check the quotes)"),
        ("a.csv", b'a,b\n"1"x,2\n', "FILE:2: not CSV: ',' expected after '\"' (double a quote inside quotes)"),
        ("a.csv", b"a\n\xff\n", "FILE:2: not UTF-8 at byte 1 of the line (save the file as UTF-8)"),
        ("a.xml", b"x", f"FILE: cannot read `.xml` (known: {KNOWN})"),
        ("rows", b"x", f"FILE: cannot read `rows` (known: {KNOWN})"),
    ],
)
def test_a_broken_file_says_where(tmp_path, name, content, expected):
    assert told(written(tmp_path, name, content)) == expected


@pytest.mark.parametrize(
    ("name", "library", "what"),
    [
        ("a.parquet", "pyarrow", "reading Parquet needs pyarrow (`pip install pyarrow`)"),
        ("a.arrow", "pyarrow", "reading Arrow needs pyarrow (`pip install pyarrow`)"),
        ("a.jsonl.zst", "zstandard", "reading .zst needs zstandard (`pip install zstandard`)"),
    ],
)
def test_a_file_whose_library_is_missing_says_what_to_install(tmp_path, monkeypatch, name, library, what):
    monkeypatch.setitem(sys.modules, library, None)
    file = written(tmp_path, name, b"")
    with pytest.raises(MissingError) as caught:
        read_rows(file)
    assert str(caught.value) == f"{file}: {what}"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_told(tmp_path, kind):
    assert told(tmp_path / f"none{kind}") == "FILE: no such file (check the path)"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_no_file(tmp_path, kind):
    folder = tmp_path / f"folder{kind}"
    folder.mkdir()
    assert told(folder) == "FILE: is not a file (check the path)"


def test_what_the_disk_refuses_is_told(tmp_path, monkeypatch):
    file = written(tmp_path, "a.jsonl", b"{}")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
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


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"a": %s}]' % ("1" * 5000), "an integer has too many digits"),
        ("[%s]" % ("[" * 100_000), "nested too deeply"),
    ],
)
@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_json_that_python_refuses_is_told(tmp_path, kind, content, what):
    if kind == ".jsonl":
        assert told(written(tmp_path, "a.jsonl", content.encode())).startswith(f"FILE:1: cannot be read: {what} (")
    else:
        assert told(written(tmp_path, "a.json", content.encode())).startswith(f"FILE, row 1: cannot be read: {what} (")


def test_characters_that_are_written_in_halves_are_whole(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"a": "\\ud83d\\ude00"}\n')
    assert values(file) == [{"a": "\U0001f600"}]


def test_a_long_text_in_a_table_is_just_a_value(tmp_path):
    file = written(tmp_path, "a.csv", b"a\n" + b"x" * 200_000)
    assert [row.values for row in read_rows(file)] == [{"a": "x" * 200_000}]


def test_a_column_that_is_there_twice_is_told(tmp_path):
    assert (
        told(written(tmp_path, "a.csv", b"a,b,a\n1,2,3\n")) == "FILE:1: column `a` appears twice (rename one of them)"
    )


def test_a_limit_reads_no_further_than_it_has_to(tmp_path):
    file = written(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": 2}\nnot read\n')
    assert [row.values for row in read_rows(file, limit=2)] == [{"a": 1}, {"a": 2}]


def test_a_broken_line_before_the_limit_is_told(tmp_path):
    file = written(tmp_path, "a.jsonl", b'x\n{"a": 2}\n')
    with pytest.raises(DataError, match="not JSON"):
        read_rows(file, limit=1)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_file_is_read_no_further_than_it_has_to(tmp_path, packing):
    content = "".join(f'{{"a": "{number**9}"}}\n' for number in range(50_000)).encode()
    file = written(tmp_path, f"a.jsonl{packing}", PACKERS[packing](content)[:-20])
    assert [row.values for row in read_rows(file, limit=2)] == [{"a": "0"}, {"a": "1"}]
    assert told(file).startswith("FILE: cut short")


# Several files, and rows that are left out


def test_files_are_read_one_after_the_other(tmp_path):
    files = [
        written(tmp_path, "b.jsonl", b'{"a": 1}\n'),
        written(tmp_path, "a.csv", b"a\n2\n"),
        written(tmp_path, "c.json", b"[]"),
    ]
    found = read_files(files).rows
    assert [(row.where, row.values) for row in found] == [(f"{files[0]}:1", {"a": 1}), (f"{files[1]}:2", {"a": "2"})]


def test_a_limit_counts_the_rows_of_all_files(tmp_path):
    files = [written(tmp_path, f"{name}.jsonl", b'{"a": 1}\n' * 2 + end) for name, end in (("a", b""), ("b", b"x\n"))]
    assert len(read_files(files, limit=4).rows) == 4


def test_files_without_a_row_are_all_told(tmp_path):
    files = [written(tmp_path, name, b"") for name in ("a.jsonl", "b.csv")]
    with pytest.raises(DataError) as caught:
        read_files(files)
    assert str(caught.value) == "\n".join(f"{file}: no rows (it needs at least one row)" for file in files)


def test_files_that_cannot_be_opened_are_all_told(tmp_path):
    files = [tmp_path / "none.jsonl", written(tmp_path, "a.xml", b""), written(tmp_path, "b.parquet.gz", b"")]
    with pytest.raises(DataError) as caught:
        read_files(files)
    assert str(caught.value).splitlines() == [
        f"{files[0]}: no such file (check the path)",
        f"{files[1]}: cannot read `.xml` (known: {KNOWN})",
        f"{files[2]}: cannot read `.parquet.gz` (known: {KNOWN})",
    ]


BAD = b'{"a": 1}\nx\n{"a": 2}\n[]\n\xff\n{"a": 3}\n'
"""Three rows, and three that cannot be read."""


def test_as_many_bad_rows_as_are_allowed_are_left_out(tmp_path):
    file = written(tmp_path, "a.jsonl", BAD)
    found = read_files([file], max_bad_rows=3)
    assert [row.values["a"] for row in found.rows] == [1, 2, 3]
    assert [problem.where for problem in found.left_out] == [f"{file}:{number}" for number in (2, 4, 5)]
    assert left_out_note(found.left_out) == f"3 left out as unreadable, the first at {file}:2"


def test_one_bad_row_more_is_told_with_the_others(tmp_path):
    file = written(tmp_path, "a.jsonl", BAD)
    with pytest.raises(DataError) as caught:
        read_files([file], max_bad_rows=2)
    assert [problem.where for problem in caught.value.problems] == [f"{file}:{number}" for number in (2, 4, 5)]


def test_bad_rows_are_counted_over_all_files(tmp_path):
    files = [written(tmp_path, f"{name}.csv", b"a,b\n1,2\n3\n") for name in ("a", "b")]
    assert len(read_files(files, max_bad_rows=2).left_out) == 2
    with pytest.raises(DataError, match=r"a\.csv:3: 1 cell.*\n.*b\.csv:3: 1 cell"):
        read_files(files, max_bad_rows=1)


def test_a_file_of_bad_rows_alone_is_told(tmp_path):
    with pytest.raises(DataError, match="not JSON at column 1"):
        read_files([written(tmp_path, "a.jsonl", b"x\n")], max_bad_rows=5)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b'a,b\n1,2\n"'), ("a.csv", b"a,a\n"), ("a.json", b'[{"a": 1}, x]'), ("a.jsonl.gz", b"x")],
)
def test_a_file_that_is_spoilt_is_no_bad_row(tmp_path, name, content):
    with pytest.raises(DataError):
        read_files([written(tmp_path, name, content)], max_bad_rows=100)


def test_a_text_file_that_cannot_be_read_is_a_bad_row(tmp_path):
    files = [written(tmp_path, "a.txt", b"one"), written(tmp_path, "b.txt", b"\xff")]
    found = read_files(files, max_bad_rows=1)
    assert [row.values for row in found.rows] == [{"text": "one"}]
    assert [str(problem) for problem in found.left_out] == [f"{files[1]}: not UTF-8 at byte 1 (save the file as UTF-8)"]


def packed(content: bytes, packing: str) -> bytes:
    if packing == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    return gzip.compress(content, 9) if packing else content


LONG = b"x" * (2**20 + 1)
TOO_LONG = "is longer than 1 MiB (split it, or leave it out)"
TOO_LARGE = {
    "a line": ("a.jsonl", b'{"a": 1}\n' + LONG + b'\n{"a": 2}\n', f"FILE:2: a line {TOO_LONG}"),
    "a cell": ("a.csv", b"a\n1\n" + LONG + b"\n", f"FILE:3: a line {TOO_LONG}"),
    "a cell of many lines": ("a.csv", b'a\n1\n"' + b"xxxxxxx\n" * 2**18 + b'"\n', f"FILE:3: a record {TOO_LONG}"),
    "a word": ("a.conll", b"a O\n" + LONG + b" O\n", f"FILE:2: a line {TOO_LONG}"),
    "a sentence": ("a.conll", b"abcdef O\n" * 150_000, f"FILE:1: a sentence {TOO_LONG}"),
    "columns": (
        "a.csv",
        b",".join(b"%d" % n for n in range(10_001)),
        "FILE:1: 10,001 columns, but a table can have at most",
    ),
    "keys": (
        "a.jsonl",
        b"{%s}" % b",".join(b'"%d":1' % n for n in range(10_001)),
        "FILE:1: 10,001 keys, but a row can have",
    ),
    "depth": ("a.jsonl", b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "FILE:1: cannot be read: nested too deeply"),
    "depth in a list": (
        "a.json",
        b'[{"a":' + b"[" * 100 + b"]" * 100 + b"}]",
        "FILE, row 1: cannot be read: nested too",
    ),
}


@pytest.mark.parametrize(("name", "content", "what"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_row_has_a_size(tmp_path, monkeypatch, name, content, what):
    set_limit(monkeypatch, "LARGEST_ROW", 2**20)
    assert told(written(tmp_path, name, content)).startswith(what)


def test_a_line_that_is_too_long_is_left_out_where_that_is_allowed(tmp_path, monkeypatch):
    set_limit(monkeypatch, "LARGEST_ROW", 2**20)
    found = read_files([written(tmp_path, "a.jsonl", b'{"a": 1}\n' + LONG + b'\n{"a": 2}\n')], max_bad_rows=1)
    assert [row.values for row in found.rows] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("content", [b"\n", b'{"a": 1}\n', b"\0"])
def test_what_is_small_and_becomes_large_is_refused(tmp_path, monkeypatch, packing, content):
    monkeypatch.setattr(lora_ns.data.files.packing, "FREELY_UNPACKED", 2**16)
    file = written(tmp_path, f"a.jsonl{packing}", packed(content * (2**18 // len(content)), packing))
    assert told(file).startswith("FILE: unpacks to more than 200 times its size")


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_file_without_a_line_end_is_refused_in_bounded_memory(tmp_path, packing, monkeypatch):
    set_limit(monkeypatch, "LARGEST_ROW", 2**20)
    monkeypatch.setattr(lora_ns.data.files.lines, "_MOST_SKIPPED", 2**20)
    file = written(tmp_path, f"a.jsonl{packing}", packed(os.urandom(2**20).replace(b"\n", b"") * 3, packing))
    assert told(file).startswith(f"FILE:1: a line {TOO_LONG}")


def test_a_file_of_nothing_but_problems_is_not_read_to_its_end(tmp_path):
    assert told(written(tmp_path, "a.jsonl", b"x\n" * 30_000)).endswith("and 9,996 more like these")


def test_keys_and_names_that_are_there_twice_take_no_time_to_find(tmp_path):
    many = [f'"{number}": 1' for number in range(200_000)]
    assert "key `199999` appears twice" in told(
        written(tmp_path, "a.jsonl", f"{{{', '.join([*many, many[-1]])}}}".encode())
    )


def test_many_rows_in_a_small_parquet_file_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([1] * 2_000_000, pyarrow.int8())}), file)
    assert told(file).startswith("FILE: 2,000,000 rows in ")


NO_FILES = {"a fifo": os.mkfifo, "a folder": os.mkdir, "zeros": lambda path: path.symlink_to("/dev/zero")}


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt", ".conll", ".parquet", ".arrow", ".jsonl.gz"])
def test_what_is_no_file_is_not_opened(tmp_path, make, kind):
    make(tmp_path / f"a{kind}")
    assert told(tmp_path / f"a{kind}") == "FILE: is not a file (check the path)"


def test_prompts_are_read_as_rows_are(tmp_path):
    content = b"\xef\xbb\xbfa\xe2\x80\xa8b\x0cc\xc2\x85d\r\ne\n\n \n"
    for name in ("a.txt", "a.TXT", "a.txt.gz"):
        file = written(tmp_path, name, packed(content, ".gz" if name.endswith("gz") else ""))
        texts = rows.read_prompts(file)
        assert texts == ["a\u2028b\x0cc\x85d", "e"]
        assert [row.values["text"] for row in read_rows(file, layout=Layout(sample_by="line"))] == texts
    with pytest.raises(DataError, match=r"a.txt:2: not UTF-8 at byte 4 of the line"):
        rows.read_prompts(written(tmp_path, "a.txt", b"a\ncaf\xe9\n"))


LISTS = (
    '[{"a": 1}, {"a": "é😀"}]',
    ' [\n {"a": [1, {"b": -2.5e10}]} ,\n\t{"a": null}\r\n ]\n',
    "[1, 23, {}]",
    '[{"a": "' + "x" * 300 + '"}, {"a": 12345}]',
    '\ufeff[{"a": "\\ud83d\\ude00"}, {"a": "\\ud83d"}]',
    "[]",
    '[{"a": 1}',
    '[\n{"a": 1},\n{"a": "b}\n]',
    '[\n{"a": 1}\n{"a": 2}]',
    '[{"a": 1}, ]',
    '[{"a": 1}] x',
    '[{"a": 1, "a": 2}]',
    '[{"a": NaN}]',
)


@pytest.mark.parametrize("text", LISTS)
def test_a_list_is_read_in_pieces_as_it_is_at_once(tmp_path, monkeypatch, text):
    file = written(tmp_path, "a.json", text.encode())

    def found():
        try:
            return [str(row) for row in KINDS[".json"].rows(file, PLAIN)]
        except DataError as error:
            return str(error)

    whole = found()
    for size in (1, 2, 3, 7, 64):
        set_limit(monkeypatch, "BLOCK", size)
        assert found() == whole


def test_a_list_that_is_not_utf8_is_told_with_the_byte(tmp_path, monkeypatch):
    set_limit(monkeypatch, "BLOCK", 3)
    assert told(written(tmp_path, "a.json", b'[{"a": "\xc3\xa9"}, {"a": "\xff"}]')).startswith(
        "FILE: not UTF-8 at byte 22 "
    )


def test_a_list_may_be_longer_than_what_is_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_ns.data.files.json, "LARGEST_OBJECT", 1024)
    set_limit(monkeypatch, "LARGEST_ROW", 1024)
    set_limit(monkeypatch, "BLOCK", 100)
    many = [{"a": number} for number in range(500)]
    assert values(written(tmp_path, "a.json", json.dumps(many).encode())) == many
    assert told(written(tmp_path, "a.json", json.dumps({"data": many}).encode())).startswith("FILE: is larger than ")
    assert told(written(tmp_path, "a.json", json.dumps([{"a": "x" * 2000}]).encode())).startswith(
        "FILE, row 1: a row is"
    )
