"""Names and paths of a recipe: no control characters, which become lines of scripts, and no secrets."""

from pathlib import Path

import pytest
from minimal_recipe import MINIMAL

from lora_ns.errors import RecipeError
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.starters import STARTS, write_folder
from lora_ns.safety.credentials import scrubbed, secret_told_in

CONTROL = {"line break": "\n", "return": "\r", "escape": "\x1b", "NUL": "\0", "C1": "\x9b", "delete": "\x7f"} | {
    "turned": "\u202e",
    "isolated": "\u2066",
    "zero width": "\u200b",
    "line separator": "\u2028",
    "byte order mark": "\ufeff",
}
NAMES = [
    "training.output_dir",
    "training.extra.logging_dir",
    "task_name",
    "model.name_or_path",
    "model.revision",
    "model.gguf_file",
    "dataset.name",
    "dataset.subset",
    "dataset.path",
    "dataset.eval_path",
    "dataset.train_split",
    "dataset.text_column",
    "dataset.columns.prompt",
    "peft.extra.bias",
    "tracking.project",
    "tracking.run_name",
    "evaluation.group_by",
    "sft.chat_template",
    "distributed.accelerate_config",
    "distributed.deepspeed_config",
    "distributed.nvme_path",
    "distributed.rdzv_endpoint",
]
SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA2b"


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as told:
        load_recipe(path, overrides)
    return [str(problem) for problem in told.value.problems]


@pytest.mark.parametrize(
    ("key", "character"),
    [
        *((key, CONTROL[name]) for key in NAMES for name in ("line break", "turned")),
        *(("training.output_dir", character) for character in CONTROL.values()),
    ],
)
def test_a_control_character_in_a_name_is_refused_by_its_number(tmp_path: Path, key: str, character: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    quoted = "".join(f"\\u{ord(sign):04X}" if sign == character else sign for sign in f"a{character}b:1")
    strategy = ["distributed.strategy=deepspeed"] if key.startswith("distributed") else []
    told = problems_of(path, *strategy, f'{key}="{quoted}"')
    assert any(key.partition(".extra")[0] in line for line in told)
    assert key in {"task_name", "distributed.rdzv_endpoint"} or any(f"U+{ord(character):04X}" in line for line in told)
    assert not any(character in line for line in told)


def test_a_line_break_is_refused_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL.replace('output_dir = "run"', r'output_dir = "run\n#SBATCH --account=x"'), encoding="utf-8")
    (told,) = problems_of(path)
    number = 1 + [line.startswith("output_dir") for line in MINIMAL.splitlines()].index(True)
    assert told.startswith(f"{path}:{number}: training.output_dir: contains the control character U+000A")


