"""A stream is trained on as it comes: the same rows when it is resumed, no more memory for more of them."""

import itertools
import json
import shutil
import tracemalloc

import pytest

pytest.importorskip("torch")

import torch
from plans import as_asked
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, class_rows, run_recipe
from strategies import STRATEGIES, check_trained, drive, offered, prepared
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.data import cache, sources, stream
from lora_ns.data.prepare import open_renderer, open_rows
from lora_ns.data.rows import Row
from lora_ns.data.stream import open_stream, shuffled
from lora_ns.errors import DataError, RunError, UsageError
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import find_base
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.resume import resume

STREAM = RECIPE.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")
STREAM = STREAM.replace('path = "lorans:quickstart/train.jsonl"', 'path = "rows.jsonl"\nstreaming = true')
STREAM = STREAM.replace("max_samples = 64", "shuffle_buffer_size = 8").replace('"lora"', '"lora"\nlora_dropout = 0.1')
STREAM = STREAM.replace("max_steps = 6", "max_steps = 6\nsave_steps = 2\nper_device_train_batch_size = 4")


def row(number, answer="b"):
    return {"prompt": f"a {number}", "completion": answer}


def write(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in rows))


@pytest.fixture
def opened(tmp_path):
    def open_(*overrides, text=STREAM):
        (tmp_path / "recipe.toml").write_text(text)
        loaded = load_recipe(tmp_path / "recipe.toml", overrides)
        base = find_base("lorans:nano", "main", [], download=False)
        settled = as_asked(loaded)
        rows = open_rows(settled, open_renderer(settled, base), base)
        return open_stream(loaded.recipe, loaded.folder, rows.sources.format, rows.renderer, rows.labels)

    return open_


def resumed(run):
    with Noise() as noise:
        return resume(run, SilentObserver(), noise)


def cut_off(run, last):
    """The run as it was after a step."""
    for folder in run.checkpoints.glob("checkpoint-*"):
        if int(folder.name.rpartition("-")[2]) > last:
            shutil.rmtree(folder)
    shutil.rmtree(run.adapter)
    run.update(status="interrupted", adapter={})


OF_TWO = [row(number, "b " * (1 + number % 5) if number % 7 else "b " * 300) for number in range(27)]
"""Rows of which some leave nothing, so that no process can tell its own by their numbers; the stream begins again."""


def run_for_two(folder, *overrides):
    write(folder, OF_TWO)
    write(folder, OF_TWO[1:6], "held-out.jsonl")
    evaluation = ("dataset.eval_path=held-out.jsonl", "training.per_device_eval_batch_size=2", "training.eval_steps=2")
    said = ("peft.lora_dropout=0", "sft.on_overflow=drop", "training.learning_rate=1e-3", *evaluation)
    return run_recipe(folder, STREAM, *said, "training.per_device_train_batch_size=2", *overrides)


def prepare_two(folder, strategy="ddp"):
    """A run of two processes up to the point where they would be started."""
    folder.mkdir()
    return prepared(lambda: run_for_two(folder, *STRATEGIES[strategy], "distributed.num_processes=2"))


def check_two(two, folder):
    """Hold a run of two processes, which was interrupted, to one process that trains in the folder."""
    one = run_for_two(folder)
    expected, got = load_file(one.adapter / WEIGHTS), load_file(two.adapter / WEIGHTS)
    at_once = load_file(two.path / AS_TRAINED_AT_ONCE / WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
        assert torch.equal(got[name], at_once[name])
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert two.read().data.train.dropped > 0


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", [name for name in ("zero2", "fsdp") if name in offered()])
def test_every_strategy_trains_on_the_rows_of_one_process(tmp_path, strategy):
    two = prepare_two(tmp_path / "two", strategy)
    drive([f"+{two.path}"])
    check_trained(two)
    check_two(two, tmp_path)


def losses(run):
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[name] for row in logged for name in ("loss", "eval_loss") if name in row]


