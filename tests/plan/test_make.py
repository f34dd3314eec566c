"""The plan: pure, whole, with the origin of every number."""

import math
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from minimal_recipe import choosing
from plans import plan_of

from lora_ns.errors import PlanError
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.methods import METHODS
from lora_ns.model.files import BaseFacts, find_base
from lora_ns.objectives import Sft
from lora_ns.plan.fit import LARGEST_MICRO_BATCH, USABLE_MEMORY
from lora_ns.plan.plan import DataFacts, Plan
from lora_ns.plan.settle import settle_on_base
from lora_ns.recipe.load import load_recipe

GB = 10**9
CPU = Machine("cpu", 2, True, 24 * GB, 20 * GB)
OLD_CPU = replace(CPU, cpu_bf16=False)
APPLE = Machine("cpu", 8, True, 64 * GB, 60 * GB, mps=True)


def gpu(capability, name="GPU", free=23 * GB):
    return Machine("cpu", 8, True, 64 * GB, 60 * GB, (Gpu(0, name, 24 * GB, free, capability, "1"),))


SMALL = BaseFacts(
    "llama", 1_000_000, "BF16", 64, 128, 2, 1000, 512, {"layers.0.q_proj": (64, 64), "layers.0.up_proj": (128, 64)}
)
LARGE = BaseFacts("llama", 6_700_000_000, "BF16", 4096, 11008, 32, 32000, 4096, {})
MACHINES = {"cpu": CPU, "old cpu": OLD_CPU, "apple": APPLE, "turing": gpu((7, 5)), "ampere": gpu((8, 0))}


def plan(path, *overrides, machine=CPU, facts=SMALL, data=DataFacts(100, 10)):  # noqa: B008 -- frozen
    loaded = load_recipe(path, ["sft.max_seq_length=128", *overrides])
    return plan_of(loaded, machine, SimpleNamespace(facts=facts) if facts else None, data)


def problems(path, *overrides, **facts):
    with pytest.raises(PlanError) as caught:
        plan(path, *overrides, **facts)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


WORDS = ("deepspeed", "memory", "mapped_bytes", "notes")
"""What of a plan is no number."""


def test_the_whole_plan_of_the_minimal_recipe(write_recipe):
    made = plan(write_recipe())
    assert {name: (value.value, value.origin) for name, value in made if name not in WORDS} == {
        "device": ("cpu", "computed"),
        "strategy": ("none", "default"),
        "world_size": (1, "default"),
        "objective": ("sft", "default"),
        "start": ("new adapter", "default"),
        "reference": ("none", "computed"),
        "dtype": ("float32", "computed"),
        "attn_implementation": ("sdpa", "computed"),
        "format": (None, "computed"),
        "train_rows": (100, "computed"),
        "eval_rows": (10, "computed"),
        "max_seq_length": (128, "--set"),
        "global_batch_size": (16, "default"),
        "per_device_train_batch_size": (16, "computed"),
        "gradient_accumulation_steps": (1, "computed"),
        "per_device_eval_batch_size": (32, "computed"),
        "gradient_checkpointing": (False, "computed"),
        "steps_per_epoch": (7, "computed"),
        "max_steps": (7, "computed"),
        "warmup_steps": (1, "computed"),
        "logging_steps": (1, "computed"),
        "eval_steps": (7, "computed"),
        "save_steps": (7, "computed"),
        "learning_rate": (1e-3, "default"),
        "rank": (16, "default"),
        "base_parameters": (1_000_000, "computed"),
        "adapter_parameters": (16 * (128 + 192), "computed"),
        "memory_bytes": (714_046_582, "computed"),
        "tokens_per_second": (None, "computed"),
        "duration_seconds": (None, "computed"),
        "energy_wh": (None, "computed"),
        "disk_bytes": (20_000_000 + 4 * 5120 + 2 * (12 * 5120 + 4 * 4), "computed"),
    }
    assert made.notes == ()


def test_the_same_input_gives_the_same_plan(write_recipe):
    assert plan(write_recipe()) == plan(write_recipe())


def test_a_plan_of_rows_that_are_none_can_be_made_and_kept(write_recipe):
    made = plan(write_recipe(), data=DataFacts(0, 0))
    assert (made.steps_per_epoch.value, made.eval_steps.value) == (0, 1)
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_a_plan_survives_json(write_recipe):
    made = plan(write_recipe())
    assert Plan.model_validate_json(made.model_dump_json()) == made


# Batches


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 12, 16, 31, 37, 64, 100, 128, 997])
def test_the_global_batch_is_kept_however_it_is_cut(write_recipe, machine, total):
    made = plan(write_recipe(), f"training.global_batch_size={total}", machine=machine)
    assert made.per_device_train_batch_size.value * made.gradient_accumulation_steps.value == total
    assert made.per_device_train_batch_size.value <= LARGEST_MICRO_BATCH[machine.accelerator]
    assert (made.global_batch_size.value, made.global_batch_size.origin) == (total, "--set")


