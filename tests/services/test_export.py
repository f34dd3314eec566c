"""`lorans export` from a run to a folder, which is read back and compared."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from services_recipes import RECIPE
from typer.testing import CliRunner

import lora_ns.services.export
from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import RunError, UsageError
from lora_ns.exports.card import base_name, card
from lora_ns.exports.plain import write
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import ASSETS
from lora_ns.run.directory import RunDir
from lora_ns.services.verify import verify


def export(run, output, *options, to="plain"):
    arguments = ["export", run.path, "--to", to, "--output", output, *options]
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_the_exported_adapter_is_the_trained_one(lora_run, tmp_path):
    done = export(lora_run, tmp_path / "plain", "--json")
    result = json.loads(done.stdout)
    report = json.loads((tmp_path / "plain/export_report.json").read_text())
    assert report["verified"]
    assert report["proof"] == result["proof"]
    found = result["proof"]["comparison"]
    assert found["probes"] >= 16
    assert found["largest_difference"] < 1e-5
    assert (found["same_tokens"], result["made"]["lost"]) == (1.0, 0.0)
    ours, theirs = ({file.name for file in folder.iterdir()} for folder in (tmp_path / "plain", lora_run.adapter))
    assert ours - {"export_report.json", "lorans_run.json", "README.md"} == theirs
    assert not list(tmp_path.glob(".*"))


def test_an_update_is_cut_and_its_price_is_told(lora_run, tmp_path):
    result = json.loads(export(lora_run, tmp_path / "cut", "--rank", "2", "--json").stdout)
    assert (result["made"]["rank"], result["proof"]["bound"]) == (2, None)
    assert 0 < result["made"]["lost"] < 1
    assert result["proof"]["comparison"]["largest_difference"] > 1e-4
    proof = verify(open_run(lora_run), tmp_path / "cut")
    assert proof.is_verified
    assert proof.bound == pytest.approx(1.25 * result["proof"]["comparison"]["largest_difference"])
    (tmp_path / "cut/export_report.json").unlink()
    assert verify(open_run(lora_run), tmp_path / "cut").first.name == "logits"
    again = json.loads(export(lora_run, tmp_path / "energy", "--energy", "0.9", "--json").stdout)
    assert 2 < again["made"]["rank"] <= 16
    assert again["made"]["lost"] ** 2 <= 0.1


def test_a_wrong_artefact_is_marked_and_ends_with_one(lora_run, tmp_path, monkeypatch):
    def wrong(folder, *arguments):
        rank = write(folder, *arguments)
        tensors = load_file(folder / WEIGHTS)
        save_file({name: value * 2 for name, value in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        return rank

    monkeypatch.setattr(lora_ns.services.export, "write", wrong)
    with pytest.raises(RunError, match="is not the trained model: logits: differ by"):
        export(lora_run, tmp_path / "plain")
    assert json.loads((tmp_path / "plain/export_report.json").read_text())["verified"] is False


def test_where_it_cannot_be_written_nothing_is(lora_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export(lora_run, tmp_path / "full")
    with pytest.raises(UsageError, match="is a file of the run"):
        export(lora_run, lora_run.adapter)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_a_classifier_keeps_its_head(classifier_run, tmp_path):
    result = json.loads(export(classifier_run, tmp_path / "plain", "--json").stdout)
    assert result["proof"]["comparison"]["largest_difference"] < 1e-5
    assert json.loads((tmp_path / "plain/adapter_config.json").read_text())["modules_to_save"]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_a_merged_model_is_read_back(lora_run, tmp_path, dtype, bound):
    result = json.loads(export(lora_run, tmp_path / "merged", "--dtype", dtype, "--json", to="merged").stdout)
    assert result["made"]["dtype"] == dtype
    assert result["proof"]["bound"] == bound
    assert json.loads((tmp_path / "merged/export_report.json").read_text())["verified"]


@pytest.mark.parametrize(("to", "options"), [("plain", ("--dtype", "bfloat16")), ("merged", ("--rank", "4"))])
def test_an_option_of_another_kind_is_refused(lora_run, tmp_path, to, options):
    with pytest.raises(UsageError, match="has no effect with `--to"):
        export(lora_run, tmp_path / "out", *options, to=to)


def without_evaluations(run, folder):
    """A copy of a run without what other tests evaluated."""
    copy = RunDir(shutil.copytree(run.path, folder / "run"))
    shutil.rmtree(copy.evaluations, ignore_errors=True)
    return copy


@pytest.mark.parametrize(("to", "relation"), [("plain", "adapter"), ("merged", "finetune")])
def test_the_card_says_what_it_is(lora_run, tmp_path, to, relation):
    run = without_evaluations(lora_run, tmp_path)
    export(run, tmp_path / "out", to=to)
    card = ModelCard.load(tmp_path / "out/README.md")
    manifest = run.read()
    assert (card.data.base_model, card.data.base_model_relation) == (base_name(manifest), relation)
    assert card.data.pipeline_tag == "text-generation"
    assert {one.metric_name for one in card.data.eval_results} == {"eval_loss", "eval_mean_token_accuracy"}
    for told in (manifest.run_id, manifest.packages["peft"], "## Proof", lora_run.recipe.read_text().strip()):
        assert told in card.text
    assert str(lora_run.path.parent) not in card.text.replace(lora_run.recipe.read_text().strip(), "")


def test_the_card_takes_licence_and_figures_where_they_are(lora_run, tmp_path):
    run = without_evaluations(lora_run, tmp_path)
    base = shutil.copytree(ASSETS / "nano", tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    manifest = run.read()
    run.amend(manifest, base=manifest.base.model_copy(update={"moved_to": str(base)}))
    figures = {"number": {"adapter": {"value": 0.5, "low": 0.4, "high": 0.6}, "base": {"value": 0.25}}}
    (run.evaluations / "1").mkdir(parents=True)
    table = {"suites": [{"name": "maths", "whole": {"figures": figures}}]}
    (run.evaluations / "1/results.json").write_text(json.dumps(table))
    found = ModelCard(card(run, "plain", "It is."))
    assert found.data.license == "apache-2.0"
    assert [(one.metric_name, one.metric_value) for one in found.data.eval_results] == [("maths.number", 0.5)]
    assert "| maths.number | 0.5 (0.4 to 0.6) | 0.25 |" in found.text
    (run.evaluations / "1/results.json").write_text('{"suites": 3}')
    assert "maths" not in card(run, "plain", "It is.")


KINDS = {
    "PiSSA, whose start moves the base": ("peft.init_lora_weights=pissa",),
    "KaSA, which cuts the base": ("peft.use_kasa=true",),
    "DoRA over nf4": ("quantization.method=bnb-4bit", "peft.use_dora=true"),
    "LoRA over int8": ("quantization.method=bnb-8bit",),
    "OFT over nf4": ("peft.method=oft", "quantization.method=bnb-4bit"),
    "LoRA in bfloat16": ("model.dtype=bfloat16",),
}


USUAL = ("PiSSA, whose start moves the base", "DoRA over nf4")


@pytest.mark.parametrize(
    "kind", [one if one in USUAL else pytest.param(one, marks=pytest.mark.matrix) for one in KINDS]
)
def test_runs_of_every_kind_are_exported(trained, tmp_path, kind):
    run = trained(RECIPE, *KINDS[kind], "training.max_steps=2", "training.output_dir=short")
    result = json.loads(export(run, tmp_path / "plain", "--json").stdout)
    assert result["made"]["lost"] == 0
    assert result["proof"]["frozen"]
    assert result["proof"]["comparison"]["same_tokens"] > 0.95


def test_adapters_of_earlier_runs_are_part_of_it(lora_run, trained, tmp_path):
    later = trained(RECIPE, f"model.base_adapters=['{lora_run.path}']", "training.max_steps=2", "training.seed=5")
    result = json.loads(export(later, tmp_path / "plain", "--json").stdout)
    assert result["made"]["rank"] == 2 * later.read().recipe.peft.lora_r
    assert result["proof"]["comparison"]["largest_difference"] < 1e-5
    assert verify(open_run(later), later.adapter).is_verified


def test_what_is_no_update_is_refused_with_the_reason(trained, tmp_path):
    run = trained(RECIPE, "peft.method=prompt-tuning", "training.max_steps=1")
    with pytest.raises(UsageError, match="is no update of weights"):
        export(run, tmp_path / "plain")
