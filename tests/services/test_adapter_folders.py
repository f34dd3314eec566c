"""`adapter inspect` and `adapter diff`: figures that equal those of the updates themselves."""

import json
import math

import pytest

np = pytest.importorskip("numpy")

from adapter_folders import PREFIX, factors, write_adapter  # noqa: E402

from lora_ns.readers import read_adapter  # noqa: E402
from lora_ns.readers.updates import factors_of  # noqa: E402
from lora_ns.services.diff_adapters import diff_adapters  # noqa: E402
from lora_ns.services.inspect_adapter import inspect_adapter  # noqa: E402

Q, DOWN = "self_attn.q_proj", "mlp.down_proj"


def updates(tensors, scale):
    """The updates themselves, by layer."""
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("lora_A.weight")]
    pairs = {name: (tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_A.weight"]) for name in names}
    return {name: scale * (b.astype("f8") @ a.astype("f8")) for name, (b, a) in pairs.items()}


@pytest.mark.parametrize(("dtype", "exact"), [("F32", 1e-12), ("F64", 1e-12), ("F16", 1e-3), ("BF16", 1e-2)])
def test_norms_by_kind_of_layer_are_those_of_the_updates(tmp_path, dtype, exact):
    tensors = factors()
    facts = inspect_adapter(write_adapter(tmp_path, tensors, dtype=dtype))
    whole = updates(tensors, 2.0)
    for group in facts.groups:
        norms = [np.linalg.norm(update) for name, update in whole.items() if name.endswith(group.kind)]
        assert (group.layers, group.rank, group.scale) == (2, 4, 2.0)
        assert group.norm == pytest.approx(math.hypot(*norms), rel=exact)
        assert group.largest == pytest.approx(max(norms), rel=exact)
    assert facts.norm == pytest.approx(math.hypot(*map(np.linalg.norm, whole.values())), rel=exact)
    assert facts.dtypes == {dtype: facts.parameters}
    assert facts.parameters == sum(value.size for value in tensors.values())


def test_facts_of_configuration_files_and_run(tmp_path):
    run = tmp_path / "run"
    folder = write_adapter(run / "adapter", r=4, use_rslora=True, rank_pattern={}, modules_to_save=["score"],
                           init_lora_weights="eva", peft_version="0.21.2", revision="abc")  # fmt: skip
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    for name in ("manifest.json", "recipe.toml"):
        (run / name).write_text("{}")
    facts = inspect_adapter(run)
    assert (facts.adapter, facts.run) == (str(folder), str(run))
    assert (facts.peft_type, facts.peft_version, facts.task_type) == ("LORA", "0.21.2", "CAUSAL_LM")
    assert (facts.base, facts.revision, facts.initialisation) == ("owner/base", "abc", "eva")
    assert (facts.r, facts.lora_alpha, facts.use_rslora) == (4, 8.0, True)
    assert {group.scale for group in facts.groups} == {4.0}
    assert (facts.tokenizer_files, facts.has_chat_template) == (("tokenizer.json",), True)
    assert facts.modules_to_save == ("score",)
    assert facts.size == sum(file.stat().st_size for file in folder.iterdir())


def test_another_method_has_norms_of_its_tensors(tmp_path):
    tensors = {f"{PREFIX}model.layers.{block}.{Q}.ia3_l": np.full((3,), 2.0, "f4") for block in range(4)}
    facts = inspect_adapter(write_adapter(tmp_path, tensors, peft_type="IA3", r=None, lora_alpha=None))
    (group,) = facts.groups
    assert (group.kind, group.layers, group.rank, group.parameters) == ("q_proj.ia3_l", 4, None, 12)
    assert group.norm == pytest.approx(math.sqrt(12 * 4))


def test_experts_in_one_tensor_are_taken_apart_as_peft_does(tmp_path):
    experts, rank, inputs, outputs = 3, 2, 6, 5
    drawn = np.random.default_rng(0)
    a, b = drawn.normal(size=(experts * rank, inputs)), drawn.normal(size=(outputs, rank * experts))
    name = f"{PREFIX}model.layers.0.mlp.experts"
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    adapter = read_adapter(
        write_adapter(tmp_path, tensors, dtype="F64", r=rank, target_parameters=["mlp.experts.down_proj"])
    )
    (layer,) = adapter.layers
    whole = np.einsum("ore,eri->eoi", b.reshape(outputs, rank, experts), a.reshape(experts, rank, inputs))
    assert (layer.experts, layer.rank) == (experts, rank)
    assert factors_of(adapter, layer).norm() == pytest.approx(layer.scale * np.linalg.norm(whole), rel=1e-12)


def test_an_adapter_equals_itself_whatever_the_order_of_its_target_modules(tmp_path):
    one, other = write_adapter(tmp_path / "a"), write_adapter(tmp_path / "b", target_modules=["down_proj", "q_proj"])
    result = diff_adapters(one, other)
    assert result.is_equal
    assert (result.config, result.only_first, result.only_second) == ((), (), ())
    assert {(group.kind, group.layers, group.difference, group.cosine) for group in result.groups} == {
        ("q_proj", 2, 0.0, 1.0), ("down_proj", 2, 0.0, 1.0)
    }  # fmt: skip


def test_differences_are_those_of_the_updates_themselves(tmp_path):
    first, second = factors(4, seed=1), factors(6, seed=2)
    result = diff_adapters(write_adapter(tmp_path / "a", first), write_adapter(tmp_path / "b", second, r=6))
    one, other = updates(first, 2.0), updates(second, 8 / 6)
    for group in result.groups:
        left, right = (
            np.concatenate([update.ravel() for name, update in found.items() if name.endswith(group.kind)])
            for found in (one, other)
        )
        assert group.difference == pytest.approx(np.linalg.norm(left - right) / np.linalg.norm(left), rel=1e-9)
        assert group.cosine == pytest.approx(left @ right / np.linalg.norm(left) / np.linalg.norm(right), abs=1e-9)
    assert not result.is_equal
    assert [(one.field, one.first, one.second) for one in result.config] == [("r", 4, 6)]


def test_the_same_update_in_other_factors_differs_in_rounding_alone(tmp_path):
    first = {key: value.astype("f8") for key, value in factors().items()}
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    second = {key: turned.T @ value if "lora_A" in key else value @ turned for key, value in first.items()}
    result = diff_adapters(
        write_adapter(tmp_path / "a", first, dtype="F64"), write_adapter(tmp_path / "b", second, dtype="F64")
    )
    assert result.difference is not None
    assert 0 < result.difference < 1e-14
    assert result.cosine == pytest.approx(1, abs=1e-12)
    assert not result.is_equal


def test_a_scale_is_part_of_the_update(tmp_path):
    result = diff_adapters(write_adapter(tmp_path / "a"), write_adapter(tmp_path / "b", lora_alpha=-8))
    assert result.difference == pytest.approx(2.0)
    assert result.cosine == pytest.approx(-1.0)


def test_layers_of_one_side_and_other_shapes_are_named(tmp_path):
    more = {**factors(blocks=3), f"{PREFIX}score.weight": np.ones((2, 16), "f4")}
    other = {**factors(), f"{PREFIX}score.weight": np.ones((3, 16), "f4")}
    result = diff_adapters(write_adapter(tmp_path / "a", more), write_adapter(tmp_path / "b", other))
    assert result.only_first == (f"model.layers.2.{DOWN}", f"model.layers.2.{Q}")
    assert result.only_second == ()
    score = next(group for group in result.groups if group.kind == "score.weight")
    assert (score.difference, score.cosine, score.is_equal) == (None, None, False)


def test_other_methods_are_compared_by_their_tensors(tmp_path):
    one, other = ({f"{PREFIX}model.layers.0.{Q}.ia3_l": np.array(values, "f4")} for values in ([1, 0], [1, 1]))
    result = diff_adapters(
        write_adapter(tmp_path / "a", one, peft_type="IA3"), write_adapter(tmp_path / "b", other, peft_type="IA3")
    )
    (group,) = result.groups
    assert (group.kind, group.difference, group.cosine) == ("q_proj.ia3_l", 1.0, pytest.approx(math.sqrt(0.5)))


def test_values_that_are_not_finite_are_shown_without_a_warning(tmp_path):
    broken = {key: np.full_like(value, np.nan if "lora_A" in key else np.inf) for key, value in factors().items()}
    folder = write_adapter(tmp_path / "a", {**broken, f"{PREFIX}score.weight": np.full((2, 2), np.inf)})
    assert math.isnan(inspect_adapter(folder).norm)
    result = diff_adapters(
        folder, write_adapter(tmp_path / "b", {**factors(), f"{PREFIX}score.weight": np.ones((2, 2))})
    )
    assert not result.is_equal


def test_results_have_no_value_that_json_lacks(tmp_path):
    zero = {key: 0 * value for key, value in factors().items()}
    result = diff_adapters(write_adapter(tmp_path / "a", zero), write_adapter(tmp_path / "b"))
    assert (result.difference, result.cosine) == (None, None)
    json.dumps([vars(group) for group in result.groups], allow_nan=False)
