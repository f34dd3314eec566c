"""A GGUF base is the model that its file says: its numbers, its tokens, its settings; or it is refused."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from plans import plan_of
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, run_recipe
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lora_ns.answers.opened import open_trained
from lora_ns.errors import MissingError, ModelError, RecipeError
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import ASSETS, TOKENIZER_FILES, find_base
from lora_ns.model.load import Loading, load_base
from lora_ns.model.tokenizer import base_tokenizer, load_tokenizer
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.services.merge import merge

pytest.importorskip("gguf")
from gguf_files import NANO, write_gguf

SHORT = RECIPE.replace("max_steps = 6", "max_steps = 3")
MACHINE = Machine("cpu", 2, True, 24 * 10**9, 20 * 10**9)
LOADING = Loading("CAUSAL_LM", "float32", "cpu")
ROUNDED = {"F32": 1e-5, "F16": 1e-3, "Q8_0": 0.02, "Q4_0": 0.5}
"""Types of llama.cpp, and the largest change of the logits by each, relative to the largest."""


def find(path, **more):
    return find_base(str(path), "main", [], download=False, **more)


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(1, 60)[None]).logits


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The embedded base in each type, with its tokenizer beside."""
    folder = tmp_path_factory.mktemp("gguf")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(NANO / name, folder)
    return {kind: write_gguf(folder / f"nano-{kind}.gguf", kind=kind) for kind in ROUNDED}


@pytest.fixture
def alone(files, tmp_path):
    """A folder with one GGUF file, and no tokenizer."""
    (tmp_path / "base").mkdir()
    return Path(shutil.copy(files["F32"], tmp_path / "base"))


@pytest.fixture(scope="module")
def expected():
    return load_base(find("lorans:nano"), LOADING)


@pytest.mark.parametrize("kind", ROUNDED)
def test_a_gguf_base_is_the_model_that_was_written(files, expected, kind):
    found = load_base(find(files[kind]), LOADING)
    assert not getattr(found, "is_quantized", False)
    assert not any(value.is_meta for value in (*found.parameters(), *found.buffers()))
    change = float((logits(found) - logits(expected)).abs().max() / logits(expected).abs().max())
    assert change < ROUNDED[kind]


def test_its_facts_are_those_of_the_model_in_safetensors(files):
    whole, packed = find("lorans:nano").facts, find(files["Q4_0"]).facts
    same = ("model_type", "parameters", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    assert {name: getattr(packed, name) for name in same} == {name: getattr(whole, name) for name in same}
    assert packed.matrices == whole.matrices
    assert packed.max_position_embeddings == whole.max_position_embeddings


def test_a_fingerprint_tells_files_apart_and_not_where_they_lie(files, alone):
    prints = {kind: find(file).fingerprint for kind, file in files.items()}
    assert len(set(prints.values())) == len(prints)
    assert find(alone).fingerprint == prints["F32"]
    data = bytearray(alone.read_bytes())
    data[-1] ^= 1
    alone.write_bytes(data)
    assert find(alone).fingerprint != prints["F32"]


def test_a_run_over_a_gguf_base_merges_into_a_plain_model_and_knows_its_file(files, tmp_path):
    run = run_recipe(tmp_path, SHORT.replace("lorans:nano", str(files["Q8_0"])))
    manifest = run.read()
    assert manifest.base.gguf_file == "nano-Q8_0.gguf"
    assert any("its weights are dequantised" in note for note in manifest.plan.notes)
    assert manifest.seal.largest_difference < 1e-5
    assert logits(open_trained(run).model).isfinite().all()
    assert merge(run, tmp_path / "merged").largest_difference < 1e-4
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in config
    again = load_base(find(tmp_path / "merged"), LOADING)
    assert not torch.equal(logits(again), logits(load_base(find(files["Q8_0"]), LOADING)))
    with pytest.raises(ModelError, match="this is not the base that the adapter was trained on"):
        open_trained(run, files["Q4_0"])


def test_a_classifier_trains_over_a_gguf_base(files, tmp_path):
    text = CLASSES.replace("lorans:nano", str(files["F16"])).replace("max_steps = 30", "max_steps = 4")
    run = run_recipe(tmp_path, text)
    assert run.read().seal.largest_difference < 1e-5
    head = {name for name in load_file(run.adapter / "adapter_model.safetensors") if "score" in name}
    assert head


@pytest.mark.parametrize(
    ("named", "gguf_file", "told"),
    [
        ("", None, 'has 4 GGUF files: .*choose one, such as `gguf_file = "nano-F16.gguf"`'),
        ("", "nano.gguf", "model.gguf_file: .*has no file `nano.gguf`"),
        ("nano-F32.gguf", "nano-F16.gguf", "model.gguf_file: `nano-F16.gguf` is not the file"),
        ("none.gguf", None, "model.name_or_path: no file `"),
    ],
)
def test_a_file_that_is_not_there_or_not_chosen_is_told(files, named, gguf_file, told):
    with pytest.raises(ModelError, match=told):
        find(files["F32"].parent / named, gguf_file=gguf_file)


def test_a_file_is_named_by_its_folder_where_it_is_the_only_one(files, alone):
    from_folder, from_file = find(files["F32"].parent, gguf_file="nano-F16.gguf"), find(files["F16"])
    assert from_folder.location == from_file.location
    assert str(find(find(alone).path).location) == str(alone)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:0], "not a GGUF file"),
        (lambda data: b"GGML" + data[4:], "not a GGUF file: GGUF magic invalid"),
        (lambda data: data[: len(data) // 2], r"\.gguf: (not a GGUF file|cut short)"),
        (lambda data: data[:200], "not a GGUF file"),
    ],
)
def test_a_broken_file_is_told(alone, damage, told):
    alone.write_bytes(damage(alone.read_bytes()))
    with pytest.raises(ModelError, match=told):
        find(alone).facts  # noqa: B018 -- it is read then


