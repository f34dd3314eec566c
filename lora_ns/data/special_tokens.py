"""What the texts of a row spell out that a tokenizer takes for more than text, and questions that ask nothing."""

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
    """Looks into the texts of rows, before a template is put around them."""

    pattern: re.Pattern[str]
    """Finds special tokens that are spelled out."""
    ends: tuple[str, ...]
    """Stop tokens as text."""
    templates: tuple[str, ...] = ()
    """What the recipe itself puts around the columns: special tokens in it are meant."""

    def spelled_out(self, example: Example) -> list[str]:
        """The special tokens that the texts of a row spell out, each once."""
        if isinstance(example, PromptCompletion):
            return self._in_plain(example)
        found = [token for text in _texts(example) for token in self.pattern.findall(text)]
        return list(dict.fromkeys(found)) if found else found

    def _in_plain(self, example: PromptCompletion) -> list[str]:
        """Those of plain text; the stop token that ends a completion may be written or left to the tokenizer."""
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
    """What looks into rows of a format that one tokenizer encodes."""
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = tuple(str(tokenizer.convert_ids_to_tokens(stop)) for stop in stops)
    tokens = sorted({*special.values(), *tokenizer.all_special_tokens, *ends}, key=len, reverse=True)
    columns = getattr(form, "columns", None)
    templates = (getattr(columns, "prompt_template", None), getattr(columns, "completion_template", None))
    pattern = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
    return Contents(pattern, ends, tuple(template for template in templates if template))


def _texts(example: Example) -> Iterator[str]:
    """The texts of a conversation, those of its tools and calls as JSON; a text learned whole may mean its tokens."""
    if not isinstance(example, Conversation):
        return
    if example.tools:
        yield json.dumps(example.tools, ensure_ascii=False)
    for message in example.messages:
        yield message.content
        if message.extra:
            yield json.dumps(message.extra, ensure_ascii=False)


def asks_nothing(example: Example) -> bool:
    """Whether a question is there and empty."""
    if isinstance(example, PromptCompletion):
        return not example.prompt.strip()
    return isinstance(example, Conversation) and any(
        message.role == "user" and not message.content.strip() for message in example.messages
    )


_ASKED = re.compile(r"^\W{0,4}(?:user|human|question|instruction)\W{0,3}:", re.IGNORECASE | re.MULTILINE)


_ANSWERED = re.compile(r"(?:^|#)\W{0,4}(?:assistant|bot|gpt|answer|response)\W{0,3}:", re.IGNORECASE | re.MULTILINE)


def looks_like_chat(example: Example) -> bool:
    """Whether a text that is learned whole begins as a conversation does."""
    if not isinstance(example, RawText):
        return False
    beginning = example.text[:2000]
    return bool(_ASKED.search(beginning) and _ANSWERED.search(beginning))


def stops_within(ids: Sequence[int], trained: Sequence[bool], stops: Iterable[int]) -> bool:
    """Whether what is learned goes on after a stop token."""
    within = frozenset(stops)
    places = [place for place, token in enumerate(ids[:-1]) if token in within and trained[place]]
    return any(trained[place + 1] and ids[place + 1] not in within for place in places)
