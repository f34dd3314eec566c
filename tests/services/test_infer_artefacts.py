"""`lorans infer` answers from whatever a run was made into as from the run itself, which may be gone."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from test_labels import FEW, TAGGED, TAGS, run_rows
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import LoransError, ModelError, UsageError
from lora_ns.exports.record import RECORD
from lora_ns.run.directory import RunDir

SHORT = ("--set", "generation.max_new_tokens=12")


def lorans(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def answers(place, texts, *options):
    return [json.loads(line) for line in lorans("infer", place, "--input-file", texts, "--json", *options).splitlines()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "in.txt"
    file.write_text("Spell planet backwards.\nWrite plum in capitals.\nWhat is 12 + 7?\nplum\n")
    return file


def made(run, folder, kind):
    """An artefact of a run."""
    if kind == "merge":
        lorans("merge", run.path, "--output", folder / "merge", "--dtype", "float32")
        return folder / "merge"
    name, more = f"{kind}.gguf" if "gguf" in kind else kind, ["--type", "f32"] if kind in {"gguf", "ollama"} else []
    lorans("export", run.path, "--to", kind, "--output", folder / name, *more)
    return folder / name


KINDS = ["plain", "merged", "merge", "gguf", "ollama", "gguf-lora"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_alone_answers_as_its_run(lora_run, tmp_path, texts, kind):
    if kind in {"gguf", "ollama", "gguf-lora"}:
        pytest.importorskip("gguf")
    run = RunDir(Path(shutil.copytree(lora_run.path, tmp_path / "run")))
    expected = answers(run.path, texts, *SHORT)
    place = made(run, tmp_path, kind)
    shutil.rmtree(run.path)
    assert answers(place, texts, *SHORT) == expected
    assert (
        str(tmp_path) not in (place.parent / f"{place.name}.{RECORD}" if "gguf" in kind else place / RECORD).read_text()
    )


@pytest.mark.parametrize("kind", ["plain", "merge"])
def test_labels_are_those_of_the_run(classifier_run, tmp_path, texts, kind):
    expected, place = answers(classifier_run.path, texts), made(classifier_run, tmp_path, kind)
    for own, found in zip(expected, answers(place, texts), strict=True):
        assert found.pop("score") == pytest.approx(own.pop("score"), rel=1e-4)
        assert found.pop("scores", None) == pytest.approx(own.pop("scores", None), rel=1e-4)
        assert found == own


def test_tags_are_those_of_the_run(tmp_path):
    run, rows = run_rows(tmp_path, TAGS, TAGGED, *FEW), tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in TAGGED[:3]))
    expected, found = (answers(place, rows) for place in (run.path, made(run, tmp_path, "merge")))
    assert [(row["tokens"], row["tags"]) for row in found] == [(row["tokens"], row["tags"]) for row in expected]


def test_without_its_record_the_run_is_named(lora_run, tmp_path, texts):
    place = made(lora_run, tmp_path, "plain")
    (place / RECORD).unlink()
    with pytest.raises(UsageError, match=rf"has no {RECORD}.*--against RUN"):
        answers(place, texts)
    assert answers(place, texts, "--against", lora_run.path, *SHORT) == answers(lora_run.path, texts, *SHORT)
    own = shutil.copytree(lora_run.adapter, tmp_path / "own")
    assert answers(own, texts, "--against", lora_run.path, *SHORT) == answers(lora_run.path, texts, *SHORT)


def no_base(place, run):
    (place / RECORD).write_text((place / RECORD).read_text().replace(run.read().base.fingerprint, "0" * 64))


FAULTS = {
    "nothing there": (
        lambda place, _: shutil.rmtree(place),
        UsageError,
        "no such run directory .*, or what",
    ),
    "an empty folder": (
        lambda place, _: [file.unlink() for file in place.iterdir()],
        UsageError,
        "not a run directory: it has no manifest.json .name the .*, or what",
    ),
    "a damaged record": (lambda place, _: (place / RECORD).write_text("{"), UsageError, RECORD),
    "a record of something else": (
        lambda place, _: (place / RECORD).write_text('{"kind": 1}'),
        UsageError,
        "is damaged",
    ),
    "another template": (
        lambda place, _: (place / "chat_template.jinja").write_text("{{ messages }}"),
        UsageError,
        "its chat template is not that of the run",
    ),
    "another base": (no_base, ModelError, "not the base that the adapter was trained on"),
    "no weights": (lambda place, _: (place / "adapter_model.safetensors").unlink(), UsageError, "is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named(lora_run, tmp_path, texts, fault):
    place, (damage, kind, what) = made(lora_run, tmp_path, "plain"), FAULTS[fault]
    damage(place, lora_run)
    with pytest.raises(kind, match=what):
        answers(place, texts)


def test_parts_of_a_run_and_other_files_are_no_artefacts(lora_run, texts):
    with pytest.raises(UsageError, match=r"is a part of a run .name the run: "):
        answers(lora_run.adapter, texts)
    with pytest.raises(UsageError, match="is a file"):
        answers(texts, texts)
    with pytest.raises(UsageError, match="is a run itself"):
        answers(lora_run.path, texts, "--against", lora_run.path)


def test_answers_are_not_written_into_an_artefact(lora_run, tmp_path, texts):
    place = made(lora_run, tmp_path, "plain")
    with pytest.raises(LoransError, match="is a part of the artefact"):
        lorans("infer", place, "--input-file", texts, "-o", place / "answers.jsonl")


def test_a_model_without_its_head_is_no_classifier(lora_run, classifier_run, tmp_path, texts):
    place = made(lora_run, tmp_path, "merge")
    with pytest.raises(ModelError, match="has no weights of the head `score`"):
        answers(place, texts, "--against", classifier_run.path, "--force")
