"""Where the data files that a recipe names are found, in which order, and what is said where there are none."""

import json
from pathlib import Path

import pytest
from plans import plan_here

from lora_ns.data.files.kinds import KNOWN
from lora_ns.data.files.paths import find_files, shown
from lora_ns.errors import DataError
from lora_ns.recipe.load import load_recipe, locating

FILES = ("rows.jsonl", "data/b.jsonl", "data/a.csv", "data/c.JSONL.gz", "data/.hidden.jsonl", "data/README.md")
MORE_FILES = ("data/deep/d.jsonl", "data/deep/deeper/e.jsonl", "data/.cache/f.jsonl", "empty/README.md", "x[1].jsonl")
PLACE = "recipe.toml:11: dataset.path: "


@pytest.fixture
def loaded(write_recipe, tmp_path):
    for name in (*FILES, *MORE_FILES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n')
    return load_recipe(write_recipe())


def found(loaded, names):
    root = loaded.path.parent
    return [str(file.relative_to(root)) for file in find_files(loaded.folder, names, "dataset.path")]


def told(loaded, names):
    with pytest.raises(DataError) as caught, locating(loaded):
        find_files(loaded.folder, names, "dataset.path")
    return str(caught.value).replace(f"{loaded.path.parent}/", "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("rows.jsonl", ["rows.jsonl"]),
        ("data", ["data/a.csv", "data/b.jsonl", "data/c.JSONL.gz"]),
        ("data/", ["data/a.csv", "data/b.jsonl", "data/c.JSONL.gz"]),
        ("data/*.jsonl", ["data/b.jsonl"]),
        ("data/?.csv", ["data/a.csv"]),
        ("data/**/*.jsonl", ["data/b.jsonl", "data/deep/d.jsonl", "data/deep/deeper/e.jsonl"]),
        ("data/*", ["data/README.md", "data/a.csv", "data/b.jsonl", "data/c.JSONL.gz"]),
        ("data/.*.jsonl", ["data/.hidden.jsonl"]),
        ("data/README.md", ["data/README.md"]),
        ("x[1].jsonl", ["x[1].jsonl"]),
        (("rows.jsonl",), ["rows.jsonl"]),
        (("rows.jsonl", "data/deep", "data/*.csv"), ["rows.jsonl", "data/deep/d.jsonl", "data/a.csv"]),
        (("rows.jsonl", "rows.jsonl"), ["rows.jsonl", "rows.jsonl"]),
    ],
)
def test_a_name_leads_to_its_files_in_order(loaded, names, expected):
    assert found(loaded, names) == expected


@pytest.mark.parametrize("names", ["data", "data/*.jsonl", "data/b.jsonl"])
def test_names_may_be_absolute(loaded, names):
    assert found(loaded, str(loaded.path.parent / names)) == found(loaded, names)


@pytest.mark.parametrize("names", ["here", "here/*.jsonl", "here/a.jsonl"])
def test_names_lead_from_the_recipe_and_then_from_the_current_folder(loaded, names, tmp_path, monkeypatch):
    elsewhere = tmp_path / "current [folder]"
    (elsewhere / "here").mkdir(parents=True)
    (elsewhere / "here/a.jsonl").touch()
    monkeypatch.chdir(elsewhere)
    assert found(loaded, names) == ["current [folder]/here/a.jsonl"]
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a.jsonl").touch()
    assert found(loaded, names) == ["here/a.jsonl"]


