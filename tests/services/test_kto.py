"""Runs on labelled answers: the trainer is TRL's, rows are drawn at random, and a run can be resumed and measured."""

import copy
import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from same_as_trl import check_same, each_length, lasting
from services_recipes import RECIPE, check_resumes_to_the_same_bits, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, RecipeError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.objectives.completion_trainer import CompletionCollator
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import evaluate
from lora_ns.table import IGNORED

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
ROWS = [
    {
        "prompt": f"Spell {word} backwards.",
        "completion": word[::-1] if number % 2 else f"It is {word[::-1]}.",
        "label": bool(number % 2),
    }
    for number, word in enumerate(WORDS)
]
KTO = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl")
    .replace("lorans:quickstart/eval.jsonl", "rows.jsonl")
    .replace('format = "messages"\n', "")
    .replace("[sft]", "[kto]")
    .replace("learning_rate = 5e-3", "learning_rate = 3e-4\nwarmup_steps = 0\nlogging_steps = 1")
    .replace("max_eval_samples = 8\n", "")
)
FEW = (
    *("training.max_steps=3", "training.global_batch_size=4", "training.save_steps=2", "training.eval_steps=3"),
    "evaluation.before_training=false",
)


NAMES = ("rewards", "logps", "logits")


class Keeper(SilentObserver):
    """Keeps the trainer of a run, its first and last adapter, and the rows in the order in which they are drawn."""

    def adapted(self, model):
        self.config = copy.deepcopy(model.peft_config["default"])
        self.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def ready(self, trainer):
        self.trainer, self.drawn, collate = trainer, [], trainer.data_collator
        places = {tuple(row["input_ids"]): place for place, row in enumerate(trainer.train_dataset)}

        def kept(rows):
            self.drawn += [places[tuple(row["input_ids"])] for row in rows]
            return collate(rows)

        trainer.data_collator = kept

    def saving(self, model, tokenizer):
        self.end = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def run_kto(folder: Path, *overrides: str, rows=ROWS, observer=None):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_recipe(folder, KTO, *FEW, *overrides, observer=observer)


def logged(run, key):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row and "loss" in row]


LOSSES = {
    "kto": (
        ["kto.beta=0.5", "kto.desirable_weight=1.2", "kto.undesirable_weight=0.7"],
        {"beta": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.7},
    ),
    "apo": (
        ["kto.loss_type=apo_zero_unpaired", "training.group_by_length=false"],
        {"loss_type": "apo_zero_unpaired"},
    ),
}


def trls_own(folder, keeper, run, arguments):
    """Train rows in the order of the run, from the same adapter, with TRL's own trainer; its log and adapter."""
    import trl
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    args, tokenizer = keeper.trainer.args, keeper.trainer.processing_class
    bare = AutoModelForCausalLM.from_pretrained(run.read().base.path, dtype=torch.float32)
    model = get_peft_model(bare, keeper.config)
    model.load_state_dict(keeper.start, strict=False)

    def texts(row):
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return {"prompt": prompt, "completion": row["completion"] + tokenizer.eos_token, "label": row["label"]}

    same = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
    same += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    drawn = keeper.drawn[: args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps]
    own = trl.KTOTrainer(
        model=model,
        args=trl.KTOConfig(
            output_dir=str(folder / "trl"),
            gradient_checkpointing=False,
            disable_tqdm=True,
            **fixed,
            **{name: getattr(args, name) for name in same},
            **arguments,
        ),
        train_dataset=Dataset.from_list([texts(ROWS[place]) for place in drawn]),
        processing_class=tokenizer,
    )
    own.train()
    return own.state.log_history, dict(model.named_parameters())


