"""Memory of a pool is used again, never while a tensor has it, and changes no value."""

import gc

import pytest

torch = pytest.importorskip("torch")

from lora_ns.merging.pool import Pool, Spilled  # noqa: E402

SIZE = (1024, 512)


def filled(pool, value):
    return pool.empty(SIZE, torch.float32).fill_(value)


def test_memory_is_used_again_when_nothing_refers_to_it():
    pool = Pool()
    first = filled(pool, 1)
    place = first.data_ptr()
    del first
    gc.collect()
    assert filled(pool, 2).data_ptr() == place


def test_a_view_keeps_its_memory():
    pool = Pool()
    first = filled(pool, 1)
    view, place = first[1:].T, first.data_ptr()
    del first
    gc.collect()
    assert filled(pool, 2).data_ptr() != place
    assert (view == 1).all()


def test_memory_of_another_size_serves_smaller_tensors_in_any_dtype():
    pool = Pool()
    place = filled(pool, 1).data_ptr()
    found = pool.cast(torch.arange(2**19).to(torch.float32), torch.bfloat16)
    assert found.data_ptr() == place
    assert torch.equal(found, torch.arange(2**19).to(torch.bfloat16))


@pytest.mark.parametrize(
    "compute",
    [
        lambda left, right: (left @ right) * 0.3,
        lambda left, right: (left @ right).T * 0.3 + (left @ right).T,
        lambda left, right: left.T.contiguous().T @ right + torch.ones(SIZE[1]),
        lambda left, right: left.half() @ right.half(),
        lambda left, right: (left @ right).norm(dim=0) + torch.add(left @ right, 1, alpha=2).sum(0),
    ],
    ids=["product", "transposed", "broadcast", "half", "sums"],
)
def test_results_have_the_bits_and_the_layout_that_torch_gives(compute):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(SIZE[0], 16, generator=generator)
    right = torch.randn(16, SIZE[1], generator=generator)
    expected = compute(left, right)
    with Pool().for_results():
        found = compute(left, right)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


def test_spilled_tensors_keep_their_values_and_leave_no_file(tmp_path):
    values = {size: torch.randn(size, 3) for size in (1, 4096, 5000)}
    copies = {size: value.clone() for size, value in values.items()}
    spilled = Spilled(tmp_path, values.values())
    values[5000][0] = copies[5000][0] = 7
    spilled.release()
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(values[size], copies[size]) for size in values)


def test_few_values_are_not_spilled(tmp_path):
    value = torch.ones(3)
    place = value.data_ptr()
    Spilled(tmp_path, [value]).release()
    assert value.data_ptr() == place
