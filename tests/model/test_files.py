"""The base model as files: where it is found, what tells one from another, what the hub's answers mean."""

import json
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, REFUSALS, hub, offline_environment

import lora_ns
from lora_ns.errors import ModelError
from lora_ns.model.files import ASSETS, Base, find_base, packaged, read_facts

CONFIG = {"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 2, "vocab_size": 8, "hidden_act": "silu"}
LARGE = 3 * 4096

needs_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="asks through huggingface_hub")


def write_weights(file, tensors, metadata=None):
    """A safetensors file of bytes, each tensor as a row of 8-bit numbers."""
    header, start = {"__metadata__": metadata} if metadata else {}, 0
    for name, content in tensors.items():
        header[name] = {"dtype": "U8", "shape": [1, len(content)], "data_offsets": [start, start + len(content)]}
        start += len(content)
    head = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(tensors.values()))


def write_model(folder, config=CONFIG, tensors=None, metadata=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", tensors or {"a.weight": bytes(LARGE), "b.weight": b"12"}, metadata)
    return folder


def fingerprint(tmp_path, **model):
    return Base("model", write_model(tmp_path / "model", **model)).fingerprint


def refusal(name, *folders, download=False):
    with pytest.raises(ModelError) as caught:
        find_base(name, "main", folders, download=download)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Inside the package


@pytest.mark.parametrize("name", ["nano", "quickstart/train.jsonl"])
def test_what_is_inside_the_package_is_found_by_its_prefix(name):
    assert packaged(f"lorans:{name}") == (ASSETS / name).resolve()


@pytest.mark.parametrize("name", ["lorans:", "lorans:nan", "lorans:../basemodel.py", "lorans:/etc/passwd", "lorans:."])
def test_what_is_not_inside_the_package_lists_what_is(name):
    folders = ("preferences", "prompts", "quickstart")
    rows = [f"lorans:{folder}/{part}.jsonl" for folder in folders for part in ("eval", "train")]
    there = ", ".join(["lorans:nano", *rows])
    with pytest.raises(ModelError) as caught:
        packaged(name)
    assert str(caught.value) == f"`{name}` is not part of the package (available: {there})"


def test_data_inside_the_package_is_no_model():
    assert refusal("lorans:quickstart") == (
        f"{(ASSETS / 'quickstart').resolve()}: no config.json, so this is not a model (name the folder that has one)"
    )


# In a folder


@pytest.mark.parametrize("name", ["model", "./model", "below/model", "../model"])
def test_a_folder_is_looked_for_in_the_order_given(tmp_path, name):
    first, second = tmp_path / "1" / "1", tmp_path / "2" / "2"
    for folder in (first, second):
        folder.mkdir(parents=True)
        write_model(folder / name)
    assert find_base(name, "main", [first, second], download=False).path == (first / name).resolve()
    (first / name / "config.json").unlink()
    assert "no config.json" in refusal(name, first, second)
    assert find_base(name, "main", [tmp_path, second], download=False).path == (second / name).resolve()


def test_an_absolute_folder_is_itself(tmp_path):
    folder = write_model(tmp_path / "model")
    base = find_base(str(folder), "main", [tmp_path / "elsewhere"], download=False)
    assert (base.name, base.path, base.commit) == (str(folder), folder.resolve(), None)


@pytest.mark.parametrize("name", ["./none", "../none", "a/b/none"])
def test_a_missing_folder_says_where_it_was_looked_for(tmp_path, name):
    folders = [tmp_path / "1", tmp_path / "2"]
    looked = " and ".join(str(folder / name) for folder in folders)
    assert refusal(name, *folders, folders[0]) == f"model.name_or_path: no folder `{name}` (looked at {looked})"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "no config.json, so this is not a model (name the folder that has one)"),
        (["model.safetensors"], "no config.json, so this is not a model (name the folder that has one)"),
        (
            ["adapter_config.json", "adapter_model.safetensors"],
            "no config.json, so this is not a model (an adapter is not a base model; name its base)",
        ),
        (["config.json"], "no .safetensors weights (lorans does not read pickled weights: convert them first)"),
        (
            ["config.json", "pytorch_model.bin"],
            "no .safetensors weights (lorans does not read pickled weights: convert them first)",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_told(tmp_path, files, told):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in files:
        (folder / file).write_text("{}")
    assert refusal("model", tmp_path) == f"{folder.resolve()}: {told}"


# What tells one base from another


def test_the_fingerprint_is_the_same_for_the_same_files(tmp_path):
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2")


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "hidden_act": "gelu"},
        {**CONFIG, "rope_parameters": {"rope_theta": 1.0}},
        {key: value for key, value in CONFIG.items() if key != "hidden_act"},
    ],
)
def test_another_setting_is_another_base(tmp_path, config):
    assert fingerprint(tmp_path / "1") != fingerprint(tmp_path / "2", config=config)


