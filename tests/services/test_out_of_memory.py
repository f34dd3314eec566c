"""A step that runs out of memory is done again in parts: the same loss, the same adapter, said once."""

import json
import resource

import pytest

pytest.importorskip("trl")

from cramped import NO_MEMORY, Cramped
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, class_rows, interrupt, resumed, run_recipe
from test_grpo import GRPO
from test_grpo import ROWS as PROMPTS
from test_kto import KTO
from test_kto import ROWS as LABELLED
from test_labels import SCORES, SEVERAL, TAGGED, TAGS
from test_pairs import PAIRS
from test_pairs import ROWS as PREFERRED

from lora_ns.errors import RunError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import HalvedRecord

FEW = (
    *("training.max_steps=3", "training.logging_steps=1", "training.eval_steps=3", "training.save_steps=3"),
    *("training.global_batch_size=8", "evaluation.before_training=false"),
)
TEXT = (*FEW, "dataset.max_samples=24", "dataset.max_eval_samples=6")
REWARDED = ("grpo.preflight_prompts=0", "training.global_batch_size=16", "dataset.max_eval_samples=4")
PACKED = (*TEXT, "sft.packing=true", "sft.max_seq_length=256", "dataset.max_samples=48", "training.global_batch_size=4")
KINDS = {
    "text": (RECIPE, (), TEXT),
    "accumulated": (RECIPE, (), (*TEXT, "training.global_batch_size=16", "peft.lora_dropout=0.1")),
    "packed": (RECIPE, (), PACKED),
    "classes": (CLASSES, class_rows(), FEW),
    "pairs": (PAIRS, PREFERRED, FEW),
    "dft": (RECIPE, (), (*TEXT, 'sft.loss_type="dft"')),
    "checkpointing": (RECIPE, (), (*TEXT, "training.gradient_checkpointing=true")),
    "adalora": (RECIPE, (), (*TEXT, "peft.method=adalora")),
    "scores": (CLASSES, SCORES, FEW),
    "several labels": (CLASSES, SEVERAL, FEW),
    "tags": (TAGS, TAGGED, FEW),
    "reward": (PAIRS.replace("[dpo]", "[reward]").replace("CAUSAL_LM", "SEQ_CLS"), PREFERRED, FEW),
    "simpo": (PAIRS.replace("[dpo]", "[cpo]\nloss_type = 'simpo'\ncpo_alpha = 0"), PREFERRED, FEW),
    "reference once": (PAIRS, PREFERRED, (*FEW, "dpo.precompute_ref_log_probs=true")),
    "apo": (KTO, LABELLED, (*FEW, "kto.loss_type=apo_zero_unpaired")),
    "dapo": (GRPO, PROMPTS, (*FEW, *REWARDED)),
    "grpo": (GRPO, PROMPTS, (*FEW, *REWARDED, "grpo.loss_type=grpo")),
    "rloo": (GRPO.replace("grpo", "rloo"), PROMPTS, (*FEW, *[word.replace("grpo", "rloo") for word in REWARDED])),
}
"""Recipe, rows and overrides, by what is special about the batches."""
QUICK = ("text", "accumulated", "packed", "classes", "pairs")
ALL = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.matrix) for kind in KINDS]


def micro(rows):
    return f"training.per_device_train_batch_size={rows}"


@pytest.fixture
def run_kind(tmp_path):
    def run(kind, *overrides, name="run", observer=None):
        text, rows, changes = KINDS[kind]
        for file in ("pairs.jsonl", "rows.jsonl"):
            (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = text.replace("classes.jsonl", "rows.jsonl")
        return run_recipe(
            tmp_path, text, *changes, *overrides, f"training.output_dir={name}", observer=observer or Cramped()
        )

    return run


def logged(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def figures(run):
    """Losses, gradients and evaluations of a run, by step."""
    names = ("loss", "grad_norm", "eval_loss", "eval_f1", "mean_token_accuracy", "rewards/margins")
    return {(row["step"], key): row[key] for row in logged(run) for key in names if key in row}


def furthest(run, other):
    """The largest difference of a weight of two saved adapters."""
    mine, theirs = (load_file(one.adapter / WEIGHTS) for one in (run, other))
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


@pytest.mark.parametrize("kind", ALL)
def test_a_step_in_parts_trains_as_the_smaller_micro_batch_does(run_kind, kind):
    packed, small = kind == "packed", 1 if kind == "packed" else 4 if kind in {"dapo", "grpo", "rloo"} else 2
    observer = Cramped(train=300 if packed else small, packed=packed, sides=2 if KINDS[kind][1] is PREFERRED else 1)
    run = run_kind(kind, micro(4 * small), observer=observer)
    other = run_kind(kind, micro(small), name="small")
    assert observer.failures == 2
    assert len(observer.told) == 1
    assert figures(run) == pytest.approx(figures(other), rel=1e-4, abs=1e-5)
    assert furthest(run, other) < (2e-5 if packed else 1e-6)
