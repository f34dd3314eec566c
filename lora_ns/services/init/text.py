"""Choice of the rendering: the base's chat template, a built-in one, or prompt templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from lora_ns.data.chat_templates import BUILT_IN
from lora_ns.data.rows import Row
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Conversation, LabelledCompletion, Preference, PromptCompletion, RowFaultError
from lora_ns.formats.readings import Reading
from lora_ns.model.abilities import Abilities
from lora_ns.services.init.draft import Draft


def fit_text(draft: Draft, reading: Reading, rows: Sequence[Row], own: MutableMapping[str, Any]) -> None:
    """Write the keys that render the rows, with the reason.

    Args:
        draft: the recipe, which has its `[dataset]`.
        reading: the format of the rows.
        rows: the first rows.
        own: the keys of the objective.

    Raises:
        UsageError: if the rows have tools, and no available chat template renders them.
    """
    base, dataset, reasons = draft.base, draft.tables["dataset"], draft.reasons
    template = base.chat_template if base else None
    if "chat_template" in own:
        return
    if reading.makes((PromptCompletion,)) and template and not draft.given.keys() & {"prompt_template", "format"}:
        dataset["format"] = "messages"
        reasons.append("format: messages, rendered by the base's chat template")
    if not reading.makes((Conversation, Preference, LabelledCompletion)):
        return
    if base is None or template is None:
        reasons.append(f"format: {reading.form.name}, if the base has a chat template, which is not known yet")
        return
    examples = list(_examples(reading, rows))
    has_tools = any(_has_tools(example) for example in examples)
    if template and (not has_tools or "tool" in template):
        reasons.append(f"format: {reading.form.name}, rendered by the base's chat template")
    elif template:
        _name_template(base, examples, "that of the base does not render tools", own, reasons)
    elif _is_plain(reading, examples) and not draft.given.keys() & {"columns", "format"}:
        _fill_templates(reading, dataset, reasons)
    else:
        _name_template(base, examples, "the base has none", own, reasons)


def _fill_templates(reading: Reading, dataset: MutableMapping[str, Any], reasons: list[str]) -> None:
    """Write prompt templates for questions and answers as plain text."""
    names = {"question": "question", "answer": "answer", **_columns_of(reading)}
    for key in ("format", "columns"):
        dataset.pop(key, None)
    dataset["prompt_template"] = f"Question: {{{names['question']}}}\nAnswer:"
    dataset["completion_template"] = f" {{{names['answer']}}}"
    reasons.append("format: plain text with `prompt_template`, because the base has no chat template")


def _name_template(
    base: Abilities, examples: Sequence[Conversation], why: str, own: MutableMapping[str, Any], reasons: list[str]
) -> None:
    """Choose the built-in chat template whose end-of-turn token the tokenizer has. Raises `UsageError`."""
    name = next((name for name, (_, end) in BUILT_IN.items() if end and base.has_token(end)), "mistral")
    if name != "chatml" and any(_has_tools(example) for example in examples):
        what = f"no chat template for rows with tools: {why}, and `chatml` needs the token `<|im_end|>`"
        remedy = "choose an instruct model with `--model`, or a .jinja file with `--set sft.chat_template=FILE`"
        raise UsageError(Problem("--model", what, remedy))
    own["chat_template"] = name
    reasons.append(f"chat template: {name}, because {why}, and the tokenizer has its end-of-turn token")
    if name in {"mistral", "gemma"} and any(_has_system(example) for example in examples):
        own["system_role"] = "merge-into-user"
        reasons.append(f"system turns: merged into user turns, because {name} does not support them")


def _examples(reading: Reading, rows: Sequence[Row]) -> Iterator[Conversation]:
    for row in rows:
        try:
            example = reading.form.example(row.values)
        except RowFaultError:
            continue  # reported with the reading
        if isinstance(example, Preference):
            yield from example.sides
        if isinstance(example, LabelledCompletion):
            yield example.conversation
        if isinstance(example, Conversation):
            yield example


def _columns_of(reading: Reading) -> Mapping[str, str]:
    columns: Mapping[str, str] = reading.form.columns.columns  # type: ignore[attr-defined]
    return columns


def _is_plain(reading: Reading, examples: Sequence[Conversation]) -> bool:
    """True if every row is one question and its answer, without anything else."""
    roles = {tuple(message.role for message in example.messages) for example in examples}
    return (
        reading.form.name == "question-answer"
        and roles == {("user", "assistant")}
        and not any(map(_has_tools, examples))
    )


def _has_system(example: Conversation) -> bool:
    return any(message.role == "system" for message in example.messages)


def _has_tools(example: Conversation) -> bool:
    return bool(example.tools) or any(
        message.role == "tool" or "tool_calls" in message.extra for message in example.messages
    )
