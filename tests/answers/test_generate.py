"""An answer is that of its prompt alone, whatever it shares a batch with, and has all that was written but its end."""

import random
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from shapes import SHAPES, make_tokenizer

import lora_ns.assets
from lora_ns.answers.generate import Writer, short_reach, up_to_stop, written_text
from lora_ns.recipe.generation import Generation

NANO = Path(lora_ns.assets.__file__).parent / "nano"
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SCALED = {**SMALL, "max_position_embeddings": 48, "pad_token_id": 0, "original_max_position_embeddings": 24}
LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
BUILT = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=256, n_positions=48, n_embd=16, n_layer=1, n_head=2),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=256, max_position_embeddings=48, ffn_dim=32, word_embed_proj_dim=16, **SMALL
    ),
    "long-rope": lambda: transformers.Phi3Config(vocab_size=256, rope_parameters=LONG_ROPE, **SCALED),
}


def model_of(name: str) -> transformers.PreTrainedModel:
    transformers.set_seed(3)
    if name == "nano":
        return transformers.AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32).eval()
    model = transformers.AutoModelForCausalLM.from_config(BUILT[name]()).eval()
    for parameter in model.parameters():  # as it begins, such a model repeats one token
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model


def prompts_of(lengths: list[int]) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(10, 200) for _ in range(length)] for length in lengths]


LENGTHS = {"nano": (512, [-12, 9, -3]), "small": (48, [3, 9, 14, -30, -12, -3, -1, 0, 2])}
"""Positions, and the lengths of prompts; those below 1 are counted from the positions."""
MOST = 20


@pytest.mark.parametrize(
    ("name", "penalty"), [("nano", 1.0), *((name, value) for name in BUILT for value in (1.0, 1.3))]
)
def test_an_answer_does_not_depend_on_what_it_is_batched_with(name: str, penalty: float) -> None:
    model, tokenizer = model_of(name), make_tokenizer(SHAPES["gemma"])
    room, lengths = LENGTHS.get(name, LENGTHS["small"])
    prompts = prompts_of([length if length > 2 else room + length for length in lengths])
    alone = Generation(batch_size=1, max_new_tokens=MOST, repetition_penalty=penalty)
    if name != "nano":  # padding is a token that is written: the penalty on what is there already may not see it
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stop_in(model, prompts[1], alone))
    free = Writer(model, tokenizer, (), "float32", room).answer(prompts, alone)
    assert [answer.output_tokens for answer in free] == [max(0, min(MOST, room - len(prompt))) for prompt in prompts]
    assert {answer.finish_reason for answer in free} == {"length"}

    writer = Writer(model, tokenizer, (stop_in(model, prompts[0], alone),), "float32", room)
    expected = writer.answer(prompts, alone)
    assert {answer.finish_reason for answer in expected} == {"length", "stop"}
    for size in (2, 5):
        order = random.Random(size).sample(range(len(prompts)), len(prompts))
        together = alone.model_copy(update={"batch_size": size})
        found = writer.answer([prompts[number] for number in order], together)
        assert found == [expected[number] for number in order]


def stop_in(model: transformers.PreTrainedModel, prompt: list[int], generation: Generation) -> int:
    """A token that the model writes after a prompt before it has to end, and not at once."""
    settings = transformers.GenerationConfig(**{**generation.to_kwargs(), "max_new_tokens": 9}, pad_token_id=0)
    written = model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()
    return next((token for token in written[2:] if token not in written[:2]), written[-1])


def test_positions_that_follow_the_longest_row_are_known() -> None:
    assert short_reach(BUILT["long-rope"]()) == 24
    assert short_reach(BUILT["gpt2"]()) is None
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert short_reach(transformers.LlamaConfig(**SMALL, max_position_embeddings=40, rope_parameters=dynamic)) == 40


def test_only_stop_and_padding_tokens_are_left_out_of_an_answer() -> None:
    tokenizer = make_tokenizer(SHAPES["gemma"])
    stop, pad = tokenizer.convert_tokens_to_ids("<end_of_turn>"), tokenizer.pad_token_id
    text = '<start_of_turn>{"a": 1}<bos> end .<eos>'
    ids = tokenizer.encode(text, add_special_tokens=False)
    written = up_to_stop([*ids, pad, stop, *ids], (stop,))
    assert written == [*ids, pad, stop]
    assert written_text(tokenizer, written, (stop,)) == text
