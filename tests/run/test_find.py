"""Finding run directories: nested ones, through links, but never inside runs."""

import pytest
from run_folders import write_run

from lora_ns.run.find import DEEPEST, find_runs


def found(folder):
    """The runs below a folder, relative to it."""
    return [str(path.relative_to(folder)) for path in find_runs(folder)]


def test_nested_runs_are_found_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a/deep/er", "a/x"):
        write_run(tmp_path / name)
    assert found(tmp_path) == ["a/deep/er", "a/x", "b"]


def test_a_run_is_found_in_itself_and_its_inside_is_not_searched(tmp_path):
    run = write_run(tmp_path / "run")
    write_run(run / "inner")
    assert found(tmp_path) == ["run"]
    assert list(find_runs(run)) == [run]


def test_hidden_folders_and_manifests_of_other_programs_are_no_runs(tmp_path):
    write_run(tmp_path / ".hidden")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension/manifest.json").write_text("{}")
    write_run(tmp_path / "extension/run")
    assert found(tmp_path) == ["extension/run"]


def test_loops_of_links_end_and_linked_runs_are_found_once(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert found(tmp_path) == ["a"]


def test_folders_deeper_than_the_limit_are_left_out(tmp_path):
    deep = tmp_path.joinpath(*["d"] * (DEEPEST + 1))
    write_run(deep)
    assert found(tmp_path) == []
    assert found(tmp_path / "d") == ["/".join(["d"] * DEEPEST)]


@pytest.mark.parametrize("what", ["missing", "file"])
def test_what_cannot_be_read_is_a_note(tmp_path, what):
    (tmp_path / "file").write_text("")
    notes = []
    assert list(find_runs(tmp_path / what, notes.append)) == []
    assert len(notes) == 1
    assert "cannot be read" in notes[0]
