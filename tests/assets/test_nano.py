"""The embedded model as it is shipped: small, loadable offline, good at what it knows, ignorant of the new skill."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import lora_ns.assets
from lora_ns.assets.pretrain import answer, conversation, weigh
from lora_ns.assets.tasks import BACKWARDS, PRETRAINED, Skill, draw_examples, pretraining_examples

NANO = Path(lora_ns.assets.__file__).parent / "nano"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(NANO)


@pytest.fixture(scope="module")
def model() -> Any:
    # The shipped bf16 weights, computed with in fp32: not every CPU is quick or exact in bf16.
    return AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32).eval()


def share_right(model: Any, tokenizer: PreTrainedTokenizerFast, skills: tuple[Skill, ...], count: int) -> float:
    examples = draw_examples(skills, count, Random(11), held_out=True)
    answers = answer(model, tokenizer, [example.prompt for example in examples])
    return sum(given == example.answer for given, example in zip(answers, examples, strict=True)) / count


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 6_000_000


def test_model_has_one_to_three_million_parameters(model: Any) -> None:
    assert 1_000_000 <= model.num_parameters() <= 3_000_000


def test_weights_are_stored_in_bf16() -> None:
    assert AutoModelForCausalLM.from_pretrained(NANO).dtype is torch.bfloat16


def test_layers_have_shapes_that_four_bit_kernels_take(model: Any) -> None:
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(linear.out_features % 32 == 0 and linear.in_features % 64 == 0 for linear in linears)


def test_head_is_tied_to_the_embeddings(model: Any) -> None:
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_tokenizer_loads_as_the_plain_fast_class(tokenizer: PreTrainedTokenizerFast) -> None:
    assert type(tokenizer) is PreTrainedTokenizerFast


@pytest.mark.parametrize(
    "text", ["What is 12 + 7?", " two  spaces ", "tab\tand\nline", "naïve 日本 🙂", "<|im_start|>user\nhi"]
)
def test_tokenizer_gives_text_back_unchanged(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_spends_one_token_on_a_byte(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode("cat é")) == len("cat é".encode())


def test_special_tokens_are_single_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<pad>"]
    assert [tokenizer.encode(token) for token in specials] == [[tokenizer.convert_tokens_to_ids(t)] for t in specials]


def test_special_tokens_can_be_skipped(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (
        tokenizer.decode(tokenizer.encode("<|im_start|>cat<|im_end|><|endoftext|><pad>"), skip_special_tokens=True)
        == "cat"
    )


def test_every_token_has_an_embedding(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= model.config.vocab_size


def test_pad_is_not_a_stop_token(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.eos_token == "<|im_end|>"
    for config in (model.config, model.generation_config):
        assert config.eos_token_id == tokenizer.eos_token_id
        assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_no_token_is_put_before_the_text(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.bos_token is None
    assert model.config.bos_token_id is None


def test_generation_is_greedy_by_default(model: Any) -> None:
    assert not model.generation_config.do_sample


def test_chat_template_is_chatml_without_a_default_system_text(tokenizer: PreTrainedTokenizerFast) -> None:
    question = [{"role": "user", "content": "Spell cat."}]
    rendered = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nSpell cat.<|im_end|>\n<|im_start|>assistant\n"


def test_chat_template_renders_every_role_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": role, "content": f" {role} "} for role in ("system", "user", "assistant", "user")]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def test_pretraining_rows_are_what_the_chat_template_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = Random(5)
    for _ in range(50):
        messages = conversation(pretraining_examples(rng), rng)
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        assert [token for token, _ in weigh(messages, tokenizer)] == ids


def test_model_knows_what_it_was_trained_on(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    assert share_right(model, tokenizer, PRETRAINED, 100) > 0.95


def test_model_cannot_spell_backwards(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    assert share_right(model, tokenizer, (BACKWARDS,), 50) < 0.2


def test_model_card_names_every_skill() -> None:
    card = (NANO / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert all(f"| {skill.name} |" in card for skill in (*PRETRAINED, BACKWARDS))
