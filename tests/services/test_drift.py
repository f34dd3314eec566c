"""The suite `drift` measures how far a run is from its base, on the base's own answers."""

import json

import pytest

pytest.importorskip("torch")

import torch
from typer.testing import CliRunner

from lora_ns.answers.drift import drift_from_base
from lora_ns.answers.opened import load_whole_base, loading_of, make_writer, open_trained
from lora_ns.answers.work import compute_here
from lora_ns.cli.app import app
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError
from lora_ns.recipe.generation import Generation
from lora_ns.services.evaluate_suites import BASE_NAME, System, answer_suites
from lora_ns.suites import DriftSuite

GREEDY = Generation(max_new_tokens=6, batch_size=4)


@pytest.fixture(scope="module")
def trained(lora_run):
    return open_trained(lora_run)


@pytest.fixture(scope="module")
def bare(trained):
    """The base, loaded alone."""
    return load_whole_base(trained.run, trained.manifest, trained.base, loading_of(trained.manifest)).eval()


@pytest.fixture(scope="module")
def prompts(trained):
    asked = [*(f"What is {one} plus {one + 2}?" for one in range(4)), *(f"Write {one}xum backwards." for one in "abcd")]
    return [
        trained.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in asked
    ]


def test_the_divergence_is_that_of_the_two_models_loaded_apart(trained, bare, prompts):
    found = drift_from_base(trained, prompts, GREEDY)
    answers = make_writer(trained.manifest, bare, trained.tokenizer).write(prompts, GREEDY)
    for (divergence, tokens, _), prompt, answer in zip(found, prompts, answers, strict=True):
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            base, own = (model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (bare, trained.model))
        expected = torch.nn.functional.kl_div(own, base, log_target=True, reduction="sum")
        assert divergence == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
        assert tokens == len(answer)
    assert sum(divergence for divergence, _, _ in found) > 0


def test_an_answer_counts_as_changed_if_the_greedy_answer_is_another_one(trained, bare, prompts):
    found = drift_from_base(trained, prompts, GREEDY)
    own, base = (
        make_writer(trained.manifest, model, trained.tokenizer).write(prompts, GREEDY)
        for model in (trained.model, bare)
    )
    assert [bool(changed) for _, _, changed in found] == [one != other for one, other in zip(own, base, strict=True)]
    assert {changed for _, _, changed in found} == {0, 1}


def test_an_adapter_without_effect_has_no_drift(lora_run, prompts):
    idle = open_trained(lora_run)
    for name, value in idle.model.named_parameters():
        if "lora_B" in name:
            value.data.zero_()
    assert [(divergence, changed) for divergence, _, changed in drift_from_base(idle, prompts, GREEDY)] == [(0, 0)] * 8


def test_batch_sizes_change_nothing(trained, prompts):
    alone = [one for prompt in prompts for one in drift_from_base(trained, [prompt], GREEDY)]
    for one, other in zip(alone, drift_from_base(trained, prompts, GREEDY), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_base_itself_has_no_figure_and_no_verdict(trained):
    rows = [Row(f"row {one}", {"prompt": f"Spell w{one}."}) for one in range(4)]
    systems = [System("adapter", trained), System(BASE_NAME, trained, "base")]
    (answered,) = answer_suites(systems, [DriftSuite()], lambda _: rows, compute_here)
    assert answered.answers.keys() == {"adapter"}


def test_eval_reports_it_beside_other_suites(lora_run, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"What is {one} + 1?", "completion": str(one + 1)} for one in range(4)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = ["eval", str(lora_run.path), "--data", str(data), "--suite", "drift", "--json"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["drift.kl"] > 0
    assert 0 <= metrics["drift.changed"] <= 1
    assert {"loss", "perplexity"} <= metrics.keys()
    with pytest.raises(LoransError, match="the distance from the base grows with training"):
        CliRunner().invoke(app, ["bisect", str(lora_run.path), "--metric", "drift.kl"], catch_exceptions=False)