def test_names_lead_into_the_package(loaded):
    files = find_files(loaded, ("lorans:quickstart/eval.jsonl", "lorans:quickstart"), "dataset.path")
    assert [file.name for file in files] == ["eval.jsonl", "eval.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("none.jsonl", "no file `none.jsonl` (looked at none.jsonl)"),
        ("none/*.jsonl", "no file matches `none/*.jsonl` (looked at none/*.jsonl)"),
        ("data/**/*.tsv", "no file matches `data/**/*.tsv` (looked at data/**/*.tsv)"),
        ("d?ta", "no file matches `d?ta` (looked at d?ta)"),
        ("empty/", f"folder `empty/` has no data file (known: {KNOWN}; `empty/**/*.jsonl` also looks below it)"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_at_its_key(loaded, names, expected):
    assert told(loaded, names) == f"{PLACE}{expected}"
    assert told(loaded, ("rows.jsonl", names)) == f"{PLACE}{expected}"


def test_every_name_that_leads_nowhere_is_told(loaded):
    assert told(loaded, ("a.csv", "rows.jsonl", "b/*.csv")).splitlines() == [
        f"{PLACE}no file `a.csv` (looked at a.csv)",
        f"{PLACE}no file matches `b/*.csv` (looked at b/*.csv)",
    ]


def test_what_is_not_in_the_package_is_told_at_its_key(loaded):
    assert told(loaded, "lorans:none.jsonl").startswith(
        f"{PLACE}`lorans:none.jsonl` is not part of the package (available: "
    )


def test_a_folder_that_may_not_be_read_is_told_at_its_key(loaded, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert told(loaded, "data") == f"{PLACE}folder `data` cannot be read: Permission denied (check its permissions)"


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        ("a.jsonl", ["/x/a.jsonl"], "/x/a.jsonl"),
        (("a.jsonl",), ["/x/a.jsonl"], "/x/a.jsonl"),
        ("lorans:quickstart/eval.jsonl", ["/x/eval.jsonl"], "lorans:quickstart/eval.jsonl"),
        ("data", ["/x/data/a.jsonl"], "/x/data/a.jsonl"),
        ("data", ["/x/data/a.jsonl", "/x/data/b.jsonl"], "data (2 files)"),
        (("a.jsonl", "b/*"), ["/x/a.jsonl", "/x/b/b.csv", "/x/b/c.csv"], "a.jsonl, b/* (3 files)"),
    ],
)
def test_files_are_told_in_a_few_words(names, files, expected):
    assert shown(names, [Path(file) for file in files]) == expected


def test_an_empty_list_is_no_file(write_recipe, tmp_path):
    hub = ["dataset.path=[]", "dataset.name=a/b", "dataset.eval_path=[]", "sft.max_seq_length=64"]
    assert plan_here(load_recipe(write_recipe(), hub)).train_rows.value is None


def test_the_plan_counts_the_rows_of_all_files_and_those_that_are_left_out(loaded, write_recipe, tmp_path):
    (tmp_path / "data/b.jsonl").write_text('{"prompt": "a", "completion": "b"}\nx\n')
    overrides = ['dataset.path=["data/*.jsonl", "rows.jsonl"]', "dataset.eval_path=data/deep"]
    overrides += ["dataset.max_bad_rows=1", "sft.max_seq_length=64"]
    plan = plan_here(load_recipe(write_recipe(), overrides))
    assert (plan.train_rows.value, plan.eval_rows.value) == (2, 1)
    assert plan.notes[0] == f"training rows: 1 left out as unreadable, the first at {tmp_path}/data/b.jsonl:2"


# What `save_to_disk` writes


def saved(folder, *files, state=None):
    folder.mkdir(parents=True)
    for name in (*files, "dataset_info.json"):
        (folder / name).write_text("{}")
    names = {"_data_files": [{"filename": name} for name in files], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(names) if state is None else state)


def test_a_saved_data_set_is_read_in_its_own_order(loaded, tmp_path):
    names = [f"data-{number}.arrow" for number in (1, 0, 10, 2)]
    saved(tmp_path / "saved", *names)
    assert found(loaded, "saved/") == [f"saved/{name}" for name in names]


@pytest.mark.parametrize(
    "state", ["", "[]", "{}", '{"_data_files": 7}', '{"_data_files": [{"filename": "../x.arrow"}]}']
)
def test_a_saved_data_set_that_names_no_file_is_told(loaded, tmp_path, state):
    saved(tmp_path / "saved", "data.arrow", state=state)
    assert told(loaded, "saved") == (
        f'{PLACE}`saved/state.json` names no data file (save the data set again, or write `path = "saved/*.arrow"`)'
    )


def test_a_file_that_a_saved_data_set_lacks_is_told(loaded, tmp_path):
    saved(tmp_path / "saved", "a.arrow", "b.arrow")
    (tmp_path / "saved" / "b.arrow").unlink()
    assert told(loaded, "saved") == (
        f"{PLACE}`saved/b.arrow` is not there, and `state.json` names it (save the data set again)"
    )


def test_of_saved_splits_one_is_to_be_named(loaded, tmp_path):
    for split in ("train", "test"):
        saved(tmp_path / "saved" / split, "data.arrow")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert told(loaded, "saved") == (
        f"{PLACE}folder `saved` holds the splits train, test "
        '(name one of them: `path = "saved/train"` or `path = "saved/test"`)'
    )
    assert found(loaded, "saved/test") == ["saved/test/data.arrow"]
