"""A few completions of each evaluation, written to the run to be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from lora_ns.objectives.prompt_trainer import Sample


def sample_writer(samples: Callable[[], Sequence[Sample]], file: Path, first_step: int) -> TrainerCallback:
    """A callback that appends the samples of each evaluation to a file; later ones than `first_step` are removed."""
    from transformers import TrainerCallback

    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
        file.write_text("".join(kept), encoding="utf-8")

    class SampleWriter(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `sample_writer`."""

        def on_evaluate(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            rows = [{"step": state.global_step, **asdict(sample)} for sample in samples()]
            with file.open("a", encoding="utf-8") as opened:
                opened.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    return SampleWriter()
