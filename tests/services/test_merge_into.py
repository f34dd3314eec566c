"""`--into original`: a quantised run merged into the original weights of its base, at a measured price."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import torch
from command_line import lorans
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from streamed import merge_whole, store_quantised

from lora_ns.answers.opened import open_run
from lora_ns.model.files import ASSETS, find_base
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.services.verify import verify

SHORT = ("quantization.method=bnb-4bit", "training.max_steps=2")
LOSS = "merged into the original weights instead of the quantised ones of training"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(tmp_path_factory.mktemp("nf4"), RECIPE, *SHORT)


def merge(run, output, *options):
    done = lorans("merge", run.path, "-o", output, "--dtype", "float32", "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_original(folder, base, adapter, other):
    """Compare a merged model with PEFT's merge into the original weights, bit for bit."""
    merge_whole(base, adapter, other)
    ours, theirs = (load_file(place / "model.safetensors") for place in (folder, other))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_the_weights_are_the_original_ones_and_the_price_is_stated(run, tmp_path):
    exact, result = merge(run, tmp_path / "exact"), merge(run, tmp_path / "merged", "--into", "original")
    base = find_base("lorans:nano", "main", [], download=False)
    check_original(tmp_path / "merged", base, run.adapter, tmp_path / "whole")
    assert (result["loss"], result["proof"]["bound"], result["verified"]) == (LOSS, None, True)
    price = result["proof"]["comparison"]["largest_difference"]
    assert price > 10 * exact["proof"]["comparison"]["largest_difference"]
    assert json.loads((tmp_path / "merged/export_report.json").read_text())["made"]["loss"] == LOSS
    card = (tmp_path / "merged/README.md").read_text()
    assert f"It was {LOSS}: the difference is measured" in card
    assert f"{price:.1e} of the largest" in card
    again = verify(open_run(run), tmp_path / "merged")
    assert (again.is_verified, again.bound) == (True, pytest.approx(1.25 * price))
    (tmp_path / "merged/export_report.json").unlink()
    assert verify(open_run(run), tmp_path / "merged").first.name == "logits"


def test_the_price_is_on_the_screen_of_export_too(run, tmp_path):
    done = lorans("export", run.path, "--into", "original", "-o", tmp_path / "out", "--to", "merged")
    assert f"price {LOSS}: logits differ by" in " ".join(done.stdout.split())


def test_a_quantised_export_of_the_original_weights_states_it(run, tmp_path):
    options = ("--to", "quantized", "--type", "int8", "--into", "original", "-o", tmp_path / "small", "--json")
    result = json.loads(lorans("export", run.path, *options).stdout)
    assert result["made"]["loss"] == LOSS


def test_a_run_that_was_not_quantised_has_nothing_to_choose(lora_run, tmp_path):
    done = lorans("merge", lora_run.path, "-o", tmp_path / "merged", "--into", "original")
    assert done.returncode == 2
    assert "its base was not quantised for training (leave it out)" in " ".join(done.stderr.split())
    assert not (tmp_path / "merged").exists()


def test_a_base_that_is_stored_quantised_has_no_original_weights_but_another_folder_may(tmp_path):
    base = find_base("lorans:nano", "main", [], download=False)
    store_quantised(base, QUANTIZATIONS["bnb-4bit"](method="bnb-4bit"), tmp_path / "stored")
    run = run_recipe(tmp_path, RECIPE.replace("lorans:nano", str(tmp_path / "stored")), SHORT[1])
    words = ("merge", run.path, "-o", tmp_path / "merged", "--into", "original", "--dtype", "float32")
    done = lorans(*words)
    assert done.returncode == 2
    assert "its original weights are not in" in " ".join(done.stderr.split())
    assert "`--base FOLDER --force`" in " ".join(done.stderr.split())
    result = json.loads(lorans(*words, "--base", ASSETS / "nano", "--force", "--json").stdout)
    assert result["loss"] == f"{LOSS}, and another base than that of training"
    check_original(tmp_path / "merged", base, run.adapter, tmp_path / "whole")
