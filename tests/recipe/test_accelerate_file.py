"""Accelerate's configuration files: what they fill, what they may not contradict, and what of them is not supported."""

import re
from pathlib import Path

import pytest
from plans import plan_of

from lora_ns.errors import PlanError, RecipeError
from lora_ns.launch.jobs import make_job, new_job, read_job
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.accelerate_file import parse_accelerate
from lora_ns.recipe.load import load_recipe, written

GPU = Gpu(0, "GPU", 80 * 10**9, 80 * 10**9, (9, 0), "580")
MULTI_GPU = "distributed_type: MULTI_GPU\n"
ZERO = "distributed_type: DEEPSPEED\ndeepspeed_config:\n"
FSDP = "distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 2\n"
AS_CONFIG_WRITES = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: {type}
downcast_bf16: 'no'
dynamo_config: {{}}
enable_cpu_affinity: false
fp8_config:
gpu_ids: all
machine_rank: 0
main_training_function: main
megatron_lm_config: {{}}
num_machines: 1
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""


@pytest.fixture
def load(write_recipe, minimal, tmp_path):
    """Loads the minimal recipe with more of a file, and more in its `[distributed]`."""

    def loads(text, *overrides, distributed="", more=""):
        (tmp_path / "conf").mkdir(exist_ok=True)
        (tmp_path / "conf/own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        asked = f'\n[distributed]\naccelerate_config = "conf/own.yaml"\n{distributed}'
        return load_recipe(write_recipe(f"{minimal}{more}{asked}"), overrides)

    return loads


@pytest.fixture
def told(load, tmp_path):
    """What is told of a file that cannot be joined, without the folder."""

    def tells(*arguments, **more):
        with pytest.raises(RecipeError) as caught:
            load(*arguments, **more)
        problems = [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]
        return [problem.replace("conf/own.yaml", "own.yaml") for problem in problems]

    return tells


def said(loaded):
    """What is not at its default in `[distributed]`."""
    return loaded.recipe.distributed.model_dump(exclude_defaults=True, exclude={"accelerate_config"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distributed_type: 'NO'", {}),
        ("distributed_type: NO", {}),  # which YAML reads as false
        ("distributed_type: 'NO'\nnum_processes: 8", {}),
        (MULTI_GPU, {"strategy": "ddp"}),
        (MULTI_GPU + "num_processes: -1", {"strategy": "ddp"}),
        ("distributed_type: MULTI_CPU\nnum_processes: 4", {"strategy": "ddp", "num_processes": 4}),
        (
            MULTI_GPU + "num_machines: 2\nnum_processes: 16\nmain_process_ip: 10.0.0.1\nmain_process_port: 29600",
            {"strategy": "ddp", "num_nodes": 2, "num_processes": 8, "rdzv_endpoint": "10.0.0.1:29600"},
        ),
        (
            MULTI_GPU + "num_machines: 2\nmain_process_ip: node",
            {"strategy": "ddp", "num_nodes": 2, "rdzv_endpoint": "node:29500"},
        ),
        (FSDP, {"strategy": "fsdp"}),
        (
            FSDP + "  fsdp_reshard_after_forward: false\n  offload_params: true",
            {"strategy": "fsdp", "reshard_after_forward": False, "cpu_offload": True},
        ),
        (FSDP + "  fsdp_sharding_strategy: SHARD_GRAD_OP", {"strategy": "fsdp", "reshard_after_forward": False}),
        ("distributed_type: DEEPSPEED", {"strategy": "deepspeed"}),
        (ZERO + "  zero_stage: 1", {"strategy": "deepspeed", "zero_stage": 1}),
        (
            ZERO + "  zero_stage: 3\n  offload_param_device: nvme\n  offload_param_nvme_path: /fast",
            {"strategy": "deepspeed", "zero_stage": 3, "offload_param": "nvme", "nvme_path": "/fast"},
        ),
        (ZERO + "  deepspeed_config_file: ds.json", {"strategy": "deepspeed", "deepspeed_config": "conf/ds.json"}),
        (ZERO + "  deepspeed_config_file: /a/ds.json", {"strategy": "deepspeed", "deepspeed_config": "/a/ds.json"}),
    ],
)
def test_a_file_fills_what_the_recipe_leaves_open(load, text, expected):
    loaded = load(text)
    assert said(loaded) == expected
    assert load(text, distributed='strategy = "auto"\n').recipe == loaded.recipe
    assert loaded.recipe.distributed.accelerate_config == "conf/own.yaml"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (MULTI_GPU + "mixed_precision: bf16", "model.dtype", "bfloat16"),
        (MULTI_GPU + "mixed_precision: fp16", "model.dtype", "float16"),
        (MULTI_GPU + "mixed_precision: no", "model.dtype", "auto"),
        (ZERO + "  gradient_accumulation_steps: 4", "training.gradient_accumulation_steps", 4),
        (ZERO + "  gradient_accumulation_steps: auto", "training.gradient_accumulation_steps", None),
        (ZERO + "  gradient_clipping: 0.3", "training.max_grad_norm", 0.3),
        (FSDP + "  fsdp_activation_checkpointing: true", "training.gradient_checkpointing", True),
        (FSDP + "  fsdp_activation_checkpointing: false", "training.gradient_checkpointing", "auto"),
    ],
)
def test_keys_of_other_tables_are_filled_too(load, text, key, value):
    table, _, name = key.partition(".")
    assert getattr(getattr(load(text).recipe, table), name) == value


