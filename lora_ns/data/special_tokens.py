"""Special tokens that are spelled out in the texts of a row, and empty questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_ns.formats import Conversation, Example, Format, PromptCompletion, RawText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Contents:
    """Check of the texts of rows for special tokens, before a template is applied."""

    pattern: re.Pattern[str]
    """Matches special tokens that are spelled out."""
    ends: tuple[str, ...]
    """Stop tokens as text."""
    templates: tuple[str, ...] = ()
    """The recipe's own templates for columns; special tokens in them are intended."""

    def spelled_out(self, example: Example) -> list[str]:
        """Return the special tokens that the texts of a row spell out, without repetition."""
        if isinstance(example, PromptCompletion):
            return self._in_plain(example)
        found = [token for text in _texts(example) for token in self.pattern.findall(text)]
        return list(dict.fromkeys(found)) if found else found

    def _in_plain(self, example: PromptCompletion) -> list[str]:
        """Return those of a plain row; a stop token that ends the completion is allowed."""
        found = self.pattern.findall(example.prompt)
        completion = self.pattern.findall(example.completion)
        if completion and completion[-1] in self.ends and example.completion.rstrip().endswith(completion[-1]):
            completion.pop()
        if not found and not completion:
            return []
        found += completion
        for meant in (token for template in self.templates for token in self.pattern.findall(template)):
            if meant in found:
                found.remove(meant)
        return list(dict.fromkeys(found))


def look_into(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], form: Format) -> Contents:
    """Create the check for rows of a format and a tokenizer."""
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = tuple(str(tokenizer.convert_ids_to_tokens(stop)) for stop in stops)
    tokens = sorted({*special.values(), *tokenizer.all_special_tokens, *ends}, key=len, reverse=True)
    columns = getattr(form, "columns", None)
    templates = (*getattr(columns, "prompt_templates", ()), getattr(columns, "completion_template", None))
    pattern = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
    return Contents(pattern, ends, tuple(template for template in templates if template))


def _texts(example: Example) -> Iterator[str]:
    """Yield the texts of a conversation, with tools and calls as JSON. Raw text may intend its special tokens."""
    if not isinstance(example, Conversation):
        return
    if example.tools:
        yield json.dumps(example.tools, ensure_ascii=False)
    for message in example.messages:
        yield message.content
        if message.extra:
            yield json.dumps(message.extra, ensure_ascii=False)


def asks_nothing(example: Example) -> bool:
    """True if a row has an empty question."""
    if isinstance(example, PromptCompletion):
        return not example.prompt.strip()
    return isinstance(example, Conversation) and any(
        message.role == "user" and not message.content.strip() for message in example.messages
    )


_ASKED = re.compile(r"^\W{0,4}(?:user|human|question|instruction)\W{0,3}:", re.IGNORECASE | re.MULTILINE)


_ANSWERED = re.compile(r"(?:^|#)\W{0,4}(?:assistant|bot|gpt|answer|response)\W{0,3}:", re.IGNORECASE | re.MULTILINE)


def looks_like_chat(example: Example) -> bool:
    """True if a raw text starts like a conversation."""
    if not isinstance(example, RawText):
        return False
    beginning = example.text[:2000]
    return bool(_ASKED.search(beginning) and _ANSWERED.search(beginning))


def stops_within(ids: Sequence[int], trained: Sequence[bool], stops: Iterable[int]) -> bool:
    """True if the learned tokens continue after a stop token."""
    within = frozenset(stops)
    places = [place for place, token in enumerate(ids[:-1]) if token in within and trained[place]]
    return any(trained[place + 1] and ids[place + 1] not in within for place in places)
