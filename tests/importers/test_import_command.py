"""`lorans import`: where the recipe and the account go, the exit code, and input that cannot be read."""

import json

import pytest
from command_line import lorans

GOOD = """\
base_model: some/base
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: rows.jsonl
    type: completion
micro_batch_size: 2
gradient_accumulation_steps: 4
sequence_len: 256
learning_rate: 2e-4
output_dir: out
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(GOOD)
    return tmp_path


def test_the_recipe_goes_to_standard_output_and_the_account_to_standard_error(here):
    done = lorans("import", "config.yaml")
    assert done.returncode == 0
    assert done.stdout.startswith("# Imported from config.yaml, a configuration of axolotl.\n")
    (here / "recipe.toml").write_text(done.stdout)
    assert lorans("validate", "recipe.toml", "--elsewhere").returncode == 0
    assert "config.yaml: a configuration of axolotl with 12 keys" in done.stderr
    assert "2 x 4 x 1 GPU" in done.stderr


def test_a_file_is_written_whole_and_never_replaced(here):
    done = lorans("import", "config.yaml", "-o", "recipe.toml", "--gpus", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "global_batch_size = 32" in (here / "recipe.toml").read_text()
    assert done.stdout.endswith("wrote recipe.toml; to check it:\n  lorans validate recipe.toml\n")
    again = lorans("import", "config.yaml", "-o", "recipe.toml")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "error: recipe.toml: already exists (choose a new file, or remove it)\n"


def test_every_line_of_the_account_fits_the_terminal(here):
    (here / "config.yaml").write_text(f"{GOOD}early_stopping_patience: 3\nflash_attention: true\n")
    for line in lorans("import", "config.yaml").stderr.splitlines():
        assert len(line) <= 80, line


def test_what_is_not_carried_over_is_said_in_the_recipe_and_by_the_exit_code(here):
    (here / "config.yaml").write_text(f"{GOOD}early_stopping_patience: 3\n")
    done = lorans("import", "config.yaml", "-o", "recipe.toml")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == ("recipe.toml lacks 1 key that may change the result; see its first lines")
    assert "# not carried over: `early_stopping_patience: 3` (line 14)" in (here / "recipe.toml").read_text()
    assert lorans("validate", "recipe.toml", "--elsewhere").returncode == 0


def test_nothing_is_written_of_another_training(here):
    (here / "config.yaml").write_text(f"{GOOD}rl: dpo\n")
    done = lorans("import", "config.yaml", "-o", "recipe.toml")
    assert done.returncode == 2
    assert not (here / "recipe.toml").exists()
    assert "base_model" in done.stdout  # the account is shown all the same


def test_json_has_everything(here):
    (here / "config.yaml").write_text(
        f"{GOOD}hf_token: hf_abcdefghijklmnopqrstuvwxyz\nlora_dropout: 0\nlr_scheduler: rex\n"
    )
    done = lorans("import", "config.yaml", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 2
    assert (told["ok"], told["tool"], told["file"], told["written"]) == (False, "axolotl", "config.yaml", None)
    assert {outcome["fate"] for outcome in told["outcomes"]} == {"mapped", "default", "unused", "refused"}
    assert "hf_abcdef" not in done.stdout + done.stderr
    assert told["recipe"].startswith("# Imported from")
    assert {"recipe": "sft.on_overflow", "value": "split", "said": "axolotl's default for longer rows"} in (
        told["defaults"]
    )


def test_paths_hold_from_the_folder_of_the_recipe(here):
    (here / "rows.jsonl").write_text('{"text": "a b c"}\n')
    (here / "recipes").mkdir()
    assert lorans("import", "config.yaml", "-o", "recipes/mine.toml").returncode == 0
    text = (here / "recipes/mine.toml").read_text()
    assert 'path = "../rows.jsonl"' in text
    assert 'output_dir = "out"' in text


@pytest.mark.parametrize(
    ("line", "key", "where"),
    [
        ("lora_dropout: 1.5", "lora_dropout", 14),
        ("warmup_steps: -1", "warmup_steps", 14),
        ("optimizer: no_such_optimizer", "optimizer", 14),
        ("trust_remote_code: true", "trust_remote_code", 14),
        ("seed: 99999999999999999999", "seed", 14),
    ],
)
def test_what_the_recipe_refuses_is_refused_at_its_place_in_the_source(here, line, key, where):
    (here / "config.yaml").write_text(f"{GOOD}{line}\n")
    done = lorans("import", "config.yaml", "--json")
    refused = [outcome for outcome in json.loads(done.stdout)["outcomes"] if outcome["fate"] == "refused"]
    assert done.returncode == 2
    assert [(outcome["key"], outcome["line"]) for outcome in refused] == [(key, where)]


def test_a_strategy_gives_way_to_what_is_learned(here):
    (here / "config.yaml").write_text(f"{GOOD}tokens: [x]\ndeepspeed: zero3.json\n")
    done = lorans("import", "config.yaml", "--json")
    ends = {outcome["key"]: outcome for outcome in json.loads(done.stdout)["outcomes"]}
    assert done.returncode == 0
    assert ends["tokens"]["fate"] == "mapped"
    assert ends["deepspeed"]["fate"] == "unused"
    assert ends["deepspeed"]["said"].startswith("left out, because it does not change results: `model.add_tokens`")


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{b}'] * 9)}]\n" for b, n in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "a: " + "[" * 400 + "]" * 400

UNREADABLE = [
    ("config.yaml", "", "config.yaml: is empty"),
    ("config.yaml", "# nothing\n", "config.yaml: is empty"),
    ("config.yaml", "- a\n- b\n", "config.yaml: not a table of settings"),
    ("config.yaml", "just text\n", "config.yaml: not a table of settings"),
    ("config.yaml", "a: [1, 2\nb: 3\n", "config.yaml:2: invalid YAML"),
    ("config.yaml", "a: 1\n\tb: 2\n", "config.yaml:2: invalid YAML"),
    ("config.yaml", "a: !!python/object:os.system {}\n", "config.yaml:1: invalid YAML"),
    ("config.yaml", LAUGHS, "more than 16 aliases"),
    ("config.yaml", DEEP, "nested too deep"),
    ("config.yaml", "base_model: x\n" + "#" * 70_000, "config.yaml: is larger than 64 KiB"),
    ("config.yaml", b"base_model: \xff\xfe\n", "config.yaml: not UTF-8 at byte 13"),
    ("config.json", '// settings\n{"base_model": "x"}\n', "config.json: not JSON: it has comments"),
    ("config.json", '{"base_model": "x",}', "config.json:1: not JSON"),
    ("config.json", "[]", "config.json: not a table of settings"),
    ("recipe.toml", '[model]\nname_or_path = "x"\n[peft]\nmethod = "lora"\n', "this is a lorans recipe already"),
    ("config.yaml", "compute_environment: LOCAL_MACHINE\ndistributed_type: NO\n", "a configuration of accelerate"),
    ("config.json", '{"zero_optimization": {"stage": 2}}', "a DeepSpeed configuration"),
    ("config.json", '{"peft_type": "LORA", "base_model_name_or_path": "x"}', "the configuration of a saved adapter"),
    ("config.yaml", "alpha: 1\nbeta: 2\n", "not a configuration of a supported tool; its keys are `alpha`, `beta`"),
]


@pytest.mark.parametrize(("name", "content", "told"), UNREADABLE, ids=[f"{told}" for _, _, told in UNREADABLE])
def test_a_file_that_is_none_is_told_what_it_is(here, name, content, told):
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = lorans("import", name, "-o", "new.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (here / "new.toml").exists()


@pytest.mark.parametrize("name", [".", "none.yaml"])
def test_what_is_no_file_is_told(here, name):
    done = lorans("import", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name}: ")


def test_a_tool_can_be_named(here):
    (here / "config.yaml").write_text("alpha: 1\n")
    done = lorans("import", "config.yaml", "--from", "axolotl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown to axolotl" in done.stderr
    unknown = lorans("import", "config.yaml", "--from", "axolotel")
    assert unknown.stderr.startswith("error: --from: no tool `axolotel` (did you mean `axolotl`?")


ODD = """\
sequence_len: 2024-01-01
wandb_project: !!binary aGVsbG8=
lora_target_modules: {a: 1}
deepspeed: {a: 1}
fsdp_config: 7
bnb_config_kwargs: hi
special_tokens: [a]
test_datasets: hi
plugins: {a: b}
val_set_size: [1]
learning_rate: .inf
? [a, b]
: 3
1: 2
"a.b": 1
true: 3
"": 4
"""


def test_values_of_the_wrong_kind_are_refused_one_by_one(here):
    (here / "config.yaml").write_text("base_model: a/b\nadapter: lora\ndatasets: [{path: a/b, type: alpaca}]\n" + ODD)
    done = lorans("import", "config.yaml", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (2, "")
    assert {outcome["fate"] for outcome in told["outcomes"] if outcome["line"] > 3} == {"refused"}
    assert "report_to" not in told["recipe"]


def test_a_key_that_is_there_twice_is_said(here):
    (here / "config.yaml").write_text(f"{GOOD}lora_r: 32\n")
    done = lorans("import", "config.yaml")
    assert "lora_r = 32" in done.stdout
    assert "`lora_r` appears twice; lorans uses the last one" in done.stderr


def test_keys_that_are_merged_are_read(here):
    (here / "config.yaml").write_text(f"lora: &lora\n  lora_dropout: 0.1\n{GOOD}<<: *lora\n")
    done = lorans("import", "config.yaml")
    assert "lora_dropout = 0.1" in done.stdout


def test_json_is_read_as_yaml_is(here):
    (here / "config.json").write_text('{\n\t"base_model": "x",\n\t"adapter": "lora", "sequence_len": 1e3}')
    done = lorans("import", "config.json")
    assert done.returncode == 2  # it has no data
    assert "no `datasets`" in done.stderr
