"""The tokenizer, its stop tokens, and a pad token that is not one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import ModelError, PlanError, Problem
from lora_ns.model.consent import loading_arguments
from lora_ns.model.files import TOKENIZER_FILES, Base
from lora_ns.model.folder import check_tokenizer_files
from lora_ns.model.folder import generation_settings as folder_generation_settings
from lora_ns.model.malformed import translating
from lora_ns.model.template_limits import TemplateRefusalError, render, template_name
from lora_ns.recipe.model import Model
from lora_ns.safety.deadline import OverrunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PAD_CANDIDATES = (
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|endoftext|>",
    "<unk>",
    "[UNK]",
)


def recipe_tokenizer(base: Base, model: Model) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base and add the recipe's tokens.

    Raises:
        ModelError: if there is none.
        PlanError: if it already has one of the tokens.
    """
    tokenizer = base_tokenizer(base, model.trust_remote_code)
    known = tokenizer.get_vocab()
    for token in model.add_tokens:
        if token in known:
            what = f"`{token}` is already token {known[token]}"
            remedy = f"remove it; `peft.trainable_token_indices = [{known[token]}]` trains its row"
            raise PlanError(Problem("", what, remedy, key="model.add_tokens"))
    tokenizer.add_tokens(list(model.add_tokens))
    return tokenizer


def added_tokens(tokenizer: PreTrainedTokenizerBase, model: Model) -> tuple[int, ...]:
    """Return the ids of the tokens that a recipe adds."""
    return tuple(tokenizer.convert_tokens_to_ids(list(model.add_tokens)))


def base_tokenizer(base: Base, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base, from its folder, or from its GGUF file if that can be read without loss.

    Raises:
        ModelError: if there is none.
    """
    if base.gguf is None or base.has_tokenizer:
        return load_tokenizer(base.path, trust_remote_code)
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    kind, splits = base.gguf.tokenizer
    if kind == "gpt2" and splits in GGUF_PRE_TOKENIZER_SPLITS:
        tokenizer = load_tokenizer(base.path, trust_remote_code, str(base.location))
        if len(tokenizer) <= base.facts.vocab_size:  # transformers may add a token that the model has no embedding for
            return tokenizer
    what = f"transformers cannot rebuild its tokenizer (`{kind}`, `{splits}`) exactly"
    remedy = "put tokenizer.json and tokenizer_config.json of the original model beside it"
    raise ModelError(Problem(str(base.location), what, remedy))


def load_tokenizer(
    folder: Path, trust_remote_code: bool = False, gguf_file: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a folder, or in a GGUF file there.

    Raises:
        ModelError: if there is none.
    """
    from transformers import AutoTokenizer

    code = loading_arguments(folder, trust_remote_code)
    check_tokenizer_files(folder)
    there = [name for name in (*TOKENIZER_FILES, "tokenizer_config.json") if (folder / name).is_file()]
    named = f" ({', '.join(there)})" if there else ""
    with translating(Problem(str(folder), f"no readable tokenizer{named}", "put its files into the folder")):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder,
            **code,
            local_files_only=True,
            **({"gguf_file": gguf_file} if gguf_file else {}),
        )
        _check_template(folder, tokenizer.chat_template)
        tokenizer.get_vocab()
    return tokenizer


def _check_template(folder: Path, template: object) -> None:
    """Refuse several templates without a default one. Raises `ModelError`."""
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(f"`{name}`" for name in template)
        what = f"the tokenizer has several chat templates, but none is named `default`: {names}"
        raise ModelError(Problem(str(folder), what, "set `chat_template` of the objective to a file"))


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[int, ...]:
    """Return the tokens that end an answer, from the tokenizer, the generation settings and the chat template."""
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    ids |= _as_set(folder_generation_settings(folder).get("eos_token_id"))
    ids |= _turn_end(tokenizer)
    return tuple(sorted(ids))


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, stops: Iterable[int]) -> None:
    """Give the tokenizer a pad token that is not a stop token, from its vocabulary.

    If there is none to spare, the end-of-sequence token pads. That is harmless here, because masks go by position, and
    it is not written into the generation settings.
    """
    stops = set(stops)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stops:
        return
    vocabulary = tokenizer.get_vocab()
    for token in _PAD_CANDIDATES:
        if token in vocabulary and vocabulary[token] not in stops:
            tokenizer.pad_token = token
            return
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the SHA-256 of the chat template; None if there is none."""
    template = tokenizer.chat_template
    if template is None:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def generation_settings(base: Base, stops: tuple[int, ...], pad: int | None) -> dict[str, Any]:
    """Return the content of `generation_config.json`: stop and pad tokens, but no sampling parameters."""
    settings = {key: value for key, value in folder_generation_settings(base.path).items() if key.endswith("_token_id")}
    settings["eos_token_id"] = list(stops)
    settings["pad_token_id"] = pad if pad not in stops else None
    return {key: value for key, value in settings.items() if value is not None}


def _as_set(value: int | list[int] | None) -> set[int]:
    """Return the token ids of a setting, in which -1 means none."""
    if value is None:
        return set()
    return {token for token in (value if isinstance(value, list) else [value]) if token >= 0}


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the special token that ends a rendered assistant turn. Raises `ModelError` for an endless template."""
    if tokenizer.chat_template is None:
        return set()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        text = render(tokenizer, messages, tokenize=False)
    except TemplateRefusalError:  # a template may refuse these turns; the rows will show if it matters
        return set()
    except OverrunError as error:
        what = f"{template_name(tokenizer)} {error}"
        raise ModelError(
            Problem("", what, "set `chat_template` of the objective to another one, such as `chatml`", "TPL005")
        ) from None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return {last} if (last := next((token for token in reversed(ids) if token in special), None)) is not None else set()
