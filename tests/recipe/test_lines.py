"""The lines of the keys in a TOML text, which the parser does not give."""

import time

import pytest

from lora_ns.files.reading import tomllib
from lora_ns.recipe.lines import comments, line_numbers

TEXTS = {
    "keys and tables": ("a = 1\n[t]\nb = 2\n\n[t.u]\nc = 3\n", {"a": 1, "t": 2, "t.b": 3, "t.u": 5, "t.u.c": 6}),
    "comments": (
        "# a = 1\na = 1 # b = 2\n[t] # [u]\n  # c = 3\nd = '#' # e = 1\nf = 1\n",
        {"a": 2, "t": 3, "t.d": 5, "t.f": 6},
    ),
    "space": ("  a=1\n\t[ t ]\n  b  =  2\n", {"a": 1, "t": 2, "t.b": 3}),
    "dotted keys": ("a.b = 1\n[t]\nc . d = 2\n", {"a.b": 1, "t": 2, "t.c.d": 3}),
    "quoted keys": (
        '"a" = 1\n\'b\' = 2\n["t"]\n"c d" = 3\n\'e\'."f" = 4\n',
        {"a": 1, "b": 2, "t": 3, "t.c d": 4, "t.e.f": 5},
    ),
    "arrays over lines": (
        'a = [\n  "x", # ]\n  "]",\n  ["b = 1"],\n]\nc = 2\n',
        {"a": 1, "c": 6},
    ),
    "tables in arrays over lines": ("a = [\n  {b = 1},\n  {b = 2},\n]\nc = 2\n", {"a": 1, "c": 5}),
    "inline tables": ("a = {b = 1, c = [2]}\nd = 2\n", {"a": 1, "d": 2}),
    "arrays of tables": ("[[a]]\nb = 1\n[[a]]\nb = 2\n", {"a": 1, "a.0": 1, "a.0.b": 2, "a.1": 3, "a.1.b": 4}),
    "tables in arrays of tables": (
        "[t]\n[[t.a]]\nb = 1\n[t.a.c]\nd = 2\n[[t.a]]\n[[t.a.e]]\nf = 1\n",
        {
            "t": 1,
            "t.a": 2,
            "t.a.0": 2,
            "t.a.0.b": 3,
            "t.a.0.c": 4,
            "t.a.0.c.d": 5,
            "t.a.1": 6,
            "t.a.1.e": 7,
            "t.a.1.e.0": 7,
            "t.a.1.e.0.f": 8,
        },
    ),
    "strings over lines": ('a = """\nb = 1\n[t]\n"""\nc = 2\n', {"a": 1, "c": 5}),
    "literal strings over lines": ("a = '''\nb = 1\n'''\nc = 2\n", {"a": 1, "c": 4}),
    "long quotes on one line": ('a = """### {q}"""\nb = 2\n', {"a": 1, "b": 2}),
    "escaped quotes": ('a = "\\"["\nb = 2\n', {"a": 1, "b": 2}),
    "long quotes in a short string": ("a = \"'''x\"\nb = 2\n", {"a": 1, "b": 2}),
    "long quotes in a comment": ("a = 1 # '''\nb = 2\n", {"a": 1, "b": 2}),
    "a string over lines that ends an array": ('a = [\n"""x\ny"""]\nb = 2\n', {"a": 1, "b": 4}),
    "a string over lines that begins in an array": ('a = ["""x\ny""",\n"z = 1"]\nb = 2\n', {"a": 1, "b": 4}),
    "an equals sign in a value": ('a = "b = 1"\nc = 2\n', {"a": 1, "c": 2}),
    "windows line ends": ("a = 1\r\n[t]\r\nb = 2\r\n", {"a": 1, "t": 2, "t.b": 3}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize(("text", "lines"), TEXTS.values(), ids=TEXTS)
def test_every_key_and_table_has_its_line(text, lines):
    tomllib.loads(text)
    assert line_numbers(text) == lines


@pytest.mark.parametrize(
    "line", ["[{}x", "[ {}x ]", "a{}= 1", "{}a = 1", "'' {}= 1", "a.{}b = 1", 'a = "{}"', "a = 1 #{}", "a = '{}"]
)
@pytest.mark.parametrize("filling", [" ", '"', "'", "[", "\\", "a"])
def test_a_line_takes_time_by_its_length_alone(line, filling):
    text = line.format(filling * 160_000)
    began = time.process_time()
    line_numbers(text)
    assert time.process_time() - began < 2  # a step for each pair of characters would take an hour


def test_only_line_ends_end_a_line():
    assert line_numbers('a = "\u2028\x0c\x85"\nb = 1\n') == {"a": 1, "b": 2}


def test_every_comment_has_its_line():
    text = (
        '# a\nb = 1 # c \'d\ne = \'# f\' # g\nh = """\n# i\nj""" # k\nl = [ # m\n  \'#\', # n\n]\n[o] # p # q\n'
        "r = \"\\\"# s\"\nt = '''\n# u\n'''\n# v\n"
    )
    tomllib.loads(text)
    assert list(comments(text)) == [
        *((1, "# a"), (2, "# c 'd"), (3, "# g"), (6, "# k"), (7, "# m"), (8, "# n"), (10, "# p # q"), (15, "# v")),
    ]
