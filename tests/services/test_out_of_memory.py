"""A step that runs out of memory is done again in parts: the same loss, the same adapter, said once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

from cramped import Cramped
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
REWARDED = ("grpo.preflight_prompts=0", "training.global_batch_size=16", "dataset.max_eval_samples=6")
PACKED = (
    *(*TEXT, "sft.packing=true", "sft.max_seq_length=256", "dataset.max_samples=48", "training.global_batch_size=4"),
    "training.optim=sgd",  # the order of documents rounds sums differently, which Adam makes larger at its first steps
)
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
QUICK = ("accumulated", "packed", "classes", "pairs")
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
    names = ("loss", "grad_norm", "eval_loss", "eval_f1", "rewards/margins")
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
    assert furthest(run, other) < 1e-6


@pytest.mark.parametrize(
    "kind", [pytest.param("text", marks=pytest.mark.matrix), "tags", pytest.param("dapo", marks=pytest.mark.matrix)]
)
def test_an_evaluation_in_parts_measures_the_same(run_kind, kind):
    sizes = (micro(8), "training.per_device_eval_batch_size=6", "training.eval_steps=1")
    observer = Cramped(evaluation=2)
    run = run_kind(kind, *sizes, observer=observer)
    other = run_kind(kind, *sizes, name="whole")
    assert observer.failures == 2
    assert observer.told == [
        "an evaluation after step 1 ran out of memory with 6 rows at once; it was done again with 2 at once, as all "
        "that follows will be"
    ]
    assert run.read().halved == HalvedRecord(evaluation=2)
    assert [row["step"] for row in logged(run) if "evaluated_at_once" in row] == [1]
    if kind != "dapo":  # which samples other completions, from the generator that training goes on with
        assert furthest(run, other) == 0
        assert figures(run) == pytest.approx(figures(other), rel=1e-5)


def test_a_resumed_run_begins_with_what_fitted(run_kind):
    saving = ("training.save_steps=1", "training.max_steps=4", micro(8))
    run = run_kind("text", *saving, observer=Cramped(train=3, from_step=1))
    assert run.read().halved == HalvedRecord(train=2)
    assert [(row["step"], row["rows_at_once"]) for row in logged(run) if "rows_at_once" in row] == [(2, 2)]
    expected = load_file(run.adapter / WEIGHTS)
    interrupt(run, 4)
    observer = Cramped(train=3)
    resumed(run, observer)
    assert (observer.failures, observer.told) == (0, [])
    assert run.read().halved == HalvedRecord(train=2)
    found = load_file(run.adapter / WEIGHTS)
    assert all((found[name] == value).all() for name, value in expected.items())


def test_a_single_row_that_does_not_fit_ends_the_run_with_terms_and_cuts(run_kind):
    saving = ("training.save_steps=1", micro(4), "training.global_batch_size=8")
    with pytest.raises(RunError) as caught:
        run_kind("text", *saving, observer=Cramped(train=0, from_step=2))
    run = RunDir.open(Path("run"))
    told = str(caught.value)
    assert told.startswith("out of memory with 1 row at once; step 2 is saved; the plan expected ")
    assert told.endswith(
        "(set `gradient_checkpointing = true`, quantise the base with `[quantization] method = "
        '"bnb-4bit"`, lower `sft.max_seq_length`, or lower `peft.lora_r`)'
    )
    terms = run.read().plan.memory
    assert sum(terms.values()) == run.read().plan.memory_bytes.value
    largest = max(terms, key=terms.get)
    assert f" GB: {largest} {terms[largest] / 1e9:.2f} GB" in told
    assert run.read().status == "failed"
    resumed(run)
    assert run.read().status == "finished"


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("simpo", ("cpo.cpo_alpha=1",), "its likelihood is a mean over the tokens of a batch"),
        ("apo", ("kto.loss_type=kto",), "the loss of a row depends on the others of its batch"),
    ],
)
def test_a_loss_that_does_not_add_up_is_not_computed_in_parts(run_kind, kind, changes, why):
    observer = Cramped(train=2)
    with pytest.raises(RunError) as caught:
        run_kind(kind, *changes, micro(8), observer=observer)
    assert f"; the batch cannot be divided: {why}; the plan expected" in str(caught.value)
    assert "(halve `per_device_train_batch_size`, set" in str(caught.value)
    assert observer.failures == 1


@pytest.mark.matrix
def test_a_run_within_a_limit_of_its_process_trains_as_one_without(tmp_path):
    """The limit is the system's, so memory runs out wherever it happens to, and has to be really free afterwards."""
    large = ("dataset.max_samples=128", "training.global_batch_size=64", micro(64), "training.max_steps=2")
    changes = (*TEXT, *large, "dataset.max_eval_samples=64", "training.eval_steps=2", "training.save_steps=2")
    program = Path(__file__).parents[1] / "support" / "limited.py"
    for megabytes in (100_000, 250):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        subprocess.run([sys.executable, program, folder, str(megabytes), *changes], check=True)
    free, limited = (RunDir.open(tmp_path / str(megabytes) / "run") for megabytes in (100_000, 250))
    assert free.read().halved is None
    assert limited.read().halved.train < 64
    assert figures(limited) == pytest.approx(figures(free), rel=1e-4)
    assert furthest(limited, free) < 1e-4
