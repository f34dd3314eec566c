"""The items of a suite as a run asks them: prompts or sequences, with the reference answers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.answers.ask_choices import choice_items
from lora_ns.answers.ask_labels import LABELLED_TOGETHER, expected_labels, in_columns_of, labelling
from lora_ns.answers.generate import up_to_stop, written_text
from lora_ns.answers.opened import Opened, format_of
from lora_ns.answers.weights import ADAPTER
from lora_ns.answers.work import Kind, Task, in_turn, writing
from lora_ns.data.encode_text import split_text
from lora_ns.data.loss_mask import Rendered
from lora_ns.data.render import Renderer, make_renderer
from lora_ns.data.rows import Row, for_each
from lora_ns.data.suite_rows import gold_of, prompt_of
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Conversation, Example, Format, PromptCompletion, RawText, RowFaultError, expected_of
from lora_ns.objectives import TextObjective
from lora_ns.recipe.generation import Generation
from lora_ns.run.manifest import Manifest
from lora_ns.suites import ChoiceSuite, DriftSuite, GlueSuite, Gold, Suite
from lora_ns.suites.labels import TagSuite


@dataclass(frozen=True)
class Asked:
    """The items of a suite, in the tokens of a run."""

    suite: Suite
    golds: Sequence[Gold]
    items: Sequence[Any]
    """Token ids of prompts; for losses, token ids with labels, and for choices those of each; for labels, inputs of a
    classifier."""
    owners: Sequence[int]
    """For each item, the index of its row: a row may have several sequences."""
    generation: Generation
    truncated: int = 0
    """Number of sequences that were cut off at `max_seq_length`."""

    def task(self, weights: str = ADAPTER) -> Task:
        """The task that computes the answers with some weights of the run."""
        if self.suite.asks in {"write", "drift"}:
            return writing(self.items, self.generation, weights, self.suite.asks)
        if self.suite.asks == "label":
            kind: Kind = "tag" if isinstance(self.suite, TagSuite) else "classify"
            return in_turn(kind, self.items, LABELLED_TOGETHER, weights)
        return in_turn("choose" if self.suite.asks == "choose" else "loss", self.items, 1, weights)

    def answers(self, results: Sequence[Any]) -> list[Any]:
        """The answer to each row: its text or label, its loss and number of tokens, or those of each choice."""
        if self.suite.asks == "write":
            texts = [result["text"] for result in results]
            size = self.suite.samples
            return texts if size == 1 else [texts[at : at + size] for at in range(0, len(texts), size)]
        if self.suite.asks == "label":
            is_tagged = isinstance(self.suite, TagSuite)
            return [[tag for tag, _ in result] if is_tagged else result["output"] for result in results]
        if self.suite.asks in {"drift", "choose"}:
            return list(results)
        sums = [[0.0, 0.0] for _ in self.golds]
        for owner, (loss, tokens) in zip(self.owners, results, strict=True):
            sums[owner][0] += loss
            sums[owner][1] += tokens
        return sums


def ask(opened: Opened, suite: Suite, rows: Sequence[Row], like: Manifest) -> Asked:
    """Render the rows of a suite for a run.

    Args:
        opened: the run that is asked, with its own template and tokens.
        suite: the suite.
        rows: its rows.
        like: manifest of the run whose row format, loss and generation settings count for all that are compared.

    Raises:
        UsageError: if the objective of the run trains on no text, whose loss could be measured.
        DataError: names the rows that cannot be asked, or lack what their answers are measured by.
    """
    chosen = rows[: suite.max_samples] if suite.max_samples else rows
    if isinstance(suite, ChoiceSuite):
        return _to_choose(opened, suite, chosen, like)
    if suite.asks == "label":
        chosen = in_columns_of(suite, like, chosen) if isinstance(suite, GlueSuite) else chosen
        golds, task = expected_labels(like, chosen), labelling(opened, format_of(like), chosen, LABELLED_TOGETHER)
        return Asked(suite, golds, task.items, range(len(golds)), like.recipe.generation)
    if isinstance(suite, DriftSuite):
        _check_base_is_there(opened)
        greedy = Generation(
            max_new_tokens=suite.max_new_tokens,
            batch_size=like.recipe.generation.batch_size,
            max_batch_tokens=like.recipe.generation.max_batch_tokens,
        )
        return replace(_to_write(opened, suite, chosen, like), generation=greedy)
    return (_to_write if suite.asks == "write" else _to_score)(opened, suite, chosen, like)


def _check_base_is_there(opened: Opened) -> None:
    """Check that switching the adapter off leaves the base. Raises `UsageError`."""
    method = opened.manifest.recipe.peft
    if not method.keeps_base:
        what = f"{method.tag()} has changed the weights of the base here, so its distance from the base is not measured"
        raise UsageError(Problem("--suite", what, "leave the suite `drift` out"))


def _to_write(opened: Opened, suite: Suite, rows: Sequence[Row], like: Manifest) -> Asked:
    form, rendering = format_of(like), like.recipe.objective.rendering
    renderer = make_renderer(opened.tokenizer, opened.manifest.stop_token_ids, rendering, opened.vocabulary())
    room = opened.room()

    def ask_row(row: Row) -> tuple[Gold, list[int]]:
        asked = prompt_of(form, suite, row)
        prompt = renderer.prompt(asked)  # type: ignore[arg-type]
        if not prompt:
            raise RowFaultError("the prompt is empty", "add some text")
        if room and len(prompt) >= room:
            raise RowFaultError(f"the prompt has {len(prompt)} tokens, and the model {room} positions", "shorten it")
        gold = _gold(renderer, form, row, asked, prompt)
        suite.check(gold)
        return gold, prompt

    found = for_each(rows, ask_row)
    owners = [place for place in range(len(found)) for _ in range(suite.samples)]
    prompts = [found[place][1] for place in owners]
    generation = like.recipe.generation.model_copy(update=dict(suite.decoding))
    return Asked(suite, [gold for gold, _ in found], prompts, owners, generation)


def _gold(renderer: Renderer, form: Format, row: Row, asked: Example, prompt: list[int]) -> Gold:
    """A row with its question and its reference answer, as it is written and as training renders it."""
    gold = replace(gold_of(form, row), question=_question(asked), prompt=_whole(asked))
    if gold.answer is None:
        return gold
    try:
        whole = renderer.examples(expected_of(form.example(row.values)))[-1].input_ids  # type: ignore[arg-type]
    except RowFaultError:
        return replace(gold, answer=None)
    learned = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
    rendered = written_text(renderer.tokenizer, up_to_stop(learned, renderer.stops), renderer.stops)
    return replace(gold, rendered=rendered)


def _to_choose(opened: Opened, suite: ChoiceSuite, rows: Sequence[Row], like: Manifest) -> Asked:
    form, rendering, room = format_of(like), like.recipe.objective.rendering, opened.room()
    renderer = make_renderer(opened.tokenizer, opened.manifest.stop_token_ids, rendering, opened.vocabulary())
    found = for_each(rows, lambda row: choice_items(renderer, form, suite, row, room))
    golds, items = [gold for gold, _ in found], [several for _, several in found]
    return Asked(suite, golds, items, range(len(items)), like.recipe.generation)


def _question(prompt: object) -> str | None:
    """The prompt as text to show: of a conversation, its last turn."""
    if isinstance(prompt, PromptCompletion):
        return prompt.prompt
    if isinstance(prompt, Conversation) and prompt.messages:
        return str(prompt.messages[-1].content)
    return None


def _whole(prompt: object) -> str | None:
    """The prompt as text, with all turns of a conversation and their roles."""
    if isinstance(prompt, Conversation) and len(prompt.messages) > 1:
        return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
    return _question(prompt)


def _to_score(opened: Opened, suite: Suite, rows: Sequence[Row], like: Manifest) -> Asked:
    form, objective = format_of(like), like.recipe.objective
    if not isinstance(objective, TextObjective):
        what = f"a run of `[{objective.toml}]` has no loss of answers"
        raise UsageError(Problem("--suite", what, "choose another suite"))
    renderer = make_renderer(opened.tokenizer, opened.manifest.stop_token_ids, objective, opened.vocabulary())
    limit = objective.max_seq_length
    splits = objective.on_overflow == "split" and RawText in form.makes

    def scored(row: Row) -> tuple[Gold, list[Rendered]]:
        whole = objective.sequences(form.example(row.values), renderer)
        parts = [piece for one in whole for piece in split_text(one, limit)] if splits else list(whole)
        return Gold(row.where, None, row.values), parts

    found = for_each(rows, scored)
    parts = [(place, part) for place, (_, several) in enumerate(found) for part in several]
    items = [[part.input_ids[:limit], part.labels[:limit]] for _, part in parts]
    truncated = sum(len(part.input_ids) > limit for _, part in parts)
    owners = [place for place, _ in parts]
    return Asked(suite, [gold for gold, _ in found], items, owners, like.recipe.generation, truncated)
