"""Where jobs of earlier versions, which may be queued still, look for their work."""

from lora_ns.launch.schedulers.slurm import Work

__all__ = ["Work"]
