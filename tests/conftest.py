"""What all tests share: no network, no changed environment, recipes in a folder of their own."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from minimal_recipe import MINIMAL

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # workers of several tests share the cores: threads that wait are not to spin
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for own in ("LORANS_CACHE", "LORANS_CONFIG"):
    os.environ[own] = tempfile.mkdtemp(prefix="lorans-tests-")
    atexit.register(shutil.rmtree, os.environ[own], ignore_errors=True)


signal.signal(signal.SIGINT, signal.default_int_handler)  # which are ignored where tests run in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Ten thousand tests and the libraries they import are no garbage: they are not searched for any, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str = MINIMAL) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


SET_BY_LIBRARIES = {
    "CC",
    "CXX",
    "DATASETS_VERBOSITY",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYTORCH_NVML_BASED_CUDA_CHECK",
    "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
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
