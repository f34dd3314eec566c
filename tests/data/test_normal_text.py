"""Texts that are the same rows to a reader, and those that are not."""

import pytest

from lora_ns.data.audit import arithmetic, normal_text

ALIKE = [
    ("Hello, World!", "hello world"),
    ("36+1", "36 + 1"),
    ("an x-ray", "an x ray"),
    ("well-known", "well known"),
    ("1,234", "1 234"),
    ("What is 3*4?", "what is 3 * 4"),
    ("- 5 apples", "5 apples"),
    ("top-10", "top 10"),
    ("--5", "5"),
    ("[a, b]", "a b"),
]
DIFFERENT = [
    ("36 + 1", "36 - 1"),
    ("x+1", "x - 1"),
    ("is -5", "is 5"),
    ("(a) * (b)", "(a) / (b)"),
    ("2^3", "2 3"),
    ("3 \u2212 2", "3 \u00d7 2"),
]


def same(one, other):
    return (normal_text(one), arithmetic(one)) == (normal_text(other), arithmetic(other))


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_case_spaces_and_punctuation_say_nothing(one, other):
    assert same(one, other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_signs_of_arithmetic_do(one, other):
    assert not same(one, other)
