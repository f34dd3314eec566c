"""The scores of the positions in the loss are those that TRL computes from all of them."""

import contextlib
from types import SimpleNamespace

import pytest

pytest.importorskip("trl")

import peft
import torch
import transformers
from architectures import CAUSAL
from trl.trainer.utils import add_fused_lm_head

from lora_ns.methods import METHODS
from lora_ns.model.adapter import add_adapter
from lora_ns.model.files import find_base
from lora_ns.model.load import Loading, load_base
from lora_ns.model.short_rows import attending_by_rows
from lora_ns.plan.memory.estimate import POSITIONS_AT_ONCE, normalised_at_once, positions_at_once
from lora_ns.table import IGNORED
from lora_ns.training.causal_attention import attends_to_whole_rows, attention_without_mask
from lora_ns.training.padding_free import PaddingFree
from lora_ns.training.scoring import (
    POSITIONS,
    AnswerScorer,
    HeadScorer,
    ScoredCollator,
    labelled_positions,
    scoring_function,
)

PLAIN = SimpleNamespace(autocast=contextlib.nullcontext)
HALF = SimpleNamespace(autocast=lambda: torch.autocast("cpu", torch.bfloat16))


@pytest.fixture(scope="module")
def base():
    return find_base("lorans:nano", "main", [], download=False)


def adapted(base, method="lora", **settings):
    loaded = load_base(base, Loading("CAUSAL_LM", "float32", "cpu"))
    add_fused_lm_head(loaded, outputs=("log_probs", "entropy", "is_top1"))
    model = add_adapter(loaded, METHODS[method](method=method, **settings), "CAUSAL_LM", base)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def batch(rows=3, length=20):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 60, (rows, length), generator=generator)
    labels = ids.clone()
    labels[:, :7] = IGNORED
    labels[0, 12:] = IGNORED
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def scored(scorer, model, accelerator, rows):
    """The scores of a batch."""
    return scorer(model, accelerator)(positions=labelled_positions(rows["labels"]), use_cache=False, **rows)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize(("accelerator", "tolerance"), [(PLAIN, 1e-5), (HALF, 2e-2)], ids=["float32", "bfloat16"])
def test_scores_and_gradients_are_those_of_all_positions(base, method, accelerator, tolerance):
    model = adapted(base, method)
    with accelerator.autocast():
        expected = model(**batch(), fused_lm_head=True)
    wanted = gradients(model, -expected.log_probs.sum())
    got, mask = scored(AnswerScorer, model, accelerator, batch()), expected.label_mask
    assert torch.allclose(got.log_probs, expected.log_probs[mask], atol=10 * tolerance)
    assert torch.allclose(got.entropy, expected.entropy.detach()[mask], atol=10 * tolerance)
    assert (got.is_top1 == expected.is_top1[mask]).float().mean() > 0.95
    for name, gradient in gradients(model, -got.log_probs.sum()).items():
        assert (gradient - wanted[name]).norm() <= tolerance * wanted[name].norm(), name