@pytest.mark.parametrize("free", [3, 4, 8, 16, 20])
def test_the_micro_batch_is_the_largest_divisor_that_fits(write_recipe, free):
    machine = gpu((8, 0), free=free * GB)
    overrides = ["training.global_batch_size=48", "training.gradient_checkpointing=true", "sft.max_seq_length=1024"]
    facts = replace(LARGE, parameters=100_000_000)
    made = plan(write_recipe(), *overrides, machine=machine, facts=facts)
    micro = made.per_device_train_batch_size.value
    larger = [size for size in range(micro + 1, 49) if 48 % size == 0]
    assert made.memory_bytes.value <= USABLE_MEMORY * free * GB
    for size in larger[:1]:
        forced = plan(
            write_recipe(), *overrides, f"training.per_device_train_batch_size={size}", machine=machine, facts=facts
        )
        assert forced.memory_bytes.value > USABLE_MEMORY * free * GB


@pytest.mark.parametrize(
    ("overrides", "micro", "accumulation", "total"),
    [
        ([], (16, "computed"), (1, "computed"), (Sft().usual_batch, "default")),
        (["global_batch_size=64"], (32, "computed"), (2, "computed"), (64, "--set")),
        (
            ["global_batch_size=64", "per_device_train_batch_size=4"],
            (4, "--set"),
            (16, "computed"),
            (64, "--set"),
        ),
        (["per_device_train_batch_size=4"], (4, "--set"), (4, "computed"), (16, "computed")),
        (["per_device_train_batch_size=20"], (20, "--set"), (1, "computed"), (20, "computed")),
        (["gradient_accumulation_steps=3"], (8, "computed"), (3, "--set"), (24, "computed")),
        (
            ["gradient_accumulation_steps=3", "per_device_train_batch_size=5"],
            (5, "--set"),
            (3, "--set"),
            (15, "computed"),
        ),
    ],
)
def test_a_batch_is_cut_by_what_is_given(write_recipe, overrides, micro, accumulation, total):
    made = plan(write_recipe(), *(f"training.{override}" for override in overrides))
    assert [
        (part.value, part.origin)
        for part in (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.global_batch_size)
    ] == [micro, accumulation, total]


def test_short_rows_go_through_in_larger_batches(write_recipe):
    overrides = ["training.global_batch_size=64", "training.gradient_checkpointing=true", "sft.max_seq_length=2048"]
    sizes = [
        plan(write_recipe(), *overrides, machine=gpu((8, 0)), facts=LARGE, data=DataFacts(100, longest=longest))
        for longest in (None, 2048, 512, 64)
    ]
    micros = [made.per_device_train_batch_size.value for made in sizes]
    assert micros == sorted(micros)
    assert micros[0] == micros[1] < micros[2] < micros[3]


def test_packed_rows_are_as_long_as_can_be(write_recipe):
    overrides = ["sft.packing=true", "sft.max_seq_length=2048"]
    machine = gpu((8, 0))
    packed = [
        plan(write_recipe(), *overrides, machine=machine, facts=LARGE, data=DataFacts(100, longest=longest))
        for longest in (None, 64)
    ]
    assert packed[0] == packed[1]


@pytest.mark.parametrize(
    ("override", "size"), [("sft.packing=false", 32), ("training.per_device_eval_batch_size=5", 5)]
)
def test_evaluation_takes_twice_the_batch_or_what_is_asked(write_recipe, override, size):
    assert plan(write_recipe(), override).per_device_eval_batch_size.value == size


# Checkpointing


@pytest.mark.parametrize(
    ("overrides", "facts", "expected"),
    [
        ([], SMALL, (False, "computed", "the batch fits in memory without it")),
        ([], LARGE, (True, "computed", "one row would not fit in memory without it")),
        (["training.gradient_checkpointing=true"], SMALL, (True, "--set", "")),
        (["training.gradient_checkpointing=false"], LARGE, (False, "--set", "")),
        (["peft.method=prefix-tuning"], LARGE, (False, "computed", "prefix-tuning does not support it")),
    ],
)
def test_activations_are_recomputed_only_where_it_must_be(write_recipe, overrides, facts, expected):
    made = plan(
        write_recipe(),
        "sft.max_seq_length=1024",
        *overrides,
        facts=replace(facts, max_position_embeddings=None),
        machine=gpu((8, 0)),
    )
    checkpointing = made.gradient_checkpointing
    assert (checkpointing.value, checkpointing.origin, checkpointing.why) == expected


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_leaves_room_for_more(write_recipe, bits):
    overrides = ["training.global_batch_size=64", "sft.max_seq_length=1024", "training.gradient_checkpointing=true"]
    whole, quantised = (
        plan(write_recipe(), *overrides, *more, facts=LARGE, machine=gpu((8, 0)))
        for more in ([], [f"quantization.method=bnb-{bits}bit"])
    )
    assert whole.per_device_train_batch_size.value < quantised.per_device_train_batch_size.value


