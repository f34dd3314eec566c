"""Several runs in one model: PEFT combines their adapters, whatever method each was trained with."""

import json

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

import lora_ns.services.combine
import lora_ns.services.export
from lora_ns.answers.opened import load
from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import ASSETS
from lora_ns.services.combine import METHODS, UNPRUNED, Combination, combine


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run whose scale PEFT's combinations do not know, and with another rank."""
    settings = ("peft.use_rslora=true", "peft.lora_r=4", "training.seed=7", "training.max_steps=2")
    return run_recipe(tmp_path_factory.mktemp("other"), RECIPE, *settings)


def merge(folder, *words):
    arguments = [str(word) for word in ("merge", *words, "-o", folder, "--dtype", "float32", "--json")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), load_file(folder / "model.safetensors")


def test_cat_adds_the_updates_exactly(lora_run, other, tmp_path):
    base = load_file(ASSETS / "nano/model.safetensors")
    (_, one), (_, two) = (merge(tmp_path / run.path.parent.name, run.path) for run in (lora_run, other))
    result, both = merge(tmp_path / "both", lora_run.path, "--with", other.path, "--weights", "0.7,-0.3")
    assert result["combined"] == f"0.7 x {lora_run.path} + -0.3 x {other.path}, by cat"
    assert (result["verified"], result["proof"]["frozen"], result["proof"]["bound"]) == (True, False, 1e-4)
    assert "is here the combination of runs: 0.7 x" in (tmp_path / "both/README.md").read_text()
    for name, value in both.items():
        start = base[name].float()
        expected = start + 0.7 * (one[name] - start) - 0.3 * (two[name] - start)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_runs_of_lora_are_combined_without_the_weights_of_the_base(lora_run, other, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the base is loaded")

    both = Combination((lora_run, other), (0.5, 0.5))
    monkeypatch.setattr(lora_ns.services.export, "load", refuse)
    monkeypatch.setattr(lora_ns.services.combine, "load_base", refuse)
    (tmp_path / "found").mkdir()
    found = load_file(combine(both, tmp_path / "found") / WEIGHTS)
    monkeypatch.undo()
    monkeypatch.setattr(lora_ns.services.combine, "load_layers", load)
    monkeypatch.setattr(lora_ns.services.combine, "has_skeleton", lambda _: False)
    (tmp_path / "whole").mkdir()
    whole = load_file(combine(both, tmp_path / "whole") / WEIGHTS)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], value) for name, value in whole.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_peft_is_there(lora_run, other, tmp_path, method):
    density = [] if method in UNPRUNED else ["--density", "0.9"]
    result, merged = merge(tmp_path / "both", lora_run.path, "--with", other.path, "--method", method, *density)
    assert result["combined"].endswith(f"by {method}")
    assert all(value.isfinite().all() for value in merged.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--weights", "1"), "--weights: has no effect on a single run"),
        (("--with", "OTHER", "--weights", "1"), "`1` is not 2 numbers"),
        (("--with", "OTHER", "--weights", "1,nan"), "`1,nan` is not 2 numbers"),
        (("--with", "OTHER", "--method", "tie"), "did you mean `ties`"),
        (("--with", "OTHER", "--density", "0.5"), "--density: has no effect with `--method cat`"),
        (("--with", "CLASSES"), "is a run of `SEQ_CLS`"),
    ],
)
def test_what_cannot_be_combined_is_named(lora_run, other, classifier_run, tmp_path, words, told):
    places = {"OTHER": other.path, "CLASSES": classifier_run.path}
    with pytest.raises(UsageError, match=told):
        merge(tmp_path / "out", lora_run.path, *(places.get(word, word) for word in words))
    assert not (tmp_path / "out").exists()
