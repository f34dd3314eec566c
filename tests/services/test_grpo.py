"""Runs on their own completions: the trainer is TRL's, rewards are checked, and a run can be resumed and measured."""

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from same_as_trl import check_same, each_length, lasting
from services_recipes import RECIPE, check_resumes_to_the_same_bits, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError, PlanError, RecipeError
from lora_ns.objectives import OBJECTIVES
from lora_ns.objectives.rewarded import RewardedObjective
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import evaluate

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
ROWS = [{"prompt": f"Give the last letter of {word}.", "answer": word[-1]} for word in WORDS]
GRPO = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl")
    .replace("lorans:quickstart/eval.jsonl", "rows.jsonl")
    .replace('format = "messages"\n', "")
    .replace("[sft]", "[grpo]\nmax_completion_length = 8\nnum_generations = 4\ntemperature = 1.5")
    .replace("learning_rate = 5e-3", "learning_rate = 3e-4\nwarmup_steps = 0\nlogging_steps = 1")
    .replace("max_eval_samples = 8\n", "")
    + '[[grpo.rewards]]\nname = "exact"\n'
)
FEW = (
    *("training.max_steps=3", "training.global_batch_size=16", "training.save_steps=2", "training.eval_steps=3"),
    *("evaluation.before_training=false", "grpo.preflight_prompts=0", "dataset.max_eval_samples=4"),
)


class Keeper(SilentObserver):
    """Keeps the trainer of a run, a copy of its first adapter, and what the run says."""

    def __init__(self):
        self.said = []

    def stage(self, text):
        self.said.append(text)

    def warn(self, text):
        self.said.append(text)

    def adapted(self, model):
        self.config = copy.deepcopy(model.peft_config["default"])
        self.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def ready(self, trainer):
        self.trainer = trainer

    def saving(self, model, tokenizer):
        self.end = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def run_grpo(folder: Path, *overrides: str, rows=ROWS, observer=None, text=GRPO):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_recipe(folder, text, *FEW, *overrides, observer=observer)


def logged(run, key):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row and "loss" in row]