def test_what_does_not_fit_is_noted(write_recipe):
    (note,) = plan(write_recipe(), facts=LARGE, machine=gpu((8, 0), free=8 * GB)).notes
    assert note.startswith("memory: about ")
    assert note.endswith(
        " GB needed, 8.0 GB free; shorten `max_seq_length`, lower `per_device_train_batch_size`, or quantise the base"
    )


def test_unknown_memory_forbids_nothing(write_recipe):
    made = plan(write_recipe(), facts=LARGE, machine=replace(CPU, memory_bytes=0, available_bytes=0))
    assert (made.per_device_train_batch_size.value, made.notes) == (16, ())


# Steps


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 96, 100])
@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.0, 3.3])
def test_steps_follow_from_rows_and_epochs(write_recipe, rows, epochs):
    made = plan(write_recipe(), f"training.num_train_epochs={epochs}", data=DataFacts(rows))
    per_epoch = math.ceil(rows / 16)
    assert made.steps_per_epoch.value == per_epoch
    assert made.max_steps.value == math.ceil(epochs * per_epoch)
    assert made.max_steps.why == f"{epochs:g} epoch{'s' * (epochs != 1)}"


@pytest.mark.parametrize(
    ("overrides", "rows", "expected"),
    [
        ([], 16_000, {"max_steps": 1000, "warmup_steps": 30, "logging_steps": 10, "eval_steps": 1000}),
        ([], 16, {"max_steps": 1, "warmup_steps": 0, "logging_steps": 1, "eval_steps": 1}),
        (["max_steps=1"], 16_000, {"max_steps": 1, "warmup_steps": 0}),
        (["max_steps=7"], 16_000, {"max_steps": 7, "warmup_steps": 1, "logging_steps": 1, "eval_steps": 7}),
        (["num_train_epochs=2.0"], 160, {"max_steps": 20, "eval_steps": 10, "save_steps": 10}),
        (["warmup_ratio=0.0"], 16_000, {"warmup_steps": 0}),
        (["warmup_ratio=0.5"], 16 * 7, {"warmup_steps": 4}),
        (["warmup_steps=0"], 16_000, {"warmup_steps": 0}),
        (["warmup_steps=5"], 16_000, {"warmup_steps": 5}),
        (
            ["logging_steps=3", "eval_steps=5", "save_steps=7"],
            16_000,
            {"logging_steps": 3, "eval_steps": 5, "save_steps": 7},
        ),
        (["max_steps=7"], None, {"steps_per_epoch": None, "max_steps": 7, "warmup_steps": 1, "save_steps": 7}),
    ],
)
def test_intervals_follow_from_the_steps(write_recipe, overrides, rows, expected):
    made = plan(write_recipe(), *(f"training.{override}" for override in overrides), data=DataFacts(rows))
    assert {name: getattr(made, name).value for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "rows", "steps"),
    [
        (["extra.dataloader_drop_last=true", "per_device_train_batch_size=8"], 8, 1),
        (["extra.dataloader_drop_last=true", "per_device_train_batch_size=8"], 40, 5),
        (["extra.dataloader_drop_last=true", "per_device_train_batch_size=8"], 47, 5),
        (["extra.dataloader_drop_last=false", "per_device_train_batch_size=8"], 47, 6),
        (["extra.dataloader_drop_last=true"], None, None),
    ],
)
def test_a_last_batch_that_is_dropped_is_no_step(write_recipe, overrides, rows, steps):
    settings = [f"training.{override}" for override in ("gradient_accumulation_steps=1", *overrides)]
    made = plan(write_recipe(), *settings, data=DataFacts(rows))
    assert made.max_steps.value == steps


@pytest.mark.parametrize(
    ("overrides", "rows", "told"),
    [
        (
            ["extra.dataloader_drop_last=true", "per_device_train_batch_size=64"],
            3,
            "training.extra.dataloader_drop_last: 3 rows do not fill a batch of 64, and incomplete batches are dropped",
        ),
        (
            ["extra.dataloader_drop_last=true", "per_device_train_batch_size=2", "max_steps=5"],
            1,
            "1 row does not fill a batch of 2",
        ),
        (
            ["warmup_steps=100"],
            32,
            "training.warmup_steps: a run of 2 steps ends during its warm-up of 100 (write at most 1",
        ),
        (["warmup_steps=1"], 3, "a run of 1 step ends during its warm-up of 1 (write at most 0"),
    ],
)
def test_a_run_without_a_step_or_without_its_rate_is_refused(write_recipe, overrides, rows, told):
    with pytest.raises(PlanError) as caught:
        plan(write_recipe(), *(f"training.{override}" for override in overrides), data=DataFacts(rows))
    assert told in str(caught.value)


def test_without_rows_the_steps_are_unknown(write_recipe):
    made = plan(write_recipe(), data=DataFacts())
    names = ("train_rows", "eval_rows", "steps_per_epoch", "max_steps", "warmup_steps", "logging_steps", "eval_steps")
    assert [getattr(made, name).value for name in (*names, "save_steps")] == [None] * 8


