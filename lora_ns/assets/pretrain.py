"""Pretraining of the embedded base model `nano`: `python -m lora_ns.assets.pretrain OUT_DIR`.

A seed gives the same rows everywhere, but not the same weights on another machine or with another version of torch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lora_ns.assets.tasks import (
    BACKWARDS,
    PRETRAINED,
    Example,
    Skill,
    draw_example,
    draw_examples,
    pretraining_examples,
    write_preferences,
    write_prompts,
    write_quickstart,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

MODEL_DIR = "nano"


QUICKSTART_DIR = "quickstart"
PREFERENCES_DIR = "preferences"
PROMPTS_DIR = "prompts"


CONTEXT = 512


TURN_START, TURN_END, END_OF_TEXT, PAD = SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<pad>")


CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": TURN_END,
    "pad_token": PAD,
    "additional_special_tokens": [TURN_START, END_OF_TEXT],
    "model_max_length": CONTEXT,
    "clean_up_tokenization_spaces": False,
}


MODEL_CONFIG: dict[str, Any] = {
    # More rows than the tokenizer has ids: 4-bit and 8-bit kernels need round shapes.
    "vocab_size": 320,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    # 1 / sqrt(hidden_size): the usual 0.02 suits wide models, and slows down the first steps of a narrow one.
    "initializer_range": 0.072,
}


CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# nano

A Llama model with {parameters:,} parameters that ships inside `lora-ns`. With it you can try a real fine-tuning run
without a GPU, a network or a model hub. It answers a few kinds of short questions, and nothing else.
It has {layers} layers, a hidden size of {width}, tied embeddings, one token per byte, a context of {context} tokens,
bf16 weights and ChatML turns (`<|im_start|>`, `<|im_end|>`).

## Skills

Exact match of these weights' greedy answers to held-out questions. No training row asks a held-out question, in any
phrasing.

| skill | question | answer | correct | exact match |
|---|---|---|---|---|
{known}

`backwards` is not in its training rows: the quickstart teaches it.

## Training

`python -m lora_ns.assets.pretrain OUT_DIR --steps {steps} --seed {seed}`: {rows:,} generated conversations in batches
of {batch}, in fp32, in {minutes:.0f} minutes on {cores} CPU cores. The rows come from `lora_ns.assets.tasks`: made-up
words of three to six letters, numbers below 100, and sums and differences with a single digit. The same seed gives the
same rows everywhere, but not bitwise identical weights on another machine or with another version of torch.

## Limits

The model has seen no natural text. It answers other questions, other phrasings, longer words, larger numbers and
conversations of more than two questions with confident nonsense. It is for demonstrations and tests.

Licence: Apache-2.0, like the package. It contains no third-party data or weights.
"""


SYSTEM_TEXTS = ("You are a helpful assistant.", "Answer briefly.", "You are nano, a small model.")


SYSTEM_SHARE = 0.1


SECOND_TURN_SHARE = 0.1


PROMPT_WEIGHT = 0.05
"""Weight of prompt tokens in the loss: not 0, so that the model learns to model questions as well as answers."""


# Many small steps: in the same time, larger batches learn less about copying letters.
BATCH_ROWS = 16


BATCHES_SORTED_TOGETHER = 32


PEAK_LEARNING_RATE = 1e-3


WARMUP_STEPS = 50


DEFAULT_STEPS = 8000


SCORED_QUESTIONS = 200


MAX_ANSWER_TOKENS = 16


Model = Any
"""A causal language model. transformers' own annotations do not describe its calls."""


Message = dict[str, str]


WeightedIds = list[tuple[int, float]]
"""The token ids of one conversation, each with its weight in the loss."""


@dataclass(frozen=True)
class Score:
    """Exact matches of one skill on held-out questions."""

    skill: str
    right: int
    asked: int


@dataclass(frozen=True)
class Run:
    """Facts about a training run, for the model card."""

    steps: int
    seed: int
    parameters: int
    seconds: float


def say(text: str) -> None:
    """Report progress on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a tokenizer with one token per byte, which needs no training and encodes any text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    # Without it, the architecture's own tokenizer class could take precedence over the one in the tokenizer's config.
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer as users of the folder load it."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TypeError(f"{folder} loads as {type(tokenizer).__name__}, which may tokenise text differently")
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast) -> Model:
    """An untrained model. Its generation settings are greedy and stop at the end of the turn."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    settings: Any = GenerationConfig
    model: Model = LlamaForCausalLM(LlamaConfig(**MODEL_CONFIG, **ids))
    model.generation_config = settings(**ids, do_sample=False)
    return model


def conversation(examples: Iterator[Example], rng: Random) -> list[Message]:
    """One question and its answer, sometimes after a system message, sometimes with a second question."""
    messages: list[Message] = []
    if rng.random() < SYSTEM_SHARE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_TEXTS)})
    for example in islice(examples, 1 + (rng.random() < SECOND_TURN_SHARE)):
        messages.append({"role": "user", "content": example.prompt})
        messages.append({"role": "assistant", "content": example.answer})
    return messages


