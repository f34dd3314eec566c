"""The run directory: whole files or none, and no harm to what is not ours."""

import contextlib
import errno
import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from plans import plan_of
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import RunError, UsageError
from lora_ns.files import shortage
from lora_ns.files.disk import check_space, follow_umask, hash_folder, sha256_file, write_atomic
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.objectives import Classification, Sft, objective_of
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir, new_run_id
from lora_ns.run.manifest import (
    MANIFEST_VERSION,
    BaseRecord,
    DataRecord,
    Manifest,
    SourceRecord,
    differences,
)
from lora_ns.run.outputs import check_output
from lora_ns.run.written_manifest import checksum_of
from lora_ns.services.submit import status

FACTS = BaseFacts("llama", 1_000_000, "BF16", 64, 128, 2, 1000, None, {})
MACHINE = Machine("cpu", 2, False, 24 * 10**9, 20 * 10**9)
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def manifest(write_recipe) -> Manifest:
    loaded = load_recipe(write_recipe(), ["training.seed=7", 'peft.target_modules=["q_proj"]'])
    return Manifest(
        run_id="20260101-000000-abcdef01",
        created="2026-01-01T00:00:00+00:00",
        updated="2026-01-01T00:00:00+00:00",
        recipe=loaded.recipe,
        overrides=loaded.overrides,
        plan=plan_of(loaded, MACHINE, SimpleNamespace(facts=FACTS), DataFacts(100, 10)),
        base=BaseRecord(
            name="a/b", path="/cache/b", commit=None, fingerprint="f", tokenizer_fingerprint="t", parameters=1
        ),
        data=DataRecord(
            format="messages",
            columns={"text": None},
            train=SourceRecord(source="train.jsonl", sha256="0", rows=100),
            eval_rows=[{"prompt": "é"}],
        ),
        seed=7,
    )


@pytest.fixture
def run(tmp_path, manifest) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.create("# as written\n", manifest)
    return run


def names(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def refusal(call, *arguments):
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Whole files or none


@pytest.mark.parametrize(("content", "expected"), [("é\n", b"\xc3\xa9\n"), (b"\xff", b"\xff"), ("", b"")])
def test_a_file_is_written_with_its_folders(tmp_path, content, expected):
    write_atomic(tmp_path / "a" / "b" / "file", content)
    assert names(tmp_path / "a") == ["b", "b/file"]
    assert (tmp_path / "a/b/file").read_bytes() == expected


def test_a_written_file_is_readable_by_others(tmp_path):
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no space left on the disk (free some space)"),
        (errno.EDQUOT, "no space left on the disk (free some space)"),
        (errno.EACCES, "cannot be written: refused (choose another folder)"),
        (errno.EROFS, "cannot be written: refused (choose another folder)"),
    ],
)
@pytest.mark.parametrize("method", ["replace", "open"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, method, number, told):
    file = tmp_path / "folder" / "file"
    write_atomic(file, "old")

    def fail(*_):
        raise OSError(number, "refused")

    with monkeypatch.context() as patched:
        patched.setattr(Path, method, fail)
        with pytest.raises(RunError) as caught:
            write_atomic(file, "new")
    assert str(caught.value) == f"{file}: {told}"
    assert caught.value.exit_code == 1
    assert (names(tmp_path / "folder"), file.read_text()) == (["file"], "old")


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_what_is_written_follows_the_umask(tmp_path, umask, file_mode, folder_mode):
    saved = tmp_path / "saved"
    saved.mkdir()
    for name, mode in (("private", 0o600), ("open", 0o666)):
        (saved / name).touch()
        (saved / name).chmod(mode)
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "folder" / "file", "text")
        follow_umask(saved)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path != saved}
    assert modes == {"folder": folder_mode, "file": file_mode, "private": file_mode, "open": file_mode}


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "folder" / "file"
    write_atomic(file, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(file, "new")
    assert (names(tmp_path / "folder"), file.read_text()) == (["file"], "old")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "inner", "x")


