"""Attention by matrix products: the numbers of scaled dot-product attention, for the rows that a CPU trains faster."""

import contextlib
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from transformers import AttentionInterface

from lora_ns.model.attention import LONGEST_IN_PRODUCTS, multiplies_short_rows
from lora_ns.model.short_rows import NAME, attend, attending_by_rows, by_products
from lora_ns.plan.memory.count import FAMILIES, Variant, build


def vectors(rows, heads, key_heads, length, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(rows, count, length, width, generator=generator, dtype=dtype).requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]


def masks(rows, length):
    """Masks as transformers makes them: rows padded at the end, in front, packed, a window, and numbers to add."""
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    ends = torch.arange(length)[None] < torch.tensor([length - number for number in range(rows)])[:, None].clamp(min=1)
    numbers = torch.zeros(1, 1, length, length).masked_fill(~causal, torch.finfo(torch.float32).min)
    yield "padded", ends[:, None, None].expand(rows, 1, length, length)
    yield "padded and causal", causal & ends[:, None, None]
    yield "padded in front", causal & ends.flip(1)[:, None, None] | torch.eye(length, dtype=torch.bool)
    yield "window", (causal & ~causal.tril(-3))[None, None]
    yield "numbers", numbers.double()


def both(query, key, value, mask, is_causal):
    scaling = 0.3
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    got = by_products(query, key, value, mask, 0.0, scaling, is_causal)
    assert got.shape == expected.shape
    yield expected, got
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=expected.dtype)
    yield from zip(*(torch.autograd.grad(found, (query, key, value), slope) for found in (expected, got)), strict=True)


@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (4, 4), (6, 2), (6, 1)])
@pytest.mark.parametrize(("rows", "length"), [(1, 2), (3, 5), (200, 6), (5, 130), (1, 345)])
def test_the_products_are_the_attention_and_its_gradients(rows, length, heads, key_heads):
    found = vectors(rows, heads, key_heads, length, 4)
    for is_causal in (True, False):
        for expected, got in both(*found, None, is_causal):
            torch.testing.assert_close(got, expected)
    for name, mask in masks(rows, length):
        for expected, got in both(*found, mask, False):
            torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}")


def test_a_position_that_sees_nothing_is_a_number():
    found = vectors(2, 2, 2, 4, 4)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0] = True
    got = by_products(*found, mask, 0.0, 0.5, False)
    assert torch.isfinite(got).all()


def test_dropped_probabilities_are_scaled():
    query, key, value = vectors(64, 4, 4, 32, 8)
    torch.manual_seed(3)
    got = by_products(query, key, torch.ones_like(value), None, 0.25, 0.5, True)
    assert abs(got.mean() - 1) < 0.01
    assert got.std() > 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("is_causal", [True, False])
def test_the_gradients_are_those_of_finite_differences(monkeypatch, is_causal, dropout):
    monkeypatch.setattr("lora_ns.model.short_rows._BLOCK", 2)  # several blocks

    def attended(*states):
        torch.manual_seed(3)  # drops the same probabilities
        return by_products(*states, None, dropout, 0.5, is_causal)

    assert torch.autograd.gradcheck(attended, vectors(2, 4, 2, 7, 3, torch.double))


@pytest.mark.parametrize(
    ("change", "is_product"),
    [
        ({}, True),
        ({"length": LONGEST_IN_PRODUCTS}, True),
        ({"length": LONGEST_IN_PRODUCTS + 1}, False),
        ({"length": 1}, False),
        ({"dtype": torch.float32}, False),
        ({"training": False}, False),
        ({"position_bias": torch.zeros(1, 2, 8, 8)}, False),
    ],
    ids=str,
)
def test_what_is_not_faster_goes_to_transformers(monkeypatch, change, is_product):
    seen = []
    monkeypatch.setattr("lora_ns.model.short_rows.by_products", lambda *args: seen.append(args))
    change = {"dtype": torch.bfloat16, "length": 8, "training": True} | change
    module = torch.nn.Module().train(change.pop("training"))
    module.is_causal = True
    found = vectors(1, 2, 2, change.pop("length"), 4, change.pop("dtype"))
    attend(module, *found, None, scaling=0.5, **change)
    assert len(seen) == is_product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [(7,), (5, 1, 9), (LONGEST_IN_PRODUCTS + 3, 4)], ids=str)
def test_rows_one_after_another_do_not_see_one_another(lengths, dtype):
    module = torch.nn.Module().train()
    module.is_causal, module.num_key_value_groups = True, 2
    states = vectors(1, 4, 2, sum(lengths), 4, dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    sees = (row[:, None] == row[None]).tril()[None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(state.float() for state in states), attn_mask=sees, scale=0.5, enable_gqa=True
    ).transpose(1, 2)
    got, _ = attend(module, *states, None, scaling=0.5, cu_seq_lens_q=bounds)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(got.float(), expected, **tolerance)
    both = (torch.autograd.grad(found, states, slope.to(found.dtype)) for found in (expected, got))
    for wanted, found in zip(*both, strict=True):
        assert distance(found.float(), wanted.float()) < tolerance["rtol"]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])
def test_a_model_trains_with_the_same_gradients(family):
    """In bfloat16, whose products are rounded: as near to float32 as the fused kernel is, within a factor of two."""
    model = build(family, Variant(), 2)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    fused = gradients(model, False)
    products = gradients(model, True)
    exact = gradients(model.float(), False, contextlib.nullcontext())
    assert distance(products, exact) < 2 * distance(fused, exact) + 1e-3
    assert model.get_base_model().config._attn_implementation == "sdpa"


def gradients(model, by_products, context=None):
    model.zero_grad()
    ids = torch.randint(3, 300, (3, 40), generator=torch.Generator().manual_seed(5))
    mask = (torch.arange(40)[None] < torch.tensor([[40], [31], [7]])).long()
    with attending_by_rows(model, by_products), context or torch.autocast("cpu", torch.bfloat16):
        assert (model.get_base_model().config._attn_implementation == NAME) == by_products
        hidden = model.get_base_model().base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        (hidden.float().pow(3) * mask[..., None]).mean().backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def distance(one, other):
    return float((one - other).norm() / other.norm())


def test_without_the_context_nothing_is_registered_or_changed():
    known = set(AttentionInterface().valid_keys()) - {NAME}
    config = SimpleNamespace(_attn_implementation="eager")
    model = SimpleNamespace(get_base_model=lambda: SimpleNamespace(config=config))
    with attending_by_rows(model, True):
        assert config._attn_implementation == "eager"
    assert known <= set(AttentionInterface().valid_keys())


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "expected"),
    [
        ("auto", "cpu", "bfloat16", True),
        ("sdpa", "cpu", "bfloat16", False),
        ("eager", "cpu", "bfloat16", False),
        ("auto", "cuda", "bfloat16", False),
        ("auto", "cpu", "float32", False),
    ],
)
def test_only_what_the_recipe_leaves_open_is_decided(asked, device, dtype, expected):
    assert multiplies_short_rows(asked, device, dtype) == expected
