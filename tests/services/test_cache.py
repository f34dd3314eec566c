"""Tokenised rows are taken from an earlier run if all that determines them is the same, and never half written."""

import ast
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import datasets
from services_recipes import CLASSES, RECIPE
from typer.testing import CliRunner

import lora_ns
import lora_ns.data.prepare
from lora_ns.cli.app import app
from lora_ns.data import cache
from lora_ns.data.prepared import (
    Preparation,
    code_version,
    find_preparation,
    keep_preparation,
    preparation_key,
    saved_rows,
)
from lora_ns.data.render import Renderer
from lora_ns.files.marks import MARK
from lora_ns.model.files import ASSETS
from lora_ns.model.tokenizer import choose_pad_token, load_tokenizer, stop_token_ids
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.run.manifest import DataRecord, SourceRecord

SHORT = RECIPE.replace("max_steps = 6", "max_steps = 1")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rendered(monkeypatch):
    """The rows that were rendered."""
    seen = []
    real = Renderer.examples

    def spy(self, example):
        seen.append(example)
        return real(self, example)

    monkeypatch.setattr(Renderer, "examples", spy)
    return seen


def some_rows(count=3):
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2]] * count})
    record = SourceRecord(source="rows.jsonl", sha256="0" * 64, rows=count)
    data = DataRecord(format="text", columns={}, train=record, eval=record, eval_rows=[{"text": "a"}])
    return Preparation(rows, rows.select([0]), DataFacts(count, 1, 2, "because", ("one", "two")), data, ("no", "yes"))


def parts(prepared):
    return (*map(list, prepared.data), prepared.facts, prepared.record, prepared.labels)


def test_what_was_kept_is_found_as_it_was():
    assert find_preparation("e" * 64) is None
    keep_preparation("e" * 64, some_rows())
    assert parts(find_preparation("e" * 64)) == parts(some_rows())


@pytest.mark.parametrize("name", ["train/data-00000-of-00001.arrow", "train/state.json", "facts.json", MARK])
@pytest.mark.parametrize("missing", [True, False])
def test_a_damaged_entry_is_dropped_and_said(folder, name, missing):
    keep_preparation("d" * 64, some_rows())
    file, told = folder / ("d" * 64) / name, []
    if missing:
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    assert find_preparation("d" * 64, told.append) is None
    (said,) = told
    assert said.startswith("the cached rows are damaged and computed again: ")
    assert name in said or name == MARK
    assert not cache.entries()


def test_a_second_start_renders_nothing_and_trains_the_same(trained, rendered, tmp_path):
    first = trained(SHORT)
    assert len(rendered) == 64 + 8
    rendered.clear()
    second = trained(SHORT, f"training.output_dir={tmp_path / 'second'}")
    assert not rendered
    assert second.read().adapter == first.read().adapter
    assert second.read().data == first.read().data
    assert second.read().plan == first.read().plan
    assert len(cache.entries()) == 1


def test_a_second_start_of_a_classifier_reads_nothing_and_trains_the_same(trained, monkeypatch, tmp_path):
    first = trained(CLASSES, "training.max_steps=1")
    monkeypatch.setattr(lora_ns.data.prepare, "read_sources", None)
    second = trained(CLASSES, "training.max_steps=1", f"training.output_dir={tmp_path / 'second'}")
    assert second.read().adapter == first.read().adapter
    assert second.read().labels == ("loud", "quiet")


def test_without_the_cache_rows_are_rendered_and_nothing_is_kept(tmp_path, rendered):
    (tmp_path / "recipe.toml").write_text(SHORT)
    for _ in range(2):
        CliRunner().invoke(app, ["train", "recipe.toml", "--no-cache", "--overwrite"], catch_exceptions=False)
    assert len(rendered) == 2 * (64 + 8)
    assert not cache.entries()


def key_of(tmp_path, *overrides, change=None, row="1"):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "a", "completion": row}))
    loaded = load_recipe(tmp_path / "recipe.toml", overrides)
    tokenizer = load_tokenizer(ASSETS / "nano")
    choose_pad_token(tokenizer, stop_token_ids(tokenizer, ASSETS / "nano"))
    if change:
        change(tokenizer)
    return preparation_key(loaded.recipe, loaded.folder, tokenizer, stop_token_ids(tokenizer, ASSETS / "nano"))


