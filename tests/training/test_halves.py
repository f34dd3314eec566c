"""A batch in parts: nothing is lost, nothing is twice, documents and pairs stay whole."""

import pytest

pytest.importorskip("torch")

import torch

from lora_ns.training.halves import Divisible

ROWS = {
    "input_ids": torch.arange(20).reshape(5, 4),
    "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
    "labels": torch.arange(5),
    "use_cache": False,
}
LENGTHS = (3, 5, 2, 7, 1)
PACKED = {
    "input_ids": torch.arange(18)[None],
    "labels": torch.arange(18)[None],
    "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
    "cu_seq_lens_q": torch.tensor([0, 3, 8, 10, 17, 18], dtype=torch.int32),
    "cu_seq_lens_k": torch.tensor([0, 3, 8, 10, 17, 18], dtype=torch.int32),
    "max_length_q": 7,
    "max_length_k": 7,
    "seq_idx": torch.repeat_interleave(torch.arange(5), torch.tensor(LENGTHS))[None],
}


@pytest.mark.parametrize("most", [None, 1, 2, 3, 5, 9])
def test_the_parts_are_the_batch(most):
    parts = Divisible.of(ROWS).parts(most)
    assert max(part.size for part in parts) <= (most or 5)
    assert sum(part.share for part in parts) == pytest.approx(1)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), ROWS[name])
    assert all(part.inputs["use_cache"] is False for part in parts)


def test_what_was_found_for_the_whole_batch_is_not_in_a_part():
    found = {**ROWS, "scored_positions": torch.arange(3)}
    assert "scored_positions" in Divisible.of(found).parts(None)[0].inputs
    assert all("scored_positions" not in part.inputs for part in Divisible.of(found).parts(2))


@pytest.mark.parametrize("most", [1, 3, 8, 12, 18])
def test_packed_documents_stay_whole(most):
    parts = Divisible.of(PACKED).parts(most)
    assert torch.equal(torch.cat([part.inputs["input_ids"] for part in parts], 1), PACKED["input_ids"])
    for part in parts:
        bounds = part.inputs["cu_seq_lens_q"]
        assert part.size <= most or part.pieces == 1
        assert (part.inputs["position_ids"][0, bounds[:-1].long()] == 0).all()
        assert bounds[-1] == part.size == part.inputs["input_ids"].shape[1]
        assert part.inputs["max_length_q"] == int(bounds.diff().max())
        assert part.inputs["seq_idx"].unique().tolist() == list(range(part.pieces))


def test_both_sides_of_a_pair_stay_together():
    pairs = {"input_ids": torch.tensor([[1], [2], [3], [-1], [-2], [-3]]), "ref_chosen_logps": torch.tensor([1, 2, 3])}
    parts = Divisible.of(pairs, sides=2).parts(2)
    assert [part.inputs["input_ids"].flatten().tolist() for part in parts] == [[1, 2, -1, -2], [3, -3]]
    assert [part.inputs["ref_chosen_logps"].tolist() for part in parts] == [[1, 2], [3]]


def test_groups_of_prompts_stay_together():
    parts = Divisible.of(list("aabbcc"), group=2).parts(3)
    assert ["".join(part.inputs) for part in parts] == ["aa", "bb", "cc"]


def test_padding_that_only_longer_rows_needed_is_cut():
    part = Divisible.of(ROWS).parts(3)[0].trimmed()
    assert part.inputs["input_ids"].tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert part.inputs["labels"].tolist() == [0, 1, 2]


def test_a_part_is_divided_again():
    batch = Divisible.of(ROWS)
    again = [piece for part in batch.parts(3) for piece in batch.parts(2, part)]
    assert [(part.first, part.end, part.share) for part in again] == [(0, 2, 0.4), (2, 3, 0.2), (3, 5, 0.4)]


def test_a_batch_with_tensors_of_no_row_is_not_divided():
    assert Divisible.of({**ROWS, "pixels": torch.zeros(7, 3)}) is None