def test_without_a_base_what_depends_on_it_is_unknown(write_recipe):
    made = plan(write_recipe(), facts=None)
    assert [made.base_parameters.value, made.adapter_parameters.value, made.memory_bytes.value] == [None] * 3
    assert (
        made.per_device_train_batch_size.why
        == "the largest that fits (a rule of thumb: the base is not on this machine)"
    )
    assert made.max_steps.value == 7


# Types and devices


@pytest.mark.parametrize(
    ("machine", "facts", "dtype"),
    [
        ("cpu", SMALL, "float32"),
        ("cpu", LARGE, "bfloat16"),
        ("cpu", None, "bfloat16"),
        ("old cpu", LARGE, "float32"),
        ("apple", LARGE, "float32"),
        ("turing", SMALL, "float16"),
        ("turing", LARGE, "float16"),
        ("ampere", SMALL, "bfloat16"),
        ("ampere", LARGE, "bfloat16"),
    ],
)
def test_the_type_follows_from_the_device(write_recipe, machine, facts, dtype):
    made = plan(write_recipe(), machine=MACHINES[machine], facts=facts)
    assert (made.dtype.value, made.dtype.origin) == (dtype, "computed")
    assert made.dtype.why


@pytest.mark.parametrize(
    ("machine", "device", "why"),
    [
        ("cpu", "cpu", "2 cores, no GPU"),
        ("apple", "mps", "Apple GPU"),
        ("ampere", "cuda", "GPU"),
    ],
)
def test_the_device_is_the_best_there_is(write_recipe, machine, device, why):
    made = plan(write_recipe(), machine=MACHINES[machine])
    assert (made.device.value, made.device.why) == (device, why)


def test_only_the_first_of_several_gpus_is_planned_with(write_recipe):
    one = gpu((8, 0))
    two = replace(one, gpus=(*one.gpus, Gpu(1, "other", 8 * GB, 8 * GB, (7, 0), "1")))
    assert plan(write_recipe(), machine=two).device.why == "GPU, the first of 2"
    assert plan(write_recipe(), machine=two).dtype == plan(write_recipe(), machine=one).dtype


def test_dora_over_eight_bits_is_refused_on_a_cpu_alone(write_recipe):
    dora = ("peft.use_dora=true", "quantization.method=bnb-8bit")
    assert problems(write_recipe(), *dora) == [
        "--set: peft.use_dora: over an 8-bit base, PEFT loses the scales of the base after a step on a CPU "
        '(write `method = "bnb-4bit"`, or `use_dora = false`)'
    ]
    assert plan(write_recipe(), *dora, machine=MACHINES["ampere"])


@pytest.mark.parametrize(
    ("override", "machine", "told"),
    [
        (
            "model.dtype=float16",
            "cpu",
            'model.dtype: "float16" needs a CUDA device, but this is cpu (write "auto")',
        ),
        (
            "model.dtype=float16",
            "apple",
            'model.dtype: "float16" needs a CUDA device, but this is mps (write "auto")',
        ),
        ("model.dtype=bfloat16", "turing", 'model.dtype: GPU does not support bfloat16 (write "auto" or "float16")'),
        (
            "model.attn_implementation=flash_attention_2",
            "cpu",
            'model.attn_implementation: "flash_attention_2" needs a CUDA device, but this is cpu (write "auto")',
        ),
        (
            "quantization.method=bnb-4bit",
            "apple",
            "quantization.method: bitsandbytes does not train on an Apple GPU (remove `[quantization]`)",
        ),
        (
            "sft.max_seq_length=513",
            "cpu",
            "sft.max_seq_length: 513 exceeds the base's 512 positions (write at most 512)",
        ),
    ],
)
def test_what_cannot_work_here_is_refused(write_recipe, override, machine, told):
    assert problems(write_recipe(), override, machine=MACHINES[machine]) == [f"--set: {told}"]


@pytest.mark.parametrize(
    ("override", "machine"),
    [
        ("model.dtype=float16", "turing"),
        ("model.dtype=bfloat16", "ampere"),
        ("model.dtype=bfloat16", "old cpu"),
        ("model.attn_implementation=flash_attention_2", "ampere"),
        ("model.attn_implementation=eager", "cpu"),
        ("quantization.method=bnb-4bit", "cpu"),
        ("sft.max_seq_length=512", "cpu"),
    ],
)
def test_what_works_here_is_taken_as_it_is_written(write_recipe, override, machine):
    made = plan(write_recipe(), override, machine=MACHINES[machine])
    key, _, value = override.rpartition(".")[2].partition("=")
    if hasattr(made, key):
        assert (str(getattr(made, key).value), getattr(made, key).origin) == (value, "--set")
    assert made.device.value == MACHINES[machine].accelerator