@pytest.mark.parametrize(("free", "fits"), [(10**6, True), (10**6 - 1, False)])
def test_what_the_disk_cannot_hold_is_refused(tmp_path, monkeypatch, free, fits):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=free))
    folder = tmp_path / "not" / "yet" / "there"
    if fits:
        check_space(folder, 10**6)
    else:
        with pytest.raises(RunError) as caught:
            check_space(folder, 10**6)
        told = "no space left on the disk: about 1 MB needed, 1 MB free (free some space, or choose another folder)"
        assert str(caught.value) == f"{folder}: {told}"
    assert asked == [tmp_path]


# Which directory may be used


def make_nothing(path):
    return None


def make_file(path):
    path.write_text("")


def make_foreign(path):
    path.mkdir()
    (path / "thesis.tex").write_text("")


def make_hidden(path):
    path.mkdir()
    (path / ".git").mkdir()


KINDS = {
    "nothing": (make_nothing, None, None),
    "empty": (Path.mkdir, None, None),
    "file": (make_file, *["is a file (choose another `training.output_dir`)"] * 2),
    "foreign": (make_foreign, *["is not empty and not a run (choose another `training.output_dir`)"] * 2),
    "hidden": (make_hidden, *["is not empty and not a run (choose another `training.output_dir`)"] * 2),
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_place_of_our_own_is_free(tmp_path, kind, overwrite):
    make, *told = KINDS[kind]
    path = tmp_path / "place"
    make(path)
    if told[overwrite] is None:
        RunDir(path).check_free(overwrite)
    else:
        assert refusal(RunDir(path).check_free, overwrite) == f"{path}: {told[overwrite]}"


def test_a_run_is_free_only_to_be_overwritten(run):
    run.update(status="finished")
    run.check_free(overwrite=True)
    assert refusal(run.check_free, False) == (
        f"{run.path}: already contains a run (finished) (`--resume` continues it, `--overwrite` replaces it, "
        "or choose another `training.output_dir`)"
    )


def everything(run):
    return {str(file.relative_to(run.path)): file.read_text() for file in run.path.rglob("*") if file.is_file()}


def fill(run):
    own = [run.metrics, run.log, run.adapter / "adapter_model.safetensors", run.checkpoints / "1" / "x", run.data / "a"]
    for file in own:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("old")
    (run.path / "notes.txt").write_text("mine")


def test_overwriting_spares_what_the_run_did_not_write(run):
    fill(run)
    with run.replacing():
        assert [name for name in names(run.path) if not name.startswith(".")] == ["notes.txt"]
        run.metrics.write_text("new")
        run.forget_replaced()
    assert everything(run) == {"notes.txt": "mine", "metrics.jsonl": "new"}


def replace(run, fault, begins=False):
    """A new run that ends in a fault, before or after its first step."""
    with run.replacing():
        run.metrics.write_text("new")
        if begins:
            run.forget_replaced()
        raise fault


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_a_replaced_run_comes_back_if_the_new_one_never_began(run, fault):
    fill(run)
    before = everything(run)
    with pytest.raises(fault):
        replace(run, fault)
    assert everything(run) == before


def test_a_replaced_run_stays_away_once_the_new_one_began(run):
    fill(run)
    with pytest.raises(KeyError):
        replace(run, KeyError, begins=True)
    assert everything(run) == {"notes.txt": "mine", "metrics.jsonl": "new"}


class Killed(BaseException):
    """The process ends here, and nothing that it would have done on the way out is done."""


def kill_at(monkeypatch, call):
    """End the process at so manieth change of a folder, before it or, of a removal, in its middle."""
    left = [call]

    def counting(function, halfway=None):
        def counted(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                if halfway:
                    halfway(*arguments)
                raise Killed
            return function(*arguments, **named)

        return counted

    def half(folder, **_):
        for file in [file for file in Path(folder).rglob("*") if file.is_file()][:1]:
            file.unlink()

    for name in ("rename", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, counting(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counting(shutil.rmtree, half))


def replaced_by_a_new_run(run, begins):
    """What `--overwrite` does, by the parts, since a killed process does not unwind."""
    aside = run._replaced
    aside.put_aside()
    run.manifest_file.write_text(json.dumps({"version": 1}))
    run.checkpoints.mkdir()
    run.start.mkdir()
    (run.start / "file").write_text("new")
    run.metrics.write_text("new")
    if begins:
        aside.forget()
    else:
        aside.bring_back()


@pytest.mark.parametrize("begins", [False, True], ids=["brought back", "forgotten"])
@pytest.mark.parametrize("again", [False, True], ids=["", "and killed while it is mended"])
def test_a_replaced_run_is_whole_or_gone_wherever_a_process_is_killed(run, tmp_path, begins, again):
    fill(run)
    before, told = everything(run), []
    new = {"notes.txt": "mine", "metrics.jsonl": "new", "manifest.json": '{"version": 1}', "start/file": "new"}
    for call in range(40):
        shutil.copytree(run.path, tmp_path / str(call))
        copy = RunDir(tmp_path / str(call))
        copy._awaits_launcher = lambda: False
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, call)
            try:
                replaced_by_a_new_run(copy, begins)
                break
            except Killed:
                pass
        if again:
            for later in range(10):
                with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
                    kill_at(patch, later)
                    copy.mend(told.append)
        copy.mend(told.append)
        assert everything(copy) in ([before] if not begins else [before, new]), call
        assert [name for name in names(copy.path) if name.startswith(".")] == []
    assert 8 < call < 39
    assert everything(copy) == (new if begins else before)


def test_what_is_not_replaced_yet_is_used_from_a_folder_that_cannot_be_written(run):
    run.update(status="finished")
    fill(run)
    run._replaced.put_aside()
    told = []
    for is_begun in (False, True):
        if is_begun:
            run.checkpoints.mkdir()
            run.manifest_file.write_text("{}")
        opened = RunDir.open_to_use(run.path, told.append)
        assert opened.read().status == "finished"
        assert (opened.adapter / "adapter_model.safetensors").read_text() == "old"
    assert told == [f"{run.path}: the new run has not completed a step, so the run that it replaces is used"] * 2


def test_the_status_of_a_run_that_is_being_replaced(run, manifest):
    run.update(status="finished")
    run._replaced.put_aside()
    assert status(run.path).status == "finished"
    run.create("# new", manifest)
    told = status(run.path)
    assert (told.status, told.replaces) == ("started", "finished")
    run.forget_replaced()
    assert status(run.path).replaces is None


@pytest.mark.parametrize(
    "text", ["", '{"step": 1}\n', '{"step": 1}\n{"st', '{"step": 1e400}', '{"step": 100000}', None]
)
def test_the_status_says_what_of_the_metrics_is_left_out(run, text):
    os.mkfifo(run.metrics) if text is None else run.metrics.write_text(text)
    told = status(run.path)
    assert told.max_steps < 100_000
    assert told.step == ('{"step": 1}' in (text or ""))
    assert bool(told.notes) == (text not in {"", '{"step": 1}\n'})
    shown = CliRunner().invoke(app, ["status", str(run.path)])
    assert shown.exit_code == 0
    assert [f"note: {said}" for said in told.notes] == shown.stderr.splitlines()


OWN = (
    *("manifest.json", "recipe.toml", "metrics.jsonl", "train.log"),
    *("adapter", "adapter/adapter_config.json", "checkpoints/new", "data/x", "start", "ranks/x", "jobs/1/job.json"),
    *(".replaced/manifest.json", ".replacing", ".forgotten/x", "own/../adapter/x", "link", "link/x"),
)
FREE = (
    "answers.jsonl",
    "data.jsonl",
    "adapter-2",
    "merged/adapter",
    "own/../answers.jsonl",
    "../run-2/adapter/x",
    "../x",
)


@pytest.mark.parametrize("is_aside", [False, True])
@pytest.mark.parametrize("name", [*OWN, *FREE])
def test_a_run_knows_the_places_of_its_files(run, name, is_aside, monkeypatch):
    elsewhere = run.path.parent / "elsewhere"
    elsewhere.mkdir()
    run.adapter.symlink_to(elsewhere)  # as on another disk
    (run.path / "link").symlink_to(run.adapter)
    (run.path / "own").mkdir()
    if is_aside:
        run = RunDir(run.path / ".replaced")
    is_own = name in OWN
    directory = run.path.parent if is_aside else run.path
    assert run.owns(directory / name) == is_own
    if not is_own:
        assert run.holds(directory / name) == (not name.startswith(".."))
    assert run.owns(elsewhere / "x")
    monkeypatch.chdir(directory)
    assert run.owns(Path(name)) == is_own


@pytest.mark.parametrize("command", [("infer", "-i", "a", "--overwrite"), ("merge",)], ids=["infer", "merge"])
@pytest.mark.parametrize("name", ["adapter/adapter_config.json", "start", "base/new", "base", "loop", "loop/new"])
def test_what_is_read_is_not_written(run, tmp_path, command, name, manifest):
    if command == ("merge",):
        pytest.importorskip("peft")
    base = tmp_path / "base"
    base.mkdir()
    run.write(manifest.model_copy(update={"base": manifest.base.model_copy(update={"path": str(base)})}))
    (tmp_path / "loop").symlink_to("loop")
    output = tmp_path / name if name.startswith(("base", "loop")) else run.path / name
    before = everything_in(tmp_path)
    done = CliRunner().invoke(app, [command[0], str(run.path), *command[1:], "-o", str(output)])
    (problem,) = done.exception.problems
    assert isinstance(done.exception, UsageError)
    assert problem.where == str(output)
    assert "Too many levels of symbolic links" in problem.what if "loop" in name else "is a file of the" in problem.what
    assert everything_in(tmp_path) == before


def everything_in(folder):
    return {str(path): path.readlink() if path.is_symlink() else path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("names", [(), ("model.gguf",)], ids=["safetensors", "gguf"])
@pytest.mark.parametrize("given", ["path", "moved_to", "--base"])
def test_the_files_of_a_base_are_known_wherever_it_lies(run, manifest, tmp_path, names, given):
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", *names):
        (folder / name).touch()
    place = {} if given == "--base" else {given: str(folder)}
    base = manifest.base.model_copy(update={**place, "gguf_file": next(iter(names), None)})
    manifest = manifest.model_copy(update={"base": base})
    named = folder if given == "--base" else None
    for name in ("config.json", *names, "tokenizer.json"):
        with pytest.raises(UsageError, match="is a file of the base"):
            check_output(folder / name, run, manifest, named)
    check_output(tmp_path / "new", run, manifest, named)
    if names:  # the folder of one file may be any
        check_output(folder / "answers.jsonl", run, manifest, named)
        with pytest.raises(UsageError, match="is a file of the base"):
            check_output(folder / "model.gguf", run, manifest, folder / "model.gguf")


def test_a_run_in_the_folder_of_its_base_has_room_for_answers(run, manifest):
    manifest = manifest.model_copy(update={"base": manifest.base.model_copy(update={"path": str(run.path.parent)})})
    check_output(run.path / "answers.jsonl", run, manifest, None)
    with pytest.raises(UsageError, match="is a file of the base"):
        check_output(run.path.parent / "answers.jsonl", run, manifest, None)


def test_a_run_that_somebody_trains_is_not_mended(run):
    fill(run)
    run._replaced.put_aside()
    with run.held():
        RunDir(run.path).mend(pytest.fail)
    with run.joined(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora_ns.run.directory._RANKS_SECONDS", 0.0)
        RunDir(run.path).mend(pytest.fail)
    assert run.put_aside is not None


def test_a_run_that_waits_for_its_launcher_is_not_mended(run, manifest):
    run.update(status="finished")
    run._replaced.put_aside()
    run.create("# new", manifest)
    run.update(awaits_launcher=True)
    run.mend(pytest.fail)
    assert run.recipe.read_text() == "# new"
    assert run.put_aside.read().status == "finished"


def test_what_killed_processes_left_is_removed_and_nothing_else(run):
    fill(run)
    mine = [run.path / name for name in (".manifest.json", ".notes.txt.abcdefgh", "notes.abcdefgh")]
    left = [
        run.path / ".manifest.json.abcdefgh",
        run.checkpoints / "1" / ".lorans.json.0123_abc",
        run.stop_file,
        run.stopped_file,
        run.ranks / "rank1.pid",
    ]
    run.ranks.mkdir()
    for file in (*mine, *left):
        file.write_text("1")
    run.spare.mkdir()
    run.mend(pytest.fail)
    assert [file for file in left if file.exists()] == []
    assert [file for file in mine if not file.exists()] == []
    assert not run.spare.exists()


def test_replacing_touches_nothing_that_a_link_points_to(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    run.adapter.symlink_to(elsewhere)
    with run.replacing():
        run.adapter.symlink_to(elsewhere)
        run.forget_replaced()
    with pytest.raises(KeyError):
        replace(run, KeyError)
    assert names(elsewhere) == ["file"]


def test_what_killed_processes_left_is_not_looked_for_behind_links(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (".notes.abcdefgh", "rank0.pid", "stop", "stopped"):
        (elsewhere / name).write_text("mine")
    for folder in (run.adapter, run.data, run.start, run.ranks):
        folder.symlink_to(elsewhere)
    run.mend(pytest.fail)
    run.clear_ranks()
    assert names(elsewhere) == [".notes.abcdefgh", "rank0.pid", "stop", "stopped"]
    assert run.ranks.is_dir()
    assert not run.ranks.is_symlink()


def test_what_a_process_could_not_tell_to_its_end_is_left_out(run):
    run.clear_ranks()
    run.report_failure(0, {"rank": 0})
    for number, text in enumerate(("", "{", "[1]", "[" * 100_000, "9" * 10_000), start=1):
        (run.ranks / f"rank{number}.error.json").write_text(text)
    os.mkfifo(run.ranks / "rank9.error.json")
    assert run.reported_failures() == [{"rank": 0}]


# The manifest


def test_a_manifest_is_read_as_it_was_written(run, manifest):
    read = RunDir.open(run.path).read()
    assert read.model_copy(update={"updated": manifest.updated}) == manifest
    assert run.recipe.read_text() == "# as written\n"
    assert names(run.path) == ["checkpoints", "manifest.json", "recipe.toml"]


def test_an_update_changes_what_it_names(run):
    before = run.read()
    run.update(status="failed", error="no memory")
    after = run.read()
    assert set(differences(before.model_dump(mode="json"), after.model_dump(mode="json"))) - {"updated"} == {
        "status",
        "error",
    }
    assert (after.status, after.error) == ("failed", "no memory")


def test_a_run_directory_is_a_path(run):
    assert Path(run) == run.path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (make_nothing, "no such run directory (name the `output_dir` of a run)"),
        (make_file, "no such run directory (name the `output_dir` of a run)"),
        (Path.mkdir, "not a run directory: it has no manifest.json (name the `output_dir` of a run)"),
        (make_foreign, "not a run directory: it has no manifest.json (name the `output_dir` of a run)"),
    ],
)
def test_what_is_no_run_is_not_opened(tmp_path, make, told):
    path = tmp_path / "place"
    make(path)
    assert refusal(RunDir.open, path) == f"{path}: {told}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("world_size", False), ("world_size", -1), ("max_steps", -1), ("save_steps", 0), ("train_rows", -5)],
)
def test_a_plan_whose_numbers_are_no_counts_is_not_believed(run, key, value):
    table = json.loads(run.manifest_file.read_text())
    table["plan"][key] = {"value": value, "origin": "computed"}
    run.manifest_file.write_text(json.dumps({name: kept for name, kept in table.items() if name != "checksum"}))
    told = refusal(run.read)
    assert told.startswith(f"{run.manifest_file}: not a manifest: ")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"{}", b'{"version": "1"}', b'{"version": 1}', b"\xff\xfe"]
)
def test_what_is_no_manifest_is_told(run, content):
    run.manifest_file.write_bytes(content)
    told = refusal(RunDir.open, run.path)
    assert told.startswith(f"{run.manifest_file}: not a manifest: ")
    assert told.endswith(" (this run cannot be used)")


def read_or_refused(run):
    try:
        return run.read()
    except UsageError as error:
        return error


def test_any_changed_byte_of_a_manifest_is_seen_or_changes_nothing(run):
    whole, manifest, draw = run.manifest_file.read_bytes(), run.read(), random.Random(1)
    for _ in range(100):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= draw.randrange(1, 128)
        run.manifest_file.write_bytes(changed)
        found = read_or_refused(run)
        assert found == manifest or str(run.manifest_file) in str(found)


def test_a_manifest_that_was_changed_by_hand_says_how_it_is_read(run):
    table = {**json.loads(run.manifest_file.read_text()), "seed": 8}
    run.manifest_file.write_text(json.dumps(table))
    remedy = "restore it; if you changed it yourself, remove `checksum` from it"
    assert refusal(run.read) == f"{run.manifest_file}: is damaged: its checksum differs ({remedy})"
    del table["checksum"]
    run.manifest_file.write_text(json.dumps(table))
    assert run.read().seed == 8


def test_a_manifest_of_a_newer_version_says_what_to_install(run):
    newer = {**json.loads(run.manifest_file.read_text()), "version": MANIFEST_VERSION + 1, "unheard": "of"}
    run.manifest_file.write_text(json.dumps(newer))
    what = f"written by a newer lorans (manifest version {MANIFEST_VERSION + 1}, this one reads {MANIFEST_VERSION})"
    assert refusal(RunDir.open, run.path) == f"{run.manifest_file}: {what} (`pip install --upgrade lora-ns`)"


def test_runs_have_different_names():
    assert len({new_run_id() for _ in range(100)}) == 100


# Comparing


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": (1, 2)}),
        ({"a": 1}, {}, {"a": (1, None)}),
        ({}, {"a": 1}, {"a": (None, 1)}),
        ({"t": {"a": 1, "b": 2}}, {"t": {"a": 1, "b": 3}}, {"t.b": (2, 3)}),
        ({"t": {"u": {"a": 1}}}, {"t": {"u": {"b": 1}}}, {"t.u.a": (1, None), "t.u.b": (None, 1)}),
        ({"t": {"a": 1}}, {"t": 3}, {"t": ({"a": 1}, 3)}),
        ({"l": [1, 2]}, {"l": [2, 1]}, {"l": ([1, 2], [2, 1])}),
    ],
)
def test_two_tables_differ_in_dotted_keys(old, new, expected):
    assert differences(old, new) == expected


