"""The registry of formats. A new format needs its class in this room and its line here."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.formats.base import Format
from lora_ns.formats.classification import TextClassification
from lora_ns.formats.instructions import Alpaca, QuestionAnswer
from lora_ns.formats.labelled_completion import LabelledCompletions
from lora_ns.formats.messages import Messages
from lora_ns.formats.plain import PlainPromptCompletion, PlainText
from lora_ns.formats.preference import PreferencePairs
from lora_ns.formats.prompts import Prompts
from lora_ns.formats.sharegpt import ShareGpt
from lora_ns.formats.tokens import TokenClassification
from lora_ns.formats.trees import MessageTrees

FormatClass = type[Format]


_CLASSES: tuple[FormatClass, ...] = (
    Messages,
    ShareGpt,
    Alpaca,
    QuestionAnswer,
    MessageTrees,
    PlainPromptCompletion,
    PlainText,
    TextClassification,
    TokenClassification,
    PreferencePairs,
    LabelledCompletions,
    Prompts,
)


FORMATS: Mapping[str, FormatClass] = {form.name: form for form in _CLASSES}
"""Formats by name, in the order of the recipe reference and of detection."""
