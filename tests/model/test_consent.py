"""What code a folder brings along, and what the user has allowed: by digest, on this machine, and nowhere else."""

import json
import os
import shutil
from pathlib import Path

import pytest

from lora_ns.errors import ModelError, RunError, UsageError
from lora_ns.model.consent import allow_code, carry_over, code_in, configuration_folder, loading_arguments

CODE = "class Model: ...\n"


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORANS_CONFIG", str(tmp_path / "configuration"))
    return tmp_path / "configuration" / "trusted.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return a_model(tmp_path / "model")


def a_model(folder: Path, reference: str = "modeling_own.Model") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": reference}}))
    (folder / "modeling_own.py").write_text(CODE)
    (folder / "layers.py").write_text("a = 1\n")
    (folder / "below").mkdir()
    (folder / "below" / "more.py").write_text("b = 1\n")
    return folder


def allowed(folder: Path) -> bool:
    try:
        return bool(loading_arguments(folder, is_needed=True)["trust_remote_code"])
    except ModelError:
        return False


def silent(_: str) -> None: ...


def test_nothing_is_asked_where_there_is_no_code(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {}}')
    (tmp_path / "train.py").write_text("raise SystemExit")
    assert code_in(tmp_path) is None
    assert loading_arguments(tmp_path, is_needed=True) == {"trust_remote_code": False}


def test_code_that_is_not_asked_for_is_not_run(folder: Path) -> None:
    allow_code(folder, silent)
    assert loading_arguments(folder, is_needed=False) == {"trust_remote_code": False}


def test_what_is_needed_is_refused_until_the_user_allows_it(folder: Path, configuration: Path) -> None:
    with pytest.raises(ModelError) as refused:
        loading_arguments(folder, is_needed=True)
    said = str(refused.value)
    code = code_in(folder)
    assert code is not None
    for part in (str(folder), "below/more.py, layers.py, modeling_own.py", code.digest, "`--trust-remote-code`"):
        assert part in said
    assert refused.value.exit_code == 2
    told: list[str] = []
    allow_code(folder, told.append)
    (line,) = told
    assert code.digest in line
    assert "modeling_own.py" in line
    assert loading_arguments(folder, is_needed=True) == {"trust_remote_code": True}
    assert json.loads(configuration.read_text())["trusted"][code.digest]["folder"] == str(folder)
    allow_code(folder, told.append)
    assert told == [line]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "modeling_own.py").write_text("import os\n"),
        lambda folder: (folder / "layers.py").write_text("import os\n"),
        lambda folder: (folder / "below" / "more.py").write_text("import os\n"),
        lambda folder: (folder / "new.py").write_text(CODE),
        lambda folder: (folder / "new.so").write_bytes(b"\x7fELF"),
        lambda folder: (folder / "layers.py").unlink(),
        lambda folder: (folder / "layers.py").rename(folder / "others.py"),
        lambda folder: (folder / "config.json").write_text('{"auto_map": {"AutoModel": "layers.Model"}}'),
        lambda folder: (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", null]}}'),
        lambda folder: (folder / "config.9.0.0.json").write_text('{"a": [{"auto_map": {"AutoModel": "a.B"}}]}'),
    ],
)
def test_what_changes_after_consent_asks_again(folder: Path, change) -> None:
    allow_code(folder, silent)
    assert allowed(folder)
    change(folder)
    assert not allowed(folder)


def test_the_digest_is_that_of_the_files_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    allow_code(folder, silent)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert allowed(Path(moved))


def test_what_takes_the_place_of_generate_is_code_too(tmp_path: Path) -> None:
    (tmp_path / "model" / "custom_generate").mkdir(parents=True)
    (tmp_path / "model" / "custom_generate" / "generate.py").write_text("def generate(model): ...\n")
    assert not allowed(tmp_path / "model")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "custom_generate").symlink_to(tmp_path / "model" / "custom_generate")
    code = code_in(linked)
    assert code is not None
    assert code.files == ("custom_generate/generate.py",)


