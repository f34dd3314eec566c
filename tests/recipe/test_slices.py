"""A slice leads to the rows that `datasets` reads behind the name of a split."""

import pytest

from lora_ns.recipe.slices import parse_slice

SLICES = (
    "10:20",
    ":30",
    "30:",
    "-5:",
    ":-5",
    "-9:-2",
    ":10%",
    "50%:",
    "-20%:",
    "25%:75%",
    "10%:20%",
    "33%:34%",
)


@pytest.mark.parametrize("count", [40, 97, 1000])
@pytest.mark.parametrize("text", SLICES)
def test_a_slice_is_that_of_datasets(text, count):
    datasets = pytest.importorskip("datasets")
    (expected,) = datasets.ReadInstruction.from_spec(f"train[{text}]").to_absolute({"train": count})
    found = parse_slice(text).of(count)
    assert (found.start, found.stop) == (expected.from_ or 0, count if expected.to is None else expected.to)


@pytest.mark.parametrize("text", [":", "0:", ":100%"])
def test_a_slice_may_be_everything(text):
    assert parse_slice(text).of(7) == range(7)


def test_a_slice_beyond_the_rows_is_cut_to_them():
    assert list(parse_slice("5:20").of(7)) == [5, 6]
    assert not parse_slice("9:20").of(7)


@pytest.mark.parametrize("text", SLICES)
def test_rows_beyond_the_reach_of_a_slice_do_not_matter(text):
    part = parse_slice(text)
    reach = part.reach()
    if reach is not None:
        assert part.of(reach) == part.of(reach + 1) == part.of(10 * reach)
    else:
        assert part.of(1000) != part.of(2000)