SETTINGS = {
    "dapo": ([], {}),
    "reference": (["grpo.beta=0.1"], {"beta": 0.1}),
    "two iterations": (
        ["grpo.num_iterations=2", "grpo.epsilon=0.1", "grpo.loss_type=grpo", "grpo.scale_rewards=none"],
        {"num_iterations": 2, "epsilon": 0.1, "loss_type": "grpo", "scale_rewards": "none"},
    ),
    "gspo": (
        ["grpo.loss_type=grpo", "grpo.importance_sampling_level=sequence"],
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "dr_grpo": (["grpo.loss_type=dr_grpo"], {"loss_type": "dr_grpo"}),
    "cispo": (["grpo.loss_type=cispo"], {"loss_type": "cispo", "epsilon_high": 5.0}),
    "sapo": (["grpo.loss_type=sapo"], {"loss_type": "sapo"}),
    "entropy": (
        ["grpo.loss_type=bnpo", "grpo.entropy_coef=0.01", "grpo.top_entropy_quantile=0.5"],
        {"loss_type": "bnpo", "entropy_coef": 0.01, "top_entropy_quantile": 0.5},
    ),
}


REWARDED = [kind for kind in OBJECTIVES.values() if issubclass(kind, RewardedObjective)]
each_rewarded = pytest.mark.parametrize("kind", REWARDED, ids=lambda kind: kind.toml)


def of(kind, text=None):
    """The recipe of another objective with rewards."""
    return (text or GRPO).replace("[grpo", f"[{kind.toml}")


def exact(prompts, completions, answer, **columns):
    return [float(completion[0]["content"] == gold) for completion, gold in zip(completions, answer, strict=True)]


def trls_own(folder, keeper, run, arguments, kind=OBJECTIVES["grpo"]):
    """Train the same rows from the same adapter with TRL's own trainer; its log and its adapter."""
    import trl
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    args, tokenizer = keeper.trainer.args, keeper.trainer.processing_class
    bare = AutoModelForCausalLM.from_pretrained(run.read().base.path, dtype=torch.float32)
    model = get_peft_model(bare, keeper.config)
    model.load_state_dict(keeper.start, strict=False)
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in ROWS]
    same = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
    same += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")
    same += ("num_generations", "max_completion_length", "temperature")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    name = kind.upstream.removeprefix("trl.")
    own = getattr(trl, name)(
        model=model,
        args=getattr(trl, name.replace("Trainer", "Config"))(
            output_dir=str(folder / "trl"),
            gradient_checkpointing=False,
            disable_tqdm=True,
            **fixed,
            **{key: getattr(args, key) for key in same},
            **arguments,
        ),
        reward_funcs=exact,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    set_seed(args.seed)
    own.train()
    return own.state.log_history, dict(model.named_parameters())


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("two iterations", 4),
        *(pytest.param(name, 10, marks=pytest.mark.matrix) for name in SETTINGS),
    ],
)
def test_losses_rewards_and_adapter_are_those_of_trls_own_trainer(tmp_path, name, steps):
    overrides, arguments = SETTINGS[name]
    keeper = Keeper()
    fixed = (*lasting(steps), "training.per_device_train_batch_size=8")
    run = run_grpo(tmp_path, *fixed, *overrides, observer=keeper)
    log, adapter = trls_own(tmp_path, keeper, run, arguments)
    keys = ["loss", "reward", "reward_std", "frac_reward_zero_std", "entropy", "grad_norm", "completions/mean_length"]
    check_same(run, log, [*keys, *(["kl"] if "beta" in arguments else [])], (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
    assert keeper.trainer.args.gradient_accumulation_steps == 2
    assert [path.name for path in (*run.adapter.rglob("ref"), *run.checkpoints.rglob("ref"))] == []


@each_length(3)
@each_rewarded
def test_every_objective_with_rewards_trains_as_trls_own_trainer(tmp_path, kind, steps):
    keeper = Keeper()
    fixed = (*lasting(steps), "training.per_device_train_batch_size=8")
    overrides = [override.replace("grpo.", f"{kind.toml}.") for override in FEW]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = run_recipe(tmp_path, of(kind), *overrides, *fixed, f"{kind.toml}.beta=0.2", observer=keeper)
    log, adapter = trls_own(tmp_path, keeper, run, {"beta": 0.2}, kind)
    check_same(run, log, ["loss", "reward", "kl", "entropy", "grad_norm"], (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
    check_resumes_to_the_same_bits(run, steps)


RESUMED = {
    "sampled anew": ["training.max_steps=4"],
    "in the second epoch": ["training.max_steps=5", "training.save_steps=3"],
    "between two iterations": ["training.max_steps=4", "training.save_steps=1", "grpo.num_iterations=2"],
}


@pytest.mark.parametrize("overrides", RESUMED.values(), ids=RESUMED)
def test_a_run_that_is_resumed_ends_in_the_same_bits(tmp_path, overrides):
    run = run_grpo(tmp_path, "training.eval_steps=2", *overrides)
    check_resumes_to_the_same_bits(run, run.read().plan.max_steps.value)


def test_completions_of_an_evaluation_are_kept_with_their_rewards(tmp_path):
    run = run_grpo(tmp_path, "training.max_steps=2", "training.eval_steps=1")
    rows = [json.loads(line) for line in run.samples.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4
    assert all("Give the last letter of" in row["prompt"] and row["rewards"]["exact"] in {0, 1} for row in rows)


def test_a_run_is_measured_by_its_rewards(tmp_path):
    run = run_grpo(tmp_path, "grpo.num_generations_eval=2", "training.max_steps=1", "training.eval_steps=1")
    rows = [Row(f"rows.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found = evaluate(open_run(run), rows, exact_match=True)
    assert found.rows == len(ROWS)
    metrics = found.metrics
    assert metrics["reward"] == metrics["pass@1"] == metrics["rewards/exact/mean"]
    assert metrics["pass@1 from"] < metrics["pass@1"] < metrics["pass@1 to"]
    assert 0 <= metrics["exact_match"] <= 1
    assert found.metrics == evaluate(open_run(run), rows, exact_match=True).metrics


def test_the_rewards_before_training_are_stored_and_said(tmp_path):
    keeper = Keeper()
    run = run_grpo(tmp_path, "grpo.preflight_prompts=8", "training.max_steps=1", observer=keeper)
    found = json.loads(run.preflight.read_text())
    assert (found["prompts"], found["completions"]) == (8, 4)
    said = next(text for text in keeper.said if "8 prompts x 4 completions" in text)
    assert f"reward {found['reward']:.3g}" in said
    assert f"{len(found['solved'])} always and {len(found['unsolved'])} never solved" in said


HOPELESS = [{"prompt": f"Spell {word} backwards. {number}", "answer": word[::-1]} for word in WORDS for number in "12"]


def test_a_run_that_cannot_learn_is_refused_before_its_first_step_unless_forced(tmp_path):
    from lora_ns.machine.libraries import Noise
    from lora_ns.recipe.load import load_recipe
    from lora_ns.services.train import train

    overrides = ("grpo.preflight_prompts=16", "grpo.temperature=1.0", "training.max_steps=1")
    with pytest.raises(LoransError, match="same reward, 0") as caught:
        run_grpo(tmp_path, *overrides, rows=HOPELESS)
    assert "`[sft]` first" in str(caught.value)
    assert "--force" in str(caught.value)
    keeper = Keeper()
    loaded = load_recipe(tmp_path / "recipe.toml", [*FEW, *overrides, f'training.output_dir="{tmp_path / "forced"}"'])
    with Noise() as noise:
        result = train(loaded, keeper, noise, is_forced=True)
    assert result.steps == 1
    assert any("same reward, 0" in text for text in keeper.said)


OWN = {
    "raises": ("raise ValueError('no')", "raised ValueError: no"),
    "exits": ("raise SystemExit(3)", "raised SystemExit: 3"),
    "returns NaN": ("return [float('nan')] * len(completions)", "returned nan"),
    "returns too few": ("return [1.0]", "returned 1 scores for"),
    "returns a text": ("return 'good'", "instead of a list of numbers"),
}


def with_own(body):
    return GRPO.replace('name = "exact"', 'python = "own.py:judge"').replace("[grpo]", "[grpo]\nallow_code = true"), (
        f"def judge(prompts, completions, answer, **columns):\n    {body}\n"
    )


@pytest.mark.parametrize(("body", "what"), OWN.values(), ids=OWN)
def test_a_function_that_fails_ends_the_run_with_one_message(tmp_path, body, what):
    text, code = with_own(body)
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(LoransError, match=what) as caught:
        run_grpo(tmp_path, text=text)
    assert len(caught.value.problems) == 1


def test_own_code_is_copied_into_the_run_and_resumed_with(tmp_path):
    text, code = with_own("return [-len(completion[0]['content']) for completion in completions]")
    (tmp_path / "own.py").write_text(code)
    run = run_grpo(tmp_path, "training.max_steps=4", text=text)
    assert (run.code / "own.py").read_text() == code
    (tmp_path / "own.py").write_text("raise SystemExit('gone')")
    check_resumes_to_the_same_bits(run, 4)
    assert "rewards/judge/mean" in run.metrics.read_text()


def test_own_code_needs_consent(tmp_path):
    text, _ = with_own("return [0.0] * len(completions)")
    with pytest.raises(RecipeError, match="allow_code = true"):
        run_grpo(tmp_path, text=text.replace("allow_code = true\n", ""))


def test_a_file_that_is_missing_is_reported_before_the_run_is_created(tmp_path):
    text, _ = with_own("")
    with pytest.raises(LoransError, match="no such file"):
        run_grpo(tmp_path, text=text)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_groups_do_not_divide_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"not a multiple of `grpo\.num_generations = 4`") as caught:
        run_grpo(tmp_path, "training.global_batch_size=10")
    assert "write 8 or 12" in str(caught.value)


def test_too_few_prompts_for_a_step_are_refused(tmp_path):
    with pytest.raises(PlanError, match="a step needs 16 prompts"):
        run_grpo(tmp_path, "training.global_batch_size=64")


def test_a_row_without_an_answer_is_refused_with_its_line(tmp_path):
    rows = [*ROWS, {"prompt": "Why?"}]
    with pytest.raises(LoransError, match="no reference answer") as caught:
        run_grpo(tmp_path, rows=rows)
    assert caught.value.problems[0].where.endswith("rows.jsonl:9")


def test_a_reward_model_scores_completions(tmp_path):
    pairs = [{"prompt": row["prompt"], "chosen": row["answer"], "rejected": "none"} for row in ROWS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    reward = (
        GRPO.partition("[[")[0]
        .replace("rows.jsonl", "pairs.jsonl")
        .replace('"CAUSAL_LM"', '"SEQ_CLS"')
        .replace("[grpo]\nmax_completion_length = 8\nnum_generations = 4\ntemperature = 1.5", "[reward]")
        .replace('"run"', '"reward"')
    )
    judge = run_recipe(tmp_path, reward, "training.max_steps=2", "evaluation.before_training=false")
    text = GRPO.replace('name = "exact"', f'run = "{judge.path}"')
    run = run_grpo(tmp_path, "training.max_steps=1", text=text)
    assert logged(run, "rewards/reward-model/std")[0] > 0
    with pytest.raises(LoransError, match="gives no score"):
        run_grpo(
            tmp_path, f'training.output_dir="{tmp_path / "other"}"', text=text.replace(str(judge.path), str(run.path))
        )