def test_what_is_filled_is_traced_to_its_line(load):
    loaded = load("distributed_type: MULTI_GPU\n\nnum_processes: 2\n")
    keys = ("distributed.strategy", "distributed.num_processes", "distributed.timeout", "training.output_dir")
    assert [loaded.origin(key) for key in keys] == ["accelerate_config", "accelerate_config", "default", "recipe"]
    assert loaded.where("distributed.num_processes").endswith("conf/own.yaml:3")
    plan = plan_of(loaded, Machine("cpu", 2, True, 10**10, 10**10), None, DataFacts(160, 10))
    assert (plan.world_size.value, plan.world_size.origin) == (2, "accelerate_config")


@pytest.mark.parametrize("kind", ["MULTI_GPU", "'NO'", "DEEPSPEED"])
def test_what_goes_without_saying_passes_without_a_word(load, kind):
    assert load(AS_CONFIG_WRITES.format(type=kind)).notes == ()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("distributed_type: NO\nnum_processes: 8", "2: `num_processes: 8`: has no effect: `distributed_type: NO`"),
        (MULTI_GPU + "mixed_precision: 'no'", '2: `mixed_precision: "no"`: has no effect'),
        (MULTI_GPU + "main_process_port: 29501", "2: `main_process_port: 29501`: has no effect: a single machine"),
        (MULTI_GPU + "machine_rank: 1", "2: `machine_rank: 1`: has no effect: the machine with the address"),
        (FSDP + "  fsdp_state_dict_type: SHARDED_STATE_DICT", "are saved whole"),
        (FSDP + "  fsdp_cpu_ram_efficient_loading: true", "every process reads the whole base"),
        (FSDP + "  fsdp_backward_prefetch: BACKWARD_PRE", "it is an option of FSDP1"),
        (ZERO + "  zero_stage: 3\n  zero3_init_flag: false", "4: `deepspeed_config.zero3_init_flag: false`: has no"),
        (ZERO + "  zero3_save_16bit_model: false", "adapters are always saved whole"),
    ],
)
def test_what_changes_nothing_that_is_learned_is_noted(load, text, note):
    (told,) = load(text).notes
    assert note in told


