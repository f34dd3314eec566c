"""Tokenised rows are taken from an earlier run if all that determines them is the same, and never half written."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from services_recipes import RECIPE
from typer.testing import CliRunner

import lora_ns
from lora_ns import cache
from lora_ns.basemodel import ASSETS
from lora_ns.cli.app import app
from lora_ns.engine.dataset import Tally, Tokenized
from lora_ns.engine.kept import find_rows, keep_rows, rows_key
from lora_ns.engine.render import Renderer
from lora_ns.engine.sources import read_sources
from lora_ns.engine.tokenizer import choose_pad_token, load_tokenizer, stop_token_ids
from lora_ns.recipe.load import load_recipe

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
    return Tokenized(datasets.Dataset.from_dict({"input_ids": [[1, 2]] * count}), Tally(rows=count, tokens=2 * count))


def test_a_second_start_renders_nothing_and_trains_the_same(trained, rendered, tmp_path):
    first = trained(SHORT)
    assert len(rendered) == 64 + 8
    rendered.clear()
    second = trained(SHORT, f"training.output_dir={tmp_path / 'second'}")
    assert not rendered
    assert second.read().adapter == first.read().adapter
    assert second.read().data == first.read().data
    assert len(cache.entries()) == 2


def test_without_the_cache_rows_are_rendered_and_nothing_is_kept(tmp_path, rendered):
    (tmp_path / "recipe.toml").write_text(SHORT)
    for _ in range(2):
        CliRunner().invoke(app, ["train", "recipe.toml", "--no-cache", "--overwrite"], catch_exceptions=False)
    assert len(rendered) == 2 * (64 + 8)
    assert not cache.entries()


def key_of(tmp_path, *overrides, change=None, labels=()):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    loaded = load_recipe(tmp_path / "recipe.toml", overrides)
    tokenizer = load_tokenizer(ASSETS / "nano")
    choose_pad_token(tokenizer, stop_token_ids(tokenizer, ASSETS / "nano"))
    if change:
        change(tokenizer)
    sources = read_sources(loaded)
    stops = stop_token_ids(tokenizer, ASSETS / "nano")
    return rows_key(loaded, sources.train, sources.format, tokenizer, stops, labels)


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
        key_of(tmp_path, labels=("a", "b")),
        *(key_of(tmp_path, change=change) for change in (other_template, other_end, another_token)),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("override", ["training.seed=9", "peft.lora_r=4", "sft.packing=true", "model.dtype=bfloat16"])
def test_what_does_not_touch_the_tokens_is_not_in_the_key(tmp_path, override):
    assert key_of(tmp_path, override) == key_of(tmp_path)


def test_rows_that_were_not_written_whole_are_not_there(folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_rows("a" * 64, some_rows())
    assert not cache.entries()
    assert find_rows("a" * 64) is None
    assert len(list(folder.iterdir())) == 1
    cache.clear()
    assert not list(folder.iterdir())


def test_a_process_that_is_killed_while_it_writes_leaves_no_entry(folder):
    """The process kills itself between the rows and their name."""
    code = f"""
import os, signal, datasets
from lora_ns import cache
from lora_ns.engine.dataset import Tally, Tokenized
from lora_ns.engine.kept import keep_rows
cache.keep = lambda *_: os.kill(os.getpid(), {signal.SIGKILL.value})
keep_rows("a" * 64, Tokenized(datasets.Dataset.from_dict({{"input_ids": [[1]]}}), Tally()))
"""
    root = str(Path(lora_ns.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not cache.entries()


def keep_at_once(barrier):
    barrier.wait()
    keep_rows("b" * 64, some_rows(500))


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
    assert len(find_rows("b" * 64).dataset) == 500


@pytest.mark.parametrize("damage", ["tally.json", "rows/dataset_info.json", "rows/data-00000-of-00001.arrow"])
def test_an_entry_that_lost_a_part_is_dropped_and_made_again(folder, damage):
    keep_rows("c" * 64, some_rows())
    (folder / ("c" * 64) / damage).unlink()
    assert find_rows("c" * 64) is None
    assert not cache.entries()
    keep_rows("c" * 64, some_rows())
    assert find_rows("c" * 64) is not None


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch, trained):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "file/below"))
    assert trained(SHORT).read().status == "finished"


def test_the_command_lists_and_clears(folder):
    keep_rows("d" * 64, some_rows())
    listed = CliRunner().invoke(app, ["cache"], catch_exceptions=False).stdout
    assert "dddddddddddd" in listed
    assert str(folder) in listed
    entry = json.loads(CliRunner().invoke(app, ["cache", "--json"], catch_exceptions=False).stdout)["entries"][0]
    assert entry["key"] == "d" * 64
    freed = json.loads(CliRunner().invoke(app, ["cache", "--clear", "--json"], catch_exceptions=False).stdout)["freed"]
    assert freed == entry["size"]
    assert not cache.entries()
