"""Limits for chat templates, which are untrusted programs: every rendering ends, and any error is the template's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lora_ns.errors import first_line
from lora_ns.model.malformed import is_of_library
from lora_ns.safety.deadline import OverrunError, bounded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST_REFUSAL = 300
"""Longest part of a template's error message that is shown, in characters."""


_FREE_LENGTH = 1_000_000


_MOST_REPEATED = 20
"""A rendered text longer than `_FREE_LENGTH` characters may be at most this many times as long as its turns."""


_TEMPLATE = "<template>"
"""File name that jinja gives a compiled template in a traceback."""


class TemplateRefusalError(Exception):
    """A template refuses to render these turns, in its own words or with a Python error."""


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, Any]], **arguments: Any) -> Any:
    """Render turns with the tokenizer's chat template: `apply_chat_template` with limits.

    Raises:
        TemplateRefusalError: if the template raises anything, cannot be compiled, or recurses too deeply.
        OverrunError: if it exceeds the limits of time, memory or output.
    """
    try:
        rendered = bounded(lambda: tokenizer.apply_chat_template(turns, **arguments))
    except OverrunError:
        raise
    except Exception as error:
        # If the template's generation marks lead nowhere, the library fails while it searches for their tokens.
        is_of_marks = "return_assistant_tokens_mask" in arguments and is_of_library(error.__traceback__)
        if not is_of_marks and not is_of_template(error):
            raise
        raise TemplateRefusalError(_message(error)) from None
    if isinstance(rendered, str) and len(rendered) > _FREE_LENGTH:
        given = sum(len(str(turn)) for turn in turns) + len(str(arguments))
        if len(rendered) > _MOST_REPEATED * given:
            raise OverrunError(f"writes {len(rendered):,} characters for a row of {given:,}")
    return rendered


def template_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe a tokenizer's chat template for messages."""
    name = tokenizer.name_or_path
    return f"the chat template of the tokenizer in {name}" if name else "the chat template"


def is_of_template(error: Exception) -> bool:
    """True if an error was raised by a template or by jinja, and not by lorans."""
    frames = _frames(error.__traceback__)
    return any(name == _TEMPLATE or module.partition(".")[0] == "jinja2" for name, module in frames)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next


def _message(error: Exception) -> str:
    """Return one line of an error; jinja's own errors and Python's `TypeError` need no type in front."""
    if isinstance(error, RecursionError):
        return "it recurses too deeply"
    line = first_line(error)
    return line if len(line) <= _LONGEST_REFUSAL else f"{line[:_LONGEST_REFUSAL]}..."