@pytest.mark.parametrize(
    ("text", "distributed", "expected"),
    [
        (MULTI_GPU, 'strategy = "fsdp"', '1: `distributed_type: "MULTI_GPU"`, but the recipe (`distributed.strategy`)'),
        ("distributed_type: NO", 'strategy = "ddp"', "1: `distributed_type: false`, but the recipe"),
        (
            MULTI_GPU + "num_processes: 8",
            "num_processes = 4",
            "2: `num_processes: 8`, but the recipe (`distributed.num_",
        ),
        (MULTI_GPU + "num_machines: 1", 'num_nodes = 2\nrdzv_endpoint = "a:1"', "`num_machines: 1`, but the recipe"),
        (ZERO + "  zero_stage: 3", "zero_stage = 2", "3: `deepspeed_config.zero_stage: 3`, but the recipe"),
        (FSDP + "  fsdp_offload_params: true", "cpu_offload = false", "`fsdp_config.fsdp_offload_params: true`, but"),
    ],
)
def test_what_contradicts_the_recipe_is_an_error(told, text, distributed, expected):
    (problem,) = told(text, distributed=distributed)
    assert problem.startswith("own.yaml:")
    assert expected in problem
    assert problem.endswith("(make them agree)")


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        (MULTI_GPU + "mixed_precision: bf16", 'name_or_path = "lorans:nano"\ndtype = "float16"', 'says "float16"'),
        (
            ZERO + "  gradient_clipping: 2",
            'output_dir = "run"\nmax_grad_norm = 1.0',
            "(`training.max_grad_norm`) says 1.0",
        ),
        (
            ZERO + "  gradient_accumulation_steps: 2",
            'output_dir = "run"\nglobal_batch_size = 64',
            "(`training.global_batch_size`) says 64",
        ),
    ],
)
def test_keys_of_other_tables_are_held_to_the_file(told, minimal, write_recipe, text, more, expected, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    recipe = minimal.replace(more.partition("\n")[0], more) + '[distributed]\naccelerate_config = "own.yaml"\n'
    with pytest.raises(RecipeError, match=re.escape(expected)):
        load_recipe(write_recipe(recipe))


@pytest.mark.parametrize(
    "text",
    [
        MULTI_GPU + "num_processes: 2\nmixed_precision: bf16",
        FSDP + "  fsdp_offload_params: true",
        ZERO + "  zero_stage: 3\n  gradient_accumulation_steps: 2",
    ],
)
def test_a_file_and_a_recipe_that_say_the_same_agree(load, text):
    whole = load(text)
    values = whole.recipe.distributed.model_dump(exclude_defaults=True, exclude={"accelerate_config"})
    lines = "\n".join(
        f"{key} = {str(value).lower() if value is True else repr(value)}" for key, value in values.items()
    )
    assert load(text, distributed=lines).recipe == whole.recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "own.yaml: is empty"),
        ("# nothing\n", "own.yaml: is empty"),
        ("- a\n", "own.yaml: is not an accelerate configuration"),
        ("a: [1\nb: 2", "own.yaml:2: invalid YAML: "),
        ("a:\tb\n\tc: d", "invalid YAML: "),
        ("a: 1\n---\nb: 2", "own.yaml:2: invalid YAML: but found another document"),
        ("a: !!python/object:os.system x", "own.yaml:1: invalid YAML: could not determine a constructor"),
        ("a: &x [*x]", "invalid YAML: "),
        ("a: 2024-13-45", "invalid YAML: month must be in 1..12"),
        (b"a: \xff", "own.yaml: not UTF-8 at byte 4"),
        ("debug: false", "own.yaml: `distributed_type` is missing (one of: NO, MULTI_GPU, MULTI_CPU, FSDP, DEEPSPEED)"),
        ("distributed_type: MEGATRON_LM", 'own.yaml:1: `distributed_type: "MEGATRON_LM"` is not supported (one of: NO'),
        (MULTI_GPU + "num_procesess: 2", "own.yaml:2: `num_procesess`: unknown key (did you mean `num_processes`?)"),
        (MULTI_GPU + "tpu_use_clusters: true", "own.yaml:2: `tpu_use_clusters`: unknown key (remove it)"),
        (MULTI_GPU + "tpu_use_clusters: false", "unknown key (did you mean `tpu_use_cluster`?)"),
        (MULTI_GPU + "fsdp_confg: {fsdp_version: 2}", "unknown key (did you mean `fsdp_config`?)"),
        (MULTI_GPU + "debug: false\ndebug: false", "own.yaml:3: `debug` is given twice (remove one of them)"),
        (MULTI_GPU + "num_processes: 3\nnum_machines: 2\nmain_process_ip: a", "is not divisible by 2 machines"),
        (MULTI_GPU + "num_processes: '2'", 'own.yaml:2: `num_processes: "2"` is not a valid number'),
        (MULTI_GPU + "num_processes: 0", "own.yaml:2: `num_processes: 0` is not a valid number"),
        (
            MULTI_GPU + "main_process_port: 1\nnum_machines: 2",
            "own.yaml:3: distributed.num_nodes: 2 machines need a rendezvous endpoint",
        ),
        ("distributed_type: NO\nnum_machines: 2", "a single process runs on one machine"),
        (MULTI_GPU + "gpu_ids: 0,1", '`gpu_ids: "0,1"` is not supported (write `all`, and choose GPUs'),
        (MULTI_GPU + "mixed_precision: fp8", '`mixed_precision: "fp8"` is not supported (write `bf16` or `fp16`)'),
        (MULTI_GPU + "tpu_use_cluster: true", "`tpu_use_cluster: true` is not supported (remove it)"),
        (MULTI_GPU + "enable_cpu_affinity: true", "is not supported"),
        (MULTI_GPU + "dynamo_config: {dynamo_backend: INDUCTOR}", "is not supported"),
        (MULTI_GPU + "megatron_lm_config: {megatron_lm_tp_degree: 2}", "is not supported"),
        (MULTI_GPU + "mpirun_config: {mpirun_hostfile: a}", "torchrun starts the processes"),
        (MULTI_GPU + "fp8_config: {backend: TE}", "is not supported"),
        (MULTI_GPU + "parallelism_config: {parallelism_config_tp_size: 2}", "is not supported"),
        (MULTI_GPU + "rdzv_backend: etcd", "is not supported (write `c10d`)"),
        (MULTI_GPU + "debug: 0", "`debug: 0` is not supported"),  # which is not false
        (
            MULTI_GPU + "deepspeed_config: {zero_stage: 2}",
            "`deepspeed_config` has no effect without `distributed_type: DEEPSPEED`",
        ),
        ("distributed_type: FSDP", "`fsdp_config.fsdp_version` is missing, which means FSDP1 to accelerate"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}", "`accelerate to-fsdp2` convert the file"),
        (FSDP + "  fsdp_sharding_strategy: HYBRID_SHARD", "write `fsdp_reshard_after_forward: true`"),
        (FSDP + "  fsdp_auto_wrap_policy: SIZE_BASED_WRAP", "write TRANSFORMER_BASED_WRAP"),
        (FSDP + "  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer", "by the base's transformer blocks"),
        (FSDP + "  fsdp_state_dict_type: LOCAL_STATE_DICT", "write FULL_STATE_DICT"),
        (ZERO + "  deepspeed_hostfile: hosts", "run the same command on each machine"),
        (ZERO + "  deepspeed_hostfil: hosts", "`deepspeed_config.deepspeed_hostfil`: unknown key (remove it)"),
        (ZERO + "  zero_stages: 2", "`deepspeed_config.zero_stages`: unknown key (did you mean `zero_stage`?)"),
        (ZERO + "  zero_stage: 0", "own.yaml:3: distributed.zero_stage: got 0 (expected one of: 1, 2, 3)"),
        (
            ZERO + "  zero_stage: 2\n  offload_param_device: cpu",
            "own.yaml:3: distributed.zero_stage: `offload_param` needs",
        ),
        (
            ZERO
            + "  offload_optimizer_device: nvme\n  offload_param_device: nvme\n  zero_stage: 3\n"
            + "  offload_optimizer_nvme_path: /a\n  offload_param_nvme_path: /b",
            '7: `deepspeed_config.offload_param_nvme_path: "/b"`, but own.yaml:6 says "/a"',
        ),
    ],
)
def test_what_cannot_be_taken_is_told_in_one_line(told, text, expected):
    (problem,) = told(text)
    assert expected in problem.replace("\n", "\\n")