def test_a_folder_is_hashed_file_by_file(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "empty").write_bytes(b"")
    (folder / "inner" / "file").write_bytes(b"abc" * 1_000_000)
    hashed = hash_folder(folder)
    assert list(hashed) == ["empty", "inner/file"]
    assert hashed["empty"] == EMPTY_SHA256
    assert hashed["inner/file"] == sha256_file(folder / "inner" / "file") != EMPTY_SHA256


def test_a_run_is_not_trained_beside_processes_that_a_command_has_left(run, monkeypatch):
    monkeypatch.setattr("lora_ns.run.directory._RANKS_SECONDS", 0.2)
    told = r"a process of an ended command is still training this run \(wait until it ends"
    with run.joined(), run.joined(), pytest.raises(UsageError, match=told), run.held():
        raise AssertionError("both have it")
    with run.held(), run.joined():
        pass


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.held(), pytest.raises(UsageError, match="another process is training this run"), RunDir(run.path).held():
        raise AssertionError("both have it")
    with run.held():
        pass


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_that_cannot_lock_is_no_reason_to_stop(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunDir(tmp_path).held():
        pass


def test_a_control_character_in_a_name_of_a_manifest_is_refused(run):
    table = json.loads(run.manifest_file.read_text())
    table["recipe"]["training"]["output_dir"] = "run\n#SBATCH --account=other"
    run.manifest_file.write_text(json.dumps(table))
    told = refusal(run.read)
    assert told.startswith(f"{run.manifest_file}: not a manifest: ")


@pytest.mark.parametrize("name", ["manifest.json", "recipe.toml", "metrics.jsonl", "train.log"])
def test_a_run_whose_files_are_links_is_refused(run, tmp_path, name):
    own = tmp_path / "own"
    shutil.copy(run.manifest_file, own)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(own)
    assert refusal(RunDir.open, run.path).startswith(f"{run.path / name}: is a link; a run must own its files")


HOSTILE_MANIFESTS = {
    "deep": "[" * 100_000,
    "deep and whole": '{"version": ' + "[" * 500 + "]" * 500 + "}",
    "digits": '{"version": ' + "9" * 5000 + "}",
    "nothing": "",
    "a list": "[]",
    "a text": '{"version": "1"}',
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("text", HOSTILE_MANIFESTS.values(), ids=HOSTILE_MANIFESTS)
def test_a_manifest_of_others_is_one_problem(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        RunDir.open(tmp_path)
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"{tmp_path}/manifest.json")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2500, "none"])
def test_a_run_that_cannot_be_there_is_told(tmp_path, name):
    with pytest.raises(UsageError, match="no such run directory"):
        RunDir.open(tmp_path / name)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.touch()])
