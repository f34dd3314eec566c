"""The pages as `website/stage.py` puts them together for the site: their links stay whole."""

import re
import runpy
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STAGE = runpy.run_path(str(PROJECT / "website/stage.py"))


@pytest.mark.parametrize(
    ("file", "link", "on_the_site"),
    [
        ("docs/data.md", "[a](bases.md#gguf)", "[a](bases.md#gguf)"),
        ("docs/data.md", "[a](#streams)", "[a](#streams)"),
        ("docs/limits.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("CONTRIBUTING.md", "[a](docs/data.md)", "[a](data.md)"),
        ("benchmarks/README.md", "[a](../docs/benchmarks.md)", "[a](benchmarks.md)"),
        ("SKILL.md", "[AGENTS.md](AGENTS.md)", "`AGENTS.md`"),
        ("docs/index.md", "[a](https://pytorch.org/x.html)", "[a](https://pytorch.org/x.html)"),
        ("docs/index.md", "![a](assets/quickstart.svg)", "![a](assets/quickstart.svg)"),
    ],
)
def test_a_link_leads_to_the_same_page_on_the_site(file, link, on_the_site):
    assert STAGE["with_site_links"](link, file) == on_the_site


def test_every_page_that_is_named_is_among_the_staged_files(tmp_path):
    STAGE["stage"](tmp_path / "site")
    settings = (tmp_path / "site/zensical.toml").read_text("utf-8")
    assert "@version@" not in settings
    named = re.findall(r'"([\w-]+\.md)"', settings)
    staged = {str(file.relative_to(tmp_path / "site/docs")) for file in (tmp_path / "site/docs").rglob("*.md")}
    assert sorted(named) == sorted(staged)