def test_every_problem_is_told_those_of_the_recipe_first(told):
    text = MULTI_GPU + "num_processes: 8\ndebug: true\nfoo: 1\n"
    problems = told(text, distributed="num_processes = 2\ntimeout = 0\n")
    assert [problem.partition(": ")[0] for problem in problems] == [
        "recipe.toml:19",
        *(f"own.yaml:{n}" for n in (2, 3, 4)),
    ]


def test_a_file_that_is_not_there_is_told_with_the_recipes_line(write_recipe, minimal):
    path = write_recipe(minimal + '[distributed]\naccelerate_config = "gone.yaml"\n')
    with pytest.raises(RecipeError, match=r"recipe.toml:16: distributed.accelerate_config: .*gone.yaml cannot be read"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distributed.num_processes=2", "2: `num_processes: 8` has no effect: `--set distributed.num_processes` over"),
        ("distributed.num_processes=auto", "2: `num_processes: 8` has no effect"),
        ("distributed.num_processes=8", None),
    ],
)
def test_an_override_takes_the_place_of_what_the_file_says(load, override, expected):
    loaded = load(MULTI_GPU + "num_processes: 8", override)
    assert loaded.origin("distributed.num_processes") == "--set"
    assert str(loaded.recipe.distributed.num_processes) == override.partition("=")[2]
    assert [expected in note for note in loaded.notes] == ([True] if expected else [])


