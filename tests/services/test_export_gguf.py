"""A run as a GGUF file: transformers reads it back, and each planted fault is found at its stage."""

import errno
import json
import os
import shutil
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

import gguf
import torch
from gguf_files import write_gguf
from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

import lora_ns.exports.gguf_file
from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import MissingError, Problem, RunError, UsageError
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, load_base
from lora_ns.services.export_gguf import export_gguf
from lora_ns.services.export_gguf_lora import export_gguf_lora
from lora_ns.services.verify_gguf import verify_gguf

STAGES = ["files", "settings", "tokenizer", "template", "token ids", "stop tokens", "logits"]


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """A run that keeps what the base knows, so that hardly a position has two tokens of nearly the same probability."""
    return run_recipe(tmp_path_factory.mktemp("lora"), RECIPE, "training.learning_rate=1e-3")


@pytest.fixture(scope="module")
def files(lora_run, tmp_path_factory):
    """The run as a GGUF file of each type, with the reports beside."""
    folder = tmp_path_factory.mktemp("gguf")
    kinds = {kind: folder / f"{kind}.gguf" for kind in ("f32", "f16", "q8_0")}
    for kind, file in kinds.items():
        done = call("export", lora_run.path, "--to", "gguf", "-o", file, "--type", kind, "--json")
        assert done.exit_code == 0, done.output
        report = json.loads(file.with_name(f"{file.name}.export_report.json").read_text())
        assert report["verified"]
        assert report["proof"] == json.loads(done.stdout)["proof"]
    assert {file.suffix for file in folder.iterdir()} == {".gguf", ".json"}
    return kinds


@pytest.mark.parametrize(("kind", "bound"), [("f32", 1e-4), ("f16", 5e-3), ("q8_0", 5e-2)])
def test_a_file_is_the_trained_model(lora_run, files, kind, bound):
    proof = verify_gguf(open_run(lora_run), files[kind])
    assert (proof.is_verified, proof.bound) == (True, bound)
    assert [stage.name for stage in proof.stages] == [*STAGES, *(["greedy tokens"] if kind != "q8_0" else [])]
    assert proof.comparison.same_tokens > (0.98 if kind == "q8_0" else 0.999)


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_transformers_writes_the_same_answers_from_it(lora_run, files, kind):
    opened = open_run(lora_run)
    read = load_base(
        Base("file", files[kind].parent, gguf_file=files[kind].name), Loading("CAUSAL_LM", "float32", "cpu")
    )
    own = opened.load().model
    chats = ["What is 12 + 7?", "Name a colour.", "plum"]
    for chat in chats:
        turns = [{"role": "user", "content": chat}]
        inputs = opened.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")
        more = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": list(opened.manifest.stop_token_ids)}
        expected, found = (model.eval().generate(**inputs, **more) for model in (own, read))
        assert torch.equal(expected, found)


def set_number(key, value):
    def change(file):
        reader = gguf.GGUFReader(file, "r+")
        reader.fields[key].parts[-1][0] = value
        reader.data.flush()

    return change