def test_whatever_determines_the_tokens_is_in_the_key(tmp_path):
    def other_template(tokenizer):
        tokenizer.chat_template += " "

    def other_end(tokenizer):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(7)

    def another_token(tokenizer):
        tokenizer.add_tokens(["plumplum"])

    keys = [
        key_of(tmp_path),
        key_of(tmp_path, "sft.max_seq_length=127"),
        key_of(tmp_path, "sft.train_on=last"),
        key_of(tmp_path, "sft.on_overflow=drop"),
        key_of(tmp_path, "sft.system_role=merge-into-user"),
        key_of(tmp_path, "dataset.max_samples=63"),
        key_of(tmp_path, "dataset.format=prompt-completion"),
        key_of(tmp_path, "sft.packing=true"),
        key_of(tmp_path, "evaluation.exact_match=true"),
        key_of(tmp_path, "dataset.path=own.jsonl"),
        key_of(tmp_path, "dataset.path=own.jsonl", row="2"),
        key_of(tmp_path, "dataset.path=['own.jsonl', 'own.jsonl']"),
        *(key_of(tmp_path, "dataset.eval_fraction=0.5", f"training.seed={seed}") for seed in (1, 2)),
        *(key_of(tmp_path, change=change) for change in (other_template, other_end, another_token)),
    ]
    assert len(set(keys)) == len(keys)


def key_of_sources(tmp_path, *overrides, row="1"):
    text = RECIPE.replace('path = "lorans:quickstart/train.jsonl"\n', "", 1).replace("max_samples = 64\n", "")
    text += '[[dataset.sources]]\npath = "one.jsonl"\n[[dataset.sources]]\npath = "two.jsonl"\n'
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    (tmp_path / "two.jsonl").write_text(json.dumps({"prompt": "a", "completion": row}))
    tokenizer = load_tokenizer(ASSETS / "nano")
    loaded = load_recipe(tmp_path / "recipe.toml", overrides)
    return preparation_key(loaded.recipe, loaded.folder, tokenizer, (0,))