def test_another_strategy_on_the_command_line_leaves_the_files_own_keys_behind(load):
    loaded = load(ZERO + "  zero_stage: 3\nnum_processes: 4", "distributed.strategy=ddp")
    assert said(loaded) == {"strategy": "ddp", "num_processes": 4}
    assert [note.partition(": ")[2].partition(" has")[0] for note in loaded.notes] == [
        '`distributed_type: "DEEPSPEED"`',
        "`deepspeed_config.zero_stage: 3`",
    ]


def test_what_a_file_says_counts_as_written(load):
    path = load(MULTI_GPU + "num_machines: 2\nmain_process_ip: a").path
    assert written(path, (), "distributed", "strategy") == "ddp"
    assert written(path, (), "distributed", "num_nodes") == 2


def test_a_job_needs_the_file_no_more(load, tmp_path):
    loaded = load(ZERO + "  zero_stage: 3\n  deepspeed_config_file: ds.json")
    folder = new_job(make_job(loaded, "slurm", "new", {}, tmp_path))
    (tmp_path / "conf/own.yaml").unlink()
    assert read_job(folder).recipe().recipe == loaded.recipe


@pytest.mark.parametrize("text", [MULTI_GPU + "use_cpu: true", "distributed_type: MULTI_CPU"])
def test_a_file_that_asks_for_the_cpu_is_not_given_a_gpu(load, text):
    loaded = load(text, "distributed.num_processes=2")
    cpu = Machine("cpu", 4, True, 10**11, 10**11)
    assert plan_of(loaded, cpu, None, DataFacts(160, 10)).device.value == "cpu"
    with pytest.raises(
        PlanError, match=r"own.yaml:[12]: .* but this machine has a GPU \(hide it with `CUDA_VISIBLE_DEVICES= lorans"
    ):
        plan_of(loaded, Machine("cpu", 4, True, 10**11, 10**11, gpus=(GPU,) * 2), None, DataFacts(160, 10))


BILLION = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
SMALL_AND_LARGE = {
    "references to references": (BILLION, "own.yaml:3: more than 16 aliases"),
    "deep lists": ("a: " + "[" * 20_000, "own.yaml:1: cannot be read: nested too deeply"),
    "deep and whole": (f"b: 1\na: {'[' * 101}{']' * 101}", "own.yaml:2: cannot be read: nested too deeply"),
    "much": ("# " + "x" * 70_000, "own.yaml: is larger than 64 KiB"),
    "digits": ("num_processes: " + "9" * 10_000, "own.yaml: invalid YAML: "),
}


@pytest.mark.parametrize(("text", "expected"), SMALL_AND_LARGE.values(), ids=SMALL_AND_LARGE)
def test_what_becomes_large_is_refused_before_it_does(text, expected):
    with pytest.raises(RecipeError) as caught:
        parse_accelerate(Path("own.yaml"), text, Path())
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value)) < 300
