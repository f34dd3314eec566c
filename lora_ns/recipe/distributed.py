"""`[distributed]`: the processes that train together, a class for each strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from lora_ns.recipe.base import PositiveInt, Table


class Strategy(Table):
    """What all strategies share."""


class OneProcess(Strategy):
    """One process, on one device."""

    strategy: Literal["none"] = "none"
    """No other processes."""


class Ddp(Strategy):
    """PyTorch's `DistributedDataParallel`: each process has the whole model and a part of every batch."""

    strategy: Literal["ddp"]
    """Data parallel processes on one machine."""
    num_processes: Literal["auto"] | PositiveInt = "auto"
    """Processes that train together; `auto` is one for each GPU, and on a CPU a number has to be given."""
    timeout: PositiveInt = 1800
    """Seconds that a process waits for the others before the run ends."""


Distributed = Annotated[OneProcess | Ddp, Field(discriminator="strategy")]
STRATEGIES: Mapping[str, type[Strategy]] = {"none": OneProcess, "ddp": Ddp}
"""The tables by their `strategy`."""