def test_every_refusal_is_told_at_once(write_recipe):
    told = problems(
        write_recipe(), "model.dtype=float16", "model.attn_implementation=flash_attention_2", "sft.max_seq_length=9999"
    )
    assert [problem.split(": ")[1] for problem in told] == [
        "model.dtype",
        "model.attn_implementation",
        "sft.max_seq_length",
    ]


# Lengths


def test_virtual_tokens_take_positions_of_the_base(write_recipe):
    overrides = ["peft.method=prompt-tuning", "peft.num_virtual_tokens=12"]
    assert plan(write_recipe(), *overrides, "sft.max_seq_length=500").max_seq_length.value == 500
    assert problems(write_recipe(), *overrides, "sft.max_seq_length=501") == [
        "--set: sft.max_seq_length: 501 exceeds the base's 512 positions minus 12 virtual tokens (write at most 500)"
    ]


@pytest.mark.parametrize("overrides", [[], ["peft.method=prompt-tuning", "peft.num_virtual_tokens=12"]])
def test_a_length_that_nobody_named_is_cut_to_the_base(write_recipe, overrides):
    loaded = load_recipe(write_recipe(), overrides)
    long = replace(SMALL, max_position_embeddings=4096)
    made, kept = (
        plan_of(loaded, CPU, SimpleNamespace(facts=facts), DataFacts()).max_seq_length for facts in (SMALL, long)
    )
    assert (made.value, made.origin) == (500 if overrides else 512, "computed")
    assert (kept.value, kept.origin) == (1024, "default")


def test_the_first_positions_of_roberta_are_taken(write_recipe, minimal):
    path = write_recipe(minimal.replace("CAUSAL_LM", "SEQ_CLS"))
    roberta = replace(SMALL, model_type="roberta", max_position_embeddings=514)
    base = SimpleNamespace(facts=roberta)
    fits, long = (load_recipe(path, [f"classification.max_seq_length={length}"]) for length in (512, 513))
    assert plan_of(fits, CPU, base, DataFacts()).max_seq_length.value == 512
    with pytest.raises(PlanError, match="513 exceeds the base's 512 positions"):
        plan_of(long, CPU, base, DataFacts())


def test_a_base_without_positions_takes_any_length(write_recipe):
    endless = replace(SMALL, max_position_embeddings=None)
    assert plan(write_recipe(), "sft.max_seq_length=99999", facts=endless).max_seq_length.value == 99_999


# The adapter


@pytest.mark.parametrize("method", METHODS)
def test_a_method_starts_from_its_typical_learning_rate(write_recipe, method):
    made = plan(write_recipe(), *choosing(method), facts=replace(SMALL, hidden_size=4096))
    assert made.learning_rate.value == METHODS[method].capabilities.typical_learning_rate
    assert (made.learning_rate.origin, made.learning_rate.why) == ("default", f"typical for {method}")


def test_the_rate_of_lora_fits_task_and_base(write_recipe, minimal):
    wide = replace(SMALL, hidden_size=768)
    text = plan(write_recipe(minimal), facts=wide)
    labelled = load_recipe(write_recipe(minimal.replace("CAUSAL_LM", "SEQ_CLS")))
    labels = plan_of(labelled, CPU, SimpleNamespace(facts=wide), DataFacts())
    assert (text.learning_rate.value, labels.learning_rate.value) == (7e-4, 5e-4)
    assert labels.learning_rate.why == "usual for lora, labels and a base of width 768"


def planned(path, *overrides, width):
    """The plan, and what of `[peft]` PEFT is given."""
    facts = replace(SMALL, hidden_size=width)
    loaded = load_recipe(path, overrides)
    kwargs = settle_on_base(loaded, facts).recipe.peft.to_kwargs()
    return plan_of(loaded, CPU, SimpleNamespace(facts=facts), DataFacts()), kwargs["r"], kwargs["lora_alpha"]


@pytest.mark.parametrize(
    ("task", "width", "rank"),
    [("CAUSAL_LM", 64, 16), ("CAUSAL_LM", 32, 8), ("SEQ_CLS", 768, 8), ("TOKEN_CLS", 384, 8), ("TOKEN_CLS", 16, 4)],
)
def test_the_rank_of_lora_fits_task_and_base(write_recipe, minimal, task, width, rank):
    made, given, alpha = planned(write_recipe(minimal.replace("CAUSAL_LM", task)), width=width)
    assert (made.rank.value, made.rank.origin, given, alpha) == (rank, "default", rank, 2 * rank)
    assert made.adapter_parameters.value == rank * (128 + 192)
    kind = "text" if task == "CAUSAL_LM" else "labels"
    assert made.rank.why == f"usual for lora, {kind} and a base of width {width}; lora_alpha {2 * rank}"


def test_the_rank_of_lora_fits_the_task_before_the_base_is_here(write_recipe, minimal):
    made = plan_of(load_recipe(write_recipe(minimal.replace("CAUSAL_LM", "SEQ_CLS"))), CPU, None, DataFacts())
    assert (made.rank.value, made.rank.why) == (8, "usual for lora and labels; lora_alpha 16")


