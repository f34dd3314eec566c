"""Import path of `Work` for queued jobs that an earlier version submitted."""

from lora_ns.launch.schedulers.slurm import Work

__all__ = ["Work"]
