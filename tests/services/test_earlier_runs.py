"""Runs that start from the adapter of an earlier run, or have one merged into their base."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import RECIPE, check_resumes_to_the_same_bits, interrupt, resumed, run_recipe
from test_pairs import PAIRS, ROWS, Keeper, logged

from lora_ns.answers.opened import load, open_run
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import evaluate
from lora_ns.services.merge import merge
from lora_ns.services.resume import resume

FEW = ("training.global_batch_size=4", "training.save_steps=2")
CONTINUED = PAIRS.replace('[peft]\nmethod = "lora"\n', "")
LABELLED = CONTINUED.replace("[dpo]", "[kto]")


@pytest.fixture(scope="module")
def sft(tmp_path_factory):
    """A finished run whose adapter is not a new one."""
    return run_recipe(tmp_path_factory.mktemp("sft"), RECIPE, "training.max_steps=2", "peft.lora_r=4")


def run_from(folder: Path, text: str, *overrides: str, observer=None) -> RunDir:
    folder.mkdir(exist_ok=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run_recipe(folder, text, *FEW, *overrides, observer=observer)


def starting(sft: RunDir) -> str:
    return f"model.init_adapter='{sft.path}'"


def on_top_of(sft: RunDir) -> str:
    return f"model.base_adapters=['{sft.path}']"


@pytest.fixture(scope="module")
def dpo(tmp_path_factory, sft):
    """A preference run that started from it, with its trainer."""
    keeper = Keeper()
    folder = tmp_path_factory.mktemp("dpo")
    run = run_from(
        folder, CONTINUED, starting(sft), "training.max_steps=10", "training.group_by_length=false", observer=keeper
    )
    return run, keeper


def trls_own(folder, keeper, run, sft):
    """Train the same rows from the same adapter with TRL's own trainer, called as its users do; its log and adapter."""
    import trl
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    args, tokenizer = keeper.trainer.args, keeper.trainer.processing_class
    bare = AutoModelForCausalLM.from_pretrained(run.read().base.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(bare, sft.adapter, is_trainable=True)

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
        ),
        train_dataset=Dataset.from_list([texts(row) for row in ROWS]),
        processing_class=tokenizer,
    )
    assert "ref" in model.peft_config
    own.train()
    model.save_pretrained(folder / "own", selected_adapters=["default"])
    return own.state.log_history, load_file(folder / "own" / WEIGHTS)


def test_dpo_after_sft_is_that_of_trls_own_trainer(tmp_path, sft, dpo):
    run, keeper = dpo
    log, adapter = trls_own(tmp_path, keeper, run, sft)
    for key in ("loss", "rewards/margins", "rewards/chosen", "logps/rejected", "grad_norm"):
        expected = [row[key] for row in log if key in row]
        assert len(expected) == 10
        assert logged(run, key) == pytest.approx(expected, abs=1e-5, rel=1e-5), key
    found = load_file(run.adapter / WEIGHTS)
    assert found.keys() == adapter.keys()
    assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in adapter.items())