def test_whatever_is_read_of_several_sources_is_in_the_key(tmp_path):
    weights = ["dataset.sources.0.weight=1", "dataset.sources.1.weight=2"]
    keys = [
        key_of_sources(tmp_path),
        key_of_sources(tmp_path, row="2"),
        key_of_sources(tmp_path, "dataset.sources.1.path=one.jsonl"),
        key_of_sources(tmp_path, 'dataset.sources.1.slice=":1"'),
        key_of_sources(tmp_path, "dataset.eval_path=one.jsonl"),
        *(key_of_sources(tmp_path, *weights, f"training.seed={seed}") for seed in (1, 2)),
        key_of_sources(tmp_path, *weights, "training.seed=1", "dataset.stopping_strategy=all_exhausted"),
        key_of_sources(tmp_path, "dataset.sources.1.format=prompt-completion"),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("override", ["training.seed=9", "peft.lora_r=4", "task_name=other", "model.dtype=bfloat16"])
def test_what_does_not_touch_the_tokens_is_not_in_the_key(tmp_path, override):
    assert key_of(tmp_path, override) == key_of(tmp_path)


def test_rows_that_were_not_written_whole_are_not_there(folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_preparation("a" * 64, some_rows())
    assert not cache.entries()
    assert find_preparation("a" * 64) is None
    assert not list(folder.iterdir())


def test_a_process_that_is_killed_while_it_writes_leaves_no_entry(folder):
    """The process kills itself between the rows and their name."""
    code = f"""
import os, signal, sys
sys.path[:] = {sys.path!r}
from lora_ns.data import cache
from lora_ns.data.prepared import keep_preparation
from test_cache import some_rows
cache.keep = lambda *_: os.kill(os.getpid(), {signal.SIGKILL.value})
keep_preparation("a" * 64, some_rows())
"""
    root = str(Path(lora_ns.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not cache.entries()


def keep_at_once(barrier):
    barrier.wait()
    keep_preparation("b" * 64, some_rows(500))


def test_two_runs_that_start_together_share_one_entry():
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [context.Process(target=keep_at_once, args=(barrier,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [entry.key for entry in cache.entries()] == ["b" * 64]
    assert len(find_preparation("b" * 64).train) == 500


@pytest.mark.parametrize(
    "damage", ["facts.json", "train/dataset_info.json", "train/data-00000-of-00001.arrow", "eval/state.json"]
)
def test_an_entry_that_lost_a_part_is_dropped_and_made_again(folder, damage):
    keep_preparation("c" * 64, some_rows())
    (folder / ("c" * 64) / damage).unlink()
    assert find_preparation("c" * 64) is None
    assert not cache.entries()
    keep_preparation("c" * 64, some_rows())
    assert find_preparation("c" * 64) is not None


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch, trained):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "file/below"))
    assert trained(SHORT).read().status == "finished"


def test_the_command_lists_and_clears(folder):
    keep_preparation("d" * 64, some_rows())
    listed = CliRunner().invoke(app, ["cache"], catch_exceptions=False).stdout
    assert "dddddddddddd" in listed
    assert str(folder) in listed
    entry = json.loads(CliRunner().invoke(app, ["cache", "--json"], catch_exceptions=False).stdout)["entries"][0]
    assert entry["key"] == "d" * 64
    freed = json.loads(CliRunner().invoke(app, ["cache", "--clear", "--json"], catch_exceptions=False).stdout)["freed"]
    assert freed == entry["size"]
    assert not cache.entries()


@pytest.mark.parametrize("features", [[], {"a": []}, {"a": [[]]}, {"a": 1}, {"a": {"_type": "x"}}, "a", 1, {"a": None}])
def test_rows_whose_columns_are_none_are_an_error_of_one_kind(tmp_path, features):
    datasets.Dataset.from_dict({"a": [1, 2]}).save_to_disk(tmp_path / "rows")
    assert saved_rows(tmp_path / "rows")["a"][:] == [1, 2]
    info = tmp_path / "rows" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "features": features}))
    with pytest.raises(ValueError, match=r"\S"):
        saved_rows(tmp_path / "rows")


def imported_by(modules):
    """All modules of lorans that some of them import, of the rooms of rows and bases."""
    package, found, todo = Path(lora_ns.__file__).parent, set(), list(modules)
    while todo:
        name = todo.pop()
        file = package / f"{name.replace('.', '/')}.py"
        file = file if file.is_file() else package / name.replace(".", "/") / "__init__.py"
        if name in found or not file.is_file() or name.split(".")[0] not in {"data", "formats", "objectives", "model"}:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_ns."):
                room = node.module.removeprefix("lora_ns.")
                todo += [room, *(f"{room}.{alias.name}" for alias in node.names)]
    return {f"{name.replace('.', '/')}.py" for name in found}


DESCRIBING_A_BASE = {
    f"model/{name}.py" for name in ("consent", "files", "folder", "gguf", "malformed", "packed", "stored_quantization")
}
"""What is read of a base besides its tokenizer, whose state is in the key itself."""


def test_the_key_has_all_code_between_a_file_and_its_tokens(tmp_path):
    package = tmp_path / "lora_ns"
    shutil.copytree(Path(lora_ns.__file__).parent, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    before = code_version(package)
    begun = ["data.sources", "data.files.read", "data.render", "data.encode", "data.encode_labels", "model.tokenizer"]
    between = imported_by(begun) - DESCRIBING_A_BASE
    assert {"data/files/json.py", "formats/turns.py", "objectives/sft.py", "model/vocabulary.py"} <= between
    for name in sorted(between):
        file = package / name if (package / name).is_file() else package / name.removesuffix(".py") / "__init__.py"
        content = file.read_bytes()
        file.write_bytes(content + b"#")
        assert code_version.__wrapped__(package) != before, name
        file.write_bytes(content)
    for name in (
        "launch/schedulers/sbatch.py",
        "training/fit.py",
        "cli/train.py",
        "plan/fit.py",
        "machine/hardware.py",
    ):
        (package / name).write_bytes((package / name).read_bytes() + b"#")
    assert code_version.__wrapped__(package) == before
