"""The number of packed rows is known from their lengths."""

import random

import pytest

from lora_ns.data.packing import packed_rows


@pytest.mark.parametrize(
    ("lengths", "count"),
    [([], 0), ([0, 0], 0), ([1], 1), ([8], 1), ([9], 1), ([4, 4], 1), ([5, 4], 2), ([3, 5, 8], 2), ([7, 6, 2, 1], 2)],
)
def test_rows_fill_packed_rows(lengths, count):
    assert packed_rows(lengths, 8) == count


@pytest.mark.parametrize("rows", [1, 40, 1000, 2345])
@pytest.mark.parametrize("limit", [16, 64, 100])
def test_trl_packs_into_as_many(rows, limit):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    random.seed(rows + limit)
    lengths = [random.choice([0, 1, random.randint(1, 40), random.randint(20, 120)]) for _ in range(rows)]
    lengths[0] = 3  # TRL cannot pack rows that are all empty
    data = datasets.Dataset.from_dict({"input_ids": [[7] * length for length in lengths]})
    assert packed_rows(lengths, limit) == len(trl.pack_dataset(data, limit, "bfd"))
