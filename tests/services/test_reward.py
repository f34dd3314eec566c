"""Reward models: the trainer is TRL's, held-out pairs are ranked, and a run is resumed, measured and asked."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from same_as_trl import check_same, each_length, lasting
from services_recipes import check_resumes_to_the_same_bits, run_recipe
from test_pairs import FEW, PAIRS, ROWS, Keeper, logged

from lora_ns.answers.opened import open_run
from lora_ns.cli.infer import _plain
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, UsageError
from lora_ns.objectives.calibration import calibration
from lora_ns.objectives.reward import Reward
from lora_ns.recipe.generation import Generation
from lora_ns.services.evaluate import evaluate
from lora_ns.services.infer import as_row, check_columns, infer, unasked_note
from lora_ns.training.eval_loss import counted

SCORES = PAIRS.replace("[dpo]", "[reward]").replace("CAUSAL_LM", "SEQ_CLS")


def as_rows(rows, file="pairs.jsonl"):
    return [Row(f"{file}:{number}", row) for number, row in enumerate(rows, start=1)]


def run_rewards(folder, *overrides, rows=ROWS, held_out=ROWS, observer=None):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return run_recipe(folder, SCORES, *FEW, "dataset.eval_path=held_out.jsonl", *overrides, observer=observer)


def trls_own_run(folder, keeper, run, arguments):
    """Train the same rows from the same adapter with TRL's own trainer, called as its users do.

    Returns its log, its evaluation and its adapter.
    """
    import trl
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    args, tokenizer = keeper.trainer.args, keeper.trainer.processing_class
    bare = AutoModelForSequenceClassification.from_pretrained(run.read().base.path, dtype=torch.float32, num_labels=1)
    model = get_peft_model(bare, keeper.config)
    model.load_state_dict(keeper.start, strict=False)

    def turns(row):
        prompt = [{"role": "user", "content": row["prompt"]}]
        return {side: [*prompt, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}

    same = ("max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    same += ("learning_rate", "warmup_steps", "lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim")
    same += ("weight_decay", "adam_beta2")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    rows = Dataset.from_list([turns(row) for row in ROWS])
    own = trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(
            output_dir=str(folder / "trl"),
            gradient_checkpointing=False,
            disable_tqdm=True,
            **fixed,
            **{name: getattr(args, name) for name in same},
            **arguments,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    own.train()
    return own.state.log_history, own.evaluate(), dict(model.named_parameters())


@each_length(3)
@pytest.mark.parametrize("centered", [None, 0.5], ids=["plain", "centered"])
def test_losses_scores_and_adapter_are_those_of_trls_own_trainer(tmp_path, centered, steps):
    keeper, overrides = Keeper(), [f"reward.center_rewards_coefficient={centered}"] if centered else []
    run = run_rewards(tmp_path, *lasting(steps), *overrides, "training.group_by_length=false", observer=keeper)
    log, evaluated, adapter = trls_own_run(tmp_path, keeper, run, {"center_rewards_coefficient": centered})
    keys = ("loss", "margin", "accuracy", "mean_reward", "min_reward", "max_reward", "grad_norm")
    check_same(run, log, keys, (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
    metrics = run.read().metrics
    for key in ("loss", "margin", "accuracy", "mean_reward", "min_reward", "max_reward"):
        assert metrics[f"eval_{key}"] == pytest.approx(evaluated[f"eval_{key}"], abs=1e-5, rel=1e-5), key


PLANTED = [
    {"prompt": f"Say {one} and {two}.", "chosen": f"{one} {two}", "rejected": f"Well, {one} {two}, I think."}
    for one in ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
    for two in ("red", "blue", "green", "white", "black")
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A reward model of short answers, with a head that is saved, on 32 pairs; 8 others are held out."""
    many = ("training.max_steps=24", "training.save_steps=12", "training.learning_rate=3e-3", "training.eval_steps=24")
    folder = tmp_path_factory.mktemp("planted")
    return run_rewards(folder, *many, rows=PLANTED[:32], held_out=PLANTED[32:])


def test_held_out_pairs_are_ranked_as_planted(planted):
    metrics = planted.read().metrics
    assert metrics["eval_accuracy"] > 0.9
    assert metrics["eval_margin"] > 1
    assert metrics["eval_loss"] < 0.3
    assert planted.read().seal.adapter_effect > 0.01


def test_an_interrupted_run_is_resumed_to_the_same_bits(planted):
    check_resumes_to_the_same_bits(planted, 24)


