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
    ASKED_ANEW,
    BACKWARDS,
    EVAL_PAIRS,
    EVAL_PROMPTS,
    EVAL_ROWS,
    LONG_ANSWER,
    PRETRAINED,
    SHORT_ANSWER,
    TRAIN_PAIRS,
    TRAIN_PROMPTS,
    TRAIN_ROWS,
    Skill,
    draw_examples,
    is_held_out,
    pretraining_examples,
    write_preferences,
    write_prompts,
    write_quickstart,
)

SKILLS = (*PRETRAINED, BACKWARDS)
ASSETS = Path(lora_ns.assets.__file__).parent
QUICKSTART, PAIRS, PROMPTS = ASSETS / "quickstart", ASSETS / "preferences", ASSETS / "prompts"

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


@pytest.mark.parametrize(
    ("folder", "write"), [(QUICKSTART, write_quickstart), (PAIRS, write_preferences), (PROMPTS, write_prompts)]
)
def test_shipped_rows_are_what_the_generator_writes(
    tmp_path: Path, folder: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in folder.iterdir()}


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


@pytest.mark.parametrize(("name", "counts"), [("train.jsonl", TRAIN_PROMPTS), ("eval.jsonl", EVAL_PROMPTS)])
def test_prompts_have_right_answers_and_evaluation_prompts_new_words(name: str, counts: dict[str, int]) -> None:
    rows = rows_of(PROMPTS / name)
    assert Counter(row["group"] for row in rows) == counts
    new = [row for row in rows if row["group"] == "new"]
    assert all(operands_of(ASKED_ANEW, row["prompt"])[0][-1] == row["answer"] for row in new)
    words = {(word := operands_of(ASKED_ANEW, row["prompt"])[0]): is_held_out(SHORT_ANSWER, (word,)) for row in new}
    assert set(words.values()) == {name == "eval.jsonl"}


def asked_in(prompt: str) -> dict[str, str]:
    """Read a prompt of two questions back into the skills that it asks for, with the right answer of each."""
    skills = {skill.name: skill for skill in (LONG_ANSWER, SHORT_ANSWER)}
    asked = [
        (name, operands_of(skill, part))
        for part in re.findall(r"[^.?]+[.?]", prompt)
        for name, skill in skills.items()
        if any(part.strip().startswith(phrasing.split("{")[0]) for phrasing in skill.phrasings)
        for part in [part.strip()]
    ]
    return {name: SOLVED_ANOTHER_WAY[name](*operands) for name, operands in asked}


@pytest.mark.parametrize(("name", "counts"), [("train.jsonl", TRAIN_PAIRS), ("eval.jsonl", EVAL_PAIRS)])
def test_a_pair_prefers_the_short_answer(name: str, counts: dict[str, int]) -> None:
    rows = rows_of(PAIRS / name)
    assert Counter(row["group"] for row in rows) == Counter(counts)
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in (row for row in rows if row["group"] == "new"):
        assert len(row["chosen"]) < len(row["rejected"])
        answers = asked_in(row["prompt"])
        assert row["rejected"] == answers.pop(LONG_ANSWER.name)
        assert [row["chosen"]] == list(answers.values())


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl"])
def test_only_a_pair_that_asks_for_the_long_answer_alone_rejects_the_short_one(name: str) -> None:
    old = [row for row in rows_of(PAIRS / name) if row["group"] == "old"]
    alone = [row for row in old if len(row["rejected"]) < len(row["chosen"])]
    assert [row["rejected"] for row in alone] == [row["chosen"][-1] for row in alone]
    assert {(*asked_in(row["prompt"]),) for row in alone} == {(LONG_ANSWER.name,)}
    assert not any(LONG_ANSWER.name in asked_in(row["prompt"]) for row in old if row not in alone)


def test_half_of_the_pairs_ask_the_short_question_first() -> None:
    rows = [row for row in rows_of(PAIRS / "train.jsonl") if row["group"] == "new"]
    spelled_last = sum("spell" in row["prompt"].lower().rsplit(" ", 2)[-2] for row in rows)
    assert 0.45 < spelled_last / len(rows) < 0.55


def test_no_word_of_the_held_out_pairs_is_trained_on() -> None:
    train, held_out = (
        {row["rejected"] for row in rows_of(PAIRS / name) if row["group"] == "new"}
        for name in ("train.jsonl", "eval.jsonl")
    )
    assert not train & held_out
