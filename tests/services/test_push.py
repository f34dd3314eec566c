"""A folder that is the trained model is pushed to the hub, against a stand-in for its API."""

import json
from functools import partial

import pytest

pytest.importorskip("huggingface_hub")

import huggingface_hub.constants
import huggingface_hub.hf_api
from hub_stand_in import COMMIT, Repositories, pushed_to

from lora_ns.errors import RunError, UsageError
from lora_ns.services.push import push


@pytest.fixture
def hub(monkeypatch):
    repositories = Repositories()
    with pushed_to(repositories) as endpoint:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub, "HfApi", partial(huggingface_hub.HfApi, endpoint, "hf_test"))
        yield repositories


@pytest.fixture
def folder(tmp_path):
    """An exported folder."""
    made = tmp_path / "plain"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    (made / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (made / ".hidden").write_text("no")
    (made / "export_report.json").write_text(json.dumps({"verified": True, "kind": "plain", "run_id": "r1"}))
    return made


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".hidden"}


def test_everything_arrives_in_a_private_repository(hub, folder):
    result = push(folder, "me/adapter")
    assert hub["me/adapter"] == files_of(folder)
    assert (hub.private["me/adapter"], result.private) == (True, True)
    assert (result.commit, result.files) == (COMMIT, 4)


def test_weights_that_the_folder_has_not_are_removed(hub, folder):
    hub["me/adapter"] = {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    hub.private["me/adapter"] = True
    push(folder, "me/adapter")
    assert hub["me/adapter"] == {**files_of(folder), "notes.txt": b"mine"}


def test_a_public_repository_needs_a_word(hub, folder):
    hub["me/open"], hub.private["me/open"] = {}, False
    with pytest.raises(UsageError, match="me/open: is a public repository"):
        push(folder, "me/open")
    assert hub["me/open"] == {}
    assert push(folder, "me/open", public=True).private is False
    assert push(folder, "me/new", public=True).private is False


def test_a_push_that_breaks_goes_on(hub, folder):
    hub.fails = {"/commit/": 410}
    with pytest.raises(RunError, match="what has arrived is not sent again"):
        push(folder, "me/adapter")
    assert (len(hub.sent), hub["me/adapter"]) == (1, {})
    hub.fails = {}
    push(folder, "me/adapter")
    assert (len(hub.sent), hub["me/adapter"]) == (1, files_of(folder))


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413])
def test_a_refusal_says_what_to_do(hub, folder, status):
    hub.fails = {"/preupload/": status}
    with pytest.raises(UsageError, match=rf"\(HTTP {status}\)") as told:
        push(folder, "me/adapter")
    assert told.value.problems[0].remedy


def test_a_broken_connection_is_no_traceback(folder, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.hf_api.HfApi, "upload_folder", broken)
    with pytest.raises(RunError, match="the connection broke"):
        push(folder, "me/adapter")


def broken(*_, **__):
    raise ConnectionResetError("reset by peer")


@pytest.mark.parametrize(
    ("report", "told"), [(None, "has no export_report.json"), ({"verified": False}, "is not the trained model")]
)
def test_what_is_not_verified_stays_here(hub, folder, report, told):
    (folder / "export_report.json").unlink()
    if report:
        (folder / "export_report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match=told):
        push(folder, "me/adapter")
    assert not hub


def test_what_cannot_be_pushed_is_named_before_a_connection(folder, monkeypatch):
    with pytest.raises(UsageError, match="write OWNER/NAME"):
        push(folder, "adapter")
    with pytest.raises(UsageError, match="is no folder"):
        push(folder / "none", "me/adapter")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE"):
        push(folder, "me/adapter")
