"""Text of others is shown without what would steer a terminal, or could not be seen."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ns.machine.libraries import Noise
from lora_ns.safety.printable import printable

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(codec=None)), st.booleans())
def test_nothing_that_steers_or_hides_is_left(text, is_multiline):
    shown = printable(text, is_multiline)
    hidden = {character for character in shown if unicodedata.category(character) in HIDDEN}
    assert hidden <= ({"\n", "\t"} if is_multiline else set())
    assert printable(shown, is_multiline) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0=\x07", r"\x1b]52;c;cm0=\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\u200b\ufeff\u00ad", r"\u200b\ufeff\xad"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("\u3164\u2028", r"\u3164\u2028"),
        ("👩\u200d💻", r"👩\u200d💻"),
        ("❤️ é 漢字 عربي", "❤️ é 漢字 عربي"),
        (r"C:\x1b", r"C:\x1b"),
        ("a\r\n\tb", r"a\r\n\tb"),
    ],
)
def test_what_is_shown(text, shown):
    assert printable(text) == shown


def test_lines_stay_where_there_may_be_several():
    assert printable("a\n\tb\r\x1b", is_multiline=True) == "a\n\tb\\r\\x1b"


def test_a_log_has_no_escapes_in_it(tmp_path):
    with Noise() as noise:
        noise.attach(tmp_path / "train.log")
        with open(1, "w", closefd=False) as out:
            out.write("a \x1b]0;title\x07 é\nb\n")
    assert (tmp_path / "train.log").read_text() == "a \\x1b]0;title\\x07 é\nb\n"