@pytest.mark.parametrize(
    "reference",
    [
        "/tmp/evil.Model",
        "../evil.Model",
        "below/more.Model",
        "below.more.Model",
        "/tmp/evil--modeling_own.Model",
        "../evil--modeling_own.Model",
        "a/b/c--modeling_own.Model",
        "here/evil--modeling_own.Model",
        "modeling_own",
        "modeling_own.Model\n",
    ],
)
def test_a_reference_that_leaves_the_folder_is_refused_whatever_was_allowed(tmp_path: Path, reference: str) -> None:
    (tmp_path / "here" / "evil").mkdir(parents=True)
    with pytest.raises(ModelError, match="do not use this model"):
        allow_code(a_model(tmp_path / "model", reference), silent)


def test_code_of_another_repository_is_part_of_the_digest_and_pinned(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model, commit = a_model(tmp_path / "model", "owner/name--modeling_far.Model"), "0123456789" * 4
    with pytest.raises(ModelError, match="in another repository, `owner/name`, which is not on this machine"):
        loading_arguments(model, is_needed=True)
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    far = repository / "snapshots" / commit
    far.mkdir(parents=True)
    (far / "modeling_far.py").write_text(CODE)
    assert not allowed(model)
    allow_code(model, silent)
    assert loading_arguments(model, is_needed=True) == {"trust_remote_code": True, "code_revision": commit}
    (far / "modeling_far.py").write_text("import os\n")
    assert not allowed(model)


def test_code_of_several_repositories_is_refused(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", "owner/name--modeling_far.Model")
    (model / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "owner/other--a.B"}}')
    with pytest.raises(ModelError, match="several repositories: owner/name, owner/other"):
        code_in(model)


def test_a_folder_with_more_files_than_a_model_has_is_refused(folder: Path) -> None:
    for number in range(1001):
        (folder / "below" / f"n{number}.py").touch()
    with pytest.raises(ModelError, match="more than 1000 code files"):
        code_in(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"trusted": []}', '{"version": 1}', "[" * 100_000, b"\xff\xfe\0", '{"trusted": null}']
)
def test_a_damaged_list_of_what_is_trusted_is_told_and_allows_nothing(
    folder: Path, configuration: Path, text: str | bytes
) -> None:
    configuration.parent.mkdir()
    configuration.write_bytes(text.encode() if isinstance(text, str) else text)
    for ask in (lambda: loading_arguments(folder, is_needed=True), lambda: allow_code(folder, silent)):
        with pytest.raises(UsageError, match=r"trusted\.json: cannot be read as a list of allowed code"):
            ask()


def test_a_configuration_that_cannot_be_written_is_told(folder: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LORANS_CONFIG", str(tmp_path / "file"))
    with pytest.raises(RunError, match="set LORANS_CONFIG to a writable folder"):
        allow_code(folder, silent)
    assert not allowed(folder)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_list_follows_the_umask(folder: Path, configuration: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        allow_code(folder, silent)
    finally:
        os.umask(before)
    assert configuration.stat().st_mode & 0o777 == mode


def test_what_was_saved_from_allowed_code_is_allowed_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    saved = a_model(tmp_path / "saved", "tokenization_own.Tokenizer")
    carry_over(folder, saved)
    assert not allowed(saved)
    allow_code(folder, silent)
    carry_over(folder, saved)
    assert allowed(saved)


def test_where_the_configuration_is() -> None:
    home = Path.home()
    assert configuration_folder({"LORANS_CONFIG": "/a", "XDG_CONFIG_HOME": "/b"}) == Path("/a")
    assert configuration_folder({"XDG_CONFIG_HOME": "/b"}) == Path("/b/lorans")
    assert configuration_folder({"XDG_CONFIG_HOME": "relative"}) == home / ".config" / "lorans"
    assert configuration_folder({}) == home / ".config" / "lorans"