@pytest.mark.parametrize(
    ("override", "rank", "alpha", "origin"),
    [
        ("peft.lora_r=24", 24, 32, "--set"),
        ("peft.lora_r=16", 16, 32, "--set"),
        ("peft.lora_alpha=8", 16, 8, "default"),
        ("peft.rank_pattern={ q_proj = 2 }", 16, 32, "default"),
        ("peft.alpha_pattern.q_proj=2", 16, 32, "default"),
    ],
)
def test_a_rank_or_a_scale_that_is_given_is_taken_with_the_other_as_it_was(
    write_recipe, minimal, override, rank, alpha, origin
):
    made, given, scale = planned(write_recipe(minimal.replace("CAUSAL_LM", "SEQ_CLS")), override, width=768)
    assert (made.rank.value, made.rank.origin, given, scale) == (rank, origin, rank, alpha)


@pytest.mark.parametrize(
    ("method", "rank"), [("adalora", 12), ("loha", 8), ("vera", 256), ("ia3", None), ("prompt-tuning", None)]
)
def test_other_methods_keep_their_own_ranks(write_recipe, method, rank):
    made = plan(write_recipe(), f"peft.method={method}", facts=replace(SMALL, hidden_size=32))
    assert (made.rank.value, made.rank.why) == (rank, "" if rank else f"{method} has no rank")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["peft.lora_r=33"], ["peft.lora_r: 33 is above half"]),
        (["peft.lora_r=32"], []),
        (["peft.method=adalora", "peft.init_r=33"], ["peft.init_r: 33 is above half"]),
        (["peft.lora_r=8", "peft.lora_alpha=256"], ["peft.lora_alpha: 256 scales the update by 32 "]),
        (["peft.lora_r=8", "peft.lora_alpha=16"], []),
    ],
)
def test_ranks_and_scales_far_from_the_usual_ones_get_a_note(write_recipe, overrides, told):
    notes = plan(write_recipe(), *overrides).notes
    assert [note[: len(start)] for note, start in zip(notes, told, strict=True)] == told


def test_a_learning_rate_that_is_given_is_taken(write_recipe, minimal):
    made = plan(write_recipe(minimal + "learning_rate = 0.5\n"))
    assert (made.learning_rate.value, made.learning_rate.origin) == (0.5, "recipe")


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ([], 16 * (128 + 192)),
        (["peft.lora_r=4"], 4 * (128 + 192)),
        (['peft.target_modules=["q_proj"]'], 16 * 128),
        (['peft.target_modules=["proj"]'], None),
        (["peft.method=ia3"], None),
        (["peft.method=prompt-tuning"], 20 * 64),
        (["peft.method=prefix-tuning"], 20 * 64 * 2 * 2),
    ],
)
def test_the_adapter_is_counted_from_the_shapes(write_recipe, overrides, count):
    assert plan(write_recipe(), *overrides).adapter_parameters.value == count


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head", "transformer.wte", "classifier.dense", "score"])
def test_embeddings_and_heads_are_not_adapted(write_recipe, name):
    facts = replace(SMALL, matrices={**SMALL.matrices, name: (1000, 64)})
    assert plan(write_recipe(), facts=facts).adapter_parameters == plan(write_recipe()).adapter_parameters


def test_the_packaged_base_is_counted_exactly(write_recipe):
    base = find_base("lorans:nano", "main", [], download=False)
    assert plan(write_recipe(), facts=base.facts).adapter_parameters.value == 221_184


@pytest.mark.parametrize("method", [name for name, model in METHODS.items() if model.capabilities.is_sensitive])
def test_a_method_that_is_sensitive_to_its_rate_says_so(write_recipe, method):
    assert plan(write_recipe(), f"peft.method={method}").notes == (f"{method}: {METHODS[method].advice}",)
    typical = METHODS[method].capabilities.typical_learning_rate
    assert plan(write_recipe(), f"peft.method={method}", f"training.learning_rate={typical}").notes == ()
    (far,) = plan(write_recipe(), f"peft.method={method}", f"training.learning_rate={typical / 5}").notes
    assert far.startswith("training.learning_rate: ")


def test_what_is_known_of_the_data_is_passed_on(write_recipe):
    made = plan(write_recipe(), data=DataFacts(10, 0, 64, "40 rows packed into 10", ("a note",)))
    assert (made.train_rows.why, made.eval_rows.why, made.notes) == (
        "40 rows packed into 10",
        "no evaluation rows",
        ("a note",),
    )


@pytest.mark.skipif(find_spec("transformers") is None, reason="reads the installed transformers")
@pytest.mark.parametrize(
    ("family", "kernel"), [("llama", "sdpa"), ("gemma2", "eager"), ("deberta-v2", "eager"), ("of-its-own", "sdpa")]
)
def test_attention_is_what_the_family_has(write_recipe, family, kernel):
    facts = replace(SMALL, model_type=family)
    assert plan(write_recipe(), facts=facts).attn_implementation.value == kernel
    if kernel == "eager":
        (told,) = problems(write_recipe(), "model.attn_implementation=sdpa", facts=facts)
        assert told.endswith(f'model.attn_implementation: {family} does not support "sdpa" (write "auto" or "eager")')


