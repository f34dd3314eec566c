"""llama.cpp itself reads what lorans exports, where its binding is installed; and a broken binding is named."""

import json
import shutil
import sys
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

import gguf
from typer.testing import CliRunner

from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import ModelError
from lora_ns.services import llama_cpp_reader
from lora_ns.services.verify_gguf import verify_gguf
from lora_ns.services.verify_ollama import verify_ollama


def export(run, output, *options):
    arguments = ["export", run.path, "--output", output, *options, "--json"]
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["proof"]


@pytest.fixture
def binding():
    return pytest.importorskip("llama_cpp")


BOUNDS = {"f32": (2e-4, 1e-5), "f16": (1e-2, 3e-3), "bf16": (0.1, 2e-2), "q8_0": (0.1, 6e-2)}


@pytest.mark.parametrize("kind", BOUNDS)
def test_llama_cpp_answers_as_the_trained_model(binding, lora_run, tmp_path, kind):
    proof = export(lora_run, tmp_path / "model.gguf", "--to", "gguf", "--type", kind)
    (reading,) = proof["others"]
    bound, measured = BOUNDS[kind]
    assert (reading["reader"], reading["bound"]) == (f"llama.cpp {binding.__version__}", bound)
    assert reading["comparison"]["largest_difference"] < measured
    names = [stage["name"].removeprefix(f"{reading['reader']} ") for stage in proof["stages"]]
    answers = ["logits", *(["greedy tokens"] if kind in {"f32", "f16"} else [])]
    assert names[-2 * len(answers) - 1 :] == [*answers, "token ids", *answers]


def test_llama_cpp_adds_the_adapter_to_a_file_of_the_base(binding, lora_run, tmp_path):
    file = tmp_path / "adapter.gguf"
    proof = export(lora_run, file, "--to", "gguf-lora")
    assert proof["others"][0]["comparison"]["largest_difference"] < 1e-5
    reader = gguf.GGUFReader(file, "r+")
    reader.fields["adapter.lora.alpha"].parts[-1][0] *= 2
    reader.data.flush()
    found = verify_gguf(open_run(lora_run), file)
    assert [stage.name for stage in found.stages if not stage.is_same][-2:] == [
        f"llama.cpp {binding.__version__} logits",
        f"llama.cpp {binding.__version__} greedy tokens",
    ]


def test_a_cut_adapter_is_measured_there_too(binding, lora_run, tmp_path):
    proof = export(lora_run, tmp_path / "adapter.gguf", "--to", "gguf-lora", "--rank", "2")
    (reading,) = proof["others"]
    assert reading["bound"] is None
    again = verify_gguf(open_run(lora_run), tmp_path / "adapter.gguf")
    assert again.is_verified
    assert again.others[0].bound == pytest.approx(again.bound)


def test_what_only_llama_cpp_reads_otherwise_is_named_with_it(binding, lora_run, tmp_path, monkeypatch):
    export(lora_run, tmp_path / "out", "--to", "ollama", "--type", "f32")
    monkeypatch.setattr(llama_cpp_reader.LlamaCppReader, "other_ids", lambda _: ("a b", [1], [2]))
    proof = verify_ollama(open_run(lora_run), tmp_path / "out")
    assert proof.first.name == f"llama.cpp {binding.__version__} token ids"
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--against", str(lora_run.path)])
    assert done.exit_code == 1
    assert f"transformers and llama.cpp {binding.__version__}" in done.output


def test_a_file_that_llama_cpp_does_not_load_is_a_fault(binding, lora_run, tmp_path):
    export(lora_run, tmp_path / "model.gguf", "--to", "gguf")
    broken = shutil.copy(tmp_path / "model.gguf", tmp_path / "other.gguf")
    broken.write_bytes(b"GGUF" + bytes(64))
    reader = llama_cpp_reader.reader_of(broken, 1e-4, True, [])
    with pytest.raises(ModelError, match=r"llama.cpp does not load it"):
        reader.other_ids()


def test_a_broken_binding_is_a_fault_of_its_own_stage(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ns.services.verify_gguf.is_installed", lambda: False)
    export(lora_run, tmp_path / "model.gguf", "--to", "gguf")
    alone = verify_gguf(open_run(lora_run), tmp_path / "model.gguf")
    assert (alone.is_verified, alone.others) == (True, ())
    monkeypatch.setattr("lora_ns.services.verify_gguf.is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama_cpp_reader._binding.cache_clear()
    found = verify_gguf(open_run(lora_run), tmp_path / "model.gguf")
    assert found.first.name == "llama.cpp"
    assert "llama-cpp-python cannot be imported" in found.first.fault


def test_a_stand_in_for_the_binding_is_asked_with_the_tokens_of_the_probes(lora_run, tmp_path, monkeypatch):
    """Without the real binding: what is compared, and with what."""
    import numpy

    asked = []

    class Llama:
        def __init__(self, file, **arguments):
            self.scores = numpy.zeros((arguments["n_ctx"], 260), numpy.float32)

        def tokenize(self, text, add_bos, special):
            return list(open_run(lora_run).tokenizer(text.decode(), add_special_tokens=add_bos)["input_ids"])

        def eval(self, row):
            asked.append(row)

        def reset(self):
            pass

        close = reset

    module = ModuleType("llama_cpp")
    module.Llama, module.__version__ = Llama, "0"
    monkeypatch.setattr("lora_ns.services.verify_gguf.is_installed", lambda: False)
    export(lora_run, tmp_path / "model.gguf", "--to", "gguf", "--type", "f32")
    monkeypatch.setattr("lora_ns.services.verify_gguf.is_installed", lambda: True)
    monkeypatch.setattr(llama_cpp_reader, "_binding", lambda: module)
    found = verify_gguf(open_run(lora_run), tmp_path / "model.gguf")
    assert [stage.name for stage in found.stages if not stage.is_same] == [
        "llama.cpp 0 logits",
        "llama.cpp 0 greedy tokens",
    ]
    assert (len(asked), len(found.others)) == (16, 1)
