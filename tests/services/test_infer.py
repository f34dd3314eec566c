"""Where `infer` writes."""

import contextlib

import pytest

pytest.importorskip("torch")

from lora_ns.errors import UsageError
from lora_ns.services.infer import check_answers


@pytest.mark.parametrize(
    ("name", "may"), [("a.jsonl", True), ("a.csv", False), ("a.txt", False), ("a.jsonl.gz", False)]
)
def test_rows_are_replaced_by_answers_of_their_kind_alone(tmp_path, name, may):
    (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(name)
    check_answers(tmp_path / "other", tmp_path / name)
    for output in (tmp_path / name, tmp_path / "link"):
        with contextlib.nullcontext() if may else pytest.raises(UsageError, match="is the input file"):
            check_answers(output, tmp_path / name)
