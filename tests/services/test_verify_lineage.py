"""`lorans verify` without `--against`: one changed byte at any link of the lineage is found, and named."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.exports.lineage import artefact_lineage
from lora_ns.files.marks import MARK
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.best_adapter import replace_best
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import LINEAGE, read_chain, trained_chain
from lora_ns.run.manifest import BestRecord
from lora_ns.services.verify_lineage import verify_lineage

RARER = ("quantized", "gguf-lora", "ollama")
KINDS = ("plain", "merged", "gguf", *(pytest.param(kind, marks=pytest.mark.matrix) for kind in RARER))
NAMES = {"gguf": "alone/model.gguf", "gguf-lora": "lora/adapter.gguf"}


@pytest.fixture(scope="session")
def made(local_run):
    """The folder with a base, rows, a run of these, and what is made of it."""
    shutil.copytree(local_run / "run/adapter", local_run / "copied")
    return local_run


def exported(made, kind):
    """The artefact of a kind, which is made once."""
    place = made / NAMES.get(kind, kind)
    if kind == "copied" or place.exists():
        return place
    pytest.importorskip(
        {"quantized": "bitsandbytes", "gguf": "gguf", "gguf-lora": "gguf", "ollama": "gguf"}.get(kind, "torch")
    )
    place.parent.mkdir(exist_ok=True)
    export = ["export", made / "run", "--to", kind, "--output", place]
    done = CliRunner().invoke(app, [str(one) for one in export], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert read_chain(artefact_lineage(place)).chain.tip in done.output
    return place


def flip(file, place=None):
    """Change one byte of a file, which may be a link to another's."""
    content = bytearray(file.read_bytes())
    place = len(content) * 6 // 10 if place is None else place
    content[place] ^= 1
    file.unlink()
    file.write_bytes(content)


def test_a_run_is_whole_and_its_adapter_has_its_tip(made):
    run = RunDir(made / "run")
    tip = read_chain(run.lineage).chain.tip
    report = verify_lineage(run.path)
    assert {link.state for link in report.links} == {"intact"}
    assert [link.name for link in report.links] == [
        *("base", "sources", "settings", "rows", "checkpoint-3", "checkpoint-6", "adapter", "answers", "manifest"),
    ]
    assert report.tip == tip
    assert verify_lineage(run.adapter).tip == tip


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_is_whole_and_its_card_has_the_tip(made, kind):
    place, run = exported(made, kind), RunDir(made / "run")
    report = verify_lineage(place)
    assert (report.kind, report.run, report.run_id) == (kind, str(run.path), run.read().run_id)
    assert {link.state for link in report.links} == {"intact"}
    assert report.links[-1].name == kind
    if place.is_dir():
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
    file, kept, plain = made / name, (made / name).read_bytes(), exported(made, "plain")
    try:
        flip(file)
        report = verify_lineage(made / "run")
        assert report.first_broken.name == link
        assert report.first_broken.file == str(file)
        assert report.first_broken.remedy
        assert not verify_lineage(plain).is_whole
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
def test_a_changed_byte_of_an_artefact_is_found_in_each_of_its_files(made, kind):
    place = exported(made, kind)
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


# A run that is not here, or another one


def test_without_its_run_an_artefact_is_verified_as_far_as_it_goes(made, tmp_path):
    place = tmp_path / "adapter"
    shutil.copytree(made / "run/adapter", place)
    report = verify_lineage(place)
    assert (report.is_whole, report.run, report.run_id) == (True, None, RunDir(made / "run").read().run_id)
    assert {link.state for link in report.links[:-1]} == {"not checked"}
    assert report.links[-1].state == "intact"
    assert verify_lineage(place, run=made / "run").links[0].state == "intact"


def test_an_adapter_of_another_run_is_not_made_from_this_one(made, lora_run, tmp_path):
    place = tmp_path / "adapter"
    shutil.copytree(made / "run/adapter", place)
    broken = verify_lineage(place, run=lora_run.path).first_broken
    assert (broken.name, broken.found) == ("run", lora_run.read().run_id)
    (place / LINEAGE).unlink()
    assert verify_lineage(place, run=made / "run").is_whole
    assert verify_lineage(place, run=lora_run.path).first_broken.name == "adapter"
    with pytest.raises(UsageError, match=r"has no lineage\.json: nothing says what it was made from"):
        verify_lineage(place)