@pytest.mark.parametrize("last", [2, 4])
def test_a_resumed_stream_goes_on_where_it_stopped(trained, tmp_path, last):
    """48 rows of 20: it begins again on the way, and stops in the middle of a pass."""
    write(tmp_path, [row(number) for number in range(20)])
    run = trained(STREAM, "training.save_total_limit=3")
    expected = run.read()
    rows = (run.metrics).read_text().splitlines()
    cut_off(run, last)
    assert resumed(run).steps == 6
    assert run.read().adapter["adapter_model.safetensors"] == expected.adapter["adapter_model.safetensors"]
    assert run.read().data == expected.data
    losses = [
        [json.loads(line).get("loss") for line in lines] for lines in (rows, run.metrics.read_text().splitlines())
    ]
    assert losses[0] == losses[1]


def test_the_manifest_has_the_files_and_what_became_of_their_rows(trained, tmp_path):
    write(tmp_path, ["no row", *(row(number) for number in range(60)), row(60, "long " * 200)])
    run = trained(STREAM, "dataset.max_bad_rows=1", "dataset.shuffle_buffer_size=0", "sft.on_overflow=drop")
    record = run.read().data.train
    assert [(file.path, file.size) for file in record.files] == [
        (str(tmp_path / "rows.jsonl"), (tmp_path / "rows.jsonl").stat().st_size)
    ]
    assert (record.source, record.rows, record.left_out, record.dropped) == (str(tmp_path / "rows.jsonl"), 61, 1, 1)
    assert record.tokens > record.trained_tokens > 0


@pytest.mark.parametrize("change", ["other", "longer", "gone"])
def test_a_file_that_was_changed_is_not_gone_on_with(trained, tmp_path, change):
    write(tmp_path, [row(number) for number in range(9)])
    run = trained(STREAM)
    cut_off(run, 4)
    file = tmp_path / "rows.jsonl"
    match change:
        case "other":
            file.write_text(file.read_text().replace("a 7", "a x"))
        case "longer":
            file.write_text(file.read_text() + "\n")
        case "gone":
            file.unlink()
    with pytest.raises(
        UsageError, match="no such file" if change == "gone" else "not the file that the run was started"
    ):
        resumed(run)


