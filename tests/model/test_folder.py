"""What is in a base's folder is classified once: what transformers loads is the model, for every reader alike."""

import json
import shutil
import struct

import pytest
from test_files import CONFIG, write_model, write_weights

from lora_ns.errors import ModelError
from lora_ns.model.files import find_base
from lora_ns.model.folder import classify

OTHERS = ("consolidated.safetensors", "consolidated.00.safetensors", "adapter_model.safetensors", "extra.safetensors")
LARGE = {"a.weight": bytes(64), "b.weight": bytes(8)}


def base(folder):
    return find_base(str(folder), "main", [], download=False)


def sharded(folder, **index):
    write_model(folder, tensors=LARGE)
    (folder / "model.safetensors").unlink()
    for number, (name, content) in enumerate(LARGE.items(), start=1):
        write_weights(folder / f"model-{number}.safetensors", {name: content})
    places = {name: f"model-{number}.safetensors" for number, name in enumerate(LARGE, start=1)}
    content = {"metadata": {}, "weight_map": places, **index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("make", [lambda folder: write_model(folder, tensors=LARGE), sharded], ids=["one", "shards"])
@pytest.mark.parametrize("other", OTHERS)
def test_other_weights_change_nothing(tmp_path, make, other):
    alone, beside = make(tmp_path / "alone"), make(tmp_path / "beside")
    write_weights(beside / other, LARGE)
    first, second = base(alone), base(beside)
    assert second.facts.parameters == first.facts.parameters == sum(map(len, LARGE.values()))
    assert second.facts.matrices == first.facts.matrices
    assert second.fingerprint == first.fingerprint
    assert [file.name for file in second.weight_files] == [file.name for file in first.weight_files]
    assert classify(beside).others == (other,)
    assert other in " ".join(second.facts.notes)


def test_one_file_goes_before_an_index(tmp_path):
    folder = sharded(tmp_path / "base")
    write_weights(folder / "model.safetensors", {"a.weight": bytes(64)})
    assert classify(folder).weights == ("model.safetensors",)
    assert base(folder).facts.parameters == 64


def test_the_fingerprint_of_the_past_went_over_all_files(tmp_path):
    """A run that was started when all files were counted knows its base."""
    folder = write_model(tmp_path / "base", tensors=LARGE)
    alone = base(folder).fingerprint
    write_weights(folder / "consolidated.safetensors", LARGE)
    both = base(folder)._digest(sorted(folder.glob("*.safetensors")))
    assert both != alone
    assert base(folder).is_fingerprint(alone)
    assert base(folder).is_fingerprint(both)
    assert not base(folder).is_fingerprint("0" * 64)
    write_weights(folder / "consolidated.safetensors", {"a.weight": bytes(63) + b"1"})
    assert not base(folder).is_fingerprint(both)
    assert base(folder).is_fingerprint(alone)


def test_an_adapter_beside_a_model_is_told_and_not_counted(tmp_path):
    folder = write_model(tmp_path / "base", tensors=LARGE)
    (folder / "adapter_config.json").write_text("{}")
    write_weights(folder / "adapter_model.safetensors", LARGE)
    (note,) = base(folder).facts.notes
    assert "adapter" in note
    assert base(folder).facts.parameters == 72


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter without a model"),
        (["consolidated.safetensors"], "only consolidated.safetensors, which transformers does not load"),
        (["model-00001-of-00002.safetensors"], "no model.safetensors.index.json"),
    ],
)
def test_a_folder_of_other_weights_alone_is_told_for_what_it_is(tmp_path, files, told):
    folder = write_model(tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "weights")
    for file in files:
        shutil.copy(folder / "weights", folder / file)
    with pytest.raises(ModelError, match=told):
        base(folder)


@pytest.mark.parametrize("name", ["../out.safetensors", "/out.safetensors", "a/../../out.safetensors"])
def test_weights_outside_the_folder_are_not_opened(tmp_path, name):
    write_weights(tmp_path / "out.safetensors", LARGE)
    folder = sharded(tmp_path / "base", weight_map={"a.weight": name})
    with pytest.raises(ModelError, match="outside the folder"):
        base(folder)


NO_NAMES = ["a" * 5000, "a/" * 3000, "", "\0", "\ud800", "/"]


@pytest.mark.parametrize("name", [f"{name}.safetensors" for name in NO_NAMES[:2] + NO_NAMES[3:5]])
def test_what_cannot_be_the_name_of_a_file_is_not_looked_for(tmp_path, name):
    with pytest.raises(ModelError, match=r"is not in a \.safetensors file") as caught:
        base(sharded(tmp_path / "base", weight_map={"a.weight": name}))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["../out.safetensors", 3, *NO_NAMES])
def test_the_name_that_settings_give_the_weights_is_inside_the_folder(tmp_path, name):
    folder = write_model(tmp_path / "base", config={**CONFIG, "transformers_weights": name})
    with pytest.raises(ModelError, match="transformers_weights"):
        base(folder)


def test_tensors_of_one_name_in_two_files_are_told(tmp_path):
    folder = sharded(tmp_path / "base")
    write_weights(folder / "model-2.safetensors", LARGE)
    with pytest.raises(ModelError, match=r"model-2.safetensors: `a.weight` is also in another file"):
        base(folder)


def test_a_header_of_the_largest_length_is_not_read_whole(tmp_path):
    folder = write_model(tmp_path / "base")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2 * 10**9))
        file.truncate(3 * 10**9)
    with pytest.raises(ModelError, match="its header has 2,000,000,000 bytes"):
        base(folder)
