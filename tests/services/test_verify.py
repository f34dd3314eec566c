"""A folder beside the trained model: each planted fault is found at its stage."""

import json
import shutil
import warnings

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from services_recipes import RECIPE
from typer.testing import CliRunner

import lora_ns.answers.larger_models
from lora_ns.answers.opened import load, open_run
from lora_ns.answers.probes import read_probes
from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.machine.libraries import Noise
from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.services.merge import merge
from lora_ns.services.verify import verify


@pytest.fixture(scope="module")
def folders(lora_run, tmp_path_factory):
    """The run's adapter, and the merged model in several files."""
    folder = tmp_path_factory.mktemp("artefacts")
    shutil.copytree(lora_run.adapter, folder / "adapter")
    merge(lora_run, folder / "merged", dtype="float32", max_shard_size="300KB")
    return folder


def change_json(file, **changed):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def change_tensor(folder, name, change):
    """Change a tensor in whichever file it is."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            tensors[name] = change(tensors[name]).contiguous()
            save_file(tensors, file, metadata={"format": "pt"})


def bos_twice(folder):
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text())
    first = table["added_tokens"][0]
    token = {"SpecialToken": {"id": first["content"], "type_id": 0}}
    special = {first["content"]: {"id": first["content"], "ids": [first["id"]], "tokens": [first["content"]]}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    table["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [token, token, text],
        "pair": [token, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }
    file.write_text(json.dumps(table))


def other_template(folder):
    file = folder / "chat_template.jinja"
    file.write_text(f"Hello. {file.read_text()}")


def without_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def stale_consolidated(folder):
    shutil.copy(sorted(folder.glob("model-*.safetensors"))[0], folder / "consolidated.safetensors")


LAYER = "model.layers.0.self_attn.q_proj.weight"
FAULTS = {
    "two tokens of the beginning": ("token ids", bos_twice),
    "another stop": ("stop tokens", lambda folder: change_json(folder / "generation_config.json", eos_token_id=1)),
    "another alpha": ("logits", lambda folder: change_json(folder / "adapter_config.json", lora_alpha=1)),
    "a transposed weight": ("logits", lambda folder: change_tensor(folder, LAYER, lambda value: value.T)),
    "an overflow": ("logits", lambda folder: change_tensor(folder, LAYER, lambda value: value * 1e38 * 1e38)),
    "another template": ("template", other_template),
    "a missing shard": ("files", without_a_shard),
    "stale weights": ("files", stale_consolidated),
    "other sampling": ("sampling", lambda folder: change_json(folder / "generation_config.json", temperature=0.3)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_stage(lora_run, folders, tmp_path, name):
    stage, plant = FAULTS[name]
    shutil.copytree(folders / ("adapter" if name == "another alpha" else "merged"), tmp_path / "folder")
    plant(tmp_path / "folder")
    proof = verify(open_run(lora_run), tmp_path / "folder")
    assert not proof.is_verified
    assert (proof.first.name, bool(proof.first.fault)) == (stage, True)


@pytest.mark.parametrize("name", ["adapter", "merged"])
def test_a_sound_folder_is_verified(lora_run, folders, name):
    proof = verify(open_run(lora_run), folders / name)
    assert [stage for stage in proof.stages if not stage.is_same] == []
    assert [stage.name for stage in proof.stages] == [
        *("files", "template", "token ids", "stop tokens", "sampling", "logits", "greedy tokens")
    ]
    assert proof.frozen
    assert proof.comparison.probes >= 16
    assert proof.comparison.largest_difference < 1e-5


def test_a_run_without_probes_is_asked_itself(lora_run, folders, tmp_path):
    run = RunDir(shutil.copytree(lora_run.path, tmp_path / "run"))
    probes, replies = read_probes(run.probes)
    run.probes.unlink()
    proof = verify(open_run(run), folders / "merged")
    assert (proof.is_verified, proof.frozen) == (True, False)
    assert proof.comparison.probes == len(probes) == len(replies)


class Stages:
    """An observer that keeps the stages."""

    def __init__(self):
        self.told = []

    def stage(self, told):
        self.told.append(told)


@pytest.mark.parametrize("name", ["adapter", "merged"])
def test_a_model_larger_than_memory_is_read_layer_by_layer(lora_run, folders, tmp_path, monkeypatch, name):
    run = RunDir(shutil.copytree(lora_run.path, tmp_path / "run"))
    run.probes.unlink()  # so that the run itself is asked, too
    whole = verify(open_run(run), folders / name)
    observer, needed = Stages(), 4 * run.read().base.parameters
    monkeypatch.setattr(lora_ns.answers.larger_models, "free_bytes", lambda _: needed)
    layered = verify(open_run(run), folders / name, observer)
    assert observer.told.count("larger than free memory: reading it layer by layer") == 2
    assert layered.stages == whole.stages
    assert layered.comparison.largest_difference == pytest.approx(whole.comparison.largest_difference, abs=1e-6)
    monkeypatch.setattr(lora_ns.answers.larger_models, "free_bytes", lambda _: 2 * needed)
    verify(open_run(run), folders / name, observer := Stages())
    assert not any("larger" in told for told in observer.told)


def test_a_planted_fault_is_found_layer_by_layer(lora_run, folders, tmp_path, monkeypatch):
    shutil.copytree(folders / "merged", tmp_path / "folder")
    FAULTS["a transposed weight"][1](tmp_path / "folder")
    monkeypatch.setattr(lora_ns.answers.larger_models, "free_bytes", lambda _: 1)
    assert verify(open_run(lora_run), tmp_path / "folder").first.name == "logits"


def test_what_cannot_be_read_layer_by_layer_is_read_as_a_whole(lora_run, folders, monkeypatch):
    def refuse(*_):
        raise WholeModelError("it is tested")

    monkeypatch.setattr(lora_ns.answers.larger_models, "free_bytes", lambda _: 1)
    monkeypatch.setattr(lora_ns.answers.larger_models, "load_by_layer", refuse)
    assert verify(open_run(lora_run), folders / "merged", observer := Stages()).is_verified
    assert "larger than free memory, and still read as a whole, because it is tested" in observer.told


def test_a_classifier_larger_than_memory_is_read_layer_by_layer(classifier_run, tmp_path, monkeypatch):
    merge(classifier_run, tmp_path / "merged", dtype="float32")
    monkeypatch.setattr(lora_ns.answers.larger_models, "free_bytes", lambda _: 1)
    assert verify(open_run(classifier_run), tmp_path / "merged", observer := Stages()).is_verified
    assert "larger than free memory: reading it layer by layer" in observer.told


def test_damaged_probes_are_named(lora_run, folders, tmp_path):
    run = RunDir(shutil.copytree(lora_run.path, tmp_path / "run"))
    run.probes.write_bytes(run.probes.read_bytes()[:40])
    with pytest.raises(UsageError, match="delete it; the run itself is then asked again"):
        verify(open_run(run), folders / "merged")


def test_a_folder_with_nothing_to_compare_is_refused(lora_run, tmp_path):
    with pytest.raises(UsageError, match=r"has neither adapter_config\.json nor config\.json"):
        verify(open_run(lora_run), tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        verify(open_run(lora_run), tmp_path / "none")


@pytest.mark.parametrize(("planted", "code"), [(False, 0), (True, 1)])
def test_the_command_ends_with_the_verdict(lora_run, folders, tmp_path, planted, code):
    shutil.copytree(folders / "adapter", tmp_path / "folder")
    if planted:
        change_tensor(tmp_path / "folder", next(iter(load_file(tmp_path / "folder" / WEIGHTS))), torch.zeros_like)
    arguments = ["verify", str(tmp_path / "folder"), "--against", str(lora_run.path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == code
    assert ("verified" in done.output) == (not planted)
    assert ("differs in logits" in done.output) == planted


def test_a_model_that_was_merged_in_four_bits_is_noticed(trained, tmp_path):
    run = trained(RECIPE, "quantization.method=bnb-4bit", "training.max_steps=2", "training.output_dir=short")
    merge(run, tmp_path / "merged", dtype="float32")
    assert verify(open_run(run), tmp_path / "merged").is_verified
    with Noise(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT warns of exactly this
        wrong = load(open_run(run)).model.merge_and_unload().dequantize().float()
    for name in wrong.state_dict():
        change_tensor(tmp_path / "merged", name, lambda _, name=name: wrong.state_dict()[name])
    proof = verify(open_run(run), tmp_path / "merged")
    assert proof.first.name == "logits"
