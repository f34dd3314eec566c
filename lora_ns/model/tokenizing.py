"""Texts to tokens: what a tokenizer cannot encode is a fault of the row, and no bug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.errors import first_line
from lora_ns.formats import RowFaultError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_PANIC = "PanicException"
"""What Rust's panics are in Python: none of `Exception`, and in no module that can be imported."""


def encoded(tokenizer: PreTrainedTokenizerBase, *texts: Any, **arguments: Any) -> BatchEncoding:
    """What the tokenizer makes of texts; its arguments are the tokenizer's own.

    Raises:
        RowFaultError: if it gives up, as a pattern of its `tokenizer.json` does that takes too long on a text.
    """
    try:
        return tokenizer(*texts, **arguments)
    except BaseException as error:
        # The tokenizers' own errors are bare ones; those of a kind are of the way they are called.
        if type(error) is not Exception and type(error).__name__ != _PANIC:
            raise
        what = f"the tokenizer cannot encode it: {first_line(error)}"
        raise RowFaultError(what, "change the row, or mend `tokenizer.json`") from None