@each_length(3)
@pytest.mark.parametrize(("overrides", "arguments"), LOSSES.values(), ids=LOSSES)
def test_losses_metrics_and_adapter_are_those_of_trls_own_trainer(tmp_path, overrides, arguments, steps):
    keeper = Keeper()
    run = run_kto(tmp_path, *lasting(steps), "training.per_device_train_batch_size=2", *overrides, observer=keeper)
    log, adapter = trls_own(tmp_path, keeper, run, arguments)
    keys = ["loss", "kl", "rewards/chosen", "logps/rejected", "logits/chosen", "grad_norm"]
    if any("rewards/margins" in row for row in log):  # of steps with both labels
        keys.append("rewards/margins")
    check_same(run, log, keys, (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
    assert keeper.drawn[:8] != list(range(8))  # TRL's own order, which is that of the file
    assert keeper.trainer.args.gradient_accumulation_steps == 2


def test_a_run_that_is_resumed_ends_in_the_same_bits_and_is_measured_as_it_was(tmp_path):
    run = run_kto(tmp_path, "training.max_steps=4", "training.eval_steps=4")
    metrics = run.read().metrics
    rows = [Row(f"rows.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found = evaluate(open_run(run), rows, exact_match=False)
    matched = evaluate(open_run(run), [row for row in rows if row.values["label"]], exact_match=True).metrics
    assert 0 <= matched["exact_match"] <= 1
    with pytest.raises(DataError, match="the answer is not the one to expect"):
        evaluate(open_run(run), rows, exact_match=True)
    assert found.rows == len(ROWS)
    for name in ("loss", "kl", "rewards/margins", "rewards/rejected", "logps/chosen"):
        assert found.metrics[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-4)
    check_resumes_to_the_same_bits(run, 4)
    assert [path.name for path in (*run.adapter.rglob("ref"), *run.checkpoints.rglob("ref"))] == []


def test_metrics_of_an_evaluation_do_not_depend_on_its_batches(tmp_path):
    found = {}
    for size in (3, 8):
        folder = tmp_path / str(size)
        folder.mkdir()
        sizes = ("training.max_steps=1", f"training.per_device_eval_batch_size={size}")
        metrics = run_kto(folder, *sizes, "kto.loss_type=apo_zero_unpaired").read().metrics
        names = ("eval_loss", *(f"eval_{name}/{side}" for name in NAMES for side in ("chosen", "rejected")))
        found[size] = {name: metrics[name] for name in (*names, "eval_rewards/margins")}
    assert found[3] == pytest.approx(found[8], rel=1e-4)


def test_a_pair_becomes_a_desirable_and_an_undesirable_answer(tmp_path):
    pairs = [
        {"prompt": f"Spell {word} backwards.", "chosen": word[::-1], "rejected": f"It is {word[::-1]}."}
        for word in WORDS
    ]
    keeper = Keeper()
    run = run_kto(tmp_path, "training.max_steps=1", rows=[*pairs, {**pairs[0], "rejected": "mulp"}], observer=keeper)
    assert Counter(keeper.trainer.train_dataset["label"]) == {0: 8, 1: 8}
    assert run.read().data.train.rows == 9
    assert run.read().data.train.dropped == 1


def test_answers_of_one_label_are_refused_and_weights_that_do_not_balance_are_noted(tmp_path):
    good = [row for row in ROWS if row["label"]]
    with pytest.raises(DataError, match="all answers have the same label"):
        run_kto(tmp_path, rows=good)
    bad = next(row for row in ROWS if not row["label"])
    run = run_kto(tmp_path, "training.max_steps=1", rows=[*good, bad])
    note = next(note for note in run.read().plan.notes if "desirable" in note)
    assert "4 desirable and 1 undesirable answers" in note
    assert "`kto.undesirable_weight = 4`" in note


def test_a_batch_of_one_row_is_refused_unless_the_loss_compares_none(tmp_path):
    with pytest.raises(RecipeError, match="compares the rows"):
        run_kto(tmp_path, "training.global_batch_size=1")
    loss = "kto.loss_type=apo_zero_unpaired"
    assert run_kto(tmp_path, "training.global_batch_size=1", "training.max_steps=1", loss).read().status == "finished"


@pytest.mark.cluster
def test_two_processes_give_the_adapter_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    found = []
    for name, size, overrides in (
        ("one", 4, ()),
        ("two", 2, ("distributed.strategy=ddp", "distributed.num_processes=2")),
    ):
        (tmp_path / name).mkdir()
        sizes = [f"training.per_device_{part}_batch_size={size}" for part in ("train", "eval")]
        run = run_kto(tmp_path / name, "kto.undesirable_weight=0.01", *sizes, *overrides)  # else the estimate is 0
        found.append((load_file(run.adapter / WEIGHTS), run.read().metrics, logged(run, "kl"), logged(run, "loss")))
    (alone, metrics, *logs), (together, others, *other_logs) = found
    assert all(torch.allclose(together[key], value, atol=1e-5) for key, value in alone.items())
    assert max(logs[0]) > 0
    assert other_logs == [pytest.approx(values, abs=1e-5) for values in logs]
    for name in ("eval_loss", "eval_kl", "eval_rewards/margins"):
        assert others[name] == pytest.approx(metrics[name], abs=1e-5)


def row_of(prompt, answer, label):
    return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + answer, "label": label}


def test_a_batch_is_that_of_trls_collator_after_its_rotation():
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    parts = [([1, 2, 3], [4, 5], True), ([6], [7, 8, 9], False), ([10, 11], [12], True)]
    rotated = [parts[-1][1], *(answer for _, answer, _ in parts[:-1])]
    examples = [
        {"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other, "label": label}
        for (prompt, answer, label), other in zip(parts, rotated, strict=True)
    ]
    expected = DataCollatorForUnpairedPreference(pad_token_id=0)(examples)
    found = CompletionCollator(0)([row_of(*part) for part in parts])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_rows_that_fill_up_a_batch_are_paired_with_none():
    rows = [row_of([1], [2], True), row_of([3], [4], False)]
    fill = {**rows[0], "labels": [IGNORED, IGNORED]}
    found, alone = CompletionCollator(0)([*rows, fill]), CompletionCollator(0)(rows)
    assert all(torch.equal(found[name][:2], value) for name, value in alone.items())
    assert not found["KL_completion_mask"][2].any()
