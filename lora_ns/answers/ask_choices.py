"""The items of a suite of choices: for each choice of a row, the prompt with the choice as its answer."""

from __future__ import annotations

from dataclasses import replace

from lora_ns.data.render import Renderer
from lora_ns.data.rows import Row
from lora_ns.data.suite_rows import prompt_of
from lora_ns.formats import Conversation, Example, Format, Message, PromptCompletion, RowFaultError
from lora_ns.suites import ChoiceSuite, Gold

Item = list[list[int]]
"""Token ids of a sequence, and its labels."""


def choice_items(
    renderer: Renderer, form: Format, suite: ChoiceSuite, row: Row, room: int | None = None
) -> tuple[Gold, list[Item]]:
    """A row with the text of its right choice, and the sequence of each choice, whose tokens alone are in the loss.

    The stop token after a choice is not scored, as in lm-evaluation-harness.

    Args:
        renderer: the renderer of the run.
        form: its row format.
        suite: the suite.
        row: the row.
        room: positions of the model.

    Raises:
        RowFaultError: if the row has no such choices, cannot be rendered, or is too long for the model.
    """
    offered = suite.offered(row.values)
    prompt = prompt_of(form, suite, row)
    items = [_item(renderer, prompt, text) for text in offered.texts]
    if len({tuple(ids) for ids, _ in items}) < len(items):
        raise RowFaultError("two of its choices are the same tokens", "choose another chat template, or reword them")
    longest = max(len(ids) for ids, _ in items)
    if room and longest > room:
        raise RowFaultError(
            f"the longest choice ends at token {longest}, and the model has {room} positions", "shorten it"
        )
    return Gold(row.where, offered.texts[offered.right], row.values), items


def _item(renderer: Renderer, prompt: Example, choice: str) -> Item:
    """The sequence of a choice up to its stop token, which is the last one in the loss."""
    whole = replace(renderer, loss_on="last").examples(_answered(prompt, choice))[-1]
    stop = max(place for place, is_learned in enumerate(whole.trained) if is_learned)
    return [whole.input_ids[:stop], whole.labels[:stop]]


def _answered(prompt: Example, choice: str) -> Conversation | PromptCompletion:
    """The prompt with an answer, which alone is in the loss; after plain text, a space separates them."""
    if isinstance(prompt, PromptCompletion):
        is_apart = not prompt.prompt or prompt.prompt[-1].isspace() or choice[0].isspace()
        return PromptCompletion(prompt.prompt, choice if is_apart else f" {choice}")
    assert isinstance(prompt, Conversation), "the prompts of text are conversations or plain"
    turns = tuple(replace(turn, train=False) for turn in prompt.messages)
    return replace(prompt, messages=(*turns, Message("assistant", choice, train=True)))
