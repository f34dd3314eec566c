"""Reading a recipe: every problem at once, each with its place and what to write instead."""

import contextlib
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from minimal_recipe import MINIMAL, choosing, needed

from lora_ns.errors import RecipeError
from lora_ns.files.reading import tomllib
from lora_ns.recipe.keys import UNIONS, known_keys, tag_of
from lora_ns.recipe.load import load_recipe, override_generation
from lora_ns.recipe.objective_tables import fields_of
from lora_ns.recipe.overrides import parse_override
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules import RULES

METHODS_TOLD = "`lorans methods` lists them"
FILES = "a non-empty string or a list of non-empty strings"


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return [str(problem).replace(str(path), "recipe.toml") for problem in caught.value.problems]


def unchecked(text: str, *overrides: str) -> Recipe:
    """A recipe whose keys are right and whose rules were not asked."""
    table = tomllib.loads(text)
    for override in overrides:
        names, value = parse_override(override)
        target = table
        for name in names[:-1]:
            target = target[int(name)] if isinstance(target, list) else target.setdefault(name, {})
        target[names[-1]] = value
    return Recipe.model_validate_json(json.dumps(fields_of(table)))


def test_the_minimal_recipe_is_read(write_recipe):
    recipe = load_recipe(write_recipe()).recipe
    assert recipe.peft.method == "lora"
    assert recipe.objective.max_seq_length == 1024


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(write_recipe, minimal):
    plain = load_recipe(write_recipe()).recipe
    path = write_recipe()
    path.write_bytes(("\ufeff" + minimal.replace("\n", "\r\n")).encode())
    assert load_recipe(path).recipe == plain


# Files that are no recipe


def test_a_missing_file_is_named(tmp_path):
    assert problems(tmp_path / "none.toml") == ["recipe.toml: no such file (create one with `lorans init NAME`)"]


def test_a_folder_is_no_recipe(tmp_path):
    assert problems(tmp_path) == ["recipe.toml: is a folder (name the file in it, such as recipe.toml/recipe.toml)"]


def test_what_is_not_utf8_is_told(write_recipe):
    path = write_recipe()
    path.write_bytes(b'a = "\xff"')
    assert problems(path) == ["recipe.toml: not UTF-8 at byte 6 (save the file as UTF-8)"]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[t]\n[t]\n", 2), ("x", 1), ("a = 1\na = 2", 2), ('a = "x\n', 1)],
)
def test_what_is_not_toml_is_located(write_recipe, text, line):
    (told,) = problems(write_recipe(text))
    assert told.startswith(f"recipe.toml:{line}: not TOML: ")
    assert told.endswith(" (see toml.io for the syntax)")


def test_an_empty_recipe_lacks_every_required_key(write_recipe):
    assert problems(write_recipe("")) == [
        'recipe.toml: task_name: required (such as `task_name = "gsm8k"`)',
        'recipe.toml: task_type: required (`task_type = "CAUSAL_LM"` generates text, `"SEQ_CLS"` classifies it, '
        '`"TOKEN_CLS"` tags words)',
        'recipe.toml: model: required (add `[model]` with `name_or_path = "lorans:nano"`)',
        'recipe.toml: peft: required (add `[peft]` with `method = "lora"`)',
        'recipe.toml: dataset: required (add `[dataset]` with `path = "train.jsonl"`)',
        'recipe.toml: training: required (add `[training]` with `output_dir = "outputs/run"`)',
    ]


# Keys


def test_five_mistakes_are_five_located_problems(write_recipe, minimal):
    text = minimal + "lr = 0.1\nlearning_rate = nan\nglobal_batch_size = 8\ngradient_accumulation_steps = 2\n"
    text = text.replace('method = "lora"', 'method = "lora"\nlora_alfa = 3\nlora_r = true')
    assert problems(write_recipe(text)) == [
        "recipe.toml:9: peft.lora_alfa: unknown key (did you mean `lora_alpha`?)",
        "recipe.toml:10: peft.lora_r: got true (expected a whole number from 1)",
        "recipe.toml:17: training.lr: unknown key (write `learning_rate = 0.1`)",
        "recipe.toml:18: training.learning_rate: got nan (expected a number above 0)",
        "recipe.toml:20: training.gradient_accumulation_steps: `global_batch_size` and `gradient_accumulation_steps` "
        "both set the batch size (keep `global_batch_size`)",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lora_r = -1", "peft.lora_r: got -1 (expected a whole number from 1)"),
        ("lora_r = 1.5", "peft.lora_r: got 1.5 (expected a whole number from 1)"),
        ("lora_r = true", "peft.lora_r: got true (expected a whole number from 1)"),
        ('lora_r = "16"', 'peft.lora_r: got "16" (write 16, without quotes; expected a whole number from 1)'),
        ("lora_dropout = inf", "peft.lora_dropout: got inf (expected a number from 0 below 1)"),
        ("lora_dropout = 1.0", "peft.lora_dropout: got 1.0 (expected a number from 0 below 1)"),
        ("lora_alpha = nan", "peft.lora_alpha: got nan (expected a number above 0)"),
        ("use_dora = 1", "peft.use_dora: got 1 (expected true or false)"),
        ('bias = "some"', 'peft.bias: got "some" (expected one of: "none", "all", "lora_only")'),
        ("extra = 3", "peft.extra: got 3 (expected a table)"),
        ("r = 8", "peft.r: unknown key (write `lora_r = 8`)"),
        ("lora_rr = 8", "peft.lora_rr: unknown key (did you mean `lora_r`?)"),
        (
            "num_virtual_tokens = 8",
            "peft.num_virtual_tokens: unknown key (`num_virtual_tokens` belongs to prefix-tuning and prompt-tuning and "
            "p-tuning and 1 more, but the method is lora)",
        ),
        ("seed = 1", "peft.seed: unknown key (`seed` belongs in `[training]`)"),
        ("task_name = 1", "peft.task_name: unknown key (`task_name` belongs at the top)"),
        ("lora_r = 2026-01-02", "peft.lora_r: got 2026-01-02 (expected a whole number from 1)"),
        (
            "target_modules = 12:30:00",
            'peft.target_modules: got 12:30:00 (expected "all-linear" or a list of non-empty strings)',
        ),
    ],
)
def test_a_wrong_key_says_what_to_write(write_recipe, minimal, line, told):
    text = minimal.replace('method = "lora"', f'method = "lora"\n{line}')
    assert problems(write_recipe(text)) == [f"recipe.toml:9: {told}"]


