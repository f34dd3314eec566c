"""The least that a recipe needs."""

MINIMAL = """\
task_name = "task"
task_type = "CAUSAL_LM"

[model]
name_or_path = "lorans:nano"

[peft]
method = "lora"

[dataset]
path = "train.jsonl"

[training]
output_dir = "run"
"""

SET_BY_LIBRARIES = {
    "DATASETS_VERBOSITY",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS",
    "TRL_EXPERIMENTAL_SILENCE",
}
"""What the heavy libraries set for the whole process when they are imported, and the engine just before."""


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in {*SET_BY_LIBRARIES, "PYTEST_CURRENT_TEST"}}


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    before = environment()
    yield
    after = environment()
    assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == set()


@pytest.fixture(autouse=True)
def in_own_folder(unchanged_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def minimal() -> str:
    return MINIMAL
