"""Chat templates as programs of others: each rendering has an end, and whatever a template raises is its refusal."""

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
"""Characters of what a template says that are shown."""


_FREE_LENGTH = 1_000_000


_MOST_REPEATED = 20
"""A rendered text may be longer than `_FREE_LENGTH` characters if it is at most this many times its turns."""


_TEMPLATE = "<template>"
"""What jinja calls the file of a compiled template in a traceback."""


class TemplateRefusalError(Exception):
    """A template that does not render these turns, in its own words or in Python's."""


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, Any]], **arguments: Any) -> Any:
    """What the tokenizer's chat template makes of turns: `apply_chat_template` with limits.

    Raises:
        TemplateRefusalError: if the template raises anything, cannot be compiled, or goes too deep.
        OverrunError: if it takes more time or memory than it may, or writes without end.
    """
    try:
        rendered = bounded(lambda: tokenizer.apply_chat_template(turns, **arguments))
    except OverrunError:
        raise
    except Exception as error:
        # Where the template's marks of what is generated lead nowhere, the library's search for their tokens fails.
        is_of_marks = "return_assistant_tokens_mask" in arguments and is_of_library(error.__traceback__)
        if not is_of_marks and not is_of_template(error):
            raise
        raise TemplateRefusalError(_said(error)) from None
    if isinstance(rendered, str) and len(rendered) > _FREE_LENGTH:
        given = sum(len(str(turn)) for turn in turns) + len(str(arguments))
        if len(rendered) > _MOST_REPEATED * given:
            raise OverrunError(f"writes {len(rendered):,} characters for a row of {given:,}")
    return rendered


def template_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer's own chat template, for messages."""
    name = tokenizer.name_or_path
    return f"the chat template of the tokenizer in {name}" if name else "the chat template"


def is_of_template(error: Exception) -> bool:
    """Whether an error was raised by a template or by what reads templates, and not by our own code."""
    frames = _frames(error.__traceback__)
    return any(name == _TEMPLATE or module.partition(".")[0] == "jinja2" for name, module in frames)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    while traceback is not None:
        frame = traceback.tb_frame
        yield frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next


def _said(error: Exception) -> str:
    """One line of what was raised; jinja's own errors and Python's `TypeError` speak for themselves."""
    if isinstance(error, RecursionError):
        return "it goes too deep"
    line = first_line(error)
    return line if len(line) <= _LONGEST_REFUSAL else f"{line[:_LONGEST_REFUSAL]}..."