@pytest.mark.parametrize("key", ["int", "str", "bool", "float", "lora", "literal[x]"])
@pytest.mark.parametrize("table", ["peft", "training", "model"])
def test_an_unknown_key_may_be_called_like_a_type_or_a_method(write_recipe, minimal, table, key):
    text = minimal.replace(f"[{table}]", f'[{table}]\n"{key}" = 1')
    (told,) = problems(write_recipe(text))
    assert told.startswith(f"recipe.toml:{text.splitlines().index(f'[{table}]') + 2}: {table}.{key}: unknown key")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("epochs = 3", "training.epochs: unknown key (write `num_train_epochs = 3`)"),
        ("lora_r = 3", "training.lora_r: unknown key (`lora_r` belongs in `[peft]`)"),
        ("max_seq_length = 8", "training.max_seq_length: unknown key (`max_seq_length` belongs in `[sft]`)"),
        (
            'per_device_train_batch_size = "all"',
            'training.per_device_train_batch_size: got "all" (expected "auto" or a whole number from 1)',
        ),
        ("[trainer]\nx = 1", "trainer: unknown key (did you mean `training`?)"),
        (
            '[tracking]\nreport_to = ["wandbb"]',
            'tracking.report_to: got "wandbb" '
            '(expected a list with any of: "tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml")',
        ),
        (
            '[quantization]\nbnb_4bit_quant_type = "nf4"',
            "quantization.method: required (one of: none, bnb-4bit, bnb-8bit, torchao, gptq, awq)",
        ),
    ],
)
def test_a_wrong_line_at_the_end_says_what_to_write(write_recipe, minimal, line, told):
    (shown,) = problems(write_recipe(minimal + line + "\n"))
    place, _, rest = shown.partition(": ")
    assert rest == told
    assert place in {"recipe.toml:15", "recipe.toml:16"}


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ('"lroa"', f'got "lroa" (did you mean `lora`? {METHODS_TOLD})'),
        ('"lorra"', f'got "lorra" (did you mean `lora`? {METHODS_TOLD})'),
        ('"nothing-like-it"', f'got "nothing-like-it" ({METHODS_TOLD})'),
        ("3", f"got 3 ({METHODS_TOLD})"),
    ],
)
def test_an_unknown_method_names_those_there_are(write_recipe, minimal, method, told):
    text = minimal.replace('"lora"', method)
    assert problems(write_recipe(text)) == [f"recipe.toml:8: peft.method: {told}"]


def test_a_missing_method_names_those_there_are(write_recipe, minimal):
    text = minimal.replace('method = "lora"', "lora_r = 0")
    assert problems(write_recipe(text)) == [
        f"recipe.toml:7: peft.method: required ({METHODS_TOLD})",
        "recipe.toml:8: peft.lora_r: got 0 (expected a whole number from 1)",
    ]


def test_a_missing_table_says_what_to_add(write_recipe, minimal):
    assert problems(write_recipe(minimal.replace("[peft]\nmethod", "[peft_]\nmethod"))) == [
        'recipe.toml: peft: required (add `[peft]` with `method = "lora"`)',
        "recipe.toml:7: peft_: unknown key (did you mean `peft`?)",
    ]


@pytest.mark.parametrize("key", sorted(known_keys()))
def test_every_misspelt_key_gets_a_suggestion(write_recipe, key):
    table, _, name = key.rpartition(".")
    owners = [method for method, model in UNIONS.get(table, {}).items() if name in model.model_fields]
    chosen = [f"{table}.{tag_of(table)}={owners[0]}"] if owners else []
    chosen = list(choosing(owners[0])) if table == "peft" and owners else chosen
    chosen += needed(table.partition(".")[0])
    assert problems(write_recipe(), *chosen, f"{key}x=1") == [f"--set: {key}x: unknown key (did you mean `{name}`?)"]


@pytest.mark.parametrize("key", sorted(known_keys()))
def test_values_of_every_kind_are_taken_or_told(write_recipe, key):
    table, _, name = key.rpartition(".")
    owners = [method for method, model in UNIONS.get(table, {}).items() if name in model.model_fields]
    chosen = list(choosing(owners[0])) if table == "peft" and owners else []
    for value in ("[[]]", "{a = {}}", "''", "1e300", "true", "1979-05-27"):
        with contextlib.suppress(RecipeError):  # of which each has its place; some values are right for some keys
            load_recipe(write_recipe(), [*chosen, f"{key}={value}"])


# Rules


STREAM = ["training.max_steps=3", "dataset.streaming=true"]
PARTS = ["distributed.strategy=deepspeed", "distributed.context_parallel_size=2"]
SOURCES = 'dataset.sources=[{path = "a.jsonl"}, {name = "a/b"}]'

SUITES = 'evaluation.suites=[{kind = "number", path = "a.jsonl"}, {kind = "held-out", path = "b.jsonl"}]'

