"""A run in few bits: what is read back is what was written, and the price is measured."""

import importlib.util
import json

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import MissingError, RunError, UsageError
from lora_ns.quantizers.bitsandbytes import Bnb8Bit
from lora_ns.quantizers.gptqmodel import Awq, Gptq
from lora_ns.services import calibrate, export_quantized
from lora_ns.services.export_quantized import TYPES
from lora_ns.services.verify import verify


def export(run, output, *options):
    arguments = ["export", run.path, "--to", "quantized", "--output", output, *options, "--json"]
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


WRITTEN = [kind for kind in TYPES if kind not in {"gptq", "awq"}]


@pytest.mark.parametrize("kind", [*WRITTEN[:1], *(pytest.param(one, marks=pytest.mark.matrix) for one in WRITTEN[1:])])
def test_what_is_read_back_was_written_and_its_price_is_known(lora_run, tmp_path, kind):
    result = export(lora_run, tmp_path / "small", "--type", kind)
    proof = result["proof"]
    assert [stage["name"] for stage in proof["stages"]][-1] == "stored weights"
    assert not [stage for stage in proof["stages"] if stage["fault"]]
    assert proof["bound"] is None
    assert 0 < proof["comparison"]["divergence"] < 1
    report = json.loads((tmp_path / "small/export_report.json").read_text())
    assert (report["verified"], report["made"]["type"]) == (True, kind)
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config["quantization_config"]
    ours = {file.name for file in (tmp_path / "small").iterdir()}
    assert ours >= {
        file.name for file in lora_run.adapter.iterdir() if file.name.startswith(("token", "chat", "gener"))
    }
    again = verify(open_run(lora_run), tmp_path / "small")
    assert [stage for stage in again.stages if not stage.is_same] == []
    assert "base_model_relation: quantized" in (tmp_path / "small/README.md").read_text()


def test_other_weights_than_were_written_are_noticed(lora_run, tmp_path, monkeypatch):
    ask = export_quantized.ask_probes
    monkeypatch.setattr(export_quantized, "ask_probes", lambda model, probes, *rest: ask(model, probes[::-1], *rest))
    with pytest.raises(RunError, match="stored weights: logits change by"):
        export(lora_run, tmp_path / "small")
    assert json.loads((tmp_path / "small/export_report.json").read_text())["verified"] is False


def test_an_unknown_type_and_a_missing_package_are_named(lora_run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="did you mean `nf4`"):
        export(lora_run, tmp_path / "small", "--type", "nf3")
    monkeypatch.setattr(Bnb8Bit, "packages", ("none_such",))
    assert importlib.util.find_spec("none_such") is None
    with pytest.raises(MissingError, match="needs `none_such`"):
        export(lora_run, tmp_path / "small", "--type", "int8")
    assert not (tmp_path / "small").exists()


def needs(*names):
    for name in names:
        pytest.importorskip(name)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")  # those of GPT-QModel
def test_a_model_that_is_calibrated_on_the_rows_of_the_run_is_read_back(lora_run, tmp_path):
    needs("gptqmodel", "optimum")
    proof = export_quantized.export_quantized(lora_run, tmp_path / "small", "gptq").proof
    assert proof.is_verified
    assert (proof.bound, 0 < proof.comparison.divergence < 0.5) == (None, True)
    config = json.loads((tmp_path / "small/config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == ("gptq", 4, 64)
    assert not (tmp_path / "small/quant_log.csv").exists()
    assert verify(open_run(lora_run), tmp_path / "small").is_verified


@pytest.mark.matrix
def test_what_gptqmodel_does_not_take_is_told_in_its_words(lora_run, tmp_path):
    """AWQ's search for limits needs layers of 64 outputs, or a multiple; nano has 96."""
    needs("gptqmodel", "optimum")
    with pytest.raises(RunError, match="GPT-QModel cannot quantise it to `awq`: "):
        export(lora_run, tmp_path / "small", "--type", "awq")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_calibrating_needs_its_package_text_and_rows(lora_run, classifier_run, tmp_path, monkeypatch, kind):
    with monkeypatch.context() as without:
        for kinds in (Gptq, Awq):
            without.setattr(kinds, "packages", ("none_such",))
        with pytest.raises(MissingError, match=r"needs `none_such`.*pip install 'lora-ns\[gptq\]'"):
            export(lora_run, tmp_path / "small", "--type", kind)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: object())
    with pytest.raises(UsageError, match="the run trained a classifier"):
        export(classifier_run, tmp_path / "small", "--type", kind)
    monkeypatch.setattr(calibrate, "saved_rows", lambda _: iter(()))
    with pytest.raises(UsageError, match="is calibrated on training rows"):
        export(lora_run, tmp_path / "small", "--type", kind)
    assert not (tmp_path / "small").exists()
