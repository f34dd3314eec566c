"""What spoils an adapter in silence elsewhere is stopped here by its own message, and passed by `--force` alone."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file, save_file
from services_recipes import CLASSES, RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import open_trained
from lora_ns.cli.app import app
from lora_ns.errors import LoransError, RunError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import packaged
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.merge import merge
from lora_ns.services.resume import resume


class FreezingTheHead(SilentObserver):
    def adapted(self, model):
        for name, parameter in model.named_parameters():
            if ".score." in name:
                parameter.requires_grad = False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            RECIPE.replace("[dataset]", 'target_modules = ["q_proj", "v_projj"]\n[dataset]'),
            "{recipe}:8: peft.target_modules: `v_projj` matches no module of LlamaForCausalLM (did you mean `v_proj` "
            "or `k_proj` or `o_proj`?)",
        ),
        (
            CLASSES,
            "the head `score` is frozen, so it would keep its random initialisation (train it with "
            '`modules_to_save = ["score"]`)',
        ),
    ],
    ids=["misspelled target", "frozen head"],
)
def test_a_run_that_would_train_the_wrong_thing_is_stopped(tmp_path, text, told):
    with pytest.raises(LoransError) as caught:
        run_recipe(tmp_path, text, observer=FreezingTheHead())
    assert (str(caught.value), caught.value.exit_code) == (told.format(recipe=tmp_path / "recipe.toml"), 2)
    assert (tmp_path / "run").exists() == ("head" in told)


def cut_file(run):
    with (run.adapter / WEIGHTS).open("r+b") as file:
        file.truncate(40)


def rename_keys(run):
    tensors = load_file(run.adapter / WEIGHTS)
    save_file({name.replace("layers", "layer"): value for name, value in tensors.items()}, run.adapter / WEIGHTS)


def change_weights(run):
    tensors = load_file(run.adapter / WEIGHTS)
    save_file({name: value + 0.001 for name, value in tensors.items()}, run.adapter / WEIGHTS)


def change_template(run):
    (run.adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def change_tokenizer(run):
    file = run.adapter / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=1))


def leave_base(run):
    """Another base of the same shape lies where the run's did."""
    other = run.path / "base"
    shutil.copytree(open_base(run), other)
    weights = {name: value + 0.001 for name, value in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", {"format": "pt"})


def open_base(run):
    return packaged(run.read().base.name)


LASTING = {
    "cut file": (
        cut_file,
        "{run}/adapter/adapter_model.safetensors: not a safetensors file: cut short, its header alone is longer than "
        "its 40 bytes (restore it, or train again)",
    ),
    "renamed keys": (
        rename_keys,
        "{run}/adapter/adapter_model.safetensors: not an adapter of this base: "
        "`base_model.model.model.layers.0.mlp.down_proj.lora_A.weight` is missing, and "
        "`base_model.model.model.layer.0.mlp.down_proj.lora_A.weight` has no place in the model (restore it, or use "
        "the base that it was trained on)",
    ),
}
"""What no `--force` mends."""
PASSED = {
    "other weights": (
        change_weights,
        "{run}/adapter/adapter_model.safetensors: is not the file that the run saved",
        "restore it, or load the changed adapter with PEFT instead of lorans",
    ),
    "other base": (
        leave_base,
        "{run}/base: this is not the base that the adapter was trained on (lorans:nano, {base})",
        "restore it, or give the right folder with `--base`",
    ),
    "other template": (
        change_template,
        "{run}/adapter: this is not the chat template that the run was trained with",
        "restore chat_template.jinja",
    ),
    "other tokenizer": (
        change_tokenizer,
        "{run}/adapter/tokenizer.json: this is not the tokenizer that the run was trained with",
        "restore it",
    ),
}


def change(name, **values):
    def plant(run):
        file = run.adapter / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return plant


PASSED |= {
    "other end token": (
        change("tokenizer_config.json", eos_token="a"),
        "{run}/adapter/tokenizer_config.json: is not the file that the run saved",
        "restore it",
    ),
    "other generation settings": (
        change("generation_config.json", eos_token_id=[7]),
        "{run}/adapter/generation_config.json: is not the file that the run saved",
        "restore it",
    ),
    "a file that was added": (
        lambda run: (run.adapter / "added_tokens.json").write_text("{}"),
        "{run}/adapter/added_tokens.json: is not a file that the run saved",
        "remove it",
    ),
}


@pytest.fixture
def faulty(lora_run, tmp_path):
    def plant(fault):
        run = RunDir(tmp_path / "copy")
        shutil.copytree(lora_run.path, run.path)
        fault(run)
        base = run.path / "base"
        return run, base if base.exists() else None

    return plant


def filled(text, run):
    return text.format(run=run.path, base=run.read().base.fingerprint[:12])


@pytest.mark.parametrize("name", [*LASTING, *PASSED])
def test_a_run_that_is_not_what_it_was_is_refused(faulty, tmp_path, name):
    plant, told, *remedy = LASTING.get(name) or PASSED[name]
    run, base = faulty(plant)
    told += f" ({remedy[0]}; use `--force` to continue anyway)" if remedy else ""
    for use in (lambda: open_trained(run, base), lambda: merge(run, tmp_path / "merged", base)):
        with pytest.raises(LoransError) as caught:
            use()
        assert (str(caught.value), caught.value.exit_code) == (filled(told, run), 2)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", [*LASTING, *PASSED])
def test_force_goes_past_what_can_be_used_and_says_so(faulty, tmp_path, name):
    plant, told, *remedy = LASTING.get(name) or PASSED[name]
    run, base = faulty(plant)
    more = ["--force", *(["--base", str(base)] if base else [])]
    asked = ["infer", str(run.path), "-i", "Spell plum."]
    merged = ["merge", str(run.path), "-o", str(tmp_path / "merged")]
    for command in (asked, merged) if name == "other base" else (asked,):
        done = CliRunner().invoke(app, [*command, *more])
        if remedy:
            assert (done.exit_code, done.stderr) == (0, f"warning: {filled(told, run)}\n")
        else:
            assert str(done.exception) == filled(told, run)


def test_a_run_is_not_resumed_with_another_tokenizer(faulty):
    run, _ = faulty(open_base)
    manifest = run.read()
    run.update(status="interrupted", base=manifest.base.model_copy(update={"tokenizer_fingerprint": "0"}))
    with pytest.raises(LoransError, match=r"the base's tokenizer is not the one .* \(restore it, or start a new run\)"):
        resume(run, SilentObserver(), None)


def test_a_readme_and_notes_beside_an_adapter_change_nothing(faulty):
    run, _ = faulty(lambda run: [(run.adapter / name).write_text("mine") for name in ("README.md", "notes.txt")])
    assert open_trained(run).manifest.run_id == run.read().run_id


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_merge_reads_the_generation_settings_before_its_work(faulty, tmp_path, content):
    def plant(run):
        file = run.adapter / "generation_config.json"
        file.unlink() if content is None else file.write_text(content)

    run, _ = faulty(plant)
    for force, told in ((REFUSED, "is missing" if content is None else "is not the file"), (Force(print), "cannot be")):
        with pytest.raises(LoransError) as caught:
            merge(run, tmp_path / "merged", force=force)
        assert str(caught.value).startswith(f"{run.adapter}/generation_config.json: {told}")
    assert not (tmp_path / "merged").exists()


def test_a_run_that_is_moved_while_it_trains_ends_with_a_message_and_nothing_begins_in_its_place(tmp_path):
    class Mover(SilentObserver):
        def step(self, step, tokens):
            if step == 2:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    with pytest.raises(RunError, match="run: was removed or moved during training"):
        run_recipe(
            tmp_path,
            RECIPE,
            *("training.save_steps=3", "training.eval_steps=6", "training.logging_steps=6"),
            observer=Mover(),
        )
    assert not (tmp_path / "run").exists()
    assert RunDir.open(tmp_path / "elsewhere").read().status == "running"