BROKEN = {
    "one_source": ["dataset.name=a/b", "dataset.path=train.jsonl"],
    "each_source_is_named": [SOURCES, "dataset.sources.1.path=train.jsonl"],
    "all_sources_are_weighted": [SOURCES, "dataset.stopping_strategy=all_exhausted"],
    "slices_are_parts": ['dataset.slice="10"'],
    "layouts_are_of_files": ['dataset.column_names=["a", "b", "a"]'],
    "stratified_rows_are_set_aside": ["dataset.stratify_by_column=kind"],
    "a_stream_has_steps": ["dataset.streaming=true"],
    "a_stream_is_read_as_it_comes": [*STREAM, "dataset.eval_fraction=0.1"],
    "shuffle_buffer_is_of_a_stream": ["dataset.shuffle_buffer_size=7"],
    "one_evaluation_source": ["dataset.eval_path=e.jsonl", "dataset.eval_fraction=0.1"],
    "hub_keys_need_a_hub_name": ["dataset.subset=main"],
    "bad_rows_are_in_files": ["dataset.name=a/b", "dataset.max_bad_rows=1"],
    "one_batch_size": ["training.global_batch_size=8", "training.gradient_accumulation_steps=2"],
    "global_batch_divides": ["training.global_batch_size=16", "training.per_device_train_batch_size=3"],
    "one_length_of_training": ["training.num_train_epochs=2", "training.max_steps=3"],
    "one_warm_up": ["training.warmup_ratio=0.1", "training.warmup_steps=3"],
    "warm_up_ends": ["training.max_steps=3", "training.warmup_steps=3"],
    "optimizer_is_known": ["training.optim='adamx'"],
    "optimizer_takes_its_settings": ["training.optim=sgd", "training.adam_beta1=0.8"],
    "templates_come_together": ["dataset.prompt_template=a"],
    "templates_are_well_formed": ["dataset.completion_template={c}", "dataset.prompt_template={a[b]}"],
    "completion_template_has_a_column": ["dataset.prompt_template={a}", "dataset.completion_template=c"],
    "system_turn_needs_chat_form": ["dataset.system_template=s"],
    "templates_fit_the_format": [
        "dataset.format=alpaca",
        "dataset.completion_template={c}",
        "dataset.prompt_template=a",
    ],
    "columns_are_read": ["dataset.columns.promt=q"],
    "sampling_keys_need_it": ["generation.temperature=0.7"],
    "tables_fit_the_task": ["dataset.text_column=a"],
    "format_fits_the_task": ["dataset.format=classification"],
    "pair_needs_its_first_text": ["task_type=SEQ_CLS", "dataset.text_pair_column=b"],
    "method_fits_the_task": ["task_type=TOKEN_CLS", "peft.method=prompt-tuning"],
    "packing_keeps_documents_apart": ["peft.method=prompt-tuning", "sft.packing=true"],
    "reference_is_the_start": ["dpo={}", "peft.method=prompt-tuning"],
    "adapter_can_be_copied": [*needed("rloo"), "peft.method=adalora"],
    "adapter_is_in_the_layers": [*needed("distillation"), "peft.method=prompt-tuning"],
    "start_has_answers": [*needed("grpo"), "peft.init_lora_weights=eva"],
    "dropout_is_used": ["task_type=SEQ_CLS", "reward={}", "peft.lora_dropout=0.1"],
    "objective_divides_weights": ["dpo={}", "distributed.num_processes=2", "distributed.strategy=deepspeed"],
    "a_step_has_whole_groups": ["grpo={rewards=[{name='exact'}]}", "training.global_batch_size=10"],
    "compared_rows_are_mixed": ["kto={}", "training.per_device_train_batch_size=1"],
    "vllm_writes_as_the_model_does": [*needed("grpo"), "quantization.method=bnb-4bit", "grpo.use_vllm=true"],
    "checkpointing_works": ["peft.method=prefix-tuning", "training.gradient_checkpointing=true"],
    "remote_code_is_pinned": ["model.trust_remote_code=true"],
    "an_adapter_goes_on": ["model.init_adapter=earlier", "peft.init_lora_weights=gaussian"],
    "base_adapters_can_be_merged": ['model.base_adapters=["a", "a"]'],
    "dora_works_on_the_base": ["quantization.method=gptq", "peft.use_dora=true"],
    "start_works_on_the_base": ["quantization.method=bnb-4bit", "peft.init_lora_weights=pissa"],
    "start_keys_are_read": ["peft.eva_rho=1.5"],
    "start_fits_the_adapter": ["peft.use_dora=true", "peft.init_lora_weights=mica"],
    "one_factor_alone_is_trained": ["peft.use_lora_fa=true", "peft.use_dora=true"],
    "kasa_cuts_the_base_alone": ["peft.use_kasa=true", "peft.use_dora=true"],
    "ia3_targets_come_together": ["peft.method=ia3", 'peft.feedforward_modules=["up_proj"]'],
    "prompt_text_and_init_agree": ["peft.method=prompt-tuning", "peft.prompt_tuning_init_text=Answer:"],
    "method_works_on_the_base": ["quantization.method=bnb-4bit", "peft.method=loha"],
    "added_tokens_are_trained": ['model.add_tokens=["<a>"]', "peft.method=ia3"],
    "exact_match_has_rows": ["evaluation.exact_match=true"],
    "exact_match_keys_need_it": ["evaluation.group_by=a"],
    "asking_while_training_has_effect": ["evaluation.while_training=true"],
    "answer_pattern_is_a_pattern": [
        "dataset.eval_fraction=0.1",
        "evaluation.exact_match=true",
        "evaluation.answer_pattern=(a",
    ],
    "suites_have_own_names": [SUITES, "evaluation.suites.1.name=number"],
    "suites_are_answered": ["task_type=SEQ_CLS", 'evaluation.suites=[{path = "a"}]', "evaluation.suites.0.kind=number"],
    "suites_have_rows": ["evaluation.suites=[{}]", "evaluation.suites.0.kind=held-out"],
    "processes_train_together": ["distributed.strategy=ddp", "peft.method=pvera"],
    "weights_can_be_divided": ["distributed.strategy=fsdp", "quantization.method=bnb-8bit"],
    "zero_keys_fit_together": [
        "distributed.strategy=deepspeed",
        "distributed.offload_param=cpu",
        "distributed.zero_stage=2",
    ],
    "rows_can_be_divided": [*PARTS, "sft.packing=true"],
    "machines_can_meet": ["distributed.strategy=ddp", "distributed.num_processes=2", "distributed.num_nodes=2"],
    "nothing_is_pushed": ["training.extra.push_to_hub=true"],
    "checkpoints_are_whole": ["training.extra.save_only_model=true"],
    "evaluations_can_be_chosen_from": ["training.load_best_model_at_end=true"],
    "best_metric_is_measured": ["dataset.eval_fraction=0.1", "training.metric_for_best_model=bleu"],
    "best_weights_can_be_loaded": [
        "dataset.eval_fraction=0.1",
        "peft={method='adalora'}",
        "training.load_best_model_at_end=true",
    ],
    "early_stopping_threshold_needs_patience": ["training.early_stopping_threshold=0.1"],
    "training_extra_is_known": ["training.extra.seed=1"],
    "training_extra_has_an_effect": ["training.extra.ddp_bucket_cap_mb=25"],
    "peft_extra_is_known": ["peft.extra.r=1"],
}
"""What breaks each rule; the last key is the one that is pointed at."""

