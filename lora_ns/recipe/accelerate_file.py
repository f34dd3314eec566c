"""Translation of an accelerate configuration file into recipe keys, notes and problems.

The file is read without accelerate. No key is silently ignored: it sets a key of the recipe, states what lorans does
anyway, adds a note, or is a problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, RecipeError, did_you_mean
from lora_ns.files.reading import LARGEST_YAML, shown_size
from lora_ns.files.yaml_nodes import reading_yaml, yaml_loader
from lora_ns.safety.credentials import HIDDEN, is_secret_name

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class Setting:
    """A key of the file that sets a key of the recipe."""

    key: str
    """Dotted key of the recipe."""
    value: Any
    where: str
    shown: str
    """Key and value as the file has them, such as `zero_stage: 2`."""


@dataclass(frozen=True)
class AccelerateFile:
    """Content of a file. In `settings`, the strategy comes first."""

    path: Path
    text: str
    settings: tuple[Setting, ...]
    cpu: Setting | None
    """The key that forces training on the CPU, if any."""
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Entry:
    """A key of the file with its value and place."""

    name: str
    """Dotted key."""
    value: Any
    where: str

    @property
    def shown(self) -> str:
        """Key and value as the file has them, with secrets hidden."""
        value = HIDDEN if is_secret_name(self.name.rpartition(".")[2]) else json.dumps(self.value, default=str)
        return f"`{self.name}: {value}`"

    def stands_for(self, key: str, value: Any) -> Setting:
        """Return the recipe key and value that this key sets."""
        return Setting(key, value, self.where, self.shown)


@dataclass(frozen=True)
class _Rule:
    """Treatment of a key of the file."""

    same: tuple[Any, ...] = ()
    """Values that state what lorans does anyway."""
    noted: tuple[Any, ...] = ()
    """Values that are accepted with `note`."""
    note: str = ""
    key: str = ""
    """Key of the recipe that it sets."""
    values: tuple[tuple[Any, Any], ...] | None = None
    """Pairs of the file's value and the recipe's; None if both are the same."""
    remedy: str = "remove it"


@dataclass
class _Found:
    settings: list[Setting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, entry: _Entry, text: str) -> None:
        self.notes.append(f"{entry.where}: {entry.shown}: {text}")

    def refuse(self, entry: _Entry, remedy: str) -> None:
        self.problems.append(Problem(entry.where, f"{entry.shown} is not supported", remedy))


_FLAGS = (True, False)


_TYPES = (
    ("NO", "none"),
    (False, "none"),  # as YAML reads a bare NO
    ("MULTI_GPU", "ddp"),
    ("MULTI_CPU", "ddp"),
    ("FSDP", "fsdp"),
    ("DEEPSPEED", "deepspeed"),
)


_TABLES = {"fsdp_config": "FSDP", "deepspeed_config": "DEEPSPEED"}
"""The `distributed_type` that each table belongs to."""


_SEEN_GPUS = "write `all`, and choose GPUs with `CUDA_VISIBLE_DEVICES=0,1 lorans ...`"


_TOP: Mapping[str, _Rule] = {
    "compute_environment": _Rule(same=("LOCAL_MACHINE",), remedy="write LOCAL_MACHINE"),
    "debug": _Rule(same=(False,)),
    "downcast_bf16": _Rule(same=("no", False)),
    "dynamo_backend": _Rule(same=("NO", "no", False)),
    "dynamo_config": _Rule(same=({},)),
    "enable_cpu_affinity": _Rule(same=(False,)),
    "deepspeed_config": _Rule(remedy="write a table"),
    "fp16": _Rule(same=(False,), remedy="write `mixed_precision: fp16`"),
    "fp8_config": _Rule(same=({},)),
    "fsdp_config": _Rule(remedy="write a table"),
    "gpu_ids": _Rule(same=("all",), remedy=_SEEN_GPUS),
    "main_training_function": _Rule(same=("main",)),
    "megatron_lm_config": _Rule(same=({},)),
    "mixed_precision": _Rule(
        noted=("no", False),
        note="has no effect; `model.dtype` sets the precision",
        key="model.dtype",
        values=(("bf16", "bfloat16"), ("fp16", "float16")),
        remedy="write `bf16` or `fp16`",
    ),
    "mpirun_config": _Rule(same=({},), remedy="remove it: torchrun starts the processes"),
    "parallelism_config": _Rule(same=({},)),
    "rdzv_backend": _Rule(same=("static", "c10d", ""), remedy="write `c10d`"),
    "same_network": _Rule(same=_FLAGS),
    "use_cpu": _Rule(same=_FLAGS),
    **{name: _Rule(same=("",)) for name in ("command_file", "tpu_name", "tpu_zone")},
    **{name: _Rule(same=([],)) for name in ("commands", "tpu_env", "tpu_vm")},
    **{name: _Rule(same=(False,)) for name in ("tpu_use_cluster", "tpu_use_sudo")},
}


_OF_FSDP1 = "has no effect: it is an option of FSDP1, and lorans uses FSDP2"


_BLOCKS = "remove it: the weights are sharded by the base's transformer blocks"


_RESHARD = "distributed.reshard_after_forward"


_FSDP: Mapping[str, _Rule] = {
    "fsdp_version": _Rule(same=(2,), remedy="write 2, or let `accelerate to-fsdp2` convert the file"),
    "fsdp_reshard_after_forward": _Rule(
        key=_RESHARD, values=((True, True), (False, False), ("FULL_SHARD", True), ("SHARD_GRAD_OP", False))
    ),
    "fsdp_sharding_strategy": _Rule(
        key=_RESHARD,
        values=(("FULL_SHARD", True), ("SHARD_GRAD_OP", False)),
        remedy="write `fsdp_reshard_after_forward: true` instead",
    ),
    "fsdp_offload_params": _Rule(key="distributed.cpu_offload"),
    "fsdp_auto_wrap_policy": _Rule(same=("TRANSFORMER_BASED_WRAP",), remedy="write TRANSFORMER_BASED_WRAP"),
    "fsdp_transformer_layer_cls_to_wrap": _Rule(same=("", []), remedy=_BLOCKS),
    "fsdp_min_num_params": _Rule(same=(0,), remedy=_BLOCKS),
    "fsdp_state_dict_type": _Rule(
        same=("FULL_STATE_DICT",),
        noted=("SHARDED_STATE_DICT",),
        note="checkpoints and adapters are saved whole",
        remedy="write FULL_STATE_DICT",
    ),
    "fsdp_cpu_ram_efficient_loading": _Rule(
        same=(False,), noted=(True,), note="every process reads the whole base before sharding it"
    ),
    "fsdp_activation_checkpointing": _Rule(
        same=(False,), key="training.gradient_checkpointing", values=((True, True),)
    ),
    "fsdp_activation_checkpointing_offload": _Rule(same=(False,)),
    "fsdp_backward_prefetch": _Rule(noted=("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"), note=_OF_FSDP1),
    **{
        name: _Rule(noted=_FLAGS, note=_OF_FSDP1)
        for name in ("fsdp_forward_prefetch", "fsdp_use_orig_params", "fsdp_sync_module_states")
    },
}


_TORCHRUN = "remove it, and run the same command on each machine"


_DEEPSPEED: Mapping[str, _Rule] = {
    "zero_stage": _Rule(key="distributed.zero_stage"),
    "offload_optimizer_device": _Rule(key="distributed.offload_optimizer"),
    "offload_param_device": _Rule(key="distributed.offload_param"),
    "offload_optimizer_nvme_path": _Rule(same=("none", ""), key="distributed.nvme_path"),
    "offload_param_nvme_path": _Rule(same=("none", ""), key="distributed.nvme_path"),
    "deepspeed_config_file": _Rule(same=("none", ""), key="distributed.deepspeed_config"),
    "gradient_accumulation_steps": _Rule(same=("auto",), key="training.gradient_accumulation_steps"),
    "gradient_clipping": _Rule(same=("auto",), key="training.max_grad_norm"),
    "zero3_init_flag": _Rule(same=_FLAGS),
    "zero3_save_16bit_model": _Rule(same=(True,), noted=(False,), note="adapters are always saved whole"),
    "deepspeed_multinode_launcher": _Rule(same=("standard",), remedy="write `standard`: torchrun is the launcher"),
    **{
        name: _Rule(remedy=_TORCHRUN)
        for name in ("deepspeed_hostfile", "deepspeed_exclusion_filter", "deepspeed_inclusion_filter")
    },
    "deepspeed_moe_layer_cls_names": _Rule(same=("",)),
}


_COUNTS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")


_LEAST = {"num_processes": -1, "num_machines": 1, "machine_rank": 0, "main_process_port": 1}
"""Smallest value of each number; -1 processes means one per GPU."""


_PORT = 29500
"""Accelerate's default port."""