def test_a_run_is_not_put_where_something_else_is(tmp_path, make):
    make(tmp_path / "run")
    with pytest.raises(UsageError, match=r"run: is (a file|not a folder)"):
        RunDir(tmp_path / "run").check_free(overwrite=True)


def test_a_run_that_is_gone_while_it_is_trained_is_one_message(run):
    run.check_there()
    run.path.rename(run.path.with_name("elsewhere"))
    told = r"run: was removed or moved during training \(if it was moved, `lorans train FOLDER --resume` continues it"
    with pytest.raises(RunError, match=told):
        run.check_there()
    with pytest.raises(RunError, match=told), run.telling_lost_disk(), run.metrics.open("a"):
        pass
    with pytest.raises(RunError, match=told), run.telling_lost_disk():
        run.read()
    run.report_failure(0, {"rank": 0})
    assert not run.path.exists()
    assert run.reported_failures() == [{"rank": 0}]


def test_a_run_on_a_disk_that_is_lost_is_one_message_and_a_bug_is_not(run):
    told = r"Read-only file system; the last complete checkpoint is kept \(make it writable again, then `lorans train"
    with pytest.raises(RunError, match=told), run.telling_lost_disk():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(run.metrics))
    for error in (FileNotFoundError(2, "x", str(run.path / "missing")), PermissionError(13, "x", "/elsewhere")):
        with pytest.raises(type(error)), run.telling_lost_disk():
            raise error


