"""ORPO, CPO and SimPO: the trainers are TRL's, the tokens are lorans's, and a run can be resumed and measured."""

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from minimal_recipe import choosing
from same_as_trl import check_same, each_length, lasting
from services_recipes import RECIPE, check_resumes_to_the_same_bits, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.data.rows import Row
from lora_ns.objectives import OBJECTIVES
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import evaluate

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
ROWS = [
    {"prompt": f"Spell {word} backwards.", "chosen": word[::-1], "rejected": f"It is {word[::-1]}."} for word in WORDS
]
RUN = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "pairs.jsonl")
    .replace("lorans:quickstart/eval.jsonl", "pairs.jsonl")
    .replace('format = "messages"\n', "")
    .replace("[sft]\nmax_seq_length = 128\n", "")
    .replace("learning_rate = 5e-3", "learning_rate = 3e-4\nwarmup_steps = 0\nlogging_steps = 1")
    .replace("max_eval_samples = 8\n", "")
)
FEW = ("training.max_steps=3", "training.global_batch_size=4", "training.save_steps=2")
SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}
LOSSES = {
    "orpo": ("orpo", {}),
    "orpo, weight": ("orpo", {"beta": 0.5}),
    "cpo": ("cpo", {}),
    "cpo, smoothed": ("cpo", {"label_smoothing": 0.1, "cpo_alpha": 0.5}),
    "hinge": ("cpo", {"loss_type": "hinge"}),
    "ipo": ("cpo", {"loss_type": "ipo", "beta": 0.2}),
    "simpo": ("cpo", SIMPO),
    "alphapo": ("cpo", {**SIMPO, "alpha": 0.25}),
}
METRICS = ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen", "logps/rejected", "nll_loss")


class Keeper(SilentObserver):
    """Keeps the trainer of a run, and its adapter before the first step and after the last."""

    def adapted(self, model):
        self.config = copy.deepcopy(model.peft_config["default"])
        self.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def ready(self, trainer):
        self.trainer = trainer

    def saving(self, model, tokenizer):
        self.end = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def run_pairs(folder: Path, table: str, keys, *overrides: str, rows=ROWS, observer=None):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {"max_seq_length": 128, **keys}.items())
    return run_recipe(folder, f"{RUN}[{table}]\n{own}", *FEW, *overrides, observer=observer)


def logged(run, key, sign="loss"):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row and sign in row]


def trls_own_trainer(folder, keeper, run, table, keys, **more):
    """TRL's own trainer, called as its users do, with the same rows and the same adapter."""
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from lora_ns.objectives.experimental import open_experimental

    kind = OBJECTIVES[table]
    args, tokenizer = keeper.trainer.args, keeper.trainer.processing_class
    bare = AutoModelForCausalLM.from_pretrained(run.read().base.path, dtype=torch.float32)
    model = get_peft_model(bare, keeper.config)
    model.load_state_dict(keeper.start, strict=False)

    def texts(row):
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return {"prompt": prompt, **{side: row[side] + tokenizer.eos_token for side in ("chosen", "rejected")}}

    same = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
    same += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    fixed |= {"gradient_checkpointing": False, "disable_tqdm": True, "remove_unused_columns": False}
    chosen = {name: getattr(args, name) for name in same}
    rows = Dataset.from_list([texts(row) for row in ROWS])
    arguments = open_experimental(kind.upstream_config, table)(
        output_dir=str(folder / "trl"), **{**fixed, **chosen, **keys, **more}
    )
    trainer = open_experimental(kind.upstream, table)
    return trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)


@each_length(3)
@pytest.mark.parametrize(("table", "keys"), LOSSES.values(), ids=LOSSES)
def test_losses_margins_and_adapter_are_those_of_trls_own_trainer(tmp_path, table, keys, steps):
    keeper = Keeper()
    small = (*lasting(steps), "training.group_by_length=false", "training.per_device_train_batch_size=2")
    run = run_pairs(tmp_path, table, keys, *small, observer=keeper)
    own = trls_own_trainer(tmp_path, keeper, run, table, keys)
    own.train()
    adapter = dict(own.model.named_parameters())
    check_same(run, own.state.log_history, (*METRICS, "grad_norm"), (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps


EVALUATED = ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "eval_logps/chosen", "eval_nll_loss")


@pytest.mark.parametrize(("table", "keys"), [("orpo", {}), ("cpo", {}), ("cpo", SIMPO)], ids=["orpo", "cpo", "simpo"])
def test_an_evaluation_is_the_mean_over_pairs_that_trl_evaluates_one_by_one(tmp_path, table, keys):
    keeper = Keeper()
    sized = ("training.max_steps=1", "training.per_device_eval_batch_size=3")
    run = run_pairs(tmp_path, table, keys, *sized, observer=keeper)
    own = trls_own_trainer(tmp_path, keeper, run, table, keys, per_device_eval_batch_size=1).evaluate()
    for key in EVALUATED:
        assert logged(run, key, "eval_loss")[0] == pytest.approx(own[key], abs=1e-5, rel=1e-5), key


@pytest.mark.parametrize("table", ["orpo", "cpo"])
def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path, table):
    run = run_pairs(tmp_path, table, {}, "training.max_steps=4", "peft.lora_dropout=0.1")
    check_resumes_to_the_same_bits(run, 4)


def test_dropout_is_that_of_the_recipe(tmp_path):
    losses = [
        logged(run_pairs(tmp_path, "orpo", {}, f"peft.lora_dropout={share}", f'training.output_dir="{share}"'), "loss")
        for share in (0.0, 0.5)
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][-1] != losses[1][-1]


def test_eval_measures_the_saved_adapter_as_the_last_evaluation_did(tmp_path):
    run = run_pairs(tmp_path, "cpo", SIMPO)
    metrics = run.read().metrics
    rows = [Row(f"pairs.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found = evaluate(open_run(run), rows, exact_match=False)
    for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert found.metrics[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-4)


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning", "ia3", "adalora"])
def test_methods_that_do_not_start_at_the_base_train_too(tmp_path, method):
    run = run_pairs(tmp_path, "orpo", {}, *choosing(method))
    assert logged(run, "rewards/margins")[-1] == pytest.approx(logged(run, "rewards/margins")[0], abs=10)
    assert run.read().status == "finished"