MORE_BROKEN = [
    ["training.early_stopping_patience=3"],
    ["training.metric_for_best_model=loss"],
    ["training.extra.greater_is_better=true"],
    ["dataset.eval_fraction=0.1", "training.metric_for_best_model=exact_match"],
    ["dataset.eval_fraction=0.1", "training.metric_for_best_model=gsm8k.number"],
    [
        "dataset.eval_fraction=0.1",
        "evaluation.suites=[{kind = 'number'}]",
        "training.metric_for_best_model=number.loss",
    ],
    [*needed("rloo"), "peft.use_lora_fa=true"],
    [*needed("grpo"), "grpo.beta=0.1", "peft.use_kasa=true"],
    ["orpo={}", "peft.init_lora_weights=corda"],
    ["task_type=SEQ_CLS", "reward={}", "peft.init_lora_weights=eva"],
    ['dataset.fallback_prompt_templates=["{a}"]'],
    ["dataset.completion_template={c}", "dataset.prompt_template={a}", 'dataset.fallback_prompt_templates=["{b"]'],
    ["classification={max_seq_length = 8}"],
    ["sft.chat_template_kwargs.tools=1"],
    [
        "task_type=SEQ_CLS",
        "classification.problem_type=regression",
        "classification.class_weights=balanced",
    ],
    [
        "task_type=SEQ_CLS",
        'classification.labels=["a", "b"]',
        "classification.class_weights=[1.0, 2.0, 3.0]",
    ],
    [*STREAM, 'dataset.sources=[{path = "a.jsonl"}]'],
    [*STREAM, "sft.packing=true"],
    [*STREAM, "training.group_by_length=true"],
    ["dataset.format=oasst", "dataset.completion_template={c}", "dataset.prompt_template={a}"],
    [*STREAM, "training.dataloader_num_workers=1"],
    [*STREAM, "task_type=SEQ_CLS", 'classification.labels=["a", "b"]', "classification.class_weights=balanced"],
    [*STREAM, 'dataset.slice=":10%"'],
    [*STREAM, 'dataset.slice="-500:"'],
    [SOURCES, "dataset.sources.0.split=test"],
    [SOURCES, 'dataset.column_names=["a"]'],
    ["peft.use_lora_fa=true", "peft.loraplus_lr_ratio=4"],
    ["peft.use_lora_fa=true", "training.optim=sgd"],
    ["quantization.method=bnb-4bit", "peft.use_kasa=true"],
    ["peft.use_kasa=true", "peft.init_lora_weights=pissa"],
    ["peft.use_kasa=true", 'peft.target_parameters=["experts.gate_up_proj"]'],
    ["peft.use_kasa=true", "peft.use_lora_fa=true"],
    ["peft.kasa_gamma=0.1"],
    ["training.optim=galore_adamw"],
    ["training.optim=lomo"],
    ["training.optim=schedule_free_adamw", "training.lr_scheduler_type=linear"],
    [SOURCES, 'dataset.sources.1.column_names=["a"]'],
    [SOURCES, "dataset.sources.1.sample_by=line"],
    [SOURCES, "dataset.delimiter=|"],
    ["dataset.delimiter=ab"],
    [r'dataset.delimiter="\n"'],
    ["dataset.delimiter='\"'"],
    [SOURCES, "dataset.sources.0.weigth=2"],
    [SOURCES, "dataset.sources.0.weight=0"],
    [SOURCES, "dataset.sources.0.slice=::"],
    [SOURCES, "dataset.sources.1.columns.promt=q"],
    [SOURCES, "dataset.sources.1.prompt_template=q"],
    [SOURCES, "dataset.sources.1.prompt_template={q}", "dataset.sources.1.completion_template=c"],
    [SOURCES, "dataset.sources.1.format=token-classification"],
    [SOURCES, "dataset.sources.1.format=classification"],
    [SOURCES, "task_type=SEQ_CLS", "dataset.sources.1.text_pair_column=b"],
    [SOURCES, "task_type=SEQ_CLS", 'dataset.sources.1.columns={messages = "b"}'],
    [SOURCES, "dataset.sources.1.format=text", "dataset.sources.1.columns.prompt=q"],
    [SOURCES, "dataset.subset=main"],
    [SOURCES, "dataset.eval_split=test"],
    [SOURCES, 'dataset.slice=":10%"'],
    ['dataset.sources=[{name = "a/b"}]', "dataset.max_bad_rows=1"],
    ["dataset.eval_fraction=0.1", 'dataset.eval_slice=":10%"'],
    *(
        [f'dataset.slice="{text}"']
        for text in ("1:2:3", "a:b", ":1.5", "5:5", "-1:-2", ":0", "60%:50%", "1:50%", ":101%")
    ),
    ["dataset.eval_fraction=0.1", "evaluation.exact_match=true", "evaluation.answer_pattern=(a)(b)"],
    ["dpo={}", 'evaluation.suites=[{path = "a.jsonl"}]', "evaluation.suites.0.kind=held-out"],
    [*needed("grpo"), 'evaluation.suites=[{path = "a.jsonl"}]', "evaluation.suites.0.kind=held-out"],
    ["dataset.eval_fraction=0.1", "evaluation.exact_match=true", SUITES, "evaluation.suites.1.name=exact-match"],
    [SUITES, "evaluation.suites.0.kind=regex", "evaluation.suites.0.pattern=(a"],
    ["dataset.completion_template=a"],
    ["dataset.completion_template={c}", "dataset.prompt_template={a"],
    ["dataset.completion_template={c}", 'dataset.prompt_template="{}"'],
    ["dataset.completion_template={c}", "dataset.prompt_template={a!r}"],
    ["dataset.completion_template={c}", "dataset.prompt_template={a:>3}"],
    ["dataset.prompt_template=a", "dataset.completion_template={c}", 'dataset.columns={prompt = "q"}'],
    ["dataset.format=text", "dataset.columns.prompt=q"],
    ["task_type=SEQ_CLS", 'dataset.columns={xyz = "q"}'],
    ["dataset.columns.prompt=q", "dataset.format=classification"],
    ["task_type=SEQ_CLS", "sft={packing = true}"],
    ["task_type=SEQ_CLS", "generation={seed = 1}"],
    ["task_type=SEQ_CLS", "dataset.format=messages"],
    ["task_type=TOKEN_CLS", "dataset.text_column=t"],
    ["task_type=TOKEN_CLS", "dataset.label_column=t"],
    ["task_type=TOKEN_CLS", "classification.problem_type=regression"],
    ["task_type=TOKEN_CLS", "classification.threshold=0.3"],
    ["task_type=TOKEN_CLS", "dataset.format=classification"],
    ["task_type=TOKEN_CLS", "dataset.columns.prompt=q"],
    ["task_type=SEQ_CLS", "dataset.format=token-classification"],
    ["dataset.format=token-classification"],
    ["dataset.columns.tokens=q"],
    ["task_type=SEQ_CLS", "classification.problem_type=regression", 'classification.labels=["a"]'],
    ["task_type=SEQ_CLS", "classification.problem_type=single_label_classification", "classification.threshold=0.3"],
    ["quantization.method=bnb-8bit", "peft.init_lora_weights=olora"],
    [*STREAM, "peft.init_lora_weights=eva"],
    ["peft.init_lora_weights=eva", "peft.corda_method=kpm"],
    ["peft.init_samples=8"],
    ['peft.target_parameters=["experts.gate_up_proj"]', "peft.init_lora_weights=pissa"],
    ["peft.trainable_token_indices=[5]", "peft.init_lora_weights=eva"],
    ["peft.lora_r=7", "peft.init_lora_weights=orthogonal"],
    ["model.revision=v1.0", "model.trust_remote_code=true"],
    ["peft.extra.task_type=CAUSAL_LM"],
    [*PARTS, "task_type=SEQ_CLS"],
    [*PARTS, "distributed.rdzv_endpoint=10.0.0.1:29500", "distributed.num_nodes=2"],
    [*PARTS, f"model.revision={'a' * 40}", "model.trust_remote_code=true"],
    [*PARTS, *STREAM],
    *(
        [*PARTS, key]
        for key in (
            "peft.method=ia3",
            "sft.neftune_noise_alpha=5",
            "peft.init_lora_weights=eva",
            'model.add_tokens=["<a>"]',
            "peft.trainable_token_indices=[5]",
            "quantization.method=bnb-8bit",
            "model.attn_implementation=eager",
            "training.extra.label_smoothing_factor=0.1",
        )
    ),
    ["distributed.strategy=deepspeed", "peft.method=adalora"],
    ["distributed.strategy=fsdp", "peft.method=adalora"],
    ["distributed.strategy=deepspeed", "peft.use_kasa=true"],
    ["distributed.strategy=fsdp", 'model.add_tokens=["<a>"]'],
    ["distributed.strategy=deepspeed", "distributed.zero_stage=3", "peft.init_lora_weights=pissa"],
    ["dpo={}", "peft.lora_dropout=0.1"],
    ["dpo={}", "peft.init_lora_weights=pissa"],
    ["dpo.discopop_tau=0.1"],
    ['dpo.loss_type=["exo_pair"]'],
    ['dpo.loss_type=["sigmoid", "hinge"]', "dpo.loss_weights=[1.0]"],
    ["distributed.strategy=deepspeed", "distributed.zero_stage=3", "peft.trainable_token_indices=[5]"],
    ["peft.extra.peft_type=LORA"],
]