def test_texts_may_have_any_characters_and_columns_any_language(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    said = [
        r'dataset.prompt_template="Question:\n\t{a}"',
        r'dataset.completion_template=" {b}\u200d"',
        r'model.add_tokens=["\n\n"]',
    ]
    assert load_recipe(path, said).recipe.dataset.prompt_template == "Question:\n\t{a}"
    assert load_recipe(path, ['dataset.columns={prompt="می‌پرسد"}', "dataset.format=prompt-completion"])


@pytest.mark.parametrize(
    ("override", "variable"),
    [
        (f"training.extra.hub_token={SECRET}", "HF_TOKEN"),
        ("training.extra.hub_token=any-value", "HF_TOKEN"),
        ('training.extra.accelerator_config={password="any-value"}', "an environment variable"),
        (f"tracking.project={SECRET}", "HF_TOKEN"),
        ("tracking.wandb_api_key=any-value", "WANDB_API_KEY"),
        ("dataset.path=https://me:any-value@example.org/rows.jsonl", "that its library reads"),
        (f'dataset.path=["rows.jsonl", "https://{SECRET}@example.org/rows.jsonl"]', "HF_TOKEN"),
        (f"model.name_or_path={SECRET}", "HF_TOKEN"),
        (f"dataset.prompt_template=say {SECRET}", "HF_TOKEN"),
        ("model.name_or_path=https://example.org/x?token=any-value", "that its library reads"),
        ("model.name_or_path=https://user:any-value/1@example.org/x", "that its library reads"),
        ("tracking.run_name=WANDB_API_KEY=any-value-1", "WANDB_API_KEY"),
        ("training.extra.optim_args=password=any-value-1", "an environment variable"),
    ],
)
def test_a_secret_is_refused_with_the_variable_and_not_shown(tmp_path: Path, override: str, variable: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    told = problems_of(path, override)
    assert any(variable in line and "copied into its run" in line for line in told)
    assert not any(SECRET in line or "any-value" in line for line in told)


def test_a_secret_in_the_text_is_told_with_its_line_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'{MINIMAL}\n# {SECRET}\n[tracking]\nproject = "{SECRET}"\n', encoding="utf-8")
    length = len(MINIMAL.splitlines())
    told = problems_of(path)
    assert [line.partition(": ")[0] for line in told] == [f"{path}:{length + 2}", f"{path}:{length + 4}"]
    assert not any(SECRET in line for line in told)


@pytest.mark.parametrize(
    ("comment", "variable"),
    [
        ("rows from https://example.org/rows.jsonl?token=any-value", "that its library reads"),
        ('curl -H "Authorization: Bearer any-value1"', "that its library reads"),
        ("WANDB_API_KEY=any-value3", "WANDB_API_KEY"),
        ("password: any-value4", "an environment variable"),
    ],
)
@pytest.mark.parametrize("place", ["# {}", "seed = 1  # {}", "[training.extra] # {}", 'x = """\n# """ # {}'])
def test_a_secret_in_a_comment_is_refused_with_its_line(
    tmp_path: Path, comment: str, variable: str, place: str
) -> None:
    path = tmp_path / "recipe.toml"
    text = MINIMAL + place.format(comment) + "\n"
    path.write_text(text, encoding="utf-8")
    (told,) = [line for line in problems_of(path, "training.sed=1") if "is copied into its run" in line]
    assert told.startswith(f"{path}:{len(text.splitlines())}: ")
    assert variable in told
    assert "any-value" not in told


def test_columns_and_texts_may_be_called_after_secrets(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    columns = 'columns = {prompt = "password", completion = "secret"}\nprompt_format = "password: {password}1"\n'
    columns = columns.replace("prompt_format", "system_template").replace("columns =", "# columns =")
    said = '[sft]\nchat_template_kwargs = {password = "column1234", api_key = "long enough to be one"}\n'
    path.write_text(MINIMAL.replace("[training]", f"{columns}\n[training]") + said, encoding="utf-8")
    assert not [line for line in problems_of(path, "training.sed=1") if "copied" in line]


SHIPPED = sorted(Path(__file__).parents[2].joinpath("recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_line_of_a_shipped_recipe_is_taken_for_a_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if secret_told_in(line) or scrubbed(line) != line] == []


@pytest.mark.parametrize("start", STARTS)
def test_no_line_of_a_start_is_taken_for_a_secret(start: str) -> None:
    text = "\n".join(write_folder(STARTS[start], "task", None, None, None).values())
    assert [line for line in text.splitlines() if secret_told_in(line) or scrubbed(line) != line] == []


def test_tokens_of_text_are_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    said = [
        'model.add_tokens=["<think>"]',
        "peft.trainable_token_indices=[5]",
        "generation.max_new_tokens=8",
        'dataset.columns={prompt="token", completion="key"}',
        "dataset.format=prompt-completion",
        "peft.rank_pattern={key = 4}",
        f"model.revision={'0123456789' * 4}",
    ]
    assert load_recipe(path, said)


def test_a_secret_in_a_file_of_accelerates_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    (tmp_path / "two.yaml").write_text(
        f"distributed_type: MULTI_CPU\nnum_processes: 2\n# {SECRET}\napi_key: any-value\n"
    )
    told = problems_of(path, "distributed.strategy=ddp", "distributed.accelerate_config=two.yaml")
    assert [line.partition(": ")[0] for line in told if "HF_TOKEN" in line] == [f"{tmp_path / 'two.yaml'}:3"]
    assert not any(SECRET in line or "any-value" in line for line in told)