@pytest.mark.parametrize("key", ["transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"])
def test_a_setting_that_changes_no_number_is_the_same_base(tmp_path, key):
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2", config={**CONFIG, key: "other"})


def test_the_order_of_the_settings_does_not_matter(tmp_path):
    turned = dict(reversed(CONFIG.items()))
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2", config=turned)


def test_the_notes_of_a_weight_file_do_not_matter(tmp_path):
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "2", metadata={"format": "pt"})


@pytest.mark.parametrize("place", [0, 4095, LARGE - 4096, LARGE - 1])
def test_another_byte_at_either_end_of_a_weight_is_another_base(tmp_path, place):
    changed = bytearray(LARGE)
    changed[place] = 1
    tensors = {"a.weight": bytes(changed), "b.weight": b"12"}
    assert fingerprint(tmp_path / "1") != fingerprint(tmp_path / "2", tensors=tensors)


@pytest.mark.parametrize(
    "tensors",
    [
        {"a.weight": bytes(LARGE), "b.weight": b"13"},
        {"a.weight": bytes(LARGE), "c.weight": b"12"},
        {"a.weight": bytes(LARGE + 1), "b.weight": b"2"},
        {"a.weight": bytes(LARGE)},
    ],
)
def test_another_weight_name_or_shape_is_another_base(tmp_path, tensors):
    assert fingerprint(tmp_path / "1") != fingerprint(tmp_path / "2", tensors=tensors)


@pytest.mark.parametrize("content", [b"", b"1234", struct.pack("<Q", 99) + b"{}", struct.pack("<Q", 2) + b"{x"])
def test_a_broken_weight_file_is_told(tmp_path, content):
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        _ = Base("model", folder).fingerprint
    told = str(caught.value)
    assert told.startswith(f"{folder / 'model.safetensors'}: not a safetensors file: ")
    assert told.endswith(" (fetch it again)")


def test_weights_that_were_cut_short_are_told(tmp_path):
    folder = write_model(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    size = file.stat().st_size
    with pytest.raises(ModelError, match=f"cut short, {size:,} of {size + 1:,} bytes"):
        _ = Base("model", folder).facts


@pytest.mark.parametrize(("content", "line"), [(b"{", ":1"), (b"[]", ""), (b"\xff\xfe", "")])
def test_a_broken_configuration_is_told(tmp_path, content, line):
    folder = write_model(tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        _ = Base("model", folder).config
    assert str(caught.value).startswith(f"{folder / 'config.json'}{line}: not ")


def test_the_tokenizer_has_a_fingerprint_of_its_own(tmp_path):
    folder = write_model(tmp_path / "model")
    prints = [Base("model", folder).tokenizer_fingerprint]
    for name, content in [("tokenizer.json", "1"), ("tokenizer.json", "2"), ("vocab.txt", "2")]:
        (folder / name).write_text(content)
        prints.append(Base("model", folder).tokenizer_fingerprint)
    (folder / "chat_template.jinja").write_text("{{ x }}")
    assert len(set(prints)) == len(prints)
    assert Base("model", folder).tokenizer_fingerprint == prints[-1]


# Its sizes


def test_the_facts_of_the_packaged_base():
    facts = find_base("lorans:nano", "main", [], download=False).facts
    assert (facts.model_type, facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers) == (
        "llama",
        192,
        512,
        4,
    )
    assert (facts.vocab_size, facts.max_position_embeddings, facts.largest_dtype) == (320, 512, "BF16")
    assert facts.matrices["model.layers.0.self_attn.k_proj"] == (96, 192)
    assert facts.parameters == sum(rows * columns for rows, columns in facts.matrices.values()) + 9 * 192


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 9, "intermediate_size": 5}, (8, 5, 3, 9, None)),
        ({"n_embd": 8, "n_layer": 3, "vocab_size": 9, "n_positions": 7, "n_inner": None}, (8, 32, 3, 9, 7)),
        ({"dim": 8, "n_layers": 3, "hidden_dim": 6, "vocab_size": 9}, (8, 6, 3, 9, None)),
        ({"text_config": {"hidden_size": 8, "num_hidden_layers": 3, "vocab_size": 9}}, (8, 32, 3, 9, None)),
        ({}, (0, 0, 0, 0, None)),
    ],
)
def test_sizes_are_read_by_any_of_their_names(config, sizes):
    facts = read_facts(config, {})
    assert (
        facts.hidden_size,
        facts.intermediate_size,
        facts.num_hidden_layers,
        facts.vocab_size,
        facts.max_position_embeddings,
    ) == sizes