def test_every_rule_has_a_recipe_that_breaks_it():
    assert list(BROKEN) == [rule.__name__ for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_one_problem_at_the_key_to_change(write_recipe, minimal, rule):
    overrides = BROKEN[rule.__name__]
    finding = rule(unchecked(minimal, *overrides))
    key = overrides[-1].partition("=")[0]
    assert finding is not None
    assert finding.remedy
    assert problems(write_recipe(), *overrides) == [f"--set: {key}: {finding.what} ({finding.remedy})"]


@pytest.mark.parametrize("overrides", MORE_BROKEN, ids=lambda overrides: overrides[-1])
def test_other_ways_to_break_a_rule_are_one_problem_too(write_recipe, overrides):
    (told,) = problems(write_recipe(), *overrides)
    assert told.startswith(f"--set: {overrides[-1].partition('=')[0]}: ")


def test_a_prompt_may_be_the_same_in_each_row(write_recipe):
    overrides = ["dataset.prompt_template=Write a poem.", "dataset.completion_template={poem}"]
    assert load_recipe(write_recipe(), overrides).recipe.dataset.prompt_template == "Write a poem."


@pytest.mark.parametrize("key", ["temperature=0.7", "top_p=0.9", "top_k=3"])
def test_what_draws_needs_the_drawing(write_recipe, key):
    (told,) = problems(write_recipe(), f"generation.{key}")
    assert "has no effect without `do_sample = true`" in told
    recipe = load_recipe(write_recipe(), [f"generation.{key}", "generation.do_sample=true"]).recipe
    assert override_generation(recipe, ["generation.seed=3"]).model_dump() == {
        **recipe.generation.model_dump(),
        "seed": 3,
    }


def test_a_trained_run_can_be_asked_to_draw(write_recipe):
    recipe = load_recipe(write_recipe()).recipe
    stored = type(recipe).model_validate_json(recipe.model_dump_json())
    assert override_generation(stored, ["generation.max_new_tokens=5"]).max_new_tokens == 5
    drawn = override_generation(stored, ["generation.do_sample=true", "generation.temperature=0.5"])
    assert (drawn.do_sample, drawn.temperature) == (True, 0.5)
    with pytest.raises(RecipeError, match="has no effect without"):
        override_generation(stored, ["generation.temperature=0.5"])


def test_a_broken_source_is_told_at_its_line(write_recipe, minimal):
    """Each mistake of each source, and the mistakes elsewhere are still found."""
    sources = """[[dataset.sources]]
path = "a.jsonl"
weight = 1
[[dataset.sources]]
name = "a/b"
[dataset.sources.columns]
promt = "q"
[[dataset.sources]]
path = "c.jsonl"
weight = -1
slice = 3
"""
    text = minimal.replace('path = "train.jsonl"\n', sources).replace('"run"', '"run"\nlr = 3')
    misspelt = (
        "recipe.toml:17: dataset.sources.1.columns.promt: no format has such a column (did you mean `prompt`? known: "
        + problems(write_recipe(), "dataset.columns.promt=q")[0].partition("known: ")[2]
    )
    assert problems(write_recipe(text)) == [
        misspelt,
        "recipe.toml:20: dataset.sources.2.weight: got -1 (expected a number above 0)",
        "recipe.toml:21: dataset.sources.2.slice: got 3 (expected a non-empty string)",
        "recipe.toml:25: training.lr: unknown key (write `learning_rate = 3`)",
    ]
    mended = text.replace("lr = 3", "").replace("-1", "1.5").replace("= 3\n", '= ":3"\n')
    assert problems(write_recipe(mended)) == [
        "recipe.toml:14: dataset.sources.1: `weight` is missing, but others have one (give each a `weight`, or none)",
        misspelt,
    ]


def test_sources_that_are_no_list_are_told(write_recipe, minimal):
    text = minimal.replace('path = "train.jsonl"', 'path = "a"\n[dataset.sources]\npath = "b"')
    assert problems(write_recipe(text)) == ["recipe.toml:12: dataset.sources: got a table (expected a list of tables)"]


def test_the_classes_of_a_stream_are_named(write_recipe):
    (told,) = problems(write_recipe(), *STREAM, "task_type=SEQ_CLS")
    expected = (
        "classification.labels: the classes of a stream are not known before it is read (name them here, or write"
    )
    assert expected in told
    (told,) = problems(write_recipe(), *STREAM, "task_type=TOKEN_CLS")
    assert told.endswith("(name them here)")
    load_recipe(write_recipe(), [*STREAM, "task_type=SEQ_CLS", "classification.problem_type=regression"])


def test_what_a_stream_needs_makes_a_recipe(write_recipe):
    overrides = ["training.group_by_length=false", 'dataset.slice="100:"', "dataset.eval_path=b.jsonl"]
    assert load_recipe(write_recipe(), [*STREAM, *overrides]).recipe.dataset.shuffle_buffer_size == 10_000


def test_how_a_source_is_read_comes_from_the_table_where_it_says_nothing(write_recipe, minimal):
    """A source's format is read alone, its templates without the table's columns, its columns without the templates."""
    text = minimal.replace(
        'path = "train.jsonl"',
        """format = "messages"
prompt_template = "{a}"
completion_template = "{b}"
[[dataset.sources]]
path = "a.jsonl"
[[dataset.sources]]
path = "b.jsonl"
prompt_template = "{c}"
[[dataset.sources]]
path = "c.jsonl"
columns = {messages = "turns"}
[[dataset.sources]]
path = "d.jsonl"
format = "alpaca"
""",
    )
    parts = load_recipe(write_recipe(text)).recipe.dataset.parts()
    assert list(parts) == [f"dataset.sources.{number}" for number in range(4)]
    assert [(p.path, p.format, p.prompt_template, p.completion_template, p.columns) for p in parts.values()] == [
        ("a.jsonl", "messages", "{a}", "{b}", {}),
        ("b.jsonl", "messages", "{c}", "{b}", {}),
        ("c.jsonl", "messages", None, None, {"messages": "turns"}),
        ("d.jsonl", "alpaca", None, None, {}),
    ]


def test_a_recipe_without_data_is_told_once(write_recipe, minimal):
    text = minimal.replace('path = "train.jsonl"', "")
    assert problems(write_recipe(text)) == [
        'recipe.toml:10: dataset: no source of rows is given (write `path = "train.jsonl"`, or `name` with a hub id)'
    ]


def test_a_rule_is_silent_about_a_key_that_is_wrong_already(write_recipe):
    overrides = ["training.global_batch_size=-1", "training.per_device_train_batch_size=3"]
    assert problems(write_recipe(), *overrides) == [
        "--set: training.global_batch_size: got -1 (expected a whole number from 1)"
    ]


@pytest.mark.parametrize("table", ["training", "peft"])
def test_a_field_that_the_library_does_not_have_is_refused(write_recipe, table):
    library = {"training": "transformers", "peft": "peft"}[table]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    (told,) = problems(write_recipe(), f"{table}.extra.no_such_field=1")
    assert told.startswith(f"--set: {table}.extra.no_such_field: the installed `")


def test_a_pinned_commit_may_bring_code(write_recipe):
    overrides = [f"model.revision={'0123456789' * 4}", "model.trust_remote_code=true"]
    assert load_recipe(write_recipe(), overrides).recipe.model.trust_remote_code


# Overrides


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.seed=7", (["training", "seed"], 7)),
        ("a.b = 1e-4", (["a", "b"], 1e-4)),
        ("a=true", (["a"], True)),
        ('a="7"', (["a"], "7")),
        ("a=['x', 'y']", (["a"], ["x", "y"])),
        ("a={b = 1}", (["a"], {"b": 1})),
        ("a=plain text", (["a"], "plain text")),
        ("a=b=c", (["a"], "b=c")),
        ("a=", (["a"], "")),
    ],
)
def test_a_value_is_toml_or_else_a_plain_string(override, expected):
    assert parse_override(override) == expected