@pytest.fixture
def one_of_one(tmp_path):
    """A process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


ROWS = {"trainable_token_indices": (5, 6)}


@pytest.mark.parametrize(
    ("scorer", "method", "settings"),
    [(AnswerScorer, "lora", {}), (AnswerScorer, "ia3", {}), (HeadScorer, "lora", ROWS)],
    ids=["lora", "ia3", "rows"],
)
def test_ddp_sees_every_gradient_of_the_scored_positions(one_of_one, base, scorer, method, settings):
    model = adapted(base, method, **settings)
    expected = scored(scorer, model, PLAIN, batch())
    wanted = gradients(model, -expected.log_probs.sum())
    shared = torch.nn.parallel.DistributedDataParallel(model)
    seen = []
    shared.register_comm_hook(None, lambda _, bucket: _seen(bucket, seen))
    assert scorer.fits(shared)
    got = scored(scorer, shared, PLAIN, batch())
    assert torch.allclose(got.log_probs, expected.log_probs, atol=1e-6)
    for name, gradient in gradients(model, -got.log_probs.sum()).items():
        assert torch.allclose(gradient, wanted[name], atol=1e-6), name
    assert sum(seen) == sum(value.numel() for value in wanted.values())


def _seen(bucket, sizes):
    """What DDP is about to add up over the processes."""
    sizes.append(bucket.buffer().numel())
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def test_any_loss_on_the_log_probabilities_has_its_own_gradient():
    """Dynamic fine-tuning weighs each token: the scaling in the backward pass has to be by position."""
    generator = torch.Generator().manual_seed(3)
    count = POSITIONS_AT_ONCE + 7
    hidden = torch.randn(count, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (count,), generator=generator)
    weights = torch.rand(count, generator=generator)
    plain = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias), -1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((weights * plain).sum(), hidden)
    scores, entropy, _ = scoring_function().apply(hidden, weight, bias, targets)
    (got,) = torch.autograd.grad((weights * scores).sum(), hidden)
    assert torch.allclose(scores.double(), plain, atol=1e-5)
    assert torch.allclose(got, expected, atol=1e-5)
    assert entropy.min() >= 0


@pytest.mark.parametrize(("scorer", "settings"), [(AnswerScorer, {}), (HeadScorer, ROWS)], ids=["lora", "rows"])
def test_a_batch_without_a_label_teaches_nothing(base, scorer, settings):
    model = adapted(base, **settings)
    empty = batch()
    empty["labels"] = torch.full_like(empty["labels"], IGNORED)
    scores = scored(scorer, model, PLAIN, empty)
    assert not len(scores.log_probs)
    assert all(not gradient.any() for gradient in gradients(model, scores.log_probs.sum()).values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 6)])
def test_the_positions_on_the_host_are_those_of_the_mask(shape):
    labels = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(4)) - 1
    labels[labels < 0] = IGNORED
    mask = labels[:, 1:] != IGNORED
    hidden = torch.rand(*shape, 2)
    collated = ScoredCollator(lambda rows: rows)({"labels": labels})
    assert torch.equal(hidden.flatten(0, 1)[collated[POSITIONS]], hidden[:, :-1][mask])
    assert torch.equal(labels.flatten()[collated[POSITIONS] + 1], labels[:, 1:][mask])
    assert ScoredCollator(lambda rows: rows)({"input_ids": labels}).keys() == {"input_ids"}


def test_what_is_not_a_backbone_and_a_frozen_head_is_left_to_trl(base):
    model = adapted(base)
    assert AnswerScorer.fits(model)
    assert not AnswerScorer.fits(torch.nn.DataParallel(model))
    assert not AnswerScorer.fits(adapted(base, "prompt-tuning", num_virtual_tokens=4))
    model.get_base_model().config.logits_scaling = 8.0
    assert not AnswerScorer.fits(model)
    del model.get_base_model().config.logits_scaling
    model.get_base_model().lm_head.requires_grad_(True)
    assert not AnswerScorer.fits(model)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_needs_no_mask_for_padding_at_the_end(name):
    torch.manual_seed(5)
    config = CAUSAL[name].config(**{"vocab_size": 64, "pad_token_id": 0, **CAUSAL[name].sizes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=CAUSAL[name].attention).eval()
    ids = torch.randint(5, 60, (3, 20))
    mask = torch.ones_like(ids)
    mask[0, 12:] = mask[1, 17:] = 0
    before, sees_all = model.config._attn_implementation, attends_to_whole_rows(model)
    with torch.no_grad():
        masked = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        with attention_without_mask(model):
            assert (model.config._attn_implementation != before) == sees_all
            bare = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(masked[mask.bool()], bare[mask.bool()], atol=1e-6)
    assert model.config._attn_implementation == before


def causal(name, dtype=torch.float32):
    """A tiny base of a family with a LoRA that is not zero, in training but without dropout."""
    torch.manual_seed(5)
    sizes = {"vocab_size": 64, "pad_token_id": 0, **CAUSAL[name].sizes}
    sizes |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout"), 0.0)
    base = transformers.AutoModelForCausalLM.from_config(
        CAUSAL[name].config(**sizes), attn_implementation=CAUSAL[name].attention, dtype=dtype
    )
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=list(CAUSAL[name].targets), init_lora_weights=False)
    )
    return model.train()


class Free(PaddingFree):
    """Leaves out any padding, and counts the batches."""

    batches = 0

    def pays(self, mask):
        found = self.is_possible and not mask.all()
        self.batches += found
        return bool(found)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", CAUSAL)
def test_without_padding_scores_and_gradients_are_the_same(name, checkpointing):
    model = causal(name)
    if checkpointing:
        model.enable_input_require_grads()
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    rows, free = batch(), Free(model.get_base_model(), PLAIN)
    rows["positions"] = labelled_positions(rows["labels"])
    found = {}
    for kind, without in (("padded", None), ("free", free)):
        with attending_by_rows(model, True):
            scores = AnswerScorer(model, PLAIN).without_mask(without, use_cache=False, **rows)
            found[kind] = scores, gradients(model, -scores.log_probs.sum())
    assert free.batches == attends_to_whole_rows(model.get_base_model()) == (name not in {"gemma2", "mistral"})
    (padded, wanted), (got, slopes) = found["padded"], found["free"]
    assert torch.allclose(got.log_probs, padded.log_probs, atol=1e-5)
    assert torch.allclose(got.entropy, padded.entropy, atol=1e-5)
    assert torch.equal(got.is_top1, padded.is_top1)
    for part, slope in slopes.items():
        assert (slope - wanted[part]).norm() <= 1e-4 * wanted[part].norm() + 1e-6, part


def mixed(_module, _inputs, output):
    """What a convolution or a recurrent state does: a position takes something of the one before it."""
    hidden = output[0] if isinstance(output, tuple) else output
    mixed = hidden + 0.1 * hidden.roll(1, dims=1)
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_base_whose_rows_see_what_is_before_them_keeps_its_padding(dtype):
    model = causal("llama", dtype)
    base = model.get_base_model()
    with attending_by_rows(model, True):
        assert PaddingFree(base, PLAIN).is_possible
        base.base_model.layers[0].register_forward_hook(mixed)
        assert not PaddingFree(base, PLAIN).is_possible
        assert base.training
        assert base.base_model.layers[1].training


@pytest.mark.parametrize(
    ("change", "pays"),
    [
        ({}, True),
        ({"padding": 1}, False),
        ({"hidden": 64}, False),
        ({"training": False}, False),
        ({"by": "sdpa"}, False),
    ],
    ids=str,
)
def test_padding_is_left_out_where_that_is_faster(change, pays):
    change = {"padding": 20, "hidden": 576, "training": True, "by": "products"} | change
    text = SimpleNamespace(hidden_size=change["hidden"])
    config = SimpleNamespace(_attn_implementation=change["by"], get_text_config=lambda: text)
    free = PaddingFree(SimpleNamespace(config=config, training=change["training"]), PLAIN)
    free._keeps_rows_apart = True
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, 40 - change["padding"] :] = 0
    assert free.pays(mask) == pays


@pytest.mark.parametrize(
    ("lengths", "hidden", "dtype", "pays"),
    [
        ([300, 200, 250], 576, torch.bfloat16, True),
        ([100, 80], 32, torch.bfloat16, False),
        ([100, 80], 576, torch.bfloat16, False),
        ([100, 80], 576, torch.float32, True),
        ([16] * 64, 256, torch.bfloat16, False),
        ([16] * 64, 256, torch.float32, True),
        ([750], 576, torch.float32, False),
    ],
)
def test_documents_attend_one_by_one_where_that_is_faster(lengths, hidden, dtype, pays):
    config = SimpleNamespace(_attn_implementation="products", get_text_config=lambda: text)
    text = SimpleNamespace(hidden_size=hidden)
    free = PaddingFree(SimpleNamespace(config=config, training=True, dtype=dtype), PLAIN)
    free._keeps_rows_apart = True
    assert free.pays_for_documents(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)) == pays


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_models_whose_layers_see_whole_rows_are_known(name):
    config = CAUSAL[name].config(**{"vocab_size": 64, "pad_token_id": 0, **CAUSAL[name].sizes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    assert attends_to_whole_rows(model)
    if name == "qwen2":
        config.layer_types = ["sliding_attention"] * 2
        assert not attends_to_whole_rows(model)


def test_rows_that_are_padded_in_front_keep_their_mask():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    rows = {"input_ids": mask, "attention_mask": mask, "labels": mask}
    assert POSITIONS not in ScoredCollator(dict)(rows)
    assert POSITIONS in ScoredCollator(dict)({**rows, "attention_mask": mask.flip(1)})


@pytest.mark.parametrize("vocabulary", [11, 2_000, 49_152, 262_144])
def test_the_logits_of_a_part_fit_the_cache_of_a_cpu_if_the_vocabulary_allows_it(vocabulary):
    count = positions_at_once(vocabulary, on_cpu=True)
    assert 128 <= count <= positions_at_once(vocabulary, on_cpu=False) == POSITIONS_AT_ONCE
    assert count == 128 or count * vocabulary <= 12 * 2**20
    exact = normalised_at_once(vocabulary, on_cpu=True)
    assert 1 <= exact <= normalised_at_once(vocabulary, on_cpu=False) == POSITIONS_AT_ONCE
    assert 2 * 4 * exact * vocabulary <= 8 * 2**20
