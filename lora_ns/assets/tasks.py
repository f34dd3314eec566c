"""Questions for training the embedded model: each skill draws a question and computes its answer.

All draws come from a seeded generator. A hash of its contents decides whether a question is held out, so questions
drawn with `held_out=True` are in no training row, in any phrasing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

Operands = tuple[str, ...]
"""The operands of a question: two numbers, three letters or a word."""


HELD_OUT_SHARE = 10
"""One in this many questions is held out for evaluation."""


SEED = 7
"""Seed of the rows in the package."""


TRAIN_ROWS = {"new": 1800, "old": 600}


EVAL_ROWS = {"new": 100, "old": 100}


TRAIN_PAIRS = {"new": 600, "old": 200}


EVAL_PAIRS = {"new": 100, "old": 100}


TRAIN_PROMPTS = {"new": 400, "old": 100}


EVAL_PROMPTS = {"new": 100, "old": 100}


# The parts of a syllable; single vowels are listed twice because they are more frequent.
_ONSETS, _VOWELS, _CODAS = (
    parts.split()
    for parts in (
        "b c d f g h j k l m n p qu r s t v w x y z bl br ch cr dr fl gr pl pr sh sk sl sp st th tr",
        "a a e e i i o o u u ai ea ee oo ou",
        "b c d f g k l m n p r s t x y z ck ft ld lk lt mp nd nk nt rd rk rn rt sh sk st th",
    )
)


@dataclass(frozen=True)
class Example:
    """One question as a user would type it, with its only correct answer."""

    skill: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """A kind of question: a generator of operands, a choice of phrasings, and a function for the answer."""

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], Operands]
    answer: Callable[[Operands], str]
    share: int = 1
    """Relative share of the pretraining rows; hard skills need more."""


def draw_word(rng: Random) -> str:
    """A made-up, almost pronounceable word of three to six letters."""
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2))
    letters = "".join(syllables)
    start = rng.randint(0, 1)
    return letters[start : start + rng.randint(3, 6)]


def _one_word(rng: Random) -> Operands:
    return (draw_word(rng),)


def _number_and_digit(rng: Random) -> Operands:
    return str(rng.randrange(100)), str(rng.randrange(10))


def _number_and_digit_below(rng: Random) -> Operands:
    digit = rng.randrange(10)
    return str(rng.randrange(digit, 100)), str(digit)


def _two_different_numbers(rng: Random) -> Operands:
    first, second = rng.sample(range(100), 2)
    return str(first), str(second)


def _three_letters(rng: Random) -> Operands:
    return tuple(rng.sample("abcdefghijklmnopqrstuvwxyz", 3))


PRETRAINED: tuple[Skill, ...] = (
    Skill(
        "add",
        ("What is {0} + {1}?", "What is {0} plus {1}?", "Add {0} and {1}."),
        _number_and_digit,
        lambda numbers: str(int(numbers[0]) + int(numbers[1])),
        share=3,
    ),
    Skill(
        "subtract",
        ("What is {0} - {1}?", "What is {0} minus {1}?", "Take {1} from {0}."),
        _number_and_digit_below,
        lambda numbers: str(int(numbers[0]) - int(numbers[1])),
        share=3,
    ),
    Skill(
        "larger",
        ("Which is larger, {0} or {1}?", "Which number is larger: {0} or {1}?"),
        _two_different_numbers,
        lambda numbers: max(numbers, key=int),
    ),
    Skill(
        "sort",
        ("Sort the letters {0}, {1}, {2}.", "Put {0}, {1}, {2} in alphabetical order."),
        _three_letters,
        lambda letters: ", ".join(sorted(letters)),
    ),
    Skill(
        "capitals",
        ("Write {0} in capitals.", "Put {0} in capital letters."),
        _one_word,
        lambda word: word[0].upper(),
    ),
    Skill(
        "spell",
        ("Spell {0}.", "How do you spell {0}?"),
        _one_word,
        lambda word: "-".join(word[0]),
    ),
    Skill(
        "count",
        ("How many letters are in {0}?", "Count the letters in {0}."),
        _one_word,
        lambda word: str(len(word[0])),
    ),
    Skill(
        "last_letter",
        ("What is the last letter of {0}?", "Which letter does {0} end with?"),
        _one_word,
        lambda word: word[0][-1],
    ),
)
"""The skills of the embedded model."""


BACKWARDS = Skill(
    "backwards",
    ("Spell {0} backwards.", "Write {0} backwards."),
    _one_word,
    lambda word: word[0][::-1],
)
"""A skill that the embedded model lacks, and that the quickstart teaches."""


LONG_ANSWER, SHORT_ANSWER = (
    next(skill for skill in PRETRAINED if skill.name == name) for name in ("spell", "last_letter")
)
"""Two skills that ask about a word; in preference pairs, the answer to the second is preferred."""


ASKED_ANEW = Skill(
    SHORT_ANSWER.name,
    (
        *("Name the final letter of {0}.", "Write the last letter of {0}."),
        *("Which letter is the last of {0}?", "What does {0} end with?"),
    ),
    SHORT_ANSWER.draw,
    SHORT_ANSWER.answer,
)
"""A skill of the embedded model in other words, in which it is right about two times in five."""


def is_held_out(skill: Skill, operands: Operands) -> bool:
    """Decide by a hash of its operands whether a question is held out, so that all its phrasings are held out."""
    digest = hashlib.sha256(" ".join((skill.name, *operands)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def draw_example(skill: Skill, rng: Random, *, held_out: bool) -> Example:
    """One question, held out or not."""
    while True:
        operands = skill.draw(rng)
        if is_held_out(skill, operands) == held_out:
            return Example(skill.name, rng.choice(skill.phrasings).format(*operands), skill.answer(operands))


def draw_examples(skills: tuple[Skill, ...], count: int, rng: Random, *, held_out: bool) -> list[Example]:
    """`count` examples with distinct prompts, spread as evenly over the skills as possible."""
    drawn: dict[str, Example] = {}
    while len(drawn) < count:
        example = draw_example(skills[len(drawn) % len(skills)], rng, held_out=held_out)
        drawn.setdefault(example.prompt, example)
    return list(drawn.values())


def pretraining_examples(rng: Random) -> Iterator[Example]:
    """An endless stream of training examples, with each skill in proportion to its share."""
    shares = [skill.share for skill in PRETRAINED]
    while True:
        (skill,) = rng.choices(PRETRAINED, weights=shares)
        yield draw_example(skill, rng, held_out=False)


def quickstart_rows(counts: dict[str, int], rng: Random, *, held_out: bool) -> list[dict[str, str]]:
    """Shuffled rows of the new skill and of the old ones, which the model would otherwise forget."""
    groups = {"new": (BACKWARDS,), "old": PRETRAINED}
    rows = [
        {"prompt": example.prompt, "completion": example.answer, "skill": example.skill, "group": group}
        for group, skills in groups.items()
        for example in draw_examples(skills, counts[group], rng, held_out=held_out)
    ]
    rng.shuffle(rows)
    return rows


def preference_rows(counts: dict[str, int], rng: Random, *, held_out: bool) -> list[dict[str, str]]:
    """Shuffled preference pairs, in which the short answer is preferred to the long one if both are asked for.

    A new pair asks two questions about a word at once. The embedded model answers the second one, so it prefers the
    short answer in half of the pairs. A pair of the old skills has the right answer alone and in a sentence; if only
    the long answer is asked for, the short one is the rejected one, or a model could learn to always give it.
    """
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < counts["new"]:
        row = _two_questions(rng, held_out=held_out)
        rows.setdefault(row["prompt"], row)
    for example in draw_examples(PRETRAINED, counts["old"], rng, held_out=held_out):
        long = example.skill == LONG_ANSWER.name
        rejected = example.answer[-1] if long else f"The answer is {example.answer}."
        rows[example.prompt] = _pair(example.prompt, example.answer, rejected, "old")
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def prompt_rows(counts: dict[str, int], rng: Random, *, held_out: bool) -> list[dict[str, str]]:
    """Shuffled prompts with their answers, of a skill that the model has in part and of the old skills."""
    groups = {"new": (ASKED_ANEW,), "old": PRETRAINED}
    rows = [
        {"prompt": example.prompt, "answer": example.answer, "group": group}
        for group, skills in groups.items()
        for example in draw_examples(skills, counts[group], rng, held_out=held_out)
    ]
    rng.shuffle(rows)
    return rows


def _two_questions(rng: Random, *, held_out: bool) -> dict[str, str]:
    long, short = LONG_ANSWER, SHORT_ANSWER
    operands = long.draw(rng)
    while is_held_out(long, operands) != held_out:
        operands = long.draw(rng)
    asked = rng.sample((long, short), 2)
    prompt = " ".join(rng.choice(skill.phrasings).format(*operands) for skill in asked)
    return _pair(prompt, short.answer(operands), long.answer(operands), "new")


def _pair(prompt: str, chosen: str, rejected: str, group: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "group": group}


def write_quickstart(folder: Path, seed: int = SEED) -> None:
    """Write `train.jsonl` and `eval.jsonl`; evaluation rows contain only held-out questions."""
    rng = Random(seed)
    train, held_out = (
        quickstart_rows(counts, rng, held_out=held_out) for counts, held_out in ((TRAIN_ROWS, False), (EVAL_ROWS, True))
    )
    _write_rows(folder, train, held_out)


def write_preferences(folder: Path, seed: int = SEED) -> None:
    """Write `train.jsonl` and `eval.jsonl` with preference pairs; evaluation rows contain only held-out words."""
    rng = Random(seed)
    train, held_out = (
        preference_rows(counts, rng, held_out=held_out)
        for counts, held_out in ((TRAIN_PAIRS, False), (EVAL_PAIRS, True))
    )
    _write_rows(folder, train, held_out)


def write_prompts(folder: Path, seed: int = SEED) -> None:
    """Write `train.jsonl` and `eval.jsonl` with prompts and answers; evaluation rows have held-out questions only."""
    rng = Random(seed)
    train, held_out = (
        prompt_rows(counts, rng, held_out=held_out)
        for counts, held_out in ((TRAIN_PROMPTS, False), (EVAL_PROMPTS, True))
    )
    _write_rows(folder, train, held_out)


def _write_rows(folder: Path, train: list[dict[str, str]], held_out: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.jsonl", train), ("eval.jsonl", held_out)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
