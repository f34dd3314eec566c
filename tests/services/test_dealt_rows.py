"""Two processes answer and measure as one does, in the rows' order; where one is lost, what was answered is kept."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from test_labels import FEW, TAGGED, TAGS, run_rows
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import InterruptedRunError, LoransError, RunError
from lora_ns.launch.answering import work

pytestmark = pytest.mark.slow

ASKED = [
    {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}], "id": number}
    for number, text in enumerate(
        ("Write cat in capitals.", "What is 12 + 7?", "How many letters are in plum?", "Spell plum backwards.", "a b c")
    )
]
QUICK = ("--set", "generation.max_new_tokens=6", "--set", "generation.batch_size=2")
TWO = ("--num-processes", "2")


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def lorans(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def file_of(folder, rows):
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def said(*arguments):
    return [json.loads(line) for line in lorans("infer", *arguments, "--json").stdout.splitlines()]


def test_loss_and_exact_match_are_those_of_one_process(lora_run, tmp_path):
    asked = ("eval", lora_run.path, "--data", file_of(tmp_path, ASKED), "--exact-match", "--json")
    alone, shared = (json.loads(lorans(*asked, *more).stdout) for more in ((), TWO))
    assert shared["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
    assert shared["rows"] == alone["rows"] == 5


@pytest.fixture(scope="module")
def tags_run(tmp_path_factory):
    return run_rows(tmp_path_factory.mktemp("tags"), TAGS, TAGGED, *FEW)


@pytest.fixture
def shares(monkeypatch):
    """The shares that this process computes, one after the other, in the place of those that others would."""
    computed = []

    def compute(files, env):
        work(files)
        computed.append(files.number)
        return subprocess.Popen(["true"])

    monkeypatch.setattr("lora_ns.launch.workers._start", compute)
    return computed


@pytest.mark.cluster
def test_answers_that_are_drawn_are_those_of_one_process(lora_run, tmp_path, shares):
    drawn = ("--set", "generation.do_sample=true", "--set", "generation.temperature=3.0")
    asked = (lora_run.path, "--input-file", file_of(tmp_path, ASKED), *QUICK, *drawn)
    alone = said(*asked)
    assert [row["id"] for row in alone] == list(range(5))
    assert len({row["output"] for row in alone}) == 5
    assert said(*asked, *TWO) == alone
    assert shares == [0, 1]
    assert said(*asked, "--set", "generation.seed=43") != alone


def test_artefacts_and_several_adapters_answer_as_in_one_process(lora_run, tmp_path, shares):
    lorans("export", lora_run.path, "--to", "plain", "-o", tmp_path / "plain")
    file = file_of(tmp_path, ASKED)
    for asked in ((tmp_path / "plain",), (lora_run.path, "--adapter", tmp_path / "plain", "--base-too")):
        assert said(*asked, "--input-file", file, *QUICK, *TWO) == said(*asked, "--input-file", file, *QUICK)
    assert shares == [0, 1, 0, 1]


def test_classes_and_tags_are_those_of_one_process(classifier_run, tags_run, tmp_path, shares):
    texts = [{"text": text, "id": number} for number, text in enumerate(("PLUM", "a long plum", "x", "OTTER", "ember"))]
    for run, rows in ((classifier_run, texts), (tags_run, TAGGED[:5])):
        asked = (run.path, "--input-file", file_of(tmp_path, rows), "--set", "generation.batch_size=2")
        for mine, other in zip(said(*asked, *TWO), said(*asked), strict=True):
            assert without_scores(mine) == without_scores(other)
            assert mine.get("scores") == pytest.approx(other.get("scores"), abs=1e-6)
    assert shares == [0, 1, 0, 1]


def without_scores(row):
    return {name: value for name, value in row.items() if name not in {"score", "scores", "entities"}}


def test_there_are_no_more_processes_than_batches(classifier_run, tmp_path, capfd):
    rows = file_of(tmp_path, [{"text": "PLUM"}, {"text": "plum"}])
    assert [row["output"] for row in said(classifier_run.path, "--input-file", rows, *TWO)] == ["loud", "quiet"]
    assert "note: the rows fit into one batch: using 1 of 2 processes" in capfd.readouterr().err


def workers():
    """The processes that this one has started, by their number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
            parent = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
        except OSError:
            continue
        if "worker" in words and parent == str(os.getpid()):
            found[int(words[-2])] = int(folder.name)
    return found


@pytest.fixture
def once_started():
    """Does something, once both processes are there."""

    def wait(act):
        def look():
            for _ in range(3000):
                if len(found := workers()) == 2:
                    return act(found)
                time.sleep(0.02)
            return None

        threading.Thread(target=look, daemon=True).start()

    return wait


@pytest.mark.parametrize(
    ("act", "kind", "told"),
    [
        (lambda found: os.kill(found[1], signal.SIGKILL), RunError, "process 2 of 2 was killed by SIGKILL"),
        (lambda _: os.kill(os.getpid(), signal.SIGINT), InterruptedRunError, "stopped before all rows were done"),
    ],
)
def test_where_not_all_is_answered_nothing_is_written(lora_run, tmp_path, monkeypatch, once_started, act, kind, told):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    once_started(act)
    asked = ("infer", lora_run.path, "--input-file", file_of(tmp_path, ASKED), *QUICK, "-o", tmp_path / "out.jsonl")
    with pytest.raises(kind, match=told):
        lorans(*asked, *TWO)
    assert not (tmp_path / "out.jsonl").exists()
    assert not workers()
    assert not [file for file in tmp_path.glob("lorans-*") if file.is_dir()]


def test_all_rows_that_cannot_be_answered_are_told_before_a_process_is_started(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ns.launch.workers._start", lambda *_: pytest.fail("a process was started"))
    rows = file_of(tmp_path, [{"prompt": "a"}, {"question": "b"}, {"prompt": "c"}, {"prompt": "word " * 3000}])
    asked = ("infer", lora_run.path, "--input-file", rows, *QUICK)
    with pytest.raises(LoransError) as alone:
        lorans(*asked)
    with pytest.raises(LoransError) as shared:
        lorans(*asked, *TWO)
    assert str(shared.value) == str(alone.value)
    assert [problem.where.rpartition(":")[2] for problem in alone.value.problems] == ["2", "4"]
