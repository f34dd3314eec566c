"""llama.cpp's form of a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter
    from transformers import PreTrainedTokenizerBase

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of a token."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """A way of splitting a text into words before byte-level BPE."""

    patterns: tuple[str, ...]
    """Patterns that isolate parts of the text, one after the other."""
    whole_words: bool = False
    """True if a word that is a token is not built from merges."""


SPLITTINGS: Mapping[str, Splitting] = {
    "llama-bpe": Splitting((_LLAMA3,), whole_words=True),
    "smaug-bpe": Splitting((_LLAMA3,)),
    "qwen2": Splitting((_QWEN2,)),
    "tekken": Splitting((_TEKKEN,), whole_words=True),
    "smollm": Splitting((r"\p{N}", _GPT2)),
    "gpt-2": Splitting((_GPT2,)),
}
"""llama.cpp's names of pre-tokenizers (`src/llama-vocab.cpp`) and what each does."""

_NO_MERGES = "a b"
"""A merge whose result is no token, since llama.cpp does not read an empty list."""

_FLAGS = ("add_bos_token", "add_eos_token", "add_space_prefix")
_ENDS = {"bos": "bos", "eos": "eos", "eot": "eot", "eom": "eom", "unk": "unknown", "pad": "padding"}
STOPS = ("eos", "eot", "eom")
"""Tokens that end an answer."""

_REMEDY = "use llama.cpp's own converter with `--llama-cpp FOLDER`, or `--to merged`"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as a GGUF file holds it."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for the BPE of SentencePiece."""
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    """Ids of the special tokens."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    template: str | None = None

    def write(self, writer: GGUFWriter) -> None:
        """Add the tokenizer to the header of a file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "gpt2":
            writer.add_token_merges(list(self.merges) or [_NO_MERGES])
        else:
            writer.add_token_scores(self.scores)
        for name, number in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{_ENDS[name]}_token_id", number)
        for name, flag in self.flags.items():
            writer.add_bool(f"tokenizer.ggml.{name}", flag)
        if self.template is not None:
            writer.add_chat_template(self.template)


def read_vocabulary(reader: GGUFReader) -> Vocabulary:
    """Return the tokenizer in a file."""

    def value(key: str, default: Any = None) -> Any:
        entry = reader.get_field(f"tokenizer.{key}")
        return default if entry is None else entry.contents()

    ids = {name: value(f"ggml.{key}_token_id") for name, key in _ENDS.items()}
    return Vocabulary(
        model=str(value("ggml.model")),
        pre=str(value("ggml.pre", "default")),
        tokens=value("ggml.tokens", ()),
        types=value("ggml.token_type", ()),
        merges=value("ggml.merges", ()),
        scores=value("ggml.scores", ()),
        ids={name: int(number) for name, number in ids.items() if number is not None},
        flags={name: bool(value(f"ggml.{name}")) for name in _FLAGS if value(f"ggml.{name}") is not None},
        template=value("chat_template"),
    )


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, size: int, stops: Iterable[int]) -> Vocabulary:
    """Return llama.cpp's form of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        size: rows of the embeddings; those without a token are filled.
        stops: the tokens that end an answer.

    Raises:
        UsageError: if llama.cpp does not have such a tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(Problem("", f"llama.cpp has no tokenizer like {type(tokenizer).__name__}", _REMEDY))
    table = json.loads(backend.to_str())
    if table["model"].get("type") != "BPE":
        raise UsageError(Problem("", f"llama.cpp has no {table['model'].get('type')} tokenizer here", _REMEDY))
    tokens, types = _tokens(tokenizer, size, table["model"]["byte_fallback"])
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template["default"]
    shared = {"tokens": tokens, "types": types, "ids": _ids(tokenizer, stops), "template": template}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["model"]["merges"]]
    if table["model"]["byte_fallback"]:
        scores = _scores(tokens, merges)
        flags = {**_added_ends(tokenizer), "add_space_prefix": _has_prefix(table)}
        return Vocabulary("llama", "default", scores=scores, flags=flags, **shared)
    return Vocabulary("gpt2", _pre(table), merges=merges, flags=_added_ends(tokenizer), **shared)


def _tokens(tokenizer: PreTrainedTokenizerBase, size: int, has_bytes: bool) -> tuple[list[str], list[int]]:
    """Return the tokens by id and their types. Raises `UsageError` if the model has no row for one."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if (last := max(by_id)) >= size:
        what = f"the tokenizer has the token {last} (`{by_id[last]}`), and the model {size:,} rows of embeddings"
        raise UsageError(Problem("", what, "remove the token from the tokenizer"))
    added = tokenizer.added_tokens_decoder
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]

    def kind(number: int) -> int:
        if number not in by_id:
            return UNUSED
        if has_bytes and number == tokenizer.unk_token_id:
            return UNKNOWN
        if number in added:
            return CONTROL if added[number].special else USER_DEFINED
        return BYTE if has_bytes and re.fullmatch("<0x[0-9A-F]{2}>", by_id[number]) else NORMAL

    return tokens, [kind(number) for number in range(size)]


