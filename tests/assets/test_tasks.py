"""The generator behind the embedded model: right answers, one seed one set of rows, nothing held out is trained on."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest

import lora_ns.assets
from lora_ns.assets.tasks import (
    BACKWARDS,
    EVAL_ROWS,
    PRETRAINED,
    TRAIN_ROWS,
    Skill,
    draw_examples,
    pretraining_examples,
    write_quickstart,
)

SKILLS = (*PRETRAINED, BACKWARDS)
QUICKSTART = Path(lora_ns.assets.__file__).parent / "quickstart"

every_skill = pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)


def operands_of(skill: Skill, prompt: str) -> list[str]:
    """Read a prompt back into what it asks about, in the order in which the phrasings count."""
    for phrasing in skill.phrasings:
        match = re.fullmatch(re.sub(r"\\{(\d)\\}", r"(?P<at\1>[a-z]+|\\d+)", re.escape(phrasing)), prompt)
        if match:
            return [text for _, text in sorted(match.groupdict().items())]
    raise AssertionError(f"no phrasing of {skill.name} fits {prompt!r}")


# Each answer once more, in another way than the generator's.
SOLVED_ANOTHER_WAY: dict[str, Callable[..., str]] = {
    "add": lambda first, second: str(len(range(int(first))) + len(range(int(second)))),
    "subtract": lambda first, second: str(len(range(int(second), int(first)))),
    "larger": lambda first, second: sorted((first.zfill(2), second.zfill(2)))[1].lstrip("0"),
    "sort": lambda *letters: ", ".join(letter for letter in string.ascii_lowercase if letter in letters),
    "capitals": lambda word: "".join(chr(ord(letter) - 32) for letter in word),
    "spell": lambda word: re.sub(r"(?<=.)(?=.)", "-", word),
    "count": lambda word: str(sum(1 for _ in word)),
    "last_letter": lambda word: list(word).pop(),
    "backwards": lambda word: "".join(reversed(word)),
}


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@every_skill
def test_answers_are_right(skill: Skill) -> None:
    for example in draw_examples((skill,), 200, Random(1), held_out=False):
        assert example.answer == SOLVED_ANOTHER_WAY[skill.name](*operands_of(skill, example.prompt)), example.prompt


@every_skill
def test_each_phrasing_is_used(skill: Skill) -> None:
    examples = draw_examples((skill,), 100, Random(1), held_out=False)
    openings = {example.prompt.split()[0] for example in examples}
    assert openings == {phrasing.split()[0] for phrasing in skill.phrasings}


@every_skill
def test_a_seed_gives_the_same_examples(skill: Skill) -> None:
    first, again, other = (draw_examples((skill,), 50, Random(seed), held_out=False) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@every_skill
def test_held_out_questions_are_trained_on_in_no_phrasing(skill: Skill) -> None:
    trained, held_out = (
        {
            tuple(operands_of(skill, example.prompt))
            for example in draw_examples((skill,), count, Random(1), held_out=side)
        }
        for count, side in ((1500, False), (150, True))
    )
    assert not trained & held_out


def test_words_have_three_to_six_letters() -> None:
    words = [example.answer for example in draw_examples((BACKWARDS,), 300, Random(1), held_out=False)]
    assert {len(word) for word in words} == {3, 4, 5, 6}
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_pretraining_draws_every_skill_but_backwards() -> None:
    drawn = Counter(example.skill for example in islice(pretraining_examples(Random(1)), 2000))
    assert set(drawn) == {skill.name for skill in PRETRAINED}


def test_pretraining_rows_are_not_held_out() -> None:
    held_out = {
        example.prompt for skill in PRETRAINED for example in draw_examples((skill,), 150, Random(2), held_out=True)
    }
    assert not held_out & {example.prompt for example in islice(pretraining_examples(Random(1)), 5000)}


def test_shipped_quickstart_is_what_the_generator_writes(tmp_path: Path) -> None:
    write_quickstart(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in QUICKSTART.iterdir()}


@pytest.mark.parametrize(("name", "counts"), [("train.jsonl", TRAIN_ROWS), ("eval.jsonl", EVAL_ROWS)])
def test_quickstart_rows_have_their_groups_and_fields(name: str, counts: dict[str, int]) -> None:
    rows = rows_of(QUICKSTART / name)
    assert Counter(row["group"] for row in rows) == counts
    assert {tuple(row) for row in rows} == {("prompt", "completion", "skill", "group")}
    assert {row["skill"] for row in rows if row["group"] == "new"} == {"backwards"}
    assert {row["skill"] for row in rows if row["group"] == "old"} == {skill.name for skill in PRETRAINED}
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_quickstart_evaluates_on_prompts_that_it_does_not_train_on() -> None:
    prompts = [{row["prompt"] for row in rows_of(QUICKSTART / name)} for name in ("train.jsonl", "eval.jsonl")]
    assert not set.intersection(*prompts)
