"""Preference runs: the trainer is TRL's, the reference is the start, and a run can be resumed, measured and proven."""

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from same_as_trl import check_same, each_length, lasting
from services_recipes import RECIPE, check_resumes_to_the_same_bits, run_recipe
from strategies import STRATEGIES, prepared
from typer.testing import CliRunner

from lora_ns.answers.opened import open_run, open_trained
from lora_ns.cli.app import app
from lora_ns.data.interval import wilson_interval
from lora_ns.data.rows import Row
from lora_ns.errors import UsageError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.load import load_base
from lora_ns.objectives.pair_trainer import PairCollator
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import Beside, evaluate
from lora_ns.services.evaluate_suites import System
from lora_ns.table import IGNORED
from lora_ns.training.own_suites import SAMPLES

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")
ROWS = [
    {"prompt": f"Spell {word} backwards.", "chosen": word[::-1], "rejected": f"It is {word[::-1]}."} for word in WORDS
]
PAIRS = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "pairs.jsonl")
    .replace("lorans:quickstart/eval.jsonl", "pairs.jsonl")
    .replace('format = "messages"\n', "")
    .replace("[sft]", "[dpo]")
    .replace("learning_rate = 5e-3", "learning_rate = 3e-4\nwarmup_steps = 0\nlogging_steps = 1")
    .replace("max_eval_samples = 8\n", "")
)
FEW = ("training.max_steps=3", "training.global_batch_size=4", "training.save_steps=2")


class Keeper(SilentObserver):
    """Keeps the trainer of a run, and its adapter before the first step and after the last."""

    def adapted(self, model):
        self.config = copy.deepcopy(model.peft_config["default"])
        self.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def ready(self, trainer):
        self.trainer = trainer

    def saving(self, model, tokenizer):
        self.end = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def shows(self, metrics):
        self.shown = metrics


def run_pairs(folder: Path, *overrides: str, observer=None, recipe=PAIRS):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run_recipe(folder, recipe, *FEW, *overrides, observer=observer)


def logged(run, key):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row and "loss" in row]


LOSSES = {
    "dpo": ([], {}),
    "ipo": (["dpo.loss_type=['ipo']", "dpo.beta=0.2"], {"loss_type": ["ipo"], "beta": 0.2}),
    "mpo": (
        ["dpo.loss_type=['sigmoid','bco_pair','sft']", "dpo.loss_weights=[0.8,0.2,1.0]"],
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    ),
    "robust": (
        ["dpo.loss_type=['robust']", "dpo.label_smoothing=0.1"],
        {"loss_type": ["robust"], "label_smoothing": 0.1},
    ),
    "length": (["dpo.ld_alpha=0.5"], {"ld_alpha": 0.5}),
    "weighted": (["dpo.use_weighting=true"], {"use_weighting": True}),
    "js": (["dpo.f_divergence_type='js_divergence'"], {"f_divergence_type": "js_divergence"}),
}


def trls_own(folder, keeper, run, arguments):
    """Train the same rows from the same adapter with TRL's own trainer, called as its users do; its log and adapter."""
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
        return {"prompt": prompt, **{side: row[side] + tokenizer.eos_token for side in ("chosen", "rejected")}}

    same = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
    same += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    own = trl.DPOTrainer(
        model=model,
        args=trl.DPOConfig(
            output_dir=str(folder / "trl"),
            gradient_checkpointing=False,
            disable_tqdm=True,
            **fixed,
            **{name: getattr(args, name) for name in same},
            **arguments,
        ),
        train_dataset=Dataset.from_list([texts(row) for row in ROWS]),
        processing_class=tokenizer,
    )
    own.train()
    return own.state.log_history, dict(model.named_parameters())


