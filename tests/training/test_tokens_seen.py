"""Tokens are counted as transformers counts them, whenever their numbers reach the host."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from late import LateByTwo

from lora_ns.training.later import Later
from lora_ns.training.tokens_seen import counting_tokens


class Trainer:
    """What `counting_tokens` extends."""

    def __init__(self):
        self.state = SimpleNamespace(num_input_tokens_seen=5)
        self.accelerator = SimpleNamespace(gather=lambda value: torch.cat([value, value]))  # two equal processes
        self.logged = []

    def log(self, _logs, _start_time=None):
        self.logged.append(self.state.num_input_tokens_seen)

    def _save_checkpoint(self, _model, _trial):
        self.logged.append(self.state.num_input_tokens_seen)


def batch(rows, length, padding):
    ids = torch.ones(rows, length, dtype=torch.long)
    mask = ids.clone()
    mask[0, length - padding :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", [Later, LateByTwo])
def test_everything_is_counted_before_it_is_logged_or_saved(kind, monkeypatch):
    monkeypatch.setattr("lora_ns.training.tokens_seen.Later", kind)
    trainer = counting_tokens(Trainer)()
    for padding in (3, 0, 4):
        trainer._track_num_input_tokens(batch(2, 10, padding))
    trainer.log({})
    trainer._track_num_input_tokens({"input_ids": torch.ones(1, 7, dtype=torch.long)})  # packed
    trainer._track_num_input_tokens({"pixel_values": torch.ones(1)})
    trainer._track_num_input_tokens([{"prompt": "completed while training"}])
    trainer._save_checkpoint(None, None)
    assert trainer.logged == [5 + 2 * (60 - 7), 5 + 2 * (60 - 7 + 7)]
    assert trainer.padding() == {"padding": round(7 / 67, 4)}


def test_rows_without_padding_have_no_such_metric():
    trainer = counting_tokens(Trainer)()
    trainer._track_num_input_tokens(batch(2, 10, 0))
    assert trainer.padding() == {}