def test_a_run_that_cannot_be_written_is_refused_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shortage.os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"), run.held():
        pytest.fail("it is held")
    with pytest.raises(UsageError, match="new: cannot be written: Permission denied"):
        RunDir(tmp_path / "new").check_free(overwrite=False)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without a disk")
def test_what_is_no_disk_is_not_called_full():
    check_space(Path("/proc/lorans"), 1 << 30)
    with pytest.raises(RunError, match="cannot be written"), RunDir(Path("/proc/lorans")).held():
        pytest.fail("it is held")


@pytest.mark.parametrize("name", ["checkpoints", "adapter", "start", "data", "ranks"])
@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "a pipe"])
def test_what_is_in_the_place_of_a_folder_is_named(run, name, kind):
    place = run.path / name
    shutil.rmtree(place, ignore_errors=True)
    if kind == "a file":
        place.write_text("x")
    elif kind == "a pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/nowhere")
    assert refusal(RunDir.open, run.path).startswith(f"{place}: is not a folder (restore the folder")


# Manifests of earlier versions


FIRST = {
    "CAUSAL_LM": ("sft", {"packing": True, "max_seq_length": 77}),
    "SEQ_CLS": ("classification", {"threshold": 0.7, "max_seq_length": 77}),
    "TOKEN_CLS": ("classification", {"labels": ["O", "B"], "max_seq_length": 77}),
}
"""By task the table that a recipe had, and what a manifest of version 1 said in it."""


@pytest.mark.parametrize("task", FIRST)
def test_a_manifest_of_version_1_is_read_with_the_objective_of_its_task(run, task):
    table = json.loads(run.manifest_file.read_text())
    owner, said = FIRST[task]
    every = {"sft": Sft().model_dump(mode="json"), "classification": Classification().model_dump(mode="json")}
    for kind in every.values():
        del kind["table"]
    recipe = {**table["recipe"], "task_type": task, **every, owner: {**every[owner], **said}}
    del recipe["objective"]
    first = {**table, "version": 1, "recipe": recipe}
    del first["checksum"]
    run.manifest_file.write_text(json.dumps({**first, "checksum": checksum_of(first)}))
    found = run.read()
    assert type(found.recipe.objective) is objective_of(task, [owner])
    kept = found.recipe.objective.model_dump(mode="json")
    assert {key: kept[key] for key in said} == said
    assert run.update(status="finished").version == MANIFEST_VERSION
    assert run.read().recipe == found.recipe