def test_a_part_of_a_model_is_refused(alone):
    part = shutil.move(alone, alone.with_name("nano-00001-of-00002.gguf"))
    with pytest.raises(ModelError, match=r"is one part of a model.*llama-gguf-split --merge"):
        find(part).facts  # noqa: B018 -- it is read then


def test_without_the_package_its_extra_is_named(alone, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MissingError, match=r"a GGUF base needs `gguf`.*pip install 'lora-ns\[gguf\]'") as caught:
        find(alone).facts  # noqa: B018 -- it is read then
    assert caught.value.exit_code == 3


def test_a_quantisation_over_a_gguf_base_is_refused(files, write_recipe):
    base = find(files["F32"])
    text = SHORT.replace("lorans:nano", str(files["F32"]))
    with pytest.raises(RecipeError, match=r"quantization.method: a GGUF base is dequantised when it is loaded"):
        plan_of(load_recipe(write_recipe(text), ["quantization.method=bnb-4bit"]), MACHINE, base, DataFacts(100, 10))
    assert plan_of(load_recipe(write_recipe(text)), MACHINE, base, DataFacts(100, 10)).adapter_parameters.value


SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""How the tokenizers of two families split a text, by llama.cpp's names."""
TEXTS = [
    "The bill of 1234567 euros wasn't paid, was it?\n\n  12.5% of 80 is 10.\tDone<|endoftext|>",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.   ",
    "x=[1,2,3]; print(x[-1])\r\n# 東京 🙂",
]


@pytest.fixture
def with_tokenizer(tmp_path):
    """The embedded base with another tokenizer, trained to split as a family does."""

    def make(splits, end="<|endoftext|>"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLITS[splits]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=319, initial_alphabet=alphabet))
        tokenizer.add_special_tokens([end])
        folder = tmp_path / "source"
        shutil.copytree(ASSETS / "nano", folder)
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": tokenizer.token_to_id(end)}))
        return folder

    return make


@pytest.mark.parametrize("splits", SPLITS)
def test_a_tokenizer_in_the_file_gives_the_tokens_of_the_one_that_it_was_made_of(with_tokenizer, tmp_path, splits):
    source = with_tokenizer(splits)
    (tmp_path / "base").mkdir()
    base = find(write_gguf(tmp_path / "base/model.gguf", source, pre=splits))
    found, original = base_tokenizer(base), load_tokenizer(source)
    assert [found(text)["input_ids"] for text in TEXTS] == [original(text)["input_ids"] for text in TEXTS]
    assert found.eos_token == "<|endoftext|>"
    other = find(write_gguf(tmp_path / "base/other.gguf", source, pre="smollm"), gguf_file=None)
    assert base.tokenizer_fingerprint != other.tokenizer_fingerprint


def test_a_run_needs_nothing_but_the_file_where_its_tokenizer_is_known(with_tokenizer, tmp_path):
    (tmp_path / "base").mkdir()
    file = write_gguf(tmp_path / "base/model.gguf", with_tokenizer("qwen2"), pre="qwen2")
    text = SHORT.replace("lorans:nano", str(file))
    chat = tmp_path / "chat.jinja"
    chat.write_text("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|endoftext|>' }}{% endfor %}")
    run = run_recipe(tmp_path, text, f"sft.chat_template={chat}")
    assert run.read().seal.largest_difference < 1e-5
    assert (run.adapter / "tokenizer.json").is_file()


@pytest.mark.parametrize("pre", ["smollm", "default", "gpt-2"])
def test_a_tokenizer_that_would_split_otherwise_is_refused(tmp_path, pre):
    file = write_gguf(tmp_path / "model.gguf", pre=pre)
    with pytest.raises(
        ModelError, match=rf"cannot rebuild its tokenizer \(`gpt2`, `{pre}`\) exactly.*put tokenizer.json"
    ):
        base_tokenizer(find(file))
    shutil.copy(NANO / "tokenizer.json", tmp_path)
    assert base_tokenizer(find(file))("1 a")["input_ids"] == load_tokenizer(NANO)("1 a")["input_ids"]


def test_a_tokenizer_to_which_transformers_adds_a_token_without_an_embedding_is_refused(with_tokenizer, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", with_tokenizer("llama-bpe", end="<|end_of_text|>"), pre="llama-bpe")
    with pytest.raises(ModelError, match="transformers cannot rebuild its tokenizer"):
        base_tokenizer(find(file))


def test_scaled_positions_are_taken_from_the_settings_beside_it_or_refused(tmp_path):
    file = write_gguf(tmp_path / "model.gguf", rope__scaling__type="yarn")
    with pytest.raises(
        ModelError, match=r"does not read the scaling of positions.*put the original model's config.json"
    ):
        load_base(find(file), LOADING)
    config = json.loads((NANO / "config.json").read_text())
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_parameters": scaled}))
    assert load_base(find(file), LOADING).config.rope_parameters["factor"] == 2.0


def test_the_base_of_the_positions_is_that_of_the_file(tmp_path, with_tokenizer):
    source = with_tokenizer("qwen2")
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    (source / "config.json").write_text(json.dumps(config))
    found, expected = (load_base(find(path), LOADING) for path in (write_gguf(tmp_path / "model.gguf", source), source))
    assert torch.allclose(logits(found), logits(expected), atol=1e-4)
