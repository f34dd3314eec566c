"""Reward models as reward functions: a run of `[reward]` scores completions with its own tokenizer and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.answers.label import logits
from lora_ns.answers.opened import Trained, open_trained
from lora_ns.data.render import make_renderer
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Conversation, Message
from lora_ns.rewards import Completion, RewardModel, Scorer, Scores
from lora_ns.run.directory import RunDir

BATCH = 16
"""Completions that are scored at once."""


def open_reward_model(function: RewardModel, folders: Sequence[Path]) -> Scorer:
    """Load a reward model. Raises `UsageError` if it is none, and like `open_trained`."""
    trained = open_trained(find_reward_model(function, folders))
    manifest, limit = trained.manifest, trained.manifest.recipe.objective.max_seq_length
    stops, rendering = manifest.stop_token_ids, manifest.recipe.objective.rendering
    renderer = make_renderer(trained.tokenizer, stops, rendering, trained.vocabulary())

    def ids(given: Completion) -> list[int]:
        whole = renderer.examples(_conversation(given))[-1].input_ids
        return whole[-limit:]

    def score(batch: Sequence[Completion]) -> Scores:
        return _scores(trained, [ids(given) for given in batch])

    return score


def find_reward_model(function: RewardModel, folders: Sequence[Path]) -> RunDir:
    """Find the run of a reward model. Raises `UsageError` if it is missing, unfinished or no reward model."""
    path = Path(function.run).expanduser()
    found = next((folder / path for folder in folders if (folder / path).is_dir()), Path.cwd() / path)
    run = RunDir.open(found)
    manifest = run.read()
    answers = manifest.recipe.objective.answers
    if answers != "score" and manifest.problem_type != "regression":
        what = f"a run of `[{manifest.recipe.objective.toml}]` gives no score"
        raise UsageError(Problem(str(found), what, "name a run of `[reward]`"))
    return run


def _conversation(given: Completion) -> Conversation:
    """The conversation of a completion; an empty one is a space, since templates refuse a turn without text."""
    turns = [_message(turn) for turn in given.turns or ({"role": "user", "content": given.prompt},)]
    context = tuple(Message(turn.role, turn.content, turn.extra, train=False) for turn in turns)
    return Conversation((*context, Message("assistant", given.text if given.text.strip() else " ")))


def _message(turn: Mapping[str, Any]) -> Message:
    extra = {name: value for name, value in turn.items() if name not in {"role", "content"}}
    return Message(str(turn["role"]), str(turn["content"]), extra)


def _scores(trained: Trained, rows: Sequence[list[int]]) -> list[float]:
    """The scores of sequences, in batches."""
    found: list[float] = []
    for start in range(0, len(rows), BATCH):
        batch = [{"input_ids": ids} for ids in rows[start : start + BATCH]]
        found += logits(trained, batch).reshape(len(batch), -1)[:, 0].tolist()
    return found
