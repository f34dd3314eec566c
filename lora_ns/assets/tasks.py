"""The questions that the embedded model is trained on: skills that draw a question and know its answer.

Everything is drawn from a seeded generator, and a question is held out or not by a hash of its contents: whoever draws
with `held_out=True` gets questions that no training row asks, in any phrasing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

Operands = tuple[str, ...]
"""What a question is about: two numbers, three letters or a word."""


HELD_OUT_SHARE = 10
"""One question in this many is kept for evaluation."""


QUICKSTART_SEED = 7


TRAIN_ROWS = {"new": 1800, "old": 600}


EVAL_ROWS = {"new": 100, "old": 100}


# The parts of a syllable; the single vowels stand twice because they are the more frequent.
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
    """One question as a user would type it, with the only answer that counts as right."""

    skill: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """A kind of question: how its operands are drawn, how it may be worded and what the answer is."""

    name: str
    phrasings: tuple[str, ...]
    draw: Callable[[Random], Operands]
    answer: Callable[[Operands], str]
    share: int = 1
    """How many parts of the pretraining rows it gets; the hard ones need more."""


def draw_word(rng: Random) -> str:
    """A made-up word of three to six letters that can nearly be pronounced."""
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
"""What the embedded model knows."""


BACKWARDS = Skill(
    "backwards",
    ("Spell {0} backwards.", "Write {0} backwards."),
    _one_word,
    lambda word: word[0][::-1],
)
"""What it does not know, and the quickstart teaches it."""


def is_held_out(skill: Skill, operands: Operands) -> bool:
    """Whether a question is kept for evaluation: by its contents, so that another phrasing of it is held out too."""
    digest = hashlib.sha256(" ".join((skill.name, *operands)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_SHARE == 0


def draw_example(skill: Skill, rng: Random, *, held_out: bool) -> Example:
    """One question from the wanted side of the partition."""
    while True:
        operands = skill.draw(rng)
        if is_held_out(skill, operands) == held_out:
            return Example(skill.name, rng.choice(skill.phrasings).format(*operands), skill.answer(operands))


def draw_examples(skills: tuple[Skill, ...], count: int, rng: Random, *, held_out: bool) -> list[Example]:
    """`count` examples without a repeated prompt, as evenly over the skills as the count allows."""
    drawn: dict[str, Example] = {}
    while len(drawn) < count:
        example = draw_example(skills[len(drawn) % len(skills)], rng, held_out=held_out)
        drawn.setdefault(example.prompt, example)
    return list(drawn.values())


def pretraining_examples(rng: Random) -> Iterator[Example]:
    """Training examples without end, each skill as often as its share says."""
    shares = [skill.share for skill in PRETRAINED]
    while True:
        (skill,) = rng.choices(PRETRAINED, weights=shares)
        yield draw_example(skill, rng, held_out=False)


def quickstart_rows(counts: dict[str, int], rng: Random, *, held_out: bool) -> list[dict[str, str]]:
    """Shuffled rows of the new skill and of the old ones, which the new one would otherwise push out."""
    groups = {"new": (BACKWARDS,), "old": PRETRAINED}
    rows = [
        {"prompt": example.prompt, "completion": example.answer, "skill": example.skill, "group": group}
        for group, skills in groups.items()
        for example in draw_examples(skills, counts[group], rng, held_out=held_out)
    ]
    rng.shuffle(rows)
    return rows


def write_quickstart(folder: Path, seed: int = QUICKSTART_SEED) -> None:
    """Write `train.jsonl` and `eval.jsonl`; the evaluation rows ask only held-out questions."""
    rng = Random(seed)
    files = {
        "train.jsonl": quickstart_rows(TRAIN_ROWS, rng, held_out=False),
        "eval.jsonl": quickstart_rows(EVAL_ROWS, rng, held_out=True),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
