"""How a row becomes an example: one class per format, pure, with the columns that it needs.

`FORMATS` is the registry. `detect` chooses one by the columns and says why.
"""

from lora_ns.formats.base import (
    ROLES,
    Columns,
    Conversation,
    Example,
    Format,
    Labelled,
    Message,
    PromptCompletion,
    RawText,
    RowFaultError,
)
from lora_ns.formats.detection import FORMATS, detect

__all__ = [
    "FORMATS",
    "ROLES",
    "Columns",
    "Conversation",
    "Example",
    "Format",
    "Labelled",
    "Message",
    "PromptCompletion",
    "RawText",
    "RowFaultError",
    "detect",
]
