"""Every well-known architecture: the right layers are adapted, the head is trained and saved, padding moves nothing."""

import json

import pytest

pytest.importorskip("torch")

import torch
from architectures import ALL, CAUSAL, ENCODERS, write_architecture
from services_recipes import CLASSES, class_rows
from trap_runs import RECIPE, chat, run, write_rows

from lora_ns.answers.label import logits
from lora_ns.answers.opened import open_trained
from lora_ns.data.rows import Row
from lora_ns.model.modules import expert_notes
from lora_ns.recipe.generation import Generation
from lora_ns.run.observer import SilentObserver
from lora_ns.services.infer import infer, prompts

TEXT = RECIPE.replace("max_steps = 1", "max_steps = 2\nwarmup_steps = 0").replace("= 256", "= 64")
LABELS = (
    CLASSES.replace("lorans:nano", "base")
    .replace("classes.jsonl", "rows.jsonl")
    .replace("max_steps = 30\nsave_steps = 30\neval_steps = 30", "max_steps = 2\nwarmup_steps = 0")
)
TAGS = LABELS.replace("SEQ_CLS", "TOKEN_CLS")
CHATS = [chat("plum " * number, "falls") for number in (1, 2, 3, 5)]
TAGGED = [
    {"tokens": words, "tags": ["X" if word.isupper() else "O" for word in words]}
    for words in (["plum"], ["PLUM", "falls"], ["a", "PLUM", "falls", "far"], ["STONE"])
]


class Watched(SilentObserver):
    """One training: what moved in it, and how it was adapted."""

    def __init__(self, folder):
        self._folder = folder

    def __call__(self, name, text, rows, *overrides):
        if not (self._folder / "base").exists():
            write_architecture(self._folder, name)
        write_rows(self._folder, rows)
        self.run = run(self._folder, *overrides, text=text, observer=self)
        self.config = json.loads((self.run.adapter / "adapter_config.json").read_text())
        return self

    def adapted(self, model):
        self.begun = {name: value.detach().clone() for name, value in model.named_parameters()}

    def saving(self, model, tokenizer):
        now = dict(model.named_parameters())
        self.moved = {name for name, value in self.begun.items() if not torch.equal(now[name], value)}
        self.trained = {name for name, value in now.items() if value.requires_grad}


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def ends(names):
    return {name.rpartition(".")[2] for name in names}


def whole(watched):
    """The modules that are trained whole, by the last part of their names."""
    found = [name.partition(".modules_to_save")[0] for name in watched.trained if "modules_to_save" in name]
    return ends(found)


def check_padding(trained, rows):
    """Inputs of several lengths, padded together, give what each gives alone."""
    together = logits(trained, rows)
    for row, found in zip(rows, together, strict=True):
        length = len(row["input_ids"])
        alone = logits(trained, [row])[0]
        shown = found[:length] if found.ndim == 2 else found
        assert torch.allclose(shown, alone, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_text_is_trained_on_the_right_layers_and_padding_moves_nothing(watched, name):
    watched(name, TEXT, CHATS)
    assert ends(watched.config["target_modules"]) == set(ALL[name].targets)
    assert watched.moved == watched.trained
    assert all("lora_" in part for part in watched.moved)
    trained = open_trained(watched.run)
    assert trained.manifest.plan.attn_implementation.value == ALL[name].attention
    assert all(expert in "".join(expert_notes(trained.model)) for expert in ALL[name].experts)
    assert bool(expert_notes(trained.model)) == bool(ALL[name].experts)
    rows = [Row("here", row) for row in CHATS]
    check_padding(trained, [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in prompts(trained, rows)])
    answers = [infer(trained, rows, Generation(max_new_tokens=4, batch_size=size)).rows for size in (1, 4)]
    assert answers[0] == answers[1]


CLASSIFIERS = (*ENCODERS, "llama", "gpt2", "gemma2", "opt", "mixtral")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_trained_with_its_head_and_padding_moves_nothing(watched, name):
    watched(name, LABELS, class_rows())
    assert ends(watched.config["target_modules"]) == set(ALL[name].targets)
    check_classifier(watched, set(ALL[name].head))


def check_classifier(watched, head):
    assert watched.moved == watched.trained
    assert whole(watched) == head
    trained = open_trained(watched.run)
    assert trained.manifest.seal.largest_difference < 1e-6
    assert trained.model.config.pad_token_id == trained.tokenizer.pad_token_id
    texts = ("plum", "PLUM falls", "a plum that falls far")
    check_padding(trained, [dict(trained.tokenizer(text)) for text in texts])


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name].word_head])
def test_words_are_tagged_with_a_head_and_padding_moves_nothing(watched, name):
    watched(name, TAGS, TAGGED)
    assert ends(watched.config["target_modules"]) == set(ALL[name].targets)
    check_classifier(watched, set(ALL[name].word_head))


@pytest.mark.parametrize("name", ["distilbert", "bert", "deberta-v2", "modernbert"])
def test_virtual_tokens_leave_no_part_of_a_new_head_to_chance(watched, name):
    watched(name, LABELS, class_rows(), "peft.method=prompt-tuning")
    assert whole(watched) == set(ALL[name].head)
    assert open_trained(watched.run).manifest.seal.largest_difference < 1e-6