@pytest.mark.parametrize("override", ["training.seed", "=3", "a..b=3", ".a=3"])
def test_what_is_no_override_is_told(write_recipe, override):
    assert problems(write_recipe(), override) == [
        f"--set: `{override}` (write `table.key=value`, such as `training.seed=1`)"
    ]


def test_a_key_below_a_value_is_told(write_recipe):
    assert problems(write_recipe(), "task_name.x=3") == ["--set: `task_name.x=3`: `task_name` is a value, not a table"]


def test_overrides_are_merged_before_the_check(write_recipe, minimal):
    path = write_recipe(minimal + "seed = -1\n")
    loaded = load_recipe(path, ["training.seed=7", "model.dtype=float32", 'peft.target_modules=["q_proj"]'])
    assert (loaded.recipe.training.seed, loaded.recipe.model.dtype) == (7, "float32")
    assert loaded.recipe.peft.target_modules == ("q_proj",)


def test_the_last_of_two_overrides_counts(write_recipe):
    assert load_recipe(write_recipe(), ["training.seed=1", "training.seed=2"]).recipe.training.seed == 2


@pytest.mark.parametrize(
    ("table", "line", "override"),
    [
        ("training", "num_train_epochs = 2", "max_steps=3"),
        ("training", "max_steps = 3", "num_train_epochs=2"),
        ("training", "global_batch_size = 8", "gradient_accumulation_steps=2"),
        ("training", "gradient_accumulation_steps = 2", "global_batch_size=8"),
        ("training", "warmup_ratio = 0.1", "warmup_steps=4"),
        ("training", "warmup_steps = 4", "warmup_ratio=0.1"),
        ("dataset", "eval_fraction = 0.1", 'eval_path="b.jsonl"'),
        ("dataset", 'eval_path = "b.jsonl"', "eval_fraction=0.1"),
        ("dataset", "", 'name="owner/rows"'),
    ],
)
def test_an_override_takes_the_place_of_what_says_the_same(write_recipe, minimal, table, line, override):
    path = write_recipe(minimal.replace(f"[{table}]", f"[{table}]\n{line}"))
    own = getattr(load_recipe(path, [f"{table}.{override}"]).recipe, table)
    names, value = parse_override(override)
    assert getattr(own, names[0]) == value
    replaced = line.partition(" = ")[0] or "path"
    assert getattr(own, replaced) == type(own).model_fields[replaced].default