def test_memory_for_a_start_is_told_and_has_micro_batches_made_smaller(write_recipe):
    """The gradients of all weights that are adapted, beside the activations of a step."""
    shapes = {f"layers.{number}.up_proj": (11008, 4096) for number in range(32)}
    facts = replace(LARGE, parameters=2_000_000_000, matrices=shapes)
    plain, made = (
        plan(write_recipe(), f"peft.init_lora_weights={start}", machine=gpu((8, 0), free=21 * GB), facts=facts)
        for start in ("default", "lora_ga")
    )
    assert "to initialise the adapter" not in plain.memory_bytes.why
    assert made.memory_bytes.why.endswith("; 3.5 GB of it to initialise the adapter")
    assert made.per_device_train_batch_size.value < plain.per_device_train_batch_size.value


def test_an_optimizer_that_is_not_paged_here_is_told(write_recipe):
    optim = "training.optim=paged_adamw_8bit"
    assert (
        'optim: "paged_adamw_8bit" does not page on cpu; otherwise it is the same' in plan(write_recipe(), optim).notes
    )
    assert not [note for note in plan(write_recipe(), optim, machine=MACHINES["ampere"]).notes if "paged" in note]
    (told,) = problems(write_recipe(), optim, machine=APPLE)
    assert "which does not train on an Apple GPU" in told


@pytest.mark.parametrize(
    "method", [name for name in METHODS if METHODS[name].capabilities.quantized_biases is not True]
)
def test_what_changes_packed_layers_in_place_is_refused_where_they_have_biases(write_recipe, method):
    packed = (*choosing(method), "quantization.method=bnb-4bit")
    told = f"--set: peft.method: {method} does not train over a quantised base whose layers have biases: "
    assert problems(write_recipe(), *packed, facts=replace(SMALL, has_biases=True))[0].startswith(told)
    assert plan(write_recipe(), *packed)
    assert plan(write_recipe(), *choosing(method), facts=replace(SMALL, has_biases=True))


# Processes


def ddp(count):
    return ("distributed.strategy=ddp", f"distributed.num_processes={count}")


def sharing(parts):
    more = ("distributed.num_processes=2", f"distributed.context_parallel_size={parts}")
    return ("distributed.strategy=deepspeed", *more)


def test_processes_share_the_global_batch(write_recipe):
    made = plan(write_recipe(), *ddp(2), "training.global_batch_size=8", "training.per_device_train_batch_size=2")
    assert (made.world_size.value, made.world_size.origin) == (2, "--set")
    assert made.per_device_train_batch_size.value == made.gradient_accumulation_steps.value == 2
    assert made.global_batch_size.value == 8
    assert made.steps_per_epoch.value == 13
    assert made.device.why == "2 cores, 1 per process, no GPU"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("more", [(), ("training.gradient_accumulation_steps=3",)])
def test_the_global_batch_is_micro_batch_times_accumulation_times_processes(write_recipe, count, more):
    made = plan(write_recipe(), *ddp(count), *more, machine=replace(CPU, cores=8))
    parts = (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.world_size)
    assert made.global_batch_size.value == math.prod(part.value for part in parts)
    assert made.global_batch_size.origin == ("default" if not more and count in {1, 2} else "computed")


def test_processes_that_do_not_divide_an_epoch_are_told(write_recipe):
    assert plan(write_recipe(), *ddp(2), "training.global_batch_size=8").notes == (
        "an epoch of 100 rows repeats the first 4, so that every process gets the same number",
    )


def test_processes_that_share_rows_take_the_steps_of_one(write_recipe):
    size = "training.per_device_train_batch_size=4"
    numbers = ("global_batch_size", "gradient_accumulation_steps", "steps_per_epoch", "max_steps")
    alone, shared = plan(write_recipe(), size), plan(write_recipe(), size, *sharing(2))
    assert [getattr(shared, name).value for name in numbers] == [getattr(alone, name).value for name in numbers]
    assert shared.memory_bytes.value < alone.memory_bytes.value
    assert not shared.notes


def test_there_is_a_process_for_each_gpu(write_recipe):
    machine = gpu((8, 0))
    machine = replace(machine, gpus=machine.gpus * 4)
    made = plan(write_recipe(), "distributed.strategy=ddp", machine=machine)
    assert (made.world_size.value, made.world_size.why, made.device.why) == (4, "one per GPU", "GPU, 4 of 4")
    assert problems(write_recipe(), *ddp(5), machine=machine) == [
        "--set: distributed.num_processes: 5 processes, but this machine has 4 GPUs (write at most 4)"
    ]


