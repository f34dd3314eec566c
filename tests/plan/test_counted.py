"""The table of what layers keep is what the installed libraries keep, and gives the bytes of other sizes."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from lora_ns.methods import METHODS
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory import activations, count
from lora_ns.plan.memory.activations import Step, layer_bytes
from lora_ns.plan.memory.count import FAMILIES, VARIANTS, Variant, build, measured, stored

SEEN = [
    ("llama", Variant()),
    ("llama", Variant("float32", dropout=True)),
    ("qwen3", Variant(targets="attention")),
    ("gemma3_text", Variant(attention="eager")),
    ("phi3", Variant("float32")),
    ("gpt_neox", Variant()),
    ("bert", Variant()),
]


@pytest.mark.parametrize(("family", "variant"), SEEN, ids=lambda part: getattr(part, "key", part))
def test_the_table_is_what_the_libraries_keep(family, variant):
    assert activations._table()[family][variant.key] == measured(family, variant)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_table(family):
    assert activations._table()[family] == {variant.key: measured(family, variant) for variant in VARIANTS}


@pytest.mark.parametrize(
    ("family", "dtype", "rows", "length", "rank"),
    [
        ("llama", "bfloat16", 5, 23, 12),
        ("llama", "float32", 1, 61, 3),
        ("qwen3", "bfloat16", 2, 40, 8),
        ("bert", "float32", 4, 31, 6),
    ],
)
def test_a_layer_of_other_sizes_keeps_the_bytes_of_the_table(monkeypatch, family, dtype, rows, length, rank):
    sizes = {"HIDDEN": 96, "INTERMEDIATE": 210, "HEADS": 6, "RANK": rank}
    for name, value in sizes.items():
        monkeypatch.setattr(count, name, value)
    variant = Variant(dtype)
    few, many = (sum(size for _, size in stored(build(family, variant, n), variant, rows, length)) for n in (2, 3))
    more = FAMILIES[family]
    settings = {"num_attention_heads": 6, **more}
    facts = BaseFacts(family, 0, "BF16", 96, 210, 1, 311, 64, {}, settings=settings)
    planned = layer_bytes(
        facts, METHODS["lora"](method="lora", lora_r=rank), Step(rows, length, dtype, "sdpa", is_even=True)
    )
    casts = 0 if dtype == "float32" else 2 * _adapter_of_a_layer(family, variant)
    assert many - few == planned.total + casts


def _adapter_of_a_layer(family, variant):
    """Parameters of the adapter in a layer, of which autocast makes a copy."""
    few, many = (sum(p.numel() for p in build(family, variant, n).parameters() if p.requires_grad) for n in (2, 3))
    return many - few