def transposed(file):
    reader = gguf.GGUFReader(file, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_q.weight")
    tensor.data[:] = tensor.data.T.copy()
    reader.data.flush()


def other_template(file):
    reader = gguf.GGUFReader(file, "r+")
    reader.fields["tokenizer.chat_template"].parts[-1][-1] = ord(" ")
    reader.data.flush()


def other_token(file):
    reader = gguf.GGUFReader(file, "r+")
    field = reader.fields["tokenizer.ggml.tokens"]
    tokens = field.contents()
    for old, new in ("ab", "ba"):
        field.parts[field.data[tokens.index(old)]][:] = ord(new)
    reader.data.flush()


FAULTS = {
    "half a file": ("files", lambda file: os.truncate(file, file.stat().st_size // 2)),
    "another base of the positions": ("settings", set_number("llama.rope.freq_base", 5e5)),
    "other heads": ("settings", set_number("llama.attention.head_count_kv", 6)),
    "two tokens that have changed places": ("token ids", other_token),
    "another template": ("template", other_template),
    "another stop": ("stop tokens", set_number("tokenizer.ggml.eos_token_id", 3)),
    "a transposed weight": ("logits", transposed),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_stage(lora_run, files, tmp_path, name):
    stage, plant = FAULTS[name]
    file = shutil.copy(files["f32"], tmp_path / "model.gguf")
    plant(file)
    proof = verify_gguf(open_run(lora_run), file)
    assert not proof.is_verified
    assert (proof.first.name, bool(proof.first.fault)) == (stage, True)
    done = call("verify", file, "--against", lora_run.path)
    assert (done.exit_code, f"differs in {stage}" in done.output) == (1, True)


def test_rows_that_are_not_permuted_are_found(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr(lora_ns.exports.gguf_file, "permuted", lambda _, value, __: value)
    with pytest.raises(RunError, match="is not the trained model: logits: differ by"):
        export_gguf(lora_run, tmp_path / "model.gguf")
    assert json.loads((tmp_path / "model.gguf.export_report.json").read_text())["verified"] is False


def test_a_folder_is_given_a_name_by_the_run(lora_run, tmp_path):
    export_gguf(lora_run, tmp_path / "folder", "bf16")
    assert {file.name for file in (tmp_path / "folder").iterdir()} == {
        *("task-BF16.gguf", "export_report.json", "lineage.json", "lorans_run.json")
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--type", "q4_k_n"),
            r"--type: `q4_k_n` is no type of GGUF weights .*did you mean `q4_k_m`\? one of: f32",
        ),
        (("--llama-cpp", "none", "--type", "q6_k"), r"--llama-cpp: none is no folder"),
        (("--rank", "4"), r"--rank: has no effect with `--to gguf`"),
    ],
)
def test_a_wrong_option_is_refused(lora_run, tmp_path, options, told):
    with pytest.raises(UsageError, match=told):
        call("export", lora_run.path, "--to", "gguf", "-o", tmp_path / "model.gguf", *options)
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_named_with_the_command_that_builds_it(lora_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    command = r"`git clone https://github.com/ggml-org/llama.cpp && .*--target llama-quantize`"
    with pytest.raises(MissingError, match=f"`q4_k_m` needs llama.cpp's `llama-quantize`.*{command}") as caught:
        export_gguf(lora_run, tmp_path / "model.gguf", "q4_k_m")
    assert caught.value.exit_code == 3
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(MissingError, match=r"`gguf`, which is not installed.*pip install 'lora-ns\[gguf\]'"):
        export_gguf(lora_run, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model.gguf").touch()
    with pytest.raises(MissingError, match=r"pip install 'lora-ns\[gguf\]'"):
        verify_gguf(open_run(lora_run), tmp_path / "model.gguf")


def test_what_is_there_and_what_is_no_text_is_refused(lora_run, classifier_run, tmp_path):
    for name in ("model.gguf", "model.gguf.export_report.json"):
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match=f"{name}: is there already"):
            export_gguf(lora_run, tmp_path / "model.gguf")
        (tmp_path / name).unlink()
    with pytest.raises(UsageError, match="the run trained a classifier"):
        export_gguf(classifier_run, tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="is no file"):
        verify_gguf(open_run(lora_run), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_report_whose_command_was_killed_before_it_named_the_file_is_replaced(lora_run, tmp_path):
    first = export_gguf(lora_run, tmp_path / "model.gguf")
    (tmp_path / "model.gguf").unlink()
    assert export_gguf(lora_run, tmp_path / "model.gguf") == first
    (tmp_path / "model.gguf").rename(tmp_path / "other.gguf")
    (tmp_path / "model.gguf.export_report.json").rename(tmp_path / "copy.gguf.export_report.json")
    with pytest.raises(UsageError, match=r"copy.gguf.export_report.json: is there already"):
        export_gguf(lora_run, tmp_path / "copy.gguf")


def test_a_full_disk_leaves_nothing(lora_run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(RunError, match=r"model.gguf: no space left on the disk"):
        export_gguf(lora_run, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


QUANTISER = """#!{python}
import shutil, sys
source, file, kind = sys.argv[1:]
if kind != "Q6_K":
    sys.exit("unknown type " + kind)
shutil.copy(source, file)
"""


def test_llama_cpps_quantiser_is_run_on_the_exact_file(lora_run, tmp_path):
    tool = tmp_path / "tools/build/bin/llama-quantize"
    tool.parent.mkdir(parents=True)
    tool.write_text(QUANTISER.format(python=sys.executable))
    tool.chmod(0o755)
    result = export_gguf(lora_run, tmp_path / "out/model.gguf", "Q6_K", tmp_path / "tools")
    assert (result.made.type, result.proof.comparison.largest_difference < 1e-5) == ("q6_k", True)
    with pytest.raises(RunError, match="llama-quantize: failed: unknown type Q5_K_M"):
        export_gguf(lora_run, tmp_path / "out/other.gguf", "q5_k_m", tmp_path / "tools")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("model.gguf", *(f"model.gguf.{name}.json" for name in ("export_report", "lineage", "lorans_run")))
    }


def test_an_unknown_tokenizer_is_refused_before_merging_or_left_to_llama_cpps_converter(
    lora_run, tmp_path, monkeypatch
):
    monkeypatch.setattr("lora_ns.exports.gguf_tokens._pre", refuse)
    with pytest.raises(UsageError, match="unknown"):
        export_gguf(lora_run, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
    (tmp_path / "convert_hf_to_gguf.py").write_text("import sys; sys.exit(f'asked for {sys.argv[-1]}')")
    with pytest.raises(RunError, match=r"convert_hf_to_gguf.py: failed: asked for bf16"):
        export_gguf(lora_run, tmp_path / "model.gguf", "bf16", tmp_path)


def refuse(_):
    raise UsageError(Problem("", "unknown"))


def logits_of(file):
    base = Base("file", file.parent, gguf_file=file.name)
    with torch.no_grad():
        return load_base(base, Loading("CAUSAL_LM", "float32", "cpu")).eval()(torch.arange(1, 60)[None]).logits


def test_an_adapter_as_gguf_is_the_trained_one_for_a_reader_that_adds_it_to_the_base(lora_run, files, tmp_path):
    done = call("export", lora_run.path, "--to", "gguf-lora", "-o", tmp_path / "adapter.gguf", "--json")
    result = json.loads(done.stdout)
    assert result["proof"]["comparison"]["largest_difference"] < 1e-5
    assert call("verify", tmp_path / "adapter.gguf", "--against", lora_run.path).exit_code == 0
    adapter, base = gguf.GGUFReader(tmp_path / "adapter.gguf"), write_gguf(tmp_path / "base.gguf")
    added = {tensor.name: tensor.data for tensor in adapter.tensors}
    alpha = adapter.get_field("adapter.lora.alpha").contents()
    assert [adapter.get_field(key).contents() for key in ("general.type", "adapter.type")] == ["adapter", "lora"]
    sum_ = gguf.GGUFReader(base, "r+")
    for tensor in sum_.tensors:
        if (down := added.pop(f"{tensor.name}.lora_a", None)) is not None:
            tensor.data[:] += added.pop(f"{tensor.name}.lora_b") @ down * (alpha / down.shape[0])
    sum_.data.flush()
    assert not added
    torch.testing.assert_close(logits_of(base), logits_of(files["f32"]), rtol=1e-4, atol=1e-4)


def test_an_adapter_is_written_to_a_file_and_cut(lora_run, tmp_path):
    with pytest.raises(UsageError, match=r"does not end with .gguf"):
        export_gguf_lora(lora_run, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    cut = export_gguf_lora(lora_run, tmp_path / "small.gguf", rank=2)
    assert (cut.made.rank, cut.proof.bound) == (2, None)
    assert verify_gguf(open_run(lora_run), tmp_path / "small.gguf").is_verified, "the report states the loss"
    (tmp_path / "small.gguf.export_report.json").unlink()
    again = verify_gguf(open_run(lora_run), tmp_path / "small.gguf")
    assert again.first.name == "logits", "what was cut off is missing"
