"""`[sft]` and `[classification]` train as TRL's and transformers' own trainers do, from the same rows and adapter."""

import json

import pytest

pytest.importorskip("torch")

import torch
from same_as_trl import check_same, each_length, lasting
from services_recipes import CLASSES, RECIPE, class_rows, run_recipe
from test_pairs import Keeper, logged

from lora_ns.training.scoring import AnswerScorer

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
ROWS = [
    [{"role": "user", "content": f"Spell {word} backwards."}, {"role": "assistant", "content": word[::-1]}]
    for word in WORDS * 3
]
TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n' }}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}{% endfor %}"
    "{{ '\\n<|im_start|>assistant\\n' if add_generation_prompt else '' }}"
)
"""A template with nothing behind the end token, which TRL would train and lorans does not."""
SFT = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl")
    .replace("lorans:quickstart/eval.jsonl", "rows.jsonl")
    .replace("[sft]", '[sft]\nchat_template = "template.jinja"')
)
FEW = (
    *("training.global_batch_size=8", "training.per_device_train_batch_size=4", "training.group_by_length=false"),
    *("training.warmup_steps=0", "training.logging_steps=1", "evaluation.before_training=false"),
)
SAME = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
SAME += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")


def arguments(folder, keeper, **more):
    """Arguments of an upstream trainer, with the values of a run."""
    return {
        "output_dir": str(folder / "upstream"),
        **{name: getattr(keeper.trainer.args, name) for name in SAME},
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **more,
    }


def started(auto, keeper, run, **more):
    """The base of a run with the adapter that the run started from."""
    from peft import get_peft_model

    model = get_peft_model(auto.from_pretrained(run.read().base.path, dtype=torch.float32, **more), keeper.config)
    model.load_state_dict(keeper.start, strict=False)
    return model


def trls_own(folder, keeper, run, more):
    """Train the same rows from the same adapter with TRL's own trainer, called as its users do; its log and adapter."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    rows = [{"prompt": row[:1], "completion": row[1:]} for row in ROWS]
    own = trl.SFTTrainer(
        model=started(AutoModelForCausalLM, keeper, run),
        args=trl.SFTConfig(**arguments(folder, keeper, **more)),
        train_dataset=Dataset.from_list(rows),
        processing_class=keeper.trainer.processing_class,
    )
    own.train()
    return own.state.log_history, dict(own.model.named_parameters())


def check_fine_tuning(tmp_path, steps, overrides, more):
    keeper = Keeper()
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in ROWS))
    run = run_recipe(tmp_path, SFT, *FEW, *lasting(steps), *overrides, observer=keeper)
    log, adapter = trls_own(tmp_path, keeper, run, more)
    keys = ("loss", "grad_norm", "mean_token_accuracy", "entropy")
    check_same(run, log, keys, (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps


SETTINGS = {
    "nll": ([], {}),
    "dft": (["sft.loss_type=dft"], {"loss_type": "dft"}),
}


@each_length(3)
@pytest.mark.parametrize(("overrides", "more"), SETTINGS.values(), ids=SETTINGS)
def test_fine_tuning_is_that_of_trls_own_trainer(tmp_path, overrides, more, steps):
    """At a rate at which Adam does not amplify the rounding of lorans's loss, which scores labelled positions only."""
    check_fine_tuning(tmp_path, steps, ["training.learning_rate=1e-4", *overrides], more)


@pytest.mark.matrix
def test_fine_tuning_that_scores_every_position_is_that_of_trls_own_trainer(tmp_path, monkeypatch):
    monkeypatch.setattr(AnswerScorer, "fits", lambda _: False)
    check_fine_tuning(tmp_path, 10, [], {})


@each_length(3)
def test_classification_is_that_of_transformers_own_trainer(tmp_path, steps):
    """In one micro-batch: over several, transformers adds the means of this model's loss and does not average them."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    keeper = Keeper()
    run = run_recipe(
        tmp_path, CLASSES, *FEW, *lasting(steps), "training.per_device_train_batch_size=8", observer=keeper
    )
    tokenizer, label2id = keeper.trainer.processing_class, keeper.trainer.model.config.label2id
    rows = [{**tokenizer(row["text"]), "labels": label2id[row["label"]]} for row in class_rows()]
    model = started(AutoModelForSequenceClassification, keeper, run, num_labels=2, pad_token_id=tokenizer.pad_token_id)
    own = Trainer(
        model=model,
        args=TrainingArguments(**arguments(tmp_path, keeper)),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    own.train()
    adapter = dict(model.named_parameters())
    check_same(run, own.state.log_history, ("loss", "grad_norm"), (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