@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("dataset.name=a/b", 'recipe.toml:11: `dataset.path = "train.jsonl"` has no effect: `--set dataset.name`'),
        (SOURCES, 'recipe.toml:11: `dataset.path = "train.jsonl"` has no effect: `--set dataset.sources`'),
        ("training.max_steps=3", "recipe.toml:15: `training.num_train_epochs = 2` has no effect: `--set training.max"),
    ],
)
def test_what_an_override_takes_the_place_of_is_said(write_recipe, minimal, override, note):
    path = write_recipe(minimal + "num_train_epochs = 2\n")
    (told,) = load_recipe(path, [override]).notes
    assert told.replace(str(path), "recipe.toml").startswith(note)
    assert load_recipe(path, ["training.seed=3", "dataset.path=other.jsonl"]).notes == ()


def test_a_key_of_one_source_can_be_overridden(write_recipe):
    loaded = load_recipe(write_recipe(), [SOURCES, "dataset.sources.0.path=c.jsonl", 'dataset.sources.1={path = "d"}'])
    assert [source.path for source in loaded.recipe.dataset.sources] == ["c.jsonl", "d"]


@pytest.mark.parametrize("place", ["2", "x", "-1"])
def test_a_source_that_is_not_there_cannot_be_overridden(write_recipe, place):
    override = f"dataset.sources.{place}.path=c"
    assert problems(write_recipe(), SOURCES, override) == [
        f"--set: `{override}`: no index `{place}` in a list of 2 (indices start at 0)"
    ]


def test_two_overrides_that_say_the_same_contradict_each_other(write_recipe):
    (told,) = problems(write_recipe(), "training.max_steps=3", "training.num_train_epochs=2")
    assert told.startswith("--set: training.max_steps")


def test_a_value_knows_where_it_came_from(write_recipe):
    loaded = load_recipe(write_recipe(), ["training.seed=7", "task_name=other"])
    keys = ("training.seed", "task_name", "training.output_dir", "training.optim", "sft.packing")
    assert [loaded.origin(key) for key in keys] == ["--set", "--set", "recipe", "default", "default"]
    assert [loaded.where(key).replace(str(loaded.path), "recipe.toml") for key in keys] == [
        "--set",
        "--set",
        "recipe.toml:14",
        "recipe.toml:13",
        "recipe.toml",
    ]


def test_an_override_of_a_table_leaves_nothing_of_what_the_recipe_says_in_it(write_recipe):
    loaded = load_recipe(write_recipe(), ['training={output_dir = "b", seed = 7}', "training.max_steps=3"])
    keys = ("training.seed", "training.output_dir", "training.max_steps", "training.optim", "training")
    assert [loaded.origin(key) for key in keys] == ["--set", "--set", "--set", "default", "--set"]


def test_a_rule_about_a_table_that_is_only_set_is_located_there(write_recipe):
    (told,) = problems(write_recipe(), "evaluation.group_by=kind")
    assert told.startswith("--set: evaluation")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.sed=1", "training.sed: unknown key (did you mean `seed`?)"),
        ('training={output_dir = "run", sed = 1}', "training.sed: unknown key (did you mean `seed`?)"),
        ("training.seed=x", 'training.seed: got "x" (expected a whole number from 0 to 4294967295)'),
        ("peft.method=lorra", f'peft.method: got "lorra" (did you mean `lora`? {METHODS_TOLD})'),
        ("dataset.path=", f'dataset.path: got "" (expected {FILES})'),
        ("peft=3", "peft: got 3 (expected a table)"),
        ('dataset.path=["a", 3]', f'dataset.path: got ["a", 3] (expected {FILES})'),
        ('dataset.eval_path=[""]', f'dataset.eval_path: got [""] (expected {FILES})'),
        ("dataset.max_bad_rows=-1", "dataset.max_bad_rows: got -1 (expected a whole number from 0)"),
    ],
)
def test_a_wrong_override_is_located(write_recipe, override, told):
    assert problems(write_recipe(), override) == [f"--set: {told}"]


