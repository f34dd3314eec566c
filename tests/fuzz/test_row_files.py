"""Data files of every kind, changed at random: rows, or located problems."""

import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from campaign import ends_well, fuzz, holds_for, lasts
from hypothesis import strategies as st
from mutations import changed, values

from lora_ns.data.files.layout import Layout
from lora_ns.data.files.read import read_files, read_prompts

ROWS = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "n": [1, {"x": None}]},
    {"prompt": 'a,\n"b"', "completion": "\u00e9\U0001f600", "n": 1.5},
]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()
TABLE = b'a,b\n1,"x\ny"\n2,z\n'
CONTENTS = {
    ".jsonl": LINES,
    ".json": json.dumps(ROWS).encode(),
    ".csv": TABLE,
    ".tsv": TABLE.replace(b",", b"\t"),
    ".txt": b"one\ntwo\n",
    ".conll": b"-DOCSTART- O\n\na B-x\nb O\n\n# c\nd O\n",
    ".jsonl.gz": gzip.compress(LINES),
    ".csv.gz": gzip.compress(TABLE),
}


def of_arrow() -> dict[str, bytes]:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": ["x", "y"], "b": [[1], [2, 3]], "c": [{"d": 1}, {"d": None}]})
    file, stream = io.BytesIO(), io.BytesIO()
    parquet.write_table(table, file)
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return {".parquet": file.getvalue(), ".arrow": stream.getvalue()}


def read(kind: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"a{kind}")
        file.write_bytes(content)
        ends_well(lambda: read_files([file], max_bad_rows=1))
        ends_well(lambda: read_files([file], limit=1, layout=Layout(column_names=("a", "b"), sample_by="line")))
        if kind.startswith(".txt"):
            ends_well(lambda: read_prompts(file))


rows = st.lists(values, max_size=3).map(lambda found: "\n".join(map(json.dumps, found)).encode())


def strategy_of(kind: str) -> st.SearchStrategy[bytes]:
    contents = CONTENTS if kind in CONTENTS else of_arrow()
    return changed([contents[kind]]) | st.binary(max_size=60) | (rows if "json" in kind else st.nothing())


@pytest.mark.parametrize("kind", [*CONTENTS, ".parquet", ".arrow"])
def test_a_sample(kind):
    holds_for(strategy_of(kind), lambda content: read(kind, content))


@fuzz
@pytest.mark.parametrize("kind", [*CONTENTS, ".parquet", ".arrow"])
def test_for_a_while(kind):
    lasts(strategy_of(kind), lambda content: read(kind, content))
