"""Each choice that makes training faster or smaller leaves the whole curve of the loss as it is."""

import json
import re

import pytest
from once import once
from services_recipes import RECIPE, run_recipe

pytest.importorskip("torch")

from lora_ns.training.padding_free import PaddingFree

STEPS = 24
SETTINGS = (f"training.max_steps={STEPS}", "training.logging_steps=1", "training.learning_rate=2e-3")
WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint", "a pear tree")
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {word} twice."},
            {"role": "assistant", "content": f"{word} {word}"},
        ]
    }
    for word in 4 * WORDS
]
NOISE = 2e-2
"""Difference of losses that rounding to bfloat16 explains, as a share."""


def curve(folder, *overrides):
    """The losses of all steps."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    text = re.sub(r"lorans:quickstart/\w+.jsonl", "rows.jsonl", RECIPE)
    run = run_recipe(folder, text, *SETTINGS, *overrides)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = [row["loss"] for row in rows if "loss" in row]
    assert len(found) == STEPS
    assert found[-1] < found[0]
    return found


@pytest.fixture
def plain(tmp_path_factory):
    """Losses with the settings that a choice replaces, by those settings."""

    def made(*overrides):
        name = "-".join(["curve", *overrides]).replace("/", "_")
        return once(tmp_path_factory, name, lambda folder: curve(folder, *overrides))

    return made


HALF, MATRIX = "model.dtype=bfloat16", pytest.mark.matrix


@pytest.mark.parametrize(
    ("switched_off", "chosen", "difference"),
    [
        pytest.param(
            [HALF, "model.attn_implementation=sdpa"],
            [HALF, "model.attn_implementation=auto"],
            NOISE,
            id="short rows by products",
        ),
        pytest.param(["model.attn_implementation=eager"], [], 1e-5, id="attention without a mask", marks=MATRIX),
        pytest.param(["training.optim=adamw_torch"], [], 1e-5, id="fused optimizer", marks=MATRIX),
        pytest.param(["training.optim=adamw_torch", HALF], [HALF], NOISE, id="fused optimizer, bfloat16", marks=MATRIX),
        pytest.param([], [HALF], NOISE, id="bfloat16", marks=MATRIX),
        pytest.param([], ["training.per_device_train_batch_size=2"], 1e-5, id="micro-batches", marks=MATRIX),
        pytest.param([], ["training.gradient_checkpointing=true"], 1e-5, id="checkpointing", marks=MATRIX),
        pytest.param(
            [HALF],
            [HALF, "training.gradient_checkpointing=true"],
            NOISE,
            id="products and checkpointing",
            marks=MATRIX,
        ),
        pytest.param([], ["training.dataloader_num_workers=2"], 0.0, id="workers", marks=MATRIX),
    ],
)
def test_the_loss_of_every_step_is_the_same(tmp_path, plain, switched_off, chosen, difference):
    expected, found = plain(*switched_off), curve(tmp_path, *chosen)
    assert found == pytest.approx(expected, rel=difference, abs=0)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [([], 1e-5), ([HALF], NOISE), (["training.gradient_checkpointing=true"], 1e-5), (["sft.packing=true"], 1e-5)],
    ids=["float32", "bfloat16", "recomputed", "packed"],
)
def test_the_loss_is_the_same_without_padding(tmp_path, plain, monkeypatch, settings, difference):
    """Rows one after another; packed documents are attended to one by one, where they had a mask before."""
    expected = plain(*settings, "model.attn_implementation=sdpa")
    monkeypatch.setattr("lora_ns.model.attention.ROW_OF_ITS_OWN", 0)
    tried = []
    monkeypatch.setattr(PaddingFree, "_tried", lambda self: tried.append(self) or True)
    assert curve(tmp_path, *settings) == pytest.approx(expected, rel=difference, abs=0)
    assert len(tried) == 1
    assert "padding" not in json.loads(next(tmp_path.rglob("manifest.json")).read_text())["metrics"]


def test_products_are_really_used(tmp_path, plain):
    """Otherwise the comparison above compares a kernel with itself."""
    assert plain(HALF, "model.attn_implementation=sdpa") != plain(HALF)