def parse_accelerate(path: Path, text: str, folder: Path) -> AccelerateFile:
    """Parse an accelerate configuration file.

    Args:
        path: the file, for messages.
        text: its content.
        folder: path from the recipe to the folder of the file, for a DeepSpeed file that it names.

    Raises:
        RecipeError: if it is not YAML, or not a table. Unsupported settings are in the result's `problems`.
    """
    if len(text) > LARGEST_YAML:  # checked again for a copy inside a run
        raise RecipeError(Problem(str(path), f"is larger than {shown_size(LARGEST_YAML)}", "make it smaller"))
    found = _Found()
    top, tables = _entries(path, text, found)
    strategy = _strategy(top.pop("distributed_type", None), path, found)
    cpu = _cpu(top, found)
    _counts(top, strategy, found)
    for entry in top.values():
        _apply(entry, entry.name, _TOP, found)
    _tables(tables, strategy, found, folder)
    return AccelerateFile(path, text, tuple(found.settings), cpu, tuple(found.notes), tuple(found.problems))


def _entries(path: Path, text: str, found: _Found) -> tuple[dict[str, _Entry], dict[str, tuple[_Entry, list[_Entry]]]]:
    """Return the keys of a file, and the keys of its strategy tables."""
    import yaml

    with reading_yaml(str(path), RecipeError):
        loader = yaml_loader(text, str(path), RecipeError)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            what = "is empty" if node is None else "is not an accelerate configuration"
            raise RecipeError(Problem(str(path), what, "create one with `accelerate config --config_file FILE`"))
        pairs = list(_keys(loader, node, path, "", found))
        tables = {
            entry.name: (entry, [below for below, _ in _keys(loader, value, path, f"{entry.name}.", found)])
            for entry, value in pairs
            if entry.name in _TABLES and isinstance(value, yaml.MappingNode)
        }
    return {entry.name: entry for entry, _ in pairs if entry.name not in tables}, tables