def test_eval_measures_the_saved_model_as_the_last_evaluation_did(planted):
    metrics, held_out = planted.read().metrics, as_rows(PLANTED[32:])
    found = evaluate(open_run(planted), held_out, exact_match=False)
    for name in ("loss", "accuracy", "margin", "mean_reward", "min_reward", "max_reward"):
        assert found.metrics[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-4)
    lowest, highest = (found.metrics[f"accuracy {end}"] for end in ("from", "to"))
    assert 0 < lowest < found.metrics["accuracy"] <= highest == pytest.approx(1)
    answered = infer(open_run(planted), held_out, Generation(batch_size=2)).rows
    expected = calibration([row["score"] - row["rejected_score"] for row in answered])
    assert found.calibration.brier_score == pytest.approx(expected.brier_score, abs=1e-4)
    assert found.calibration.expected_calibration_error == pytest.approx(expected.expected_calibration_error, abs=1e-4)
    assert [one.pairs for one in found.calibration.bins] == [one.pairs for one in expected.bins]
    items = [json.loads(line) for line in (Path(found.saved) / "items.jsonl").read_text().splitlines()]
    assert [item["item"] for item in items] == [row.where for row in held_out]
    margins = [row["score"] - row["rejected_score"] for row in answered]
    assert [item["answers"]["adapter"] for item in items] == pytest.approx(margins, abs=1e-3)
    figure = found.suites[0].whole.figures["accuracy"]["adapter"]
    assert (figure.value, figure.low) == pytest.approx((found.metrics["accuracy"], lowest))
    with pytest.raises(UsageError, match="scores answers"):
        evaluate(open_run(planted), held_out, exact_match=True)


def test_every_form_of_an_answer_gets_the_same_score(planted):
    opened, pair = open_run(planted), PLANTED[33]
    asked = {"role": "user", "content": pair["prompt"]}
    said = [{"role": "assistant", "content": pair[side]} for side in ("chosen", "rejected")]
    forms = [
        pair,
        {"prompt": pair["prompt"], "chosen": pair["chosen"]},
        {"chosen": [asked, said[0]]},
        {"messages": [asked, said[0]]},
        {"messages": [asked, said[1]]},
    ]
    rows = as_rows(forms)
    check_columns(opened.manifest, rows)
    assert unasked_note(opened.manifest, rows, "rows") is None
    both, *single = infer(opened, rows, Generation(batch_size=2)).rows
    assert list(both) == [*pair, "score", "rejected_score"]
    assert both["score"] - both["rejected_score"] > 1
    assert [row["score"] for row in single[:3]] == pytest.approx([both["score"]] * 3, abs=1e-4)
    assert single[3]["score"] == pytest.approx(both["rejected_score"], abs=1e-4)
    assert all("rejected_score" not in row for row in single)
    assert _plain(both) == f"{both['score']:.4f}  {both['rejected_score']:.4f}"


def test_a_row_without_an_answer_is_refused(planted):
    opened = open_run(planted)
    for row in (as_row(opened, "What is 2 + 3?"), Row("a", {"messages": [{"role": "user", "content": "Hi"}]})):
        with pytest.raises(DataError, match="no answer to score"):
            infer(opened, [row], Generation())
    with pytest.raises(DataError, match="`score` would be replaced"):
        check_columns(opened.manifest, as_rows([{**PLANTED[0], "score": 1}]))
    note = unasked_note(opened.manifest, as_rows([{**PLANTED[0], "mood": "good"}]), "rows")
    assert note is not None
    assert "`mood`" in note


class Alone:
    """A model in evaluation, and the accelerator of a single process."""

    training = False

    def gather(self, values):
        return values


def test_pairs_that_fill_up_a_batch_do_not_count():
    trainer_class = Reward().trainer_class(counted)
    trainer = trainer_class.__new__(trainer_class)
    trainer.model = trainer.accelerator = Alone()
    trainer.args = SimpleNamespace(center_rewards_coefficient=None)
    trainer._metrics, trainer.eval_margins = {"eval": defaultdict(list)}, []
    scores = torch.tensor([[1.0], [9.0], [0.0], [-9.0]])
    batch = {"completion_mask": torch.tensor([[1], [0], [1], [1]])}
    loss = trainer.compute_loss(lambda **_: SimpleNamespace(logits=scores), batch)
    assert loss.item() == pytest.approx(0.313262, abs=1e-5)
    assert trainer.batch_means() == {"mean_reward": 0.5, "accuracy": 1.0, "margin": 1.0}
