"""What a full disk or a loss of power leaves of `metrics.jsonl` is read as far as it is whole."""

import json
import os
import random
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from lora_ns.run.metrics import forget_after, read_metrics

ROWS = [{"step": number, "loss": 1 / number, "note": "schön"} for number in range(1, 7)]
WHOLE = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
BROKEN = [
    b'{"step": 7, "lo',
    b"\0" * 40,
    b"\n",
    b"\xff\xfe\n",
    b"[1]\n",
    b"3\n",
    b'{"step": "x"}\n',
    b"{}\n",
    b"[" * 100_000 + b"\n",
    b'{"step": 1e400}\n',
    b'{"step": 7, "x": ' + b"[" * 500 + b"]" * 500 + b"}\n",
    b'{"step": ' + b"9" * 10_000 + b"}\n",
    b'{"step": 99999999999999999999999999}\n',
    b'{"step": -1}\n',
    b'{"step": true}\n',
]


@pytest.mark.parametrize("end", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_row_is_left_out_and_said(tmp_path, end):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(WHOLE + end)
    assert read_metrics(file).rows == tuple(ROWS)
    assert read_metrics(file).broken == 1
    assert forget_after(file, 4) == "metrics.jsonl: removed 1 line (not written completely)"
    assert [json.loads(line) for line in file.read_text().splitlines()] == ROWS[:4]
    assert forget_after(file, 4) is None


@pytest.mark.parametrize("end", BROKEN, ids=range(len(BROKEN)))
def test_what_is_left_out_can_be_said(tmp_path, end):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(end)
    assert read_metrics(file).left_out("m") == ("m: 1 line is not a row of this run, skipped",)
    file.write_bytes(end + b"\n" + end)
    assert "lines are not rows of this run" in read_metrics(file).left_out("m")[0]
    file.write_bytes(WHOLE)
    assert read_metrics(file).left_out("m") == ()


def test_a_step_behind_the_last_is_none_of_the_run(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(WHOLE)
    found = read_metrics(file, last=4)
    assert (found.rows, found.broken) == (tuple(ROWS[:4]), 2)


def bind(file):
    with socket(AF_UNIX) as bound:
        bound.bind(str(file))


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, bind])
def test_what_is_in_the_place_of_the_file_is_said(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make(file := Path("metrics.jsonl"))
    (told,) = read_metrics(file).left_out("m")
    assert told.startswith("m: is a ")
    assert told.endswith(", so it is skipped")


def test_a_pipe_in_the_place_of_the_file_is_said_and_replaced(tmp_path):
    os.mkfifo(file := tmp_path / "metrics.jsonl")
    assert forget_after(file, 3) == "metrics.jsonl: is a pipe, not a file, so it is skipped"
    assert file.read_bytes() == b""


def test_any_cut_leaves_the_rows_before_it(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for end in range(len(WHOLE)):
        file.write_bytes(WHOLE[:end])
        assert read_metrics(file).rows == tuple(ROWS[: WHOLE[: end + 1].count(b"\n")])


def test_any_changed_byte_costs_at_most_the_rows_around_it(tmp_path):
    file, draw = tmp_path / "metrics.jsonl", random.Random(1)
    for _ in range(200):
        changed = bytearray(WHOLE)
        changed[draw.randrange(len(WHOLE))] ^= draw.randrange(1, 256)
        file.write_bytes(changed)
        assert sum(row in ROWS for row in read_metrics(file).rows) >= len(ROWS) - 2


def test_nothing_is_kept_for_a_first_step_and_no_file_is_no_row(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert (forget_after(file, 0), read_metrics(file).rows) == (None, ())
    file.write_bytes(WHOLE + b"{")
    assert forget_after(file, 0) is None
    assert file.read_bytes() == b""
