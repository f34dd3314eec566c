"""How a row becomes an example: one class per format, pure, with the columns that it needs and those that tell it.

`FORMATS` is the registry. `detect` chooses one by the columns and says why.
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
    Message,
    PromptCompletion,
    RawText,
    RowFaultError,
    Tagged,
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
    "Message",
    "ProblemType",
    "PromptCompletion",
    "RawText",
    "RowFaultError",
    "Tagged",
    "TextClassification",
    "TokenClassification",
    "Unused",
    "detect",
    "ends_answered",
    "find_unasked",
    "find_unused",
    "names_of",
]