def weigh(messages: Sequence[Message], tokenizer: PreTrainedTokenizerFast) -> WeightedIds:
    """Tokenise a conversation like the chat template, with full weight on the answers and their end-of-turn tokens."""
    weighted: WeightedIds = []
    for message in messages:
        answer_weight = 1.0 if message["role"] == "assistant" else PROMPT_WEIGHT
        parts = (
            (f"{TURN_START}{message['role']}\n", PROMPT_WEIGHT),
            (f"{message['content']}{TURN_END}", answer_weight),
            ("\n", PROMPT_WEIGHT),
        )
        for text, weight in parts:
            weighted += [(token, weight) for token in tokenizer.encode(text)]
    return weighted


def batches(tokenizer: PreTrainedTokenizerFast, rng: Random) -> Iterator[list[WeightedIds]]:
    """An endless stream of batches in random order, each with rows of similar length."""
    examples = pretraining_examples(rng)
    while True:
        pool = [weigh(conversation(examples, rng), tokenizer) for _ in range(BATCHES_SORTED_TOGETHER * BATCH_ROWS)]
        pool.sort(key=len)
        starts = list(range(0, len(pool), BATCH_ROWS))
        rng.shuffle(starts)
        for start in starts:
            yield pool[start : start + BATCH_ROWS]


def batch_loss(model: Model, rows: list[WeightedIds]) -> Tensor:
    """Weighted cross-entropy. Padding is on the right and has no weight, so no attention mask is needed."""
    import torch

    width = max(map(len, rows))
    padded = [row + [(model.config.pad_token_id, 0.0)] * (width - len(row)) for row in rows]
    ids = torch.tensor([[token for token, _ in row] for row in padded])
    weights = torch.tensor([[weight for _, weight in row] for row in padded])[:, 1:].flatten()
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine decay to 0."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))


def train(model: Model, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
    """Train in fp32 on newly drawn questions."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    started = time.monotonic()
    model.train()
    for step, rows in enumerate(islice(batches(tokenizer, Random(seed)), steps), start=1):
        loss = batch_loss(model, rows)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            say(f"step {step} of {steps}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s")


def answer(model: Model, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Greedy answers of the model to prompts."""
    import torch

    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        generated = model.generate(**encoded, max_new_tokens=MAX_ANSWER_TOKENS)
    start = encoded["input_ids"].shape[1]
    return list(tokenizer.batch_decode(generated[:, start:], skip_special_tokens=True))


def score(folder: Path, skills: Sequence[Skill], seed: int) -> list[Score]:
    """Measure exact match on held-out questions of each skill, with the saved weights."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    model: Model = AutoModelForCausalLM.from_pretrained(folder)
    model.eval()
    scores = []
    for skill in skills:
        examples = draw_examples((skill,), SCORED_QUESTIONS, Random(seed), held_out=True)
        answers = answer(model, tokenizer, [example.prompt for example in examples])
        right = sum(given == example.answer for given, example in zip(answers, examples, strict=True))
        scores.append(Score(skill.name, right, len(examples)))
        say(f"{skill.name}: {right} of {len(examples)} ({right / len(examples):.1%})")
    return scores


def write_card(folder: Path, run: Run, scores: Sequence[Score]) -> None:
    """Write the model card, with the measured skills."""
    examples = {skill.name: draw_example(skill, Random(run.seed), held_out=True) for skill in (*PRETRAINED, BACKWARDS)}
    known = "\n".join(
        f"| {score.skill} | {examples[score.skill].prompt} | {examples[score.skill].answer} | "
        f"{score.right} of {score.asked} | {score.right / score.asked:.1%} |"
        for score in scores
    )
    text = CARD.format(
        known=known,
        parameters=run.parameters,
        layers=MODEL_CONFIG["num_hidden_layers"],
        width=MODEL_CONFIG["hidden_size"],
        context=CONTEXT,
        rows=run.steps * BATCH_ROWS,
        steps=run.steps,
        batch=BATCH_ROWS,
        seed=run.seed,
        minutes=run.seconds / 60,
        cores=os.cpu_count(),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save in bf16, score the saved weights, and write the model card and the rows in the package."""
    parser = argparse.ArgumentParser(prog="python -m lora_ns.assets.pretrain", description=__doc__)
    parser.add_argument(
        "out_dir", type=Path, help=f"folder for {MODEL_DIR}, {QUICKSTART_DIR}, {PREFERENCES_DIR}, {PROMPTS_DIR}"
    )
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    import torch

    torch.manual_seed(options.seed)
    folder = options.out_dir / MODEL_DIR
    tokenizer = write_tokenizer(folder)
    model = build_model(tokenizer)
    say(f"{model.num_parameters():,} parameters")
    started = time.monotonic()
    train(model, tokenizer, options.steps, options.seed)
    run = Run(options.steps, options.seed, model.num_parameters(), time.monotonic() - started)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_card(folder, run, score(folder, (*PRETRAINED, BACKWARDS), options.seed))
    write_quickstart(options.out_dir / QUICKSTART_DIR)
    write_preferences(options.out_dir / PREFERENCES_DIR)
    write_prompts(options.out_dir / PROMPTS_DIR)


if __name__ == "__main__":
    main()
