"""Row formats: one pure class per format turns a row into an example.

`FORMATS` is the registry. `detect` chooses a format by the columns of the data and gives the reason.
"""

from __future__ import annotations

from lora_ns.formats.base import (
    ROLES,
    TEXT,
    Columns,
    Conversation,
    EndlessRowError,
    Example,
    Format,
    Label,
    Labelled,
    LabelledCompletion,
    Message,
    Preference,
    Prompt,
    PromptCompletion,
    RawText,
    RowFaultError,
    Tagged,
    expected_of,
)
from lora_ns.formats.classification import ProblemType, TextClassification
from lora_ns.formats.detection import detect
from lora_ns.formats.registry import FORMATS
from lora_ns.formats.tokens import TokenClassification
from lora_ns.formats.unused import Unused, ends_answered, find_unasked, find_unused, names_of

__all__ = [
    "FORMATS",
    "ROLES",
    "TEXT",
    "Columns",
    "Conversation",
    "EndlessRowError",
    "Example",
    "Format",
    "Label",
    "Labelled",
    "LabelledCompletion",
    "Message",
    "Preference",
    "ProblemType",
    "Prompt",
    "PromptCompletion",
    "RawText",
    "RowFaultError",
    "Tagged",
    "TextClassification",
    "TokenClassification",
    "Unused",
    "detect",
    "ends_answered",
    "expected_of",
    "find_unasked",
    "find_unused",
    "names_of",
]
