"""A step that runs out of memory is done again in parts: the same loss, the same adapter, said once."""

import json

import pytest

pytest.importorskip("trl")

import torch
from cramped import Cramped
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, resumed, run_recipe

from lora_ns.errors import RunError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir

FEW = ("dataset.max_samples=32", "training.max_steps=4", "training.logging_steps=1", "dataset.max_eval_samples=6")
SHORT = ("training.max_steps=4", "training.logging_steps=1", "training.eval_steps=4", "training.save_steps=4")


def pairs(objective, *more):
    text = RECIPE.replace('format = "messages"', 'format = "preference"').replace(
        "[sft]\nmax_seq_length = 128\n",
        f"[{objective}]\nmax_seq_length = 128\n" + "".join(f"{line}\n" for line in more),
    )
    return text.replace("lorans:quickstart/train.jsonl", "pairs.jsonl").replace(
        "lorans:quickstart/eval.jsonl", "pairs.jsonl"
    )


KINDS = {
    "text": (RECIPE, FEW),
    "accumulated": (RECIPE, (*FEW, "training.global_batch_size=16", "peft.lora_dropout=0.1")),
    "classes": (CLASSES, (*SHORT, "training.global_batch_size=8")),
}


def micro(rows):
    return f"training.per_device_train_batch_size={rows}"


def losses(run):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def adapter(run):
    return load_file(run.adapter / WEIGHTS)


def check_same(run, other, tolerance=1e-6):
    assert losses(run) == pytest.approx(losses(other), rel=1e-5)
    mine, theirs = adapter(run), adapter(other)
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_in_parts_trains_as_the_smaller_micro_batch_does(tmp_path, kind):
    text, changes = KINDS[kind]
    for name in ("small", "cramped"):
        (tmp_path / name).mkdir()
    small = run_recipe(tmp_path / "small", text, *changes, micro(2))
    observer = Cramped(train=2)
    run = run_recipe(tmp_path / "cramped", text, *changes, micro(8), observer=observer)
    assert observer.failures == 2
    assert len(observer.told) == 1
    check_same(run, small)