BROKEN = {
    "no JSON": ("no row", "not JSON at column 1"),
    "nothing to learn": (row(1, ""), "the answer is empty"),
    "too long": (row(1, "long " * 200), "longer than 128 tokens, the longest has 1024: "),
    "another format": ({"text": "a"}, "no column `messages`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_row_stops_the_run_at_its_place(trained, tmp_path, monkeypatch, case):
    """It is beyond those that are looked at beforehand; what is trained until then is in a checkpoint."""
    monkeypatch.setattr(sources, "PROBE_ROWS", 8)
    monkeypatch.setattr(stream, "ROWS_AT_ONCE", 4)
    line, told = BROKEN[case]
    write(tmp_path, [*(row(number) for number in range(32)), line, row(9)])
    with pytest.raises(RunError) as caught:
        trained(STREAM, "dataset.shuffle_buffer_size=0")
    message = str(caught.value)
    assert told in message
    assert f"{tmp_path}/rows.jsonl:33" in message
    assert f"the last checkpoint is {tmp_path}/run/checkpoints/checkpoint-2" in message
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_the_first_rows_is_told_before_the_first_step(trained, tmp_path, case):
    line, told = BROKEN[case]
    write(tmp_path, [row(0), line])
    with pytest.raises(DataError) as caught:
        trained(STREAM)
    assert told in str(caught.value)
    assert f"{tmp_path}/rows.jsonl:2" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_more_broken_row_than_allowed_is_told(opened, tmp_path, monkeypatch):
    """In a second pass, the same rows are not counted again."""
    monkeypatch.setattr(sources, "PROBE_ROWS", 2)
    write(tmp_path, [row(0), row(1), "x", "y", row(2)])
    rows = opened("dataset.max_bad_rows=2", "dataset.shuffle_buffer_size=0")
    assert [sequence.where.rpartition(":")[2] for sequence in itertools.islice(rows.sequences(), 7)] == list("1251251")
    assert [place.rpartition(":")[2] for place in rows.left_out] == ["3", "4"]
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        list(opened("dataset.max_bad_rows=1", "dataset.shuffle_buffer_size=0").sequences())


def test_columns_that_come_up_late_are_told_or_refused(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PROBE_ROWS", 2)
    write(
        tmp_path, [*map(row, range(70)), {**row(70), "body": "x"}, *map(row, range(71, 140)), {**row(140), "body": "x"}]
    )
    stream = opened("dataset.shuffle_buffer_size=0")
    assert sum(1 for _ in itertools.islice(stream.sequences(), 300)) == 300
    (told,) = stream.late.values()
    assert (told.code, told.what.rpartition("/")[2]) == ("DATA004", "rows.jsonl:71: not read by `messages`: `body`")
    write(tmp_path, [*map(row, range(70)), {**row(70), "system": "Be kind."}])
    with pytest.raises(DataError, match=r"\[DATA004\] .*rows.jsonl:71: not read by `messages`: `system`"):
        list(itertools.islice(opened("dataset.shuffle_buffer_size=0").sequences(), 100))


def test_a_list_in_one_file_is_no_stream(opened, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([row(0)]))
    with pytest.raises(DataError, match=r"rows.json: one list cannot be read row by row \(write it as .jsonl"):
        next(opened("dataset.path=rows.json").sequences())


def test_a_stream_of_which_nothing_is_left_ends(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PROBE_ROWS", 1)
    write(tmp_path, [row(0, "long " * 200)] * 3)
    with pytest.raises(DataError, match="the stream has no row to train on"):
        next(opened("sft.on_overflow=drop").sequences())


@pytest.mark.parametrize(("overrides", "first", "last"), [(['slice="3:"'], 4, 9), (["max_samples=4"], 1, 4)])
def test_a_stream_has_a_slice_and_a_number_of_rows(opened, tmp_path, overrides, first, last):
    write(tmp_path, [row(number) for number in range(9)])
    read = opened(*(f"dataset.{override}" for override in overrides)).rows()
    assert [int(found.where.rpartition(":")[2]) for found in read] == list(range(first, last + 1))


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_a_buffer_changes_the_order_and_nothing_else(size):
    rows = [Row(str(number), {}) for number in range(100)]
    order = list(shuffled(iter(rows), size, "1:0"))
    assert sorted(order, key=rows.index) == rows
    assert order == list(shuffled(iter(rows), size, "1:0"))
    assert (order == rows) == (size == 1)
    assert size == 1 or order != list(shuffled(iter(rows), size, "1:1"))
    assert all(int(found.where) < place + size for place, found in enumerate(order))


def peak(rows):
    """Bytes that reading and encoding one pass needs at most."""
    passes = rows.sequences()
    next(passes)
    tracemalloc.start()
    count = sum(1 for _ in itertools.islice(passes, COUNTS[rows.files[0].name] - 1))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == COUNTS[rows.files[0].name] - 1
    return most


COUNTS = {"few.jsonl": 1000, "many.jsonl": 7000}


@pytest.mark.matrix
def test_memory_does_not_grow_with_the_rows(opened, tmp_path, monkeypatch):
    """The file is several times larger than what is held of it."""
    monkeypatch.setattr(sources, "PROBE_ROWS", 10)
    for name, count in COUNTS.items():
        write(tmp_path, [row(number, "plum " * 100) for number in range(count)], name)
    overrides = ("dataset.shuffle_buffer_size=100", "sft.max_seq_length=600")
    few, many = (peak(opened(*overrides, f"dataset.path={name}")) for name in COUNTS)
    assert many < 1.2 * few
    assert many < (tmp_path / "many.jsonl").stat().st_size / 3


def test_a_stream_of_classes_is_trained_on(trained, tmp_path):
    text = CLASSES.replace('path = "classes.jsonl"', 'path = "classes.jsonl"\nstreaming = true', 1)
    text = text.replace("max_seq_length", 'labels = ["loud", "quiet"]\nmax_seq_length')
    manifest = trained(text.replace("= 30", "= 6")).read()
    assert manifest.labels == ("loud", "quiet")
    assert (manifest.data.train.rows, manifest.data.eval.rows) == (16, len(class_rows()))
    assert manifest.metrics["eval_loss"] < manifest.metrics["before/eval_loss"]


def test_a_stream_of_tags_counts_the_words(trained, tmp_path):
    rows = [{"tokens": ["Ada", "met", "Bo"], "tags": ["B-PER", "O", "B-PER"]}] * 6
    write(tmp_path, rows)
    text = CLASSES.replace("SEQ_CLS", "TOKEN_CLS").replace("classes.jsonl", "rows.jsonl").replace("= 30", "= 1")
    text = text.replace('path = "rows.jsonl"', 'path = "rows.jsonl"\nstreaming = true', 1)
    text = text.replace("max_seq_length", 'labels = ["O", "B-PER"]\nmax_seq_length')
    record = trained(text, "training.global_batch_size=6", "dataset.shuffle_buffer_size=0").read().data.train
    assert record.trained_tokens >= 18
    assert record.trained_tokens % 3 == 0


STOPPED = row(1, "It ends with <|im_end|>, then a line break.")


def test_a_stop_token_in_a_later_answer_goes_as_the_recipe_says(trained, tmp_path, monkeypatch):
    """Rows that are left out, or trained on all the same, are told once the run has read them."""
    monkeypatch.setattr(sources, "PROBE_ROWS", 8)
    write(tmp_path, [*(row(number) for number in range(16)), STOPPED, row(17, "a"), row(18), row(" ", "c")])
    with pytest.raises(RunError, match=r"rows.jsonl:17: \[SPEC002\] an answer spells out"):
        trained(STREAM, "dataset.shuffle_buffer_size=0")
    overrides = ("dataset.shuffle_buffer_size=0", "sft.on_stop_token=drop", f"training.output_dir={tmp_path}/drop")
    observer = Listener()
    run_recipe(tmp_path, STREAM, *overrides, observer=observer)
    (told,) = [note for note in observer.told if "SPEC002" in note]
    assert told.startswith("training rows: [SPEC002] left out: ")
    assert f"1 row, the first at {tmp_path}/rows.jsonl:17 (" in told
    record = json.loads((tmp_path / "drop/manifest.json").read_text())["data"]["train"]
    assert (record["rows"], record["dropped"]) == (20, 1)


class Listener(SilentObserver):
    def __init__(self):
        self.told = []

    def warn(self, text):
        self.told.append(text)


def test_what_is_noted_of_the_first_rows_is_told_before_the_first_step(trained, tmp_path):
    write(tmp_path, [{"prompt": "What is <|im_end|>?", "completion": "b"}, *(row(number) for number in range(3))])
    notes = [note for note in trained(STREAM).read().plan.notes if "SPEC001" in note]
    assert [note.partition("]")[0] for note in notes] == ["the first 4 training rows: [SPEC001"]


def test_no_row_of_a_stream_is_in_the_cache(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "cache"))
    write(tmp_path, [row(number) for number in range(9)])
    run = trained(STREAM, "training.max_steps=1")
    assert not cache.entries()
    assert run.read().seal.rows == 4


def test_validate_says_how_far_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PROBE_ROWS", 5)
    write(tmp_path, [*(row(number) for number in range(9)), "x"])
    (tmp_path / "recipe.toml").write_text(STREAM)
    shown = CliRunner().invoke(app, ["validate", "recipe.toml", "--data"], catch_exceptions=False).stdout
    assert "rows.jsonl (a stream, its first 5 rows): 5 rows, 5 sequences" in shown