def test_only_the_generation_of_a_trained_run_can_be_changed(write_recipe):
    recipe = load_recipe(write_recipe(), ["generation.max_new_tokens=8"]).recipe
    changed = override_generation(recipe, ["generation.seed=3"])
    assert (changed.max_new_tokens, changed.seed) == (8, 3)
    assert override_generation(recipe, []) == recipe.generation


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.seed=3", "--set: `training.seed=3`: a trained run cannot be changed (set only `generation.` keys)"),
        ("generation.sed=3", "--set: generation.sed: unknown key (did you mean `seed`?)"),
        ("generation.top_p=3", "--set: generation.top_p: got 3 (expected a number from 0 to 1)"),
    ],
)
def test_a_wrong_change_of_a_trained_run_is_told(write_recipe, override, told):
    recipe = load_recipe(write_recipe()).recipe
    with pytest.raises(RecipeError) as caught:
        override_generation(recipe, [override])
    assert str(caught.value) == told


# The result


def test_rows_may_be_in_several_files(write_recipe):
    recipe = load_recipe(write_recipe(), ['dataset.path=["a.jsonl", "b"]', "dataset.eval_path=c/*.csv"]).recipe
    assert (recipe.dataset.path, recipe.dataset.eval_path) == (("a.jsonl", "b"), "c/*.csv")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_cannot_be_changed(write_recipe):
    recipe = load_recipe(write_recipe()).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.seed = 3


def test_a_recipe_survives_json(write_recipe):
    recipe = load_recipe(write_recipe(), ['peft.target_modules=["q_proj"]']).recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


HOSTILE = {
    "deep lists": ("x = " + "[" * 3000 + "]" * 3000 + "\n", "recipe.toml:1: cannot be read: nested too deeply"),
    "a deep table": (f"[{'.'.join('a' * 3000)}]\n", "recipe.toml:1: cannot be read: nested too deeply"),
    "a long number": (f"seed = {'9' * 5000}\n", "recipe.toml:1: cannot be read: an integer has too many digits"),
    "a large number": (f"seed = {'9' * 20}\n", "recipe.toml:1: an integer does not fit into 64 bits"),
    "a header of spaces": ("[" + " " * 4000 + "x", "recipe.toml:1: not TOML"),
    "a large file": ("# " + "x" * 2**20, "recipe.toml: is larger than 1 MiB"),
}


@pytest.mark.parametrize(("text", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_one_problem(write_recipe, text, expected):
    assert problems(write_recipe(text))[0].startswith(expected)


OVERRIDES = {
    "deep lists": (
        "training.extra.a=" + "[" * 3000 + "]" * 3000,
        "--set: training.extra.a: cannot be read: nested too",
    ),
    "deep keys": (".".join("a" * 3000) + "=1", "--set: a.a.a"),
    "deep together": ("training.extra" + ".a" * 60 + "=" + "[" * 60 + "]" * 60, "--set: training.extra.a.a"),
    "a long number": ("training.seed=" + "9" * 5000, "--set: training.seed: cannot be read: an integer has too many"),
    "a large number": ("training.seed=" + "9" * 20, "--set: training.seed: an integer does not fit into 64 bits"),
    "bytes": ("task_name=\udcff", "--set: not UTF-8 at character 11"),
    "a long text": ("task_name=" + "x" * 20_000, "--set: `task_name=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...` is longer than"),
    "a long place": ("dataset.sources." + "9" * 5000 + "=1", "--set: `dataset.sources.999"),
}


@pytest.mark.parametrize(("override", "expected"), OVERRIDES.values(), ids=OVERRIDES)
def test_hostile_overrides_are_one_problem(write_recipe, override, expected):
    path = write_recipe(MINIMAL.replace('path = "train.jsonl"', 'sources = [{path = "a.jsonl"}]'))
    (problem,) = problems(path, override)
    assert problem.startswith(expected)


NAMES = {
    "output_dir": ('"run"', "training.output_dir"),
    "path": ('"train.jsonl"', "dataset.path"),
    "name_or_path": ('"lorans:nano"', "model.name_or_path"),
}


@pytest.mark.parametrize(("written", "key"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2500 + "x", "\u00e9" * 128])
def test_a_name_that_no_file_can_have_is_told(write_recipe, written, key, name):
    (problem,) = problems(write_recipe(MINIMAL.replace(written, f'"{name}"')))
    assert f": {key}: is too long for a file name (a path has at most 4,000 bytes" in problem


def test_many_wrong_keys_take_no_time(write_recipe):
    many = "".join(f"k{number} = 1\n" for number in range(20_000)) + MINIMAL
    told = problems(write_recipe(many))
    assert len(told) == 101
    assert told[-1] == "and 19,900 more invalid keys"
    (told,) = problems(write_recipe(f"{'k' * 900_000} = 1\n{MINIMAL}"))
    assert len(told) < 20_000


@pytest.mark.parametrize("key", ["training.seed", "generation.seed"])
def test_seeds_are_those_of_numpy(write_recipe, key):
    assert load_recipe(write_recipe(), [f"{key}={2**32 - 1}"])
    assert problems(write_recipe(), f"{key}={2**32}") == [
        f"--set: {key}: got 4294967296 (expected a whole number from 0 to 4294967295)"
    ]


@pytest.mark.parametrize(
    "key", ["training.learning_rate", "training.num_train_epochs", "training.max_grad_norm", "peft.lora_alpha"]
)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_that_is_not_finite_is_refused(write_recipe, key, value):
    (told,) = problems(write_recipe(), f"{key}={value}")
    assert told.startswith(f"--set: {key}: got {value} (expected a number ")
