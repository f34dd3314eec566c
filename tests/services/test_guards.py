"""The last comparisons before a model is handed over: one that answers otherwise is never passed on."""

import pytest

pytest.importorskip("torch")

import torch

import lora_ns.services.merge
from lora_ns.answers.opened import open_trained
from lora_ns.errors import RunError
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.units import Adapted
from lora_ns.model.saved_adapter import put_in_place
from lora_ns.services.merge import merge
from lora_ns.training.seal import Seal


def nudge(model):
    """Change one trained matrix, after the model was asked."""
    put_in_place(model)
    with torch.no_grad():
        name = next(name for name, _ in model.named_parameters() if "lora_B" in name)
        model.get_parameter(name).add_(0.1)


def needs_whole_model(*_):
    raise WholeModelError("it is tested")


def nudge_module(unit):
    unit.module.merge()
    unit.owner.weight.data.add_(0.1)


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_merged_model_that_answers_otherwise_is_not_written(lora_run, tmp_path, monkeypatch, is_whole):
    if is_whole:
        monkeypatch.setattr(lora_ns.services.merge, "_check_streams", needs_whole_model)
    monkeypatch.setattr(lora_ns.services.merge, "put_in_place", nudge)
    monkeypatch.setattr(Adapted, "merge", nudge_module)
    with pytest.raises(RunError, match="the merged model differs from the adapter by") as caught:
        merge(lora_run, tmp_path / "merged")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "merged").exists()


def test_a_saved_adapter_that_answers_otherwise_fails_the_run(lora_run):
    import datasets

    trained = open_trained(lora_run)
    rows = datasets.Dataset.from_list([{"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 1, 1]}])
    seal = Seal(trained.manifest, trained.model, rows, trained.tokenizer, trained.model.device)
    assert seal.check(lora_run).largest_difference == 0
    nudge(trained.model)
    other = Seal(trained.manifest, trained.model, rows, trained.tokenizer, trained.model.device)
    with pytest.raises(RunError, match="the saved adapter's logits differ from the trained model's, by"):
        other.check(lora_run)