def test_the_type_is_that_of_most_weights():
    tensors = {
        "a.weight": {"dtype": "BF16", "shape": [4, 4]},
        "b.weight": {"dtype": "F32", "shape": [3]},
        "c": {"dtype": "F32", "shape": [2, 2]},
    }
    facts = read_facts(CONFIG, tensors)
    assert (facts.parameters, facts.largest_dtype, dict(facts.matrices)) == (23, "BF16", {"a": (4, 4)})


# On the hub


@needs_hub
def test_a_model_that_is_not_in_the_cache_is_unknown_until_it_may_be_fetched():
    assert find_base("owner/no-such-model", "main", [], download=False) is None


@needs_hub
def test_without_a_network_the_setting_that_forbids_it_is_named():
    what = "`owner/no-such-model` is not in the hub's cache, and HF_HUB_OFFLINE is set"
    remedy = 'unset it to download, or name a folder, or "lorans:nano"'
    assert refusal("owner/no-such-model", download=True) == f"model.name_or_path: {what} ({remedy})"


@needs_hub
@pytest.mark.parametrize("name", ["a b", "a/b c", "-a", "a..b"])
def test_what_is_no_hub_id_is_told(name):
    assert refusal(name, download=True) == (
        f"model.name_or_path: `{name}` is neither a folder nor a hub id (write `owner/name`, or a folder that exists)"
    )


NO_MODEL = (
    "model.name_or_path: no model `owner/{}` on the hub, or it is private (check the spelling, or `hf auth login`)"
)
TOLD = {
    "absent": NO_MODEL.format("absent"),
    "private": NO_MODEL.format("private"),
    "gated": "model.name_or_path: `owner/gated` is gated (accept its terms on the hub, then `hf auth login`)",
    "revision": 'model.revision: `owner/revision` has no revision `main` (write "main", or a branch, tag or commit)',
    "forbidden": NO_MODEL.format("forbidden"),
    "teapot": "model.name_or_path: `owner/teapot` cannot be downloaded: the hub answered 418 "
    "(try again later, or name a folder)",
    "broken": "model.name_or_path: `owner/broken` cannot be downloaded: the hub answered 500 "
    "(try again later, or name a folder)",
}
ASK = """\
import json, sys
from lora_ns.model.files import find_base
from lora_ns.errors import ModelError
told = {}
for name in sys.argv[1:]:
    try:
        find_base(f"owner/{name}", "main", [], download=True)
    except ModelError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def ask(endpoint, home, *names):
    """What is told of models when the hub is elsewhere, which its library only learns at its import."""
    root = str(Path(lora_ns.__file__).parent.parent)
    environment = offline_environment(HF_ENDPOINT=endpoint, HF_HOME=str(home), PYTHONPATH=root)
    command = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@needs_hub
def test_every_answer_of_the_hub_is_told_in_a_line(tmp_path):
    with hub() as endpoint:
        assert ask(endpoint, tmp_path, *REFUSALS) == TOLD


@needs_hub
def test_a_hub_that_cannot_be_reached_is_told(tmp_path):
    with hub() as endpoint:
        pass
    assert ask(endpoint, tmp_path, "model") == {
        "model": "model.name_or_path: `owner/model` is not in the hub's cache, and the hub cannot be reached "
        '(check the connection, or name a folder, or "lorans:nano")'
    }


@needs_hub
def test_a_model_is_fetched_once_and_found_offline_later(tmp_path):
    command = "from lora_ns.model.files import find_base; print(find_base('owner/nano', 'main', [], True).commit)"
    root = str(Path(lora_ns.__file__).parent.parent)
    with hub({"models/owner/nano": ASSETS / "nano"}) as endpoint:
        online = offline_environment(HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path), PYTHONPATH=root)
        first = subprocess.check_output([sys.executable, "-c", command], env=online, text=True)
    later = subprocess.check_output([sys.executable, "-c", command], env={**online, "HF_HUB_OFFLINE": "1"}, text=True)
    assert first == later == f"{COMMIT}\n"
