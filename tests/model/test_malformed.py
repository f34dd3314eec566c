"""A damaged base is one problem with its file, found before anything is built from it, and never a traceback."""

import pytest
from damaged_bases import DAMAGED, damage

from lora_ns.errors import ModelError, Problem
from lora_ns.model.files import find_base
from lora_ns.model.load import Loading, empty_base, load_base
from lora_ns.model.malformed import translating
from lora_ns.model.tokenizer import base_tokenizer, stop_token_ids


def use(folder):
    """Everything that is read of a base before it is trained."""
    base = find_base(str(folder), "main", [], download=False)
    _ = base.fingerprint
    pytest.importorskip("transformers")
    stop_token_ids(base_tokenizer(base), base.path)
    empty_base(base, "CAUSAL_LM")
    load_base(base, Loading("CAUSAL_LM", "float32", "cpu"))


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_in_a_folder_is_a_problem_of_its_file(tmp_path, name):
    file = damage(tmp_path / "base", name)
    with pytest.raises(ModelError) as told:
        use(tmp_path / "base")
    first = told.value.problems[0]
    assert str(tmp_path / "base") in first.where
    assert file in f"{first.where} {first.what}"
    assert first.what
    assert first.remedy or "outside" in first.what
    assert len(str(first)) < 1000


def test_a_bug_of_ours_keeps_its_traceback():
    with pytest.raises(TypeError), translating(Problem("", "cannot be read")):
        len(3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access"),
        RuntimeError("unable to open file <model.safetensors> in read-only mode: Too many open files (24)"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
)
def test_a_fault_of_the_machine_is_not_one_of_the_files(error):
    namespace = {"__name__": "torch.nn", "error": error}
    exec("def raises():\n    raise error", namespace)
    with pytest.raises(type(error)), translating(Problem("", "cannot be read")):
        namespace["raises"]()
