"""`lorans adapter`: what it prints, and its exit codes."""

import json

import pytest

pytest.importorskip("numpy")

from adapter_folders import factors, write_adapter
from command_line import lorans
from terminals import command, on_a_terminal, plain


def test_a_good_adapter_is_read_right_by_all_and_ends_with_0(tmp_path):
    done = lorans("adapter", "check", write_adapter(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == [
        f"{name}: read right" for name in ("vLLM", "llama.cpp", "Ollama", "transformers", "PEFT")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("readers", "code"), [([], 1), (["vllm"], 0), (["llama.cpp"], 1), (["vllm", "peft"], 0), (["peft", "ollama"], 1)]
)
def test_the_readers_that_are_asked_for_decide_the_exit_code(tmp_path, readers, code):
    folder = write_adapter(tmp_path, factors(16), r=16, use_rslora=True)
    options = [word for name in readers for word in ("--for", name)]
    done = lorans("adapter", "check", folder, *options)
    assert done.returncode == code
    assert ("4 times too weak" in done.stdout) == (code == 1)
    shown = json.loads(lorans("adapter", "check", folder, "--json", *options).stdout)
    assert shown["is_read_right"] == (code == 0)
    assert [one["reader"] for one in shown["readings"]] == (
        readers or ["vllm", "llama.cpp", "ollama", "transformers", "peft"]
    )


def test_a_command_of_a_remedy_stands_alone_on_a_line(tmp_path):
    write_adapter(tmp_path / "adapter", use_dora=True)
    for name in ("manifest.json", "recipe.toml"):
        (tmp_path / name).write_text("{}")
    lines = lorans("adapter", "check", tmp_path, "--for", "vllm").stdout.splitlines()
    assert lines[:4] == [
        "vLLM: refused",
        "  ! does not read DoRA",
        "    merge it:",
        f"      lorans merge {tmp_path} --output merged",
    ]


def test_an_unknown_reader_and_a_folder_without_an_adapter_are_usage_errors(tmp_path):
    done = lorans("adapter", "check", write_adapter(tmp_path / "a"), "--for", "lama.cpp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: --for: no reader `lama.cpp` (did you mean `llama.cpp`?" in done.stderr
    for words in (["check"], ["inspect"], ["diff", tmp_path / "a"]):
        done = lorans("adapter", *words, tmp_path / "none")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {tmp_path / 'none'}: no such folder (name a folder with an adapter, or a run)\n"


def test_inspect_shows_a_row_for_each_kind_of_layer(tmp_path):
    done = lorans("adapter", "inspect", write_adapter(tmp_path))
    rows = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert rows[0] == ["layers", "number", "rank", "scale", "parameters", "norm", "largest"]
    assert [row[:5] for row in rows[1:]] == [["q_proj", "2", "4", "2", "320"], ["down_proj", "2", "4", "2", "384"]]
    shown = json.loads(lorans("adapter", "inspect", tmp_path, "--json").stdout)
    assert (shown["r"], shown["lora_alpha"], shown["parameters"]) == (4, 8, 704)


def test_diff_ends_with_0_if_equal_and_with_1_if_not(tmp_path):
    one, other = write_adapter(tmp_path / "a"), write_adapter(tmp_path / "b", factors(seed=1), lora_alpha=16)
    done = lorans("adapter", "diff", one, one)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "equal")
    done = lorans("adapter", "diff", one, other)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "different")
    assert done.stdout.startswith("lora_alpha: 8 -> 16\n")
    shown = json.loads(lorans("adapter", "diff", one, other, "--json").stdout)
    assert (shown["is_equal"], len(shown["groups"])) == (False, 2)


@pytest.mark.parametrize("words", [["check"], ["inspect"]], ids=" ".join)
def test_a_terminal_gets_lines_that_fit(tmp_path, words):
    folder = write_adapter(tmp_path / "adapter", use_dora=True)
    drawn = plain(on_a_terminal(command("adapter", *words, folder), columns=80))
    assert drawn
    assert [line for line in drawn.splitlines() if len(line) > 80 and str(tmp_path) not in line] == []


def test_a_wrong_word_after_adapter_leads_to_the_right_one():
    done = lorans("adapter", "chek")
    assert (done.returncode, done.stderr) == (2, "error: no command `lorans adapter chek` (did you mean `check`?)\n")
    done = lorans("adapter", "inspect", "--for", "x")
    assert done.stderr.startswith("error: --for: `lorans adapter inspect` has no such option")
