"""Byte-level tokenizers with the chat templates and special tokens of well-known families, built in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHATML = (
    "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
CHATML_MARKED = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{{ '<|im_start|>assistant\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{%- else -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)
MISTRAL = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{%- elif message.role == 'user' -%}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + message.content + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)
GEMMA = (
    "{{- bos_token -}}"
    "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set role = 'model' if message.role == 'assistant' else message.role -%}"
    "{{ '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
QWEN3 = (
    "{%- set ns = namespace(last_query=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{%- set ns.last_query = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' and loop.index0 > ns.last_query -%}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}"
    "{%- else -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Shape:
    """A family's chat template and special tokens, and the text that its model generates for an answer."""

    template: str
    special: tuple[str, ...]
    eos: str
    answer: Callable[[str], str]
    bos: str | None = None
    pad: str | None = None
    system: bool = True
    splits: bool = False
    """True if each answer needs its own row."""


_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPES = {
    "chatml": Shape(CHATML, _CHATML_TOKENS, "<|im_end|>", lambda text: f"{text}<|im_end|>", pad="<|im_end|>"),
    "chatml-marked": Shape(CHATML_MARKED, _CHATML_TOKENS, "<|endoftext|>", lambda text: f"{text}<|im_end|>"),
    "llama-3": Shape(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        lambda text: f"{text.strip()}<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    "mistral": Shape(MISTRAL, ("<unk>", "<s>", "</s>"), "</s>", lambda text: f" {text}</s>", bos="<s>", system=False),
    "gemma": Shape(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        lambda text: f"{text.strip()}<end_of_turn>",
        bos="<bos>",
        pad="<pad>",
        system=False,
    ),
    "qwen-3": Shape(
        QWEN3,
        (*_CHATML_TOKENS, "<think>", "</think>"),
        "<|im_end|>",
        lambda text: f"<think>\n\n</think>\n\n{text}<|im_end|>",
        pad="<|endoftext|>",
        splits=True,
    ),
}


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens and the template of a shape."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens.train_from_iterator([], trainers.BpeTrainer(special_tokens=list(shape.special), initial_alphabet=alphabet))
    named = {"bos_token": shape.bos, "eos_token": shape.eos, "pad_token": shape.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        extra_special_tokens=list(shape.special),
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token},
    )
    tokenizer.chat_template = shape.template
    return tokenizer