def test_a_run_starts_at_the_earlier_adapter_and_saves_one(sft, dpo):
    run, _ = dpo
    manifest, first = run.read(), json.loads(run.metrics.read_text().splitlines()[0])
    assert first["eval_rewards/margins"] == 0
    assert first["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert (manifest.plan.rank.value, manifest.plan.rank.origin) == (4, "init_adapter")
    assert (manifest.plan.start.value, manifest.plan.reference.value) == (str(sft.path), str(sft.path))
    assert manifest.init_adapter.sha256 == sft.read().adapter[WEIGHTS]
    assert load_file(run.start / WEIGHTS).keys() == load_file(run.adapter / WEIGHTS).keys()
    assert [path.name for path in (*run.adapter.rglob("ref"), *run.checkpoints.rglob("ref"))] == []


def test_eval_measures_from_the_start_as_the_last_evaluation_did(dpo):
    run, _ = dpo
    rows = [Row(f"pairs.jsonl:{number}", row) for number, row in enumerate(ROWS, start=1)]
    found, metrics = evaluate(open_run(run), rows, exact_match=False), run.read().metrics
    for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert found.metrics[name] == pytest.approx(metrics[f"eval_{name}"], abs=1e-4)


@pytest.mark.parametrize("text", [CONTINUED, LABELLED], ids=["dpo", "kto"])
def test_a_run_goes_on_to_the_same_bits_when_the_earlier_one_is_gone(tmp_path, sft, text):
    earlier = RunDir(tmp_path / "earlier")
    shutil.copytree(sft.path, earlier.path)
    run = run_from(tmp_path / "new", text, starting(earlier), "training.max_steps=4")
    shutil.rmtree(earlier.path)
    check_resumes_to_the_same_bits(run, 4)


def test_a_run_whose_earlier_one_is_gone_is_resumed_by_its_recipe(tmp_path, sft, monkeypatch):
    earlier = RunDir(tmp_path / "earlier")
    shutil.copytree(sft.path, earlier.path)
    run = run_from(tmp_path / "new", CONTINUED, starting(earlier), "training.max_steps=4")
    expected = load_file(run.adapter / WEIGHTS)
    shutil.rmtree(earlier.path)
    interrupt(run, 4)
    monkeypatch.chdir(tmp_path / "new")
    overrides = (*FEW, starting(earlier), "training.max_steps=4")
    with Noise() as noise:
        resume(run, SilentObserver(), noise, load_recipe(tmp_path / "new/recipe.toml", overrides))
    assert all(torch.equal(load_file(run.adapter / WEIGHTS)[key], value) for key, value in expected.items())


@pytest.mark.parametrize("text", [CONTINUED, LABELLED], ids=["dpo", "kto"])
def test_a_reference_computed_once_trains_the_same_and_is_reused(tmp_path, sft, text):
    key = f"{'kto' if 'kto' in text else 'dpo'}.precompute_ref_log_probs=true"
    runs = [
        run_from(tmp_path / str(number), text, starting(sft), "training.max_steps=4", *more)
        for number, more in enumerate(((), (key,)))
    ]
    plain, once = (logged(run, "loss") for run in runs)
    assert once == pytest.approx(plain, abs=1e-6)
    evaluated = [run.read().metrics["eval_loss"] for run in runs]
    assert evaluated[1] == pytest.approx(evaluated[0], abs=1e-6)
    check_resumes_to_the_same_bits(runs[1], 4)
    (file,) = runs[1].reference.glob("*.safetensors")
    file.unlink()
    shutil.rmtree(runs[1].path / "later")
    interrupt(runs[1], 4)
    with pytest.raises(LoransError, match=r"log_probabilities\.safetensors: is missing"):
        resumed(runs[1])


# Adapters in the base


def test_a_run_on_base_adapters_is_one_on_the_merged_model(tmp_path, sft):
    merged = tmp_path / "merged"
    merge(sft, merged, dtype="float32")
    by_folder = run_from(tmp_path / "a", PAIRS, f"model.name_or_path='{merged}'", "training.max_steps=2")
    by_runs = run_from(tmp_path / "b", PAIRS, on_top_of(sft), "training.max_steps=2")
    for key in ("loss", "rewards/margins", "logps/chosen"):
        assert logged(by_runs, key) == pytest.approx(logged(by_folder, key), abs=1e-4, rel=1e-4), key
    whole = tmp_path / "whole"
    merge(by_runs, whole, dtype="float32")
    assert logits_of(whole) == pytest.approx(logits_of(load(open_run(by_runs)).model), abs=1e-3)
    assert logits_of(whole) != pytest.approx(logits_of(load(open_run(by_runs)).model.unload()), abs=1e-3)
    damage(by_runs.base_adapter(0) / WEIGHTS)
    with pytest.raises(LoransError, match=r"base_adapters/1/adapter_model.safetensors: is damaged"):
        open_run(by_runs)


def logits_of(model):
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) if isinstance(model, Path) else model
    with torch.no_grad():
        return loaded.eval()(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.flatten().tolist()


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


# Bad input


def changed(run: RunDir, folder: Path, **fields) -> RunDir:
    """A copy of a run with other values in its manifest."""
    copied = RunDir(folder / "changed")
    shutil.copytree(run.path, copied.path)
    copied.update(**fields)
    return copied


BAD = {
    "another base": (
        lambda run, folder: [
            starting(changed(run, folder, base=run.read().base.model_copy(update={"fingerprint": "0" * 64})))
        ],
        "was trained on another base: lorans:nano",
    ),
    "unfinished": (
        lambda run, folder: [starting(changed(run, folder, status="interrupted"))],
        r"is not finished: the run is interrupted \(`lorans train .* --resume` finishes it\)",
    ),
    "no run": (lambda _run, folder: [f"model.init_adapter='{folder}'"], "is not a run directory: it has no manifest"),
    "nothing": (lambda _run, _folder: ["model.init_adapter=nowhere"], "no such run directory: .*nowhere"),
    "no base": (lambda _run, _folder: ["model.base_adapters=['nowhere']", "peft.method=lora"], "no such run directory"),
    "both": (
        lambda run, _folder: [starting(run), on_top_of(run)],
        "is also the `init_adapter`",
    ),
    "both, by other names": (
        lambda run, _folder: [starting(run), f"model.base_adapters=['{run.path}/../{run.path.name}']"],
        "is also named in `model.base_adapters`",
    ),
    "its own": (lambda run, _folder: [starting(run), f"training.output_dir='{run.path}'"], "already contains a run"),
    "another rank": (
        lambda run, _folder: [starting(run), "peft.lora_r=32"],
        r"peft.lora_r: the adapter of .* has 4, and the recipe says 32 \(remove it: the adapter decides\)",
    ),
    "another form": (lambda run, _folder: [starting(run), "peft.use_dora=true"], "has false, and the recipe says true"),
    "another method": (
        lambda run, _folder: [starting(run), "peft.method=ia3"],
        'has "lora", and the recipe says "ia3"',
    ),
    "an initialisation": (
        lambda run, _folder: [starting(run), "peft.init_lora_weights=pissa"],
        "`init_lora_weights` has no effect: the adapter is that of",
    ),
    "dropout": (lambda run, _folder: [starting(run), "peft.lora_dropout=0.1"], "the reference would differ by chance"),
    "new tokens": (
        lambda run, _folder: [starting(run), 'model.add_tokens=["<a>"]'],
        r"was trained with `add_tokens = \[\]`",
    ),
    "another template": (
        lambda run, _folder: [starting(run), "dpo.chat_template=mistral"],
        "was trained with another chat template",
    ),
    "few bits": (
        lambda run, _folder: [on_top_of(run), "peft.method=lora", "quantization.method=bnb-4bit"],
        "merging into weights of 4 bits would round them",
    ),
    "shards": (
        lambda run, _folder: [on_top_of(run), "peft.method=lora", "distributed.strategy=fsdp"],
        'the strategies "none" and "ddp" only, not with "fsdp"',
    ),
    "a changed base before it": (
        lambda run, folder: [on_top_of(run), f"model.init_adapter='{changed(run, folder).path}'"],
        "was trained on the base alone",
    ),
}


@pytest.mark.parametrize(("asked", "message"), BAD.values(), ids=BAD)
def test_a_wrong_start_is_one_message_before_the_run_is_created(tmp_path, sft, asked, message):
    (tmp_path / "new").mkdir()
    with pytest.raises(LoransError, match=message) as caught:
        run_from(tmp_path / "new", CONTINUED, *asked(sft, tmp_path))
    assert len([problem for problem in caught.value.problems if re.search(message, str(problem))]) == 1
    assert not (tmp_path / "new" / "run").exists()


def test_an_adapter_that_has_changed_is_refused(tmp_path, sft):
    copied = changed(sft, tmp_path)
    damage(copied.adapter / WEIGHTS)
    with pytest.raises(LoransError, match="is not the file that the run saved"):
        run_from(tmp_path / "new", CONTINUED, starting(copied))
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.parametrize("how", ["gone", "damaged", "replaced"])
def test_a_start_that_is_gone_at_resume_is_one_message(tmp_path, sft, dpo, how):
    run = changed(dpo[0], tmp_path, status="interrupted")
    if how == "gone":
        shutil.rmtree(run.start)
    else:
        damage(run.start / WEIGHTS)
    if how == "replaced":
        (run.start / "lorans.json").unlink()
    said = {"gone": "depends on is missing", "damaged": "SHA-256 differs", "replaced": "is not the adapter that"}[how]
    with pytest.raises(LoransError, match=said) as caught, Noise() as noise:
        resume(run, SilentObserver(), noise)
    assert len(caught.value.problems) == 1
    assert f"restore the copy of the adapter of {sft.path}" in str(caught.value)


def test_peft_comes_from_the_adapter_and_the_recipe_may_repeat_it(tmp_path, sft, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(CONTINUED)
    loaded = load_recipe(tmp_path / "recipe.toml", [starting(sft), "peft.lora_r=4"])
    assert loaded.recipe.peft == sft.read().recipe.peft
    assert [loaded.origin(f"peft.{key}") for key in ("method", "lora_r", "lora_alpha")] == [
        "init_adapter",
        "--set",
        "init_adapter",
    ]
