"""From texts to tokens: a text that a tokenizer cannot encode is a fault of the row, not a bug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.errors import first_line
from lora_ns.formats import RowFaultError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_PANIC = "PanicException"
"""Type name of Rust panics in Python: not an `Exception`, and not importable."""


def encoded(tokenizer: PreTrainedTokenizerBase, *texts: Any, **arguments: Any) -> BatchEncoding:
    """Tokenise texts; the arguments are the tokenizer's own.

    Raises:
        RowFaultError: if the tokenizer fails, for instance because a pattern of `tokenizer.json` takes too long.
    """
    try:
        return tokenizer(*texts, **arguments)
    except BaseException as error:
        # The tokenizers library raises bare `Exception`s; subclasses come from a wrong call.
        if type(error) is not Exception and type(error).__name__ != _PANIC:
            raise
        what = f"the tokenizer cannot encode it: {first_line(error)}"
        raise RowFaultError(what, "change the row, or fix `tokenizer.json`") from None
