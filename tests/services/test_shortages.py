"""Too little memory, and places that cannot be written or that another command writes: told in time."""

import contextlib
import dataclasses
import json

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

import lora_ns.answers.opened
import lora_ns.answers.work
import lora_ns.launch.answering
import lora_ns.machine.hardware
import lora_ns.services.merge
from lora_ns.answers.opened import open_trained
from lora_ns.cli.app import app
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, InterruptedRunError, Problem, RunError, UsageError
from lora_ns.files.staging import folder
from lora_ns.launch.workers import WorkerFiles
from lora_ns.services.infer import check_columns, infer


def lorans(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def too_little(*_, **__):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def not_reached(*_, **__):
    pytest.fail("the model was loaded")


@pytest.mark.parametrize(
    ("command", "module", "name", "told"),
    [
        (["infer", "-i", "a"], lora_ns.answers.work, "_compute_batch", "out of memory at batch size 1"),
        (["eval", "--data", "rows.jsonl"], lora_ns.answers.work, "_compute_batch", "out of memory at batch size 1"),
        (["infer", "-i", "a"], lora_ns.answers.opened, "load_base", "out of memory while loading a base of 0.00 bil"),
        (
            ["merge", "-o", "merged"],
            lora_ns.services.merge,
            "stream",
            "out of memory while merging 0.00 billion",
        ),
    ],
)
def test_too_little_memory_is_a_message_of_each_command(lora_run, tmp_path, monkeypatch, command, module, name, told):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 1 + 1?", "completion": "2"}\n')
    monkeypatch.setattr(module, name, too_little)
    with pytest.raises(RunError, match=told):
        lorans(command[0], lora_run.path, *command[1:])
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_who_merges_second_is_refused_before_anything_is_loaded(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr(lora_ns.services.merge, "reopen", not_reached)
    with (
        folder(tmp_path / "merged"),
        pytest.raises(UsageError, match="merged: another command is writing it") as caught,
    ):
        lorans("merge", lora_run.path, "-o", tmp_path / "merged")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("output", ["file/answers.jsonl", "folder"])
def test_answers_that_cannot_be_written_are_told_before_the_model_is_loaded(lora_run, tmp_path, monkeypatch, output):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(lora_ns.answers.opened, "open_run", not_reached)
    with pytest.raises(UsageError):
        lorans("infer", lora_run.path, "-i", "a", "-o", tmp_path / output)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_answered_before_an_error_is_kept_in_the_order_of_the_rows(lora_run, tmp_path, monkeypatch, error):
    batch, count = lora_ns.answers.work.compute_batch, iter(range(3))

    def broken(*arguments):
        if next(count) == 2:
            raise error
        return batch(*arguments)

    monkeypatch.setattr(lora_ns.answers.work, "compute_batch", broken)
    (tmp_path / "in.txt").write_text("Write river in capitals, please.\nWrite a.\nWrite cat in capitals.\n")
    (tmp_path / "o.jsonl.part").write_text("mine")
    settings = ["--set", "generation.batch_size=1", "--set", "generation.max_new_tokens=2"]
    with contextlib.suppress(error):
        lorans("infer", lora_run.path, "--input-file", tmp_path / "in.txt", "-o", tmp_path / "o.jsonl", *settings)
    kept = [json.loads(line) for line in (tmp_path / "o.jsonl.part1").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in kept] == ["Write a.", "Write cat in capitals."]
    assert all("output" in row for row in kept)
    left = [".o.jsonl.lorans-answers", "in.txt", "o.jsonl.part", "o.jsonl.part1"]
    assert sorted(file.name for file in tmp_path.iterdir()) == left


@pytest.mark.parametrize(
    "error", [RunError("lost"), InterruptedRunError(15, Problem("", "stopped")), KeyboardInterrupt()]
)
def test_what_several_processes_had_answered_is_kept_in_the_order_of_the_rows(lora_run, tmp_path, monkeypatch, error):
    """The processes are played: each has written some batches, and the last half a line, when one of them is lost."""

    def lost(folder, environments, *_):
        for number in reversed(range(len(environments))):
            files = WorkerFiles(folder, number)
            ((batch, _, items), *_) = json.loads(files.share.read_text())["tasks"][0]["batches"]
            answers = [{"text": "A", "finish_reason": "stop", "prompt_tokens": 1, "output_tokens": 1} for _ in items]
            files.part.write_text(json.dumps([0, batch, answers]) + "\n[0, 2, [")
        raise error

    monkeypatch.setattr(lora_ns.launch.answering, "run_workers", lost)
    monkeypatch.setattr(lora_ns.machine.hardware, "usable_cores", lambda: 2)
    (tmp_path / "in.txt").write_text("Write river in capitals, please.\nWrite a.\nWrite cat in capitals.\n")
    words = ["--input-file", tmp_path / "in.txt", "-o", tmp_path / "o.jsonl", "--set", "generation.batch_size=1"]
    with contextlib.suppress(type(error)):
        lorans("infer", lora_run.path, *words, "--num-processes", "2")
    kept = [json.loads(line) for line in (tmp_path / "o.jsonl.part").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in kept] == ["Write a.", "Write cat in capitals."]
    assert all(row["output"] == "A" for row in kept)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".o.jsonl.lorans-answers", "in.txt", "o.jsonl.part"]


def test_eval_leaves_out_as_many_rows_that_cannot_be_read_as_is_said(classifier_run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "WALNUT", "label": "loud"}\n{"text": \n')
    asked = ["eval", classifier_run.path, "--data", tmp_path / "rows.jsonl", "--json"]
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        lorans(*asked)
    done = lorans(*asked, "--max-bad-rows", "1")
    assert json.loads(done.stdout)["rows"] == 1
    assert "1 left out as unreadable, the first at" in done.stderr


@pytest.mark.parametrize("column", ["output", "score"])
def test_the_label_of_a_row_stays_beside_the_answer_whatever_it_is_called(classifier_run, column):
    trained = open_trained(classifier_run)
    data = trained.manifest.data.model_copy(
        update={"columns": {**trained.manifest.data.columns, "label_column": column}}
    )
    trained = dataclasses.replace(trained, manifest=trained.manifest.model_copy(update={"data": data}))
    rows = [Row("row", {"text": "WALNUT", column: "quiet"})]
    check_columns(trained.manifest, rows)
    (row,) = infer(trained, rows, trained.manifest.recipe.generation).rows
    assert (row["expected"], row["output"], set(row)) == (
        "quiet",
        "loud",
        {"text", "expected", "output", "score", "scores"},
    )
    with pytest.raises(DataError, match=f"column `expected` would be replaced by `{column}`"):
        check_columns(trained.manifest, [Row("row", {**rows[0].values, "expected": 1})])
