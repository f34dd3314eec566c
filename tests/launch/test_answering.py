"""The results of worker processes are passed on as they are written, not at the end."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from lora_ns.answers.work import Task
from lora_ns.launch import answering
from lora_ns.launch.answering import Workers, compute_by
from lora_ns.launch.workers import WorkerFiles

TASK = Task("write", [*"abcdefg"], [[0, 3], [1], [2, 4, 5], [6]], draws=range(7))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_result_is_passed_on_once_its_line_is_whole(monkeypatch, tmp_path, is_killed):
    heard = []

    def run_workers(folder, environments, tell, stopped):
        shares = [json.loads(WorkerFiles(folder, number).share.read_text()) for number in range(len(environments))]
        assert [[entry[0] for entry in share["tasks"][0]["batches"]] for share in shares] == [[0, 2], [1, 3]]
        assert shares[1]["tasks"][0]["batches"] == [[1, [1], ["b"]], [3, [6], ["g"]]]
        lines = {
            batch: f"{json.dumps([0, batch, [item.upper() for item in items]])}\n"
            for share in shares
            for batch, _, items in share["tasks"][0]["batches"]
        }
        first, second = (WorkerFiles(folder, number).part for number in range(2))
        first.write_text(lines[0] + lines[2][:9])
        tell(2)
        assert heard == [(0, "A"), (3, "D")]
        second.write_text(lines[1])
        tell(3)
        assert heard[2:] == [(1, "B")]
        first.write_text(lines[0] + lines[2])
        if is_killed:
            raise KilledError
        second.write_text(lines[1] + lines[3])

    monkeypatch.setattr(answering, "run_workers", run_workers)
    monkeypatch.setattr(answering, "temporary_folder", lambda: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(answering, "compute_here", lambda *_: None)
    plan = SimpleNamespace(device=SimpleNamespace(value="cpu"))
    opened = SimpleNamespace(run=SimpleNamespace(path=tmp_path), manifest=SimpleNamespace(plan=plan))
    compute = compute_by(Workers(2, SimpleNamespace(cores=2)), opened, lambda *_: None, lambda _: None)
    with pytest.raises(KilledError) if is_killed else contextlib.nullcontext():
        assert compute([TASK], lambda _, item, one: heard.append((item, one))) == [[*"ABCDEFG"]]
    assert heard[3:] == [(2, "C"), (4, "E"), (5, "F"), *([] if is_killed else [(6, "G")])]
