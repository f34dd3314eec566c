"""Where the hub's libraries keep what they fetched, and what is there, as those libraries themselves see it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_ns.files import hub_cache as cache

COMMIT = "0123456789" * 4
NAMES = (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"),
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"),
)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch, tmp_path):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


PLACES = {
    "nothing": ({}, "~/.cache/huggingface/hub", "~/.cache/huggingface/datasets"),
    "XDG": ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub", "/x/huggingface/datasets"),
    "a home": ({"HF_HOME": "~/h", "XDG_CACHE_HOME": "/x"}, "~/h/hub", "~/h/datasets"),
    "a variable in it": ({"HF_HOME": "$HOME/h"}, "~/h/hub", None),
    "a hub cache": ({"HF_HUB_CACHE": "/c", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, "/c", "/h/datasets"),
    "an old name": ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old", "~/.cache/huggingface/datasets"),
    "datasets": ({"HF_DATASETS_CACHE": "/d"}, "~/.cache/huggingface/hub", "/d"),
}
OFFLINE = {
    "nothing": ({}, None, None),
    "the hub": ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    "transformers": ({"TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE", "TRANSFORMERS_OFFLINE"),
    "no decides": ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, None, None),
    "datasets": ({"HF_DATASETS_OFFLINE": "true"}, None, "HF_DATASETS_OFFLINE"),
    "but datasets": ({"HF_HUB_OFFLINE": "ON", "HF_DATASETS_OFFLINE": "0"}, "HF_HUB_OFFLINE", None),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_folders_are_where_the_variables_say(monkeypatch, name):
    variables, hub, datasets = PLACES[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert cache.hub_cache() == Path(hub).expanduser()
    if datasets:
        assert cache.datasets_cache() == Path(datasets).expanduser()


@pytest.mark.parametrize("name", OFFLINE)
def test_the_variable_that_forbids_the_hub_is_named(monkeypatch, name):
    variables, hub, datasets = OFFLINE[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert (cache.offline_variable(), cache.offline_variable("datasets")) == (hub, datasets)


def test_the_hubs_library_sees_the_same():
    """In one process for all: it reads its variables at its import."""
    pytest.importorskip("huggingface_hub")
    code = f"""
import importlib, os
import huggingface_hub.constants as c
for variables in {[variables for variables, *_ in (*PLACES.values(), *OFFLINE.values())]!r}:
    for name in {NAMES!r}:
        os.environ.pop(name, None)
    os.environ.update(variables)
    importlib.reload(c)
    print(c.HF_HUB_CACHE, c.HF_HUB_OFFLINE)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    expected = [(hub, False) for _, hub, _ in PLACES.values()]
    expected += [("~/.cache/huggingface/hub", bool(hub)) for _, hub, _ in OFFLINE.values()]
    assert done.stdout.splitlines() == [f"{Path(hub).expanduser()} {offline}" for hub, offline in expected]


HUB_IDS = {
    **dict.fromkeys(["gpt2", "owner/name", "Owner-1/na.me_2", "a" * 96], True),
    **dict.fromkeys(["", "a b", "a/b/c", "-a", "a-", "a--b", "a..b", "a.git", "owner/", "/name", "é", "a" * 97], False),
}


@pytest.mark.parametrize("name", HUB_IDS)
def test_hub_ids_are_those_of_the_hub(name):
    assert cache.is_hub_id(name) == HUB_IDS[name]
    library = pytest.importorskip("huggingface_hub.utils")
    with contextlib.nullcontext() if HUB_IDS[name] else pytest.raises(library.HFValidationError):
        library.validate_repo_id(name)


def repository(folder, revision="main", text=COMMIT):
    (folder / "refs" / revision).parent.mkdir(parents=True)
    (folder / "refs" / revision).write_text(text)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["main", "refs/pr/3", COMMIT])
def test_a_snapshot_is_found_by_branch_tag_and_commit(monkeypatch, tmp_path, revision):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = repository(tmp_path / "models--owner--name", "main" if revision == COMMIT else revision)
    assert cache.cached_snapshot("owner/name", revision) == snapshot
    assert cache.cached_snapshot("owner/name", "another") is None
    assert cache.cached_snapshot("owner/other", revision) is None
    assert cache.cached_snapshot("owner/name", revision, "datasets") is None


@pytest.mark.parametrize("text", ["", "../../..", "no commit"])
def test_a_reference_that_is_no_commit_leads_nowhere(monkeypatch, tmp_path, text):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository(tmp_path / "models--owner--name", text=text)
    assert cache.cached_snapshot("owner/name", "main") is None


def test_a_dataset_is_there_if_it_was_fetched_or_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "hub/datasets--owner--a/snapshots").mkdir(parents=True)
    (tmp_path / "datasets/owner___code_feedback").mkdir(parents=True)
    found = [cache.is_dataset_cached(name) for name in ("owner/a", "owner/CodeFeedback", "owner/b", "a")]
    assert found == [True, True, False, False]


INFO = '{"splits": {"train": {"num_examples": 7}}}'
BROKEN = ["", "[]", "{}", '{"splits": []}', '{"splits": {"train": {"num_examples": -1}}}', '{"splits": {"train": 7}}']


def test_rows_are_those_that_the_cache_names_of_the_one_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert cache.cached_split_rows("owner/rows", None, "train") is None
    for configuration in ("default", "other"):
        folder = tmp_path / "owner___rows" / configuration / "0.0.0" / COMMIT
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(INFO)
        one = cache.cached_split_rows("owner/rows", None, "train")
        assert one == (7 if configuration == "default" else None)
    assert cache.cached_split_rows("owner/rows", "other", "train") == 7
    assert cache.cached_split_rows("owner/rows", "other", "test") is None
    for text in BROKEN:
        (folder / "dataset_info.json").write_text(text)
        assert cache.cached_split_rows("owner/rows", "other", "train") is None
