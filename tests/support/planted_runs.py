"""Runs that go wrong for a planted cause, and runs that do not."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from services_recipes import CLASSES, RECIPE
from transformers import AutoTokenizer

import lora_ns
from lora_ns.errors import RunError
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.explain.explain import Explanation, explain
from lora_ns.services.train import train

NANO = Path(lora_ns.__file__).parent / "assets" / "nano"

RARE = "\N{SECTION SIGN}"
"""A letter of one row."""

STEPS = ("training.max_steps=40", "training.logging_steps=2", "training.eval_steps=20", "training.save_steps=10")

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint", "heron", "cedar", "quartz", "willow")


def _classes(shuffled: bool = False, rare: bool = False) -> list[dict[str, str]]:
    pairs = [f"{one} {two}" for one in WORDS for two in WORDS]
    rows = [(text.upper(), "loud") for text in pairs] + [(text, "quiet") for text in pairs]
    random.Random(1).shuffle(rows)
    labels = [label for _, label in rows]
    if shuffled:
        random.Random(2).shuffle(labels)
    texts = [text for text, _ in rows]
    if rare:
        texts[100] += RARE
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


def _spelled() -> list[dict[str, str]]:
    text = (NANO.parent / "quickstart" / "train.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()[:320]]
    rows[100]["prompt"] += RARE
    return [{name: row[name] for name in ("prompt", "completion")} for row in rows]


def _changed_base(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write a copy of nano in float32, with an own head and changed weights."""
    shutil.copytree(NANO, folder)
    weights = {name: value.float() for name, value in load_file(NANO / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((NANO / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32", "tie_word_embeddings": False}))


def _without_number(folder: Path) -> None:
    """The embedding of a rare letter is NaN."""
    ids = AutoTokenizer.from_pretrained(NANO)(RARE, add_special_tokens=False)["input_ids"]

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"][ids[-1]] = torch.nan

    _changed_base(folder, change)


def _too_large(folder: Path) -> None:
    """A weight that is finite in float32 and infinite in bfloat16, on an input that is always 0."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.0.input_layernorm.weight"][0] = 0.0
        weights["model.layers.0.self_attn.k_proj.weight"][0, 0] = 3.4e38

    _changed_base(folder, change)


@dataclass(frozen=True)
class Planted:
    """A run, and the cause that it has to get."""

    codes: tuple[str, ...]
    """Names that count; empty if nothing is wrong."""
    text: str
    overrides: Sequence[str]
    rows: Callable[[], Sequence[dict[str, str]]] | None = None
    eval_rows: Callable[[], Sequence[dict[str, str]]] | None = None
    base: Callable[[Path], None] | None = None


_MORE = (*STEPS, "dataset.max_samples=2000", "dataset.max_eval_samples=40")
_OWN = ('dataset.path="rows.jsonl"', 'dataset.eval_path="rows.jsonl"', "dataset.max_eval_samples=40")
_BASE = ('model.name_or_path="base"',)
_BF16 = ('model.dtype="bfloat16"',)

PLANTED = {
    "text, rate 3": Planted(("rate-too-high",), RECIPE, (*_MORE, "training.learning_rate=3.0")),
    "text, rate 1": Planted(("rate-too-high",), RECIPE, (*_MORE, "training.learning_rate=1.0")),
    "text, rate 1e-6": Planted(("rate-too-low",), RECIPE, (*_MORE, "training.learning_rate=1e-6")),
    "classes, rate 1": Planted(("rate-too-high",), CLASSES, (*STEPS, "training.learning_rate=1.0"), _classes),
    "classes, rate 1e-7": Planted(("rate-too-low",), CLASSES, (*STEPS, "training.learning_rate=1e-7"), _classes),
    "text, a row without a number": Planted(
        ("rows",), RECIPE, (*_MORE, *_OWN, *_BASE), _spelled, _spelled, _without_number
    ),
    "classes, a row without a number": Planted(
        ("rows",), CLASSES, (*STEPS, *_BASE), lambda: _classes(rare=True), _classes, _without_number
    ),
    "text, overflow": Planted(("dtype",), RECIPE, (*_MORE, *_BASE, *_BF16), base=_too_large),
    "classes, overflow": Planted(("dtype",), CLASSES, (*STEPS, *_BASE, *_BF16), _classes, base=_too_large),
    "classes, shuffled labels": Planted(("answers",), CLASSES, STEPS, lambda: _classes(shuffled=True), _classes),
}

HEALTHY = {
    "text": Planted((), RECIPE, _MORE),
    "classes": Planted((), CLASSES, STEPS, _classes),
}


def explained(folder: Path, planted: Planted) -> Explanation:
    """Train a planted run in a folder, and explain it."""
    (folder / "recipe.toml").write_text(planted.text)
    for name, rows in (("rows", planted.rows), ("eval", planted.eval_rows or planted.rows)):
        if rows:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    if planted.rows and planted.text == CLASSES:
        text = planted.text.replace('eval_path = "classes.jsonl"', 'eval_path = "eval.jsonl"')
        (folder / "recipe.toml").write_text(text.replace('"classes.jsonl"', '"rows.jsonl"'))
    if planted.base:
        planted.base(folder / "base")
    with pytest.MonkeyPatch.context() as patch, Noise() as noise:
        patch.chdir(folder)
        with contextlib.suppress(RunError):
            train(load_recipe(folder / "recipe.toml", planted.overrides), SilentObserver(), noise)
        return explain(RunDir.open(folder / "run"), SilentObserver())
