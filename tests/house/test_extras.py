"""The extra `all` is every other one but those that docs/install.md names, and what is for developers."""

import re

import pytest
from extras import PROJECT, extras

pytest.importorskip("tomllib")  # not in Python 3.10

FOR_DEVELOPERS = {"all", "dev", "docs", "test"}


def test_all_is_every_extra_but_those_that_the_page_names():
    (inside,) = extras()["all"]
    page = (PROJECT / "docs" / "install.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| `lora-ns[all]`"))
    left_out = set(re.findall(r"`([a-z-]+)`", line.partition("except")[2]))
    in_all = set(re.fullmatch(r"lora-ns\[(.*)\]", inside)[1].split(","))
    assert in_all == set(extras()) - FOR_DEVELOPERS - left_out
    assert not in_all & left_out


def test_each_extra_is_in_the_table_of_the_page():
    page = (PROJECT / "docs" / "install.md").read_text()
    assert set(re.findall(r"`lora-ns\[([a-z-]+)\]`", page)) >= set(extras())