def test_a_base_or_rows_that_are_gone_are_not_checked(made, tmp_path):
    (made / "base").rename(made / "elsewhere")
    (made / "train.jsonl").rename(tmp_path / "train.jsonl")
    try:
        report = verify_lineage(made / "run")
        assert report.is_whole
        assert [link.name for link in report.links if link.state == "not checked"] == ["base", "sources"]
        assert verify_lineage(made / "run", base_path=made / "elsewhere").links[0].state == "intact"
    finally:
        (made / "elsewhere").rename(made / "base")
        (tmp_path / "train.jsonl").rename(made / "train.jsonl")


# Runs without an end, and of old versions


@pytest.fixture
def copied_run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return RunDir(tmp_path / "run")


def test_a_run_without_its_lineage_is_broken_and_one_that_began_without_is_compared_with_its_manifest(copied_run):
    copied_run.lineage.unlink()
    broken = verify_lineage(copied_run.path).first_broken
    assert (broken.name, broken.found) == ("lineage.json", "")
    copied_run.update(lineage=None)
    report = verify_lineage(copied_run.path)
    assert (report.is_whole, report.tip) == (True, None)
    assert "began without a lineage" in report.notes[0]
    for name, link in ((f"adapter/{WEIGHTS}", "adapter"), ("data/train/state.json", "rows")):
        kept = (copied_run.path / name).read_bytes()
        flip(copied_run.path / name)
        assert verify_lineage(copied_run.path).first_broken.name == link
        (copied_run.path / name).write_bytes(kept)


def test_a_lineage_of_another_run_is_not_that_of_this_one(copied_run, lora_run):
    shutil.copy(lora_run.lineage, copied_run.lineage)
    assert verify_lineage(copied_run.path).first_broken.name == "lineage.json"


def test_an_interrupted_run_is_verified_by_what_it_has(copied_run):
    begun = read_chain(copied_run.lineage).chain.only("base", "sources", "settings", "rows")
    copied_run.lineage.write_text(begun.text())
    copied_run.update(status="interrupted", lineage=None, adapter={})
    report = verify_lineage(copied_run.path)
    assert report.is_whole
    assert [link.name for link in report.links][-2:] == ["checkpoint-3", "checkpoint-6"]
    flip(copied_run.checkpoints / "checkpoint-6/scheduler.pt")
    assert verify_lineage(copied_run.path).first_broken.name == "checkpoint-6"


@pytest.mark.parametrize("name", [WEIGHTS, MARK, "rng_state.pth"])
def test_a_checkpoint_is_verified_in_its_run_and_elsewhere(made, copied_run, tmp_path, name):
    inside, outside = copied_run.checkpoints / "checkpoint-3", tmp_path / "checkpoint-3"
    shutil.copytree(inside, outside)
    report = verify_lineage(inside)
    assert (report.kind, report.is_whole, report.run) == ("checkpoint", True, str(copied_run.path))
    assert verify_lineage(outside).links[0].state == "not checked"
    assert verify_lineage(outside, run=copied_run.path).is_whole
    flip(outside / name, 50 if name == MARK else None)
    assert not verify_lineage(outside, run=copied_run.path).is_whole


# The command