@pytest.mark.parametrize(
    ("overrides", "machine", "told"),
    [
        (ddp(3), CPU, "3 processes, but this machine has 2 cores (write at most 2)"),
        (sharing(4), CPU, "4 processes share each row, but there are 2 (write 2)"),
        (ddp("auto"), CPU, '"auto" is one process per GPU, but this machine has no GPU (write a number, such as `'),
        (ddp(2), APPLE, "an Apple GPU trains in a single process (write 1)"),
        ((*ddp(2), "training.global_batch_size=7"), CPU, "7 is not divisible by 2 processes (write 6 or 8)"),
        ((*ddp(2), "training.global_batch_size=1"), CPU, "1 is not divisible by 2 processes (write 2)"),
        (
            (*ddp(2), "training.global_batch_size=12", "training.per_device_train_batch_size=4"),
            CPU,
            "12 is not divisible by 2 processes with micro-batches of 4 (write 8 or 16)",
        ),
    ],
)
def test_processes_that_cannot_train_together_are_refused(write_recipe, overrides, machine, told):
    assert told in problems(write_recipe(), *overrides, machine=machine)[0]


HUGE = BaseFacts("llama", 70_000_000_000, "BF16", 8192, 28672, 80, 128_000, None, {})


def eight(free):
    machine = gpu((8, 0))
    return replace(machine, gpus=[replace(machine.gpus[0], free_bytes=free * 10**9)] * 8)


@pytest.mark.parametrize(
    ("facts", "machine", "expected", "why"),
    [
        (SMALL, CPU, "ddp", "sharding needs GPUs"),
        (SMALL, eight(80), "ddp", "a step fits into each GPU"),
        (HUGE, eight(80), "fsdp", "the weights fit when sharded over 8 GPUs"),
        (HUGE, eight(16), "deepspeed", "the weights do not fit into 8 GPUs, and are offloaded to CPU memory"),
        (HUGE, eight(2), "ddp", "no other strategy fits either"),
    ],
)
def test_the_simplest_strategy_that_fits_is_chosen(write_recipe, facts, machine, expected, why):
    count = ("distributed.num_processes=2",) if machine is CPU else ()
    made = plan(write_recipe(), "distributed.strategy=auto", *count, facts=facts, machine=machine)
    assert (made.strategy.value, made.strategy.origin, made.strategy.why) == (expected, "computed", why)


def test_the_gpus_of_all_machines_are_counted_where_weights_are_divided(write_recipe):
    several = ("distributed.strategy=auto", "distributed.num_nodes=2", "distributed.rdzv_endpoint=10.0.0.1:29500")
    made = plan(write_recipe(), *several, facts=HUGE, machine=eight(80))
    assert (made.strategy.value, made.strategy.why) == ("fsdp", "the weights fit when sharded over 16 GPUs")


def test_one_process_needs_no_strategy(write_recipe):
    made = plan(write_recipe(), "distributed.strategy=auto", "distributed.num_processes=1")
    assert (made.strategy.value, made.strategy.why) == ("none", "one process")


def test_a_method_that_needs_whole_weights_is_not_divided(write_recipe):
    made = plan(write_recipe(), *choosing("tinylora"), "distributed.strategy=auto", facts=HUGE, machine=eight(80))
    assert made.strategy.value == "ddp"


def test_weights_are_divided_among_gpus_alone(write_recipe):
    assert problems(write_recipe(), "distributed.strategy=fsdp", "distributed.num_processes=2") == [
        '--set: distributed.strategy: "fsdp" needs GPUs: accelerate shards nothing on cpu '
        '(write "ddp", or "deepspeed" with `zero_stage = 3`)'
    ]


def test_every_machine_has_as_many_processes(write_recipe):
    several = (*ddp(2), "distributed.num_nodes=3", "distributed.rdzv_endpoint=10.0.0.1:29500")
    made = plan(write_recipe(), *several, "training.global_batch_size=12")
    assert (made.world_size.value, made.world_size.why) == (6, "2 on each of 3 machines")
    assert made.per_device_train_batch_size.value * made.gradient_accumulation_steps.value == 2


def test_a_window_that_is_not_used_needs_no_mask(write_recipe):
    """Qwen 2 writes `sliding_window` into its settings, and says beside it that no layer has one."""
    rows = DataFacts(100, 10, longest=128, mean_length=60)
    whole, unused, used = (
        plan(write_recipe(), facts=replace(SMALL, settings=settings), data=rows).memory_bytes.value
        for settings in ({}, {"sliding_window": 64, "use_sliding_window": False}, {"sliding_window": 64})
    )
    assert whole == unused < used


def test_rows_of_a_cpu_that_are_short_are_multiplied(write_recipe):
    made = {
        asked: plan(write_recipe(), f"model.attn_implementation={asked}", facts=LARGE) for asked in ("auto", "sdpa")
    }
    assert {plan.dtype.value for plan in made.values()} == {"bfloat16"}
    assert {plan.attn_implementation.value for plan in made.values()} == {"sdpa"}
    assert "matrix products are faster on a CPU" in made["auto"].attn_implementation.why
    assert "matrix" not in made["sdpa"].attn_implementation.why