def _keys(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, before: str, found: _Found
) -> Iterator[tuple[_Entry, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        name = str(loader.construct_object(key))
        entry = _Entry(
            f"{before}{name}", loader.construct_object(value, deep=True), f"{path}:{key.start_mark.line + 1}"
        )
        if name in seen:
            found.problems.append(Problem(entry.where, f"`{entry.name}` is given twice", "remove one of them"))
        seen.add(name)
        yield entry, value


def _is_among(value: Any, choices: tuple[Any, ...]) -> bool:
    """Return whether a value is among the choices, with the same type: true is not 1."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _strategy(entry: _Entry | None, path: Path, found: _Found) -> str | None:
    """Return the recipe's strategy, None if the file names none that is supported."""
    remedy = f"one of: {', '.join(str(name) for name, _ in _TYPES if name)}"
    if entry is None or entry.value is None:
        found.problems.append(Problem(str(path), "`distributed_type` is missing", remedy))
        return None
    for value, strategy in _TYPES:
        if _is_among(entry.value, (value,)):
            found.settings.append(entry.stands_for("distributed.strategy", strategy))
            return strategy
    found.refuse(entry, remedy)
    return None


def _cpu(top: Mapping[str, _Entry], found: _Found) -> Setting | None:
    """Return the key that forces training on the CPU, if any."""
    entry = top.get("use_cpu")
    if entry is not None and entry.value is True:
        return entry.stands_for("", True)
    return next((setting for setting in found.settings if "MULTI_CPU" in setting.shown), None)


def _counts(top: dict[str, _Entry], strategy: str | None, found: _Found) -> None:
    """Translate the numbers of processes and machines: accelerate counts all processes, the recipe per machine."""
    given = {name: entry for name in _COUNTS if (entry := top.pop(name, None)) and entry.value is not None}
    for name, least in _LEAST.items():
        entry = given.get(name)
        if entry and (type(entry.value) is not int or (entry.value < 1 and entry.value != least)):
            found.problems.append(
                Problem(entry.where, f"{entry.shown} is not a valid number", "write a number above 0")
            )
            return
    if strategy == "none":
        _alone(given, found)
        return
    machines = given["num_machines"].value if "num_machines" in given else 1
    processes = given.get("num_processes")
    if processes and processes.value > 0:
        if processes.value % machines:
            what = f"{processes.shown} is not divisible by {machines} machines"
            found.problems.append(
                Problem(processes.where, what, "write the number of processes on all machines together")
            )
        else:
            found.settings.append(processes.stands_for("distributed.num_processes", processes.value // machines))
    if "num_machines" in given:
        found.settings.append(given["num_machines"].stands_for("distributed.num_nodes", machines))
    _meeting(given, machines, found)


def _alone(given: Mapping[str, _Entry], found: _Found) -> None:
    """Check the numbers of a file for a single process."""
    for name, entry in given.items():
        if name == "num_machines" and entry.value > 1:
            found.refuse(entry, "a single process runs on one machine: write 1, or another `distributed_type`")
        elif entry.value not in (-1, 0, 1):
            found.note(entry, "has no effect: `distributed_type: NO` runs one process")


def _meeting(given: Mapping[str, _Entry], machines: int, found: _Found) -> None:
    """Translate the rendezvous endpoint."""
    address, port, rank = (given.get(name) for name in ("main_process_ip", "main_process_port", "machine_rank"))
    if address:
        place = f"{address.value}:{port.value if port else _PORT}"
        found.settings.append(address.stands_for("distributed.rdzv_endpoint", place))
    elif port:
        one = "has no effect: a single machine uses any free port"
        found.note(port, one if machines == 1 else "has no effect without `main_process_ip`")
    if rank and rank.value:
        found.note(rank, "has no effect: the machine with the address is the first")


def _apply(entry: _Entry, name: str, rules: Mapping[str, _Rule], found: _Found) -> None:
    """Apply the rule of a key."""
    rule, value = rules.get(name), _plain(name, entry.value)
    if rule is None:
        known = [*rules, *(_COUNTS if rules is _TOP else ())]
        close = did_you_mean(name, known, write=lambda key: key if _is_taken(key, entry.value, rules) else None)
        found.problems.append(Problem(entry.where, f"`{entry.name}`: unknown key", close or "remove it"))
        return
    if value is None or _is_among(value, rule.same):
        return
    if _is_among(value, rule.noted):
        found.note(entry, rule.note)
        return
    values = ((value, value),) if rule.key and rule.values is None else rule.values or ()
    theirs = next((ours for given, ours in values if _is_among(value, (given,))), None)
    if theirs is None:
        found.refuse(entry, rule.remedy)
    else:
        found.settings.append(entry.stands_for(rule.key, theirs))


def _is_taken(name: str, value: Any, rules: Mapping[str, _Rule]) -> bool:
    """Return whether the file may have a key with this value."""
    rule = rules.get(name)
    if rule is None or (name in _TABLES and isinstance(value, dict)):
        return True
    if rule.key and rule.values is None:
        return True
    return _is_among(_plain(name, value), (None, *rule.same, *rule.noted, *(given for given, _ in rule.values or ())))


def _plain(name: str, value: Any) -> Any:
    """Return a value, where a dynamo table without a backend counts as empty."""
    is_off = name == "dynamo_config" and isinstance(value, dict)
    return {} if is_off and value.get("dynamo_backend", "NO") in ("NO", "no", False) else value


def _tables(
    tables: Mapping[str, tuple[_Entry, list[_Entry]]], strategy: str | None, found: _Found, folder: Path
) -> None:
    """Translate the table of the strategy, and refuse those of others."""
    names = {"fsdp": "fsdp_config", "deepspeed": "deepspeed_config"}
    for name, (entry, _) in tables.items():
        if strategy and name != names.get(strategy) and entry.value:
            what = f"`{name}` has no effect without `distributed_type: {_TABLES[name]}`"
            found.problems.append(Problem(entry.where, what, "remove it"))
    if strategy == "fsdp":
        _fsdp(tables.get("fsdp_config"), found)
    elif strategy == "deepspeed" and "deepspeed_config" in tables:
        _deepspeed(tables["deepspeed_config"][1], found, folder)


def _fsdp(table: tuple[_Entry, list[_Entry]] | None, found: _Found) -> None:
    names = []
    for entry in table[1] if table else ():
        last = entry.name.partition(".")[2]
        names.append(last if last.startswith("fsdp_") else f"fsdp_{last}")  # as accelerate reads it
        _apply(entry, names[-1], _FSDP, found)
    if "fsdp_version" not in names:
        where = table[0].where if table else found.settings[0].where
        what = "`fsdp_config.fsdp_version` is missing, which means FSDP1 to accelerate"
        found.problems.append(Problem(where, what, "add `fsdp_version: 2`, or let `accelerate to-fsdp2` convert it"))


def _deepspeed(entries: list[_Entry], found: _Found, folder: Path) -> None:
    values = {}
    for entry in entries:
        name = entry.name.partition(".")[2]
        values[name] = entry
        _apply(entry, name, _DEEPSPEED, found)
    init = values.get("zero3_init_flag")
    if init and init.value is False and "zero_stage" in values and values["zero_stage"].value == 3:
        found.note(init, "has no effect: an unquantised base is partitioned while it is loaded")
    found.settings[:] = [_placed(setting, folder) for setting in found.settings]


def _placed(setting: Setting, folder: Path) -> Setting:
    """Make the path of a DeepSpeed file relative to the recipe, not to the file that names it."""
    if setting.key != "distributed.deepspeed_config" or not isinstance(setting.value, str):
        return setting
    return Setting(setting.key, str(folder / Path(setting.value).expanduser()), setting.where, setting.shown)