@each_length(3)
@pytest.mark.parametrize(("overrides", "arguments"), LOSSES.values(), ids=LOSSES)
def test_losses_margins_and_adapter_are_those_of_trls_own_trainer(tmp_path, overrides, arguments, steps):
    keeper = Keeper()
    run = run_pairs(tmp_path, *lasting(steps), *overrides, "training.group_by_length=false", observer=keeper)
    assert keeper.shown.keys() <= json.loads(run.metrics.read_text().splitlines()[-3]).keys()
    log, adapter = trls_own(tmp_path, keeper, run, arguments)
    keys = ("loss", "rewards/margins", "rewards/chosen", "logps/rejected", "grad_norm")
    check_same(run, log, keys, (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps
    losses = [row["loss"] for row in log if "loss" in row]
    assert logged(run, "loss") == pytest.approx(losses, rel=1e-5, abs=0)  # that of WPO is about 1e-8


def test_a_run_starts_at_its_reference_and_saves_one_adapter(tmp_path):
    run = run_pairs(tmp_path)
    first = json.loads(run.metrics.read_text().splitlines()[0])
    assert first["eval_rewards/margins"] == 0
    assert first["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert [path.name for path in (*run.adapter.rglob("ref"), *run.checkpoints.rglob("ref"))] == []
    assert logged(run, "rewards/margins")[-1] > 0


def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path):
    check_resumes_to_the_same_bits(run_pairs(tmp_path, "training.max_steps=4"), 4)


def test_eval_measures_the_saved_adapter_as_the_last_evaluation_did(tmp_path):
    run = run_pairs(tmp_path)
    metrics = run.read().metrics
    rows = [Row(f"pairs.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found = evaluate(open_run(run), rows, exact_match=True)
    assert found.rows == len(ROWS)
    assert 0 <= found.metrics["exact_match"] <= 1
    for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert found.metrics[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-4)
    lowest, highest = (found.metrics[f"rewards/accuracies {end}"] for end in ("from", "to"))
    assert 0 <= lowest <= found.metrics["rewards/accuracies"] <= highest <= 1


@pytest.mark.parametrize("table", ["dpo", "kto", "orpo"])
def test_eval_reports_the_share_of_pairs_whose_preferred_answer_is_likelier_and_that_of_the_base(tmp_path, table):
    run = run_pairs(tmp_path, f"{table}.beta=0.5", recipe=PAIRS.replace("[dpo]", f"[{table}]"))
    rows = [Row(f"pairs.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    swapped = [
        Row(row.where, {**row.values, "chosen": row.values["rejected"], "rejected": row.values["chosen"]})
        for row in rows
    ]
    trained = open_trained(run)
    name = "logps/accuracies"
    results = [evaluate(trained, given, exact_match=False) for given in (rows, swapped)]
    found, opposite = (result.metrics for result in results)
    adapted = own_share_likelier(trained)
    with trained.model.disable_adapter():
        base = own_share_likelier(trained)
    assert (found[f"before/{name}"], found[name]) == (base, adapted)
    assert opposite[name] == 1 - adapted
    assert found[f"{name} from"] <= adapted <= found[f"{name} to"]
    (report,) = results[0].suites
    assert {system: figure.value for system, figure in report.whole.figures[name].items()} == {
        "adapter": adapted,
        "base": base,
    }
    (contest,) = report.whole.contests
    assert (contest.test, contest.difference) == ("exact McNemar", adapted - base)
    for beside, told in (
        (Beside(show=1), "--show: there are no answers to show"),
        (Beside(systems=(System("other", trained),)), "is compared with others only by suites"),
    ):
        with pytest.raises(UsageError, match=told):
            evaluate(trained, rows, exact_match=False, beside=beside)


def own_share_likelier(trained):
    """The share of `ROWS` with the likelier answer preferred, by whole sequences: both have the same prompt."""
    right = 0
    for row in ROWS:
        sums = []
        for side in ("chosen", "rejected"):
            turns = [{"role": "user", "content": row["prompt"]}]
            prompt = trained.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            text = f"{prompt}{row[side]}{trained.tokenizer.eos_token}"
            ids = trained.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                sums.append(float(-trained.model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)))
        right += sums[0] > sums[1]
    return right / len(ROWS)


def test_metrics_of_an_evaluation_do_not_depend_on_its_batches(tmp_path):
    found = {}
    for size in (3, 8):
        folder = tmp_path / str(size)
        folder.mkdir()
        sizes = ("training.max_steps=1", f"training.per_device_eval_batch_size={size}")
        metrics = run_pairs(folder, *sizes).read().metrics
        names = ("loss", "rewards/margins", "rewards/accuracies", "rewards/chosen", "logps/rejected")
        found[size] = {name: metrics[f"eval_{name}"] for name in names}
    assert found[3] == pytest.approx(found[8], rel=1e-4)


def test_eval_loads_the_weights_once(tmp_path, monkeypatch):
    run = run_pairs(tmp_path)
    loads = []

    def counting(*given):
        loads.append(given)
        return load_base(*given)

    monkeypatch.setattr("lora_ns.answers.opened.load_base", counting)
    words = ["eval", str(run.path), "--data", str(tmp_path / "pairs.jsonl"), "--exact-match", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert json.loads(done.stdout)["metrics"].keys() >= {"rewards/accuracies", "exact_match"}
    assert len(loads) == 1


def test_generated_answers_are_compared_with_the_preferred_ones(tmp_path):
    run = run_pairs(tmp_path, "evaluation.exact_match=true", "generation.max_new_tokens=8")
    rows = [Row(f"pairs.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found = evaluate(open_run(run), rows, exact_match=True)
    assert found.metrics["exact_match"] == run.read().metrics["exact_match"]


@pytest.mark.parametrize("recipe", [PAIRS, RECIPE], ids=["dpo", "sft"])
def test_a_few_greedy_answers_of_each_evaluation_are_kept_and_change_nothing(tmp_path, recipe):
    given = ["training.eval_steps=1", "generation.max_new_tokens=8", "generation.do_sample=true"]
    (tmp_path / "with").mkdir()
    run = run_pairs(tmp_path / "with", *given, "evaluation.exact_match=true", recipe=recipe)
    rows = [json.loads(line) for line in run.samples.read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in (0, 1, 2, 3) for _ in range(SAMPLES)]
    assert all(row["prompt"].endswith("assistant\n") and "completion" in row for row in rows)
    without = run_pairs(tmp_path, "training.eval_steps=1", recipe=recipe)
    assert not without.samples.exists()
    assert (run.adapter / WEIGHTS).read_bytes() == (without.adapter / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("share", "count", "ends"), [(0.5, 10, (0.2366, 0.7634)), (1.0, 20, (0.8389, 1.0))])
def test_the_interval_is_wilsons(share, count, ends):
    assert wilson_interval(share, count) == pytest.approx(ends, abs=1e-4)


def test_identical_pairs_are_left_out_and_counted(tmp_path):
    same = {**ROWS[0], "rejected": ROWS[0]["chosen"]}
    keeper = Keeper()
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, same]))
    run = run_recipe(tmp_path, PAIRS, *FEW, observer=keeper)
    assert run.read().data.train.rows == len(ROWS) + 1
    assert run.read().data.train.dropped == 1
    assert len(keeper.trainer.train_dataset) == len(ROWS)


def test_the_answer_alone_is_in_the_loss():
    row = {
        "input_ids": [1, 2, 3, 4, 5],
        "labels": [IGNORED, 2, IGNORED, 4, IGNORED],
        "rejected_input_ids": [1, 6],
        "rejected_labels": [IGNORED, 6],
    }
    batch = PairCollator(0, multiple=4)([row])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0, 0, 0], [1, 6, 0, 0, 0, 0, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 2]
    assert batch["completion_mask"].tolist() == [[0, 1, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]


OF_TWO = (
    "training.per_device_train_batch_size=2",
    "training.per_device_eval_batch_size=2",
    "dataset.max_eval_samples=7",
)


def prepare_two(folder):
    """A run of two processes up to the point where they would be started."""
    folder.mkdir()
    return prepared(lambda: run_pairs(folder, *OF_TWO, *STRATEGIES["ddp"], "distributed.num_processes=2"))


def check_two(two, folder):
    """Hold a run of two processes to one process that trains in the folder; `test_strategies` trains the two."""
    one = run_pairs(folder, *OF_TWO)
    expected, got = load_file(one.adapter / WEIGHTS), load_file(two.adapter / WEIGHTS)
    assert all(torch.allclose(got[key], value, atol=1e-5) for key, value in expected.items())
    metrics, others = one.read().metrics, two.read().metrics
    for name in ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"):
        assert others[name] == pytest.approx(metrics[name], abs=1e-5)
