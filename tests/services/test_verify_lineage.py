"""`lorans verify` without `--against`: one changed byte at any link of the lineage is found, and named."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.files.marks import MARK
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import ASSETS
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import LINEAGE, read_chain
from lora_ns.services.verify_lineage import verify_lineage

KINDS = ("plain", "merged", "quantized", "gguf", "gguf-lora", "ollama")
NAMES = {"gguf": "alone/model.gguf", "gguf-lora": "lora/adapter.gguf"}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a base, rows, a run of these, and an artefact of each kind."""
    folder = tmp_path_factory.mktemp("lineage")
    shutil.copytree(ASSETS / "nano", folder / "base")
    for name in ("train", "eval"):
        shutil.copy(ASSETS / f"quickstart/{name}.jsonl", folder / f"{name}.jsonl")
    text = RECIPE.replace("lorans:nano", "base").replace("lorans:quickstart/", "")
    run = run_recipe(folder, text, "training.save_steps=3", "training.save_total_limit=4")
    for kind in KINDS:
        if kind in {"gguf", "gguf-lora", "ollama"} and not has("gguf"):
            continue
        if kind == "quantized" and not has("bitsandbytes"):
            continue
        (folder / NAMES.get(kind, kind)).parent.mkdir(exist_ok=True)
        export = ["export", run.path, "--to", kind, "--output", folder / NAMES.get(kind, kind)]
        done = CliRunner().invoke(app, [str(one) for one in export], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    shutil.copytree(run.adapter, folder / "copied")
    return folder


def has(package):
    import importlib.util

    return importlib.util.find_spec(package) is not None


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the folder, in which a test may change files; every path in it is relative to the old place."""
    shutil.copytree(made, tmp_path / "copy", copy_function=os.link)
    return tmp_path / "copy"


def flip(file, place=None):
    """Change one byte of a file, which may be a link to another's."""
    content = bytearray(file.read_bytes())
    place = len(content) * 6 // 10 if place is None else place
    content[place] ^= 1
    file.unlink()
    file.write_bytes(content)


def places(folder):
    return {name: folder / NAMES.get(name, name) for name in (*KINDS, "copied") if (folder / name).exists()}


def test_everything_that_was_made_of_a_run_is_whole(made):
    run = RunDir(made / "run")
    tip = read_chain(run.lineage).chain.tip
    report = verify_lineage(run.path)
    assert {link.state for link in report.links} == {"intact"}
    assert [link.name for link in report.links] == [
        *("base", "sources", "settings", "rows", "checkpoint-3", "checkpoint-6", "adapter", "answers", "manifest"),
    ]
    assert report.tip == tip
    assert verify_lineage(run.adapter).tip == tip
    for kind in KINDS:
        if not (place := made / NAMES.get(kind, kind)).exists():
            continue
        report = verify_lineage(place)
        assert (report.kind, report.run, report.run_id) == (kind, str(run.path), run.read().run_id)
        assert {link.state for link in report.links} == {"intact"}, kind
        assert report.links[-1].name == kind
        if kind in {"plain", "merged", "quantized", "ollama"}:
            assert report.tip in (place / "README.md").read_text()


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("base", "base/model.safetensors"),
        ("base", "base/config.json"),
        ("base", "base/tokenizer_config.json"),
        ("sources", "train.jsonl"),
        ("sources", "eval.jsonl"),
        ("settings", "run/recipe.toml"),
        ("rows", "run/data/train/data-00000-of-00001.arrow"),
        ("rows", f"run/data/{MARK}"),
        ("checkpoint-3", f"run/checkpoints/checkpoint-3/{WEIGHTS}"),
        ("checkpoint-3", "run/checkpoints/checkpoint-3/optimizer.pt"),
        ("checkpoint-6", f"run/checkpoints/checkpoint-6/{MARK}"),
        ("adapter", f"run/adapter/{WEIGHTS}"),
        ("adapter", "run/adapter/tokenizer.json"),
        ("answers", "run/probes.safetensors"),
        ("manifest", "run/manifest.json"),
    ],
)
def test_a_changed_byte_of_a_run_breaks_its_link(made, link, name):
    file, kept = made / name, (made / name).read_bytes()
    try:
        flip(file)
        report = verify_lineage(made / "run")
        assert report.first_broken.name == link
        assert report.first_broken.file == str(file)
        assert report.first_broken.remedy
        assert not verify_lineage(made / "plain").is_whole or link.startswith(("checkpoint", "answers", "adapter"))
    finally:
        file.write_bytes(kept)
    assert verify_lineage(made / "run").is_whole


def test_every_byte_of_a_lineage_counts(made, tmp_path):
    file = tmp_path / "adapter" / LINEAGE
    shutil.copytree(made / "run/adapter", file.parent)
    kept = file.read_bytes()
    for place in range(0, len(kept), 37):
        flip(file, place)
        assert not verify_lineage(file.parent).is_whole, kept[max(0, place - 20) : place + 20]
        file.write_bytes(kept)


@pytest.mark.parametrize("kind", [*KINDS, "copied"])
def test_a_changed_byte_of_an_artefact_is_found_in_each_of_its_files(folder, kind):
    place = folder / NAMES.get(kind, kind)
    if not place.exists():
        pytest.skip("its package is not installed")
    files = sorted((place if place.is_dir() else place.parent).iterdir())
    assert files
    for file in files:
        kept = file.read_bytes()
        flip(file)
        report = verify_lineage(place)
        assert report.is_whole == (file.name == "README.md"), file
        if not file.name.endswith((LINEAGE, "README.md")):
            broken = report.first_broken
            assert (broken.name, broken.file) == ("adapter" if kind == "copied" else kind, str(file))
            assert broken.expected != broken.found
        file.write_bytes(kept)
        assert verify_lineage(place).is_whole
    if place.is_dir():
        (place / "model-00002.safetensors").write_bytes(b"1")
        assert verify_lineage(place).first_broken.what == "was added since"
        (place / "model-00002.safetensors").unlink()
        next(file for file in files if file.suffix in {".safetensors", ".gguf"}).unlink()
        assert verify_lineage(place).first_broken.found == "is missing"
