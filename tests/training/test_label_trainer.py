"""The head of a classifier before its first step."""

import pytest

pytest.importorskip("peft")

import datasets
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig, RobertaConfig

from lora_ns.training.label_head import begin_at_mean

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
    "num_labels": 1,
    "pad_token_id": 0,
}
ROWS = datasets.Dataset.from_dict({"labels": [4.0, 5.0, 9.0]})


def scorer(config):
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(config)
    return get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig])
def test_a_new_head_begins_with_the_mean_score(kind):
    model = scorer(kind(**SIZES)).eval()
    before = {name: value.clone() for name, value in model.named_parameters()}
    begin_at_mean(model, ROWS)
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) == 1
    assert ".modules_to_save." in changed[0]
    assert changed[0].endswith(".bias")
    with torch.no_grad():
        scores = model(input_ids=torch.arange(2, 26).reshape(4, 6)).logits
    assert (scores - 6.0).abs().max() < 1.5


def test_a_head_without_a_bias_is_left_as_it_is():
    model = scorer(LlamaConfig(**SIZES))
    before = {name: value.clone() for name, value in model.named_parameters()}
    begin_at_mean(model, ROWS)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_rows_of_a_stream_are_not_read_before_the_first_step():
    def unread():
        pytest.fail("the stream was read")
        yield {}

    model = scorer(BertConfig(**SIZES))
    before = {name: value.clone() for name, value in model.named_parameters()}
    begin_at_mean(model, datasets.IterableDataset.from_generator(unread))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
