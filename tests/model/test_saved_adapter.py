"""A stranger's adapter may say anything of itself: each is one message with its file, before memory is taken for it."""

import json
import shutil

import pytest

pytest.importorskip("peft")

import peft
from transformers import AutoModelForCausalLM

from lora_ns.errors import UsageError
from lora_ns.model.files import packaged
from lora_ns.model.saved_adapter import load_adapter

SIZES = {
    "r": 30_000,
    "rank_pattern": {"q_proj": 30_000},
}
KINDS = ["x", 5, 1.5, [1], {"q_proj": "y"}, -1]
FIELDS = [
    *("r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("lora_dropout", "layers_to_transform", "layers_pattern", "bias", "init_lora_weights"),
    *("layer_replication", "target_parameters", "trainable_token_indices", "peft_type"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(packaged("lorans:nano"))
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def forged(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "adapter")

    def change(**settings):
        file = tmp_path / "adapter" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
        return tmp_path / "adapter"

    return change


@pytest.fixture
def base():
    return AutoModelForCausalLM.from_pretrained(packaged("lorans:nano"))


@pytest.mark.parametrize(("key", "value"), SIZES.items())
def test_a_size_that_the_weights_do_not_have_is_refused_before_it_is_made(forged, base, monkeypatch, key, value):
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", lambda *_, **__: pytest.fail("the adapter was made"))
    with pytest.raises(
        UsageError, match=rf"adapter_config.json: `{key}` is 30,000, but no dimension of the adapter's weights is"
    ):
        load_adapter(base, forged(**{key: value}))


@pytest.mark.filterwarnings("ignore:::peft")  # which warns of some of them, and takes them
@pytest.mark.parametrize("key", FIELDS)
def test_a_setting_of_another_kind_is_harmless_or_one_message(forged, key):
    for value in KINDS:
        try:
            load_adapter(AutoModelForCausalLM.from_pretrained(packaged("lorans:nano")), forged(**{key: value}))
        except UsageError as error:
            (problem,) = error.problems
            assert "adapter" in problem.where
            assert problem.what.strip(": ")
            assert problem.remedy