def _ids(tokenizer: PreTrainedTokenizerBase, stops: Iterable[int]) -> dict[str, int]:
    """Return the special tokens, of which at most three end an answer. Raises `UsageError` for more."""
    names = {"bos": tokenizer.bos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    ends = sorted(stops, key=lambda number: (number != tokenizer.eos_token_id, number))
    if len(ends) > len(STOPS):
        what = f"generation stops at {len(ends)} tokens, and a GGUF file names up to {len(STOPS)}"
        raise UsageError(Problem("", what, "remove some from `eos_token_id` of generation_config.json"))
    names |= dict(zip(STOPS, ends, strict=False))
    return {name: number for name, number in names.items() if number is not None}


def _added_ends(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Return which ends the tokenizer adds to a text. Raises `UsageError` for tokens that llama.cpp does not add."""
    bare, whole = (list(tokenizer("a", add_special_tokens=flag)["input_ids"]) for flag in (False, True))
    ends = [[tokenizer.bos_token_id], [tokenizer.eos_token_id]]
    for first in (False, True):
        for last in (False, True):
            if whole == [*(ends[0] if first else ()), *bare, *(ends[1] if last else ())]:
                return {"add_bos_token": first, "add_eos_token": last}
    what = f"the tokenizer turns `a` into {tokenizer.convert_ids_to_tokens(whole)}, and llama.cpp adds BOS and EOS only"
    raise UsageError(Problem("", what, _REMEDY))


def _pre(table: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a pre-tokenizer, recognised by what it does. Raises `UsageError` for others."""
    model = table["model"]
    if not model["merges"]:
        return "gpt-2"  # without merges, each byte is a token however a text is split
    normalizer = (table["normalizer"] or {}).get("type")
    found = _splitting(table["pre_tokenizer"] or {}, bool(model.get("ignore_merges")))
    names = [name for name, splitting in SPLITTINGS.items() if splitting == found]
    if not names or normalizer not in {None, "NFC"}:
        what = "its pre-tokenizer is none of those that lorans knows in llama.cpp"
        raise UsageError(Problem("tokenizer.json", what, _REMEDY))
    return names[0]


def _splitting(stage: Mapping[str, Any], whole_words: bool) -> Splitting | None:
    """Return what a pre-tokenizer of `tokenizer.json` does; None if that is not only splitting by patterns."""
    parts = stage.get("pretokenizers", [stage])
    patterns: list[str] = []
    for part in parts:
        if part.get("type") == "Digits" and part["individual_digits"]:
            patterns.append(r"\p{N}")
        elif part.get("type") == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            patterns.append(part["pattern"].get("Regex", ""))
        elif part.get("type") == "ByteLevel" and not part["add_prefix_space"] and part is parts[-1]:
            patterns += [_GPT2] if part["use_regex"] else []
        else:
            return None
    return Splitting(tuple(patterns), whole_words) if parts[-1].get("type") == "ByteLevel" else None


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return the scores by which llama.cpp orders merges: the earlier a merge, the higher that of its result."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [float(-ranks.get(token, len(merges))) for token in tokens]


def _has_prefix(table: Mapping[str, Any]) -> bool:
    """Return whether a text is prefixed with a space. Raises `UsageError` if it is changed in other ways."""
    stages = [stage for stage in (table["normalizer"], table["pre_tokenizer"]) if stage]
    parts = [part for stage in stages for part in stage.get("normalizers", stage.get("pretokenizers", [stage]))]
    has_prefix, is_escaped = False, False
    for part in parts:
        if part["type"] == "Metaspace" and not part.get("split", True):
            has_prefix, is_escaped = part["prepend_scheme"] != "never", True
        elif part["type"] == "Prepend" and part["prepend"] == "▁":
            has_prefix = True
        elif part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == "▁":
            is_escaped = True
        else:
            is_escaped = False
            break
    if not is_escaped:
        what = "it normalises or splits a text in a way that llama.cpp does not"
        raise UsageError(Problem("tokenizer.json", what, _REMEDY))
    return has_prefix