def verified(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def test_the_command_names_the_first_broken_link(copied_run):
    done = verified(copied_run.path)
    assert done.exit_code == 0
    assert read_chain(copied_run.lineage).chain.tip in done.output
    flip(copied_run.adapter / WEIGHTS)
    done = verified(copied_run.path)
    assert done.exit_code == 1
    for text in ("broken link", str(copied_run.adapter / WEIGHTS), "expected", "found", "lorans reproduce"):
        assert text in done.output
    found = json.loads(verified(copied_run.path, "--json").stdout)
    assert (found["whole"], [link["name"] for link in found["links"] if link["state"] == "broken"]) == (
        False,
        ["adapter"],
    )


def test_what_is_no_artefact_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError):
            verify_lineage(place)
    with pytest.raises(UsageError, match="--force: only works with `--against`"):
        app(["verify", str(tmp_path), "--force"], standalone_mode=False)
    with pytest.raises(UsageError, match="--deep: has no effect with `--against`"):
        app(["verify", str(tmp_path), "--against", str(tmp_path), "--deep"], standalone_mode=False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has no lineage\.json: nothing says what it was made from"):
        verify_lineage(tmp_path)


# What was made of a checkpoint


@pytest.fixture
def stopped_early(early_run, tmp_path):
    shutil.copytree(early_run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture
def interrupted(stopped_early):
    """The run as it is while it trains, or after an interruption."""
    begun = read_chain(stopped_early.lineage).chain.only("base", "sources", "settings", "rows")
    stopped_early.lineage.write_text(begun.text())
    shutil.rmtree(stopped_early.adapter)
    stopped_early.update(status="interrupted", adapter={}, seal=None, adapter_step=None, ended=None, best=None)
    return stopped_early


def made_of(run, step, kind, place):
    """An artefact of a checkpoint."""
    place.parent.mkdir(exist_ok=True)
    export = ["export", run.path, "--to", kind, "--output", place, "--checkpoint", step]
    done = CliRunner().invoke(app, [str(one) for one in export], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return place


BEFORE = ["base", "sources", "settings", "rows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["3", "best"])
def test_an_artefact_of_a_checkpoint_says_so(early_run, tmp_path, kind, step):
    pytest.importorskip({"quantized": "bitsandbytes", "plain": "torch", "merged": "torch"}.get(kind, "gguf"))
    place = made_of(early_run, step, kind, tmp_path / NAMES.get(kind, kind))
    report, name = verify_lineage(place), "best" if step == "best" else f"checkpoint-{step}"
    assert (report.kind, report.made_from, report.run_id) == (kind, name, early_run.read().run_id)
    assert [link.name for link in report.links] == [*BEFORE, name, kind]
    assert {link.state for link in report.links} == {"intact"}
    assert name in verified(place).output


@pytest.mark.parametrize("step", ["4", "best"])
def test_an_artefact_of_an_interrupted_run_stays_whole_when_the_run_goes_on(interrupted, tmp_path, step):
    place, name = made_of(interrupted, step, "plain", tmp_path / "plain"), "best" if step == "best" else "checkpoint-4"
    report = verify_lineage(place)
    assert (report.made_from, {link.state for link in report.links}) == (name, {"intact"})
    chain = trained_chain(interrupted)
    assert chain.get(name) == read_chain(artefact_lineage(place)).chain.get(name)
    folder = interrupted.best if step == "best" else interrupted.checkpoints / name
    flip(folder / WEIGHTS)
    assert verify_lineage(place).first_broken.name == name
    shutil.rmtree(folder)
    report = verify_lineage(place)
    assert report.is_whole
    assert [link.name for link in report.links if link.state == "not checked"] == [name]


def test_a_best_adapter_that_was_replaced_breaks_no_chain(interrupted, tmp_path):
    place, manifest = made_of(interrupted, "best", "plain", tmp_path / "plain"), interrupted.read()
    better = BestRecord(step=4, metric="loss", value=9.0)
    written = interrupted.checkpoints / "checkpoint-4"
    for saved, state in ((3, "intact"), (5, "not checked")):
        replace_best(interrupted, manifest.run_id, better, lambda folder: shutil.copytree(written, folder), saved)
        report = verify_lineage(place)
        assert report.is_whole
        assert [(link.name, link.state) for link in report.links if link.name == "best"] == [("best", state)]
        assert verify_lineage(interrupted.path).is_whole
    assert "of step 4" in next(link.what for link in report.links if link.name == "best")
    flip(interrupted.best / WEIGHTS)
    assert verify_lineage(place).first_broken.name == "best"


def test_the_best_adapter_was_made_from_the_rows_of_its_run(stopped_early):
    assert verify_lineage(stopped_early.best).is_whole
    text = (stopped_early.best / MARK).read_text()
    rows = read_chain(stopped_early.lineage).chain.get("rows").sha256
    (stopped_early.best / MARK).write_text(text.replace(rows, "0" * 64))
    assert not verify_lineage(stopped_early.path).is_whole
    assert not verify_lineage(stopped_early.best).is_whole


def test_what_is_written_after_the_end_breaks_no_chain(stopped_early):
    for name in ("tracking/mlflow/x.json", "report.html", "report.json", "metrics.jsonl", "artefacts.jsonl"):
        file = stopped_early.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("another")
    assert verify_lineage(stopped_early.path).is_whole


def test_combined_runs_are_one_artefact_of_the_first(made, tmp_path):
    place = tmp_path / "merged"
    command = ["merge", made / "run", "--with", made / "run", "--output", place, "--checkpoint", "3"]
    done = CliRunner().invoke(app, [str(one) for one in command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = verify_lineage(place)
    assert (report.made_from, {link.state for link in report.links}) == ("checkpoint-3", {"intact"})
    flip(next(place.glob("*.safetensors")))
    assert verify_lineage(place).first_broken.name == "merged"
