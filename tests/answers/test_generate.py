"""An answer is that of its prompt alone, whatever it shares a batch with, and has all that was written but its end."""

import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from shapes import SHAPES, make_tokenizer

import lora_ns.assets
from lora_ns.answers.generate import Writer, like_lengths, short_reach, up_to_stop, written_text
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
    penalty = generation.repetition_penalty
    settings = transformers.GenerationConfig(max_new_tokens=9, repetition_penalty=penalty, pad_token_id=0)
    written = model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()
    return next((token for token in written[2:] if token not in written[:2]), written[-1])


@pytest.mark.parametrize("name", ["nano", *BUILT])
def test_what_is_sampled_depends_on_the_prompt_alone(name: str) -> None:
    model, tokenizer = model_of(name), make_tokenizer(SHAPES["gemma"])
    room, lengths = LENGTHS.get(name, LENGTHS["small"])
    prompts = prompts_of([length if length > 2 else room + length for length in lengths])
    prompts += [prompts[1], prompts[1]]  # asked three times
    alone = Generation(batch_size=1, max_new_tokens=MOST, do_sample=True, temperature=1.3, top_p=0.95, seed=3)
    writer = Writer(model, tokenizer, (stop_in(model, prompts[0], alone),), "float32", room)
    expected = writer.answer(prompts, alone)
    torch.manual_seed(11)
    for change in ({"batch_size": 2}, {"batch_size": 5}, {"batch_size": 9, "max_batch_tokens": 90}):
        together = alone.model_copy(update=change)
        assert writer.answer(prompts, together) == expected
        order = random.Random(5).sample(range(len(prompts) - 2), len(prompts) - 2)
        assert writer.answer([prompts[number] for number in order], together) == [expected[number] for number in order]
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(11)).item(), "nothing drawn"
    assert len({answer.text for answer in (expected[1], *expected[-2:])}) > 1
    other = writer.answer(prompts, alone.model_copy(update={"seed": 4}))
    assert [answer.text for answer in other] != [answer.text for answer in expected]
    assert writer.answer(prompts[:2], alone.model_copy(update={"top_k": 1})) == writer.answer(
        prompts[:2], alone.model_copy(update={"do_sample": False})
    )


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    model, tokenizer = model_of("gpt2"), make_tokenizer(SHAPES["gemma"])
    (prompt,), count = prompts_of([5]), 2000
    settings = Generation(batch_size=500, max_new_tokens=1, do_sample=True, temperature=2.0, top_k=6, top_p=0.9)
    writer = Writer(model, tokenizer, (), "float32", 48)
    draws = [writer.write([prompt] * 500, settings, range(start, start + 500)) for start in range(0, count, 500)]
    found = Counter(tokens[0] for batch in draws for tokens in batch)
    with torch.no_grad():
        best = (model(torch.tensor([prompt])).logits[0, -1] / 2).topk(6)
    chances = best.values.softmax(0)
    kept = [place for place in range(6) if chances[:place].sum() < 0.9]
    expected = {int(best.indices[place]): float(chances[place] / chances[kept].sum()) for place in kept}
    assert {*found} == {*expected}
    for token, chance in expected.items():
        assert abs(found[token] / count - chance) < 4 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("most", [None, 1, 60, 100, 1000])
def test_batches_are_as_full_as_the_settings_allow(most: int | None) -> None:
    lengths = [40, 3, 3, 9, 14, 60, 2, 2, 14]
    settings = Generation(batch_size=4, max_new_tokens=10, max_batch_tokens=most)
    batches = like_lengths(prompts_of(lengths), settings)
    assert sorted(place for batch in batches for place in batch) == [*range(len(lengths))]
    sizes = [[lengths[place] + 10 for place in batch] for batch in batches]
    assert [size for batch in sizes for size in batch] == sorted(length + 10 for length in lengths)
    for batch, after in zip(sizes, [*sizes[1:], None], strict=True):
        assert len(batch) == 1 or (len(batch) <= 4 and (most is None or len(batch) * batch[-1] <= most))
        fuller = len(batch) + 1
        assert after is None or fuller > 4 or (most is not None and fuller * after[0] > most)


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
