"""The facts of a run's report, read tolerantly from its directory: what the page shows and `report.json` holds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lora_ns.errors import LoransError
from lora_ns.files.reading import LARGEST_TEXT, is_file, is_folder, read_bytes, read_json, read_text
from lora_ns.parallel.nodes import resume_command
from lora_ns.recipe.keys import as_toml
from lora_ns.recipe.lines import line_numbers
from lora_ns.recipe.overrides import origin_of
from lora_ns.report.curves import Curves, read_curves, speed, thin
from lora_ns.report.predictions import Predictions, entity_rows
from lora_ns.report.verdict import Verdict, judge
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.metrics import read_metrics
from lora_ns.safety.credentials import scrubbed_table

VERSION = 1
"""Version of `report.json`; it grows when a fact changes its place or meaning."""


POINTS = 500
"""Points of each series in `report.json`."""


MOST_ITEMS = 10_000
"""Items of an evaluation that are read."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that the run keeps."""

    folder: Path
    created: str
    suites: Sequence[Mapping[str, Any]]

    @property
    def is_of_training(self) -> bool:
        """True if it compares the model after training with the one before."""
        return any(name in {"before", "after"} for suite in self.suites for name in systems_of(suite))


@dataclass(frozen=True)
class RecipeValue:
    """A value of the recipe."""

    key: str
    value: str
    origin: str
    """`recipe`, `--set` or `default`; `accelerate_config` or `init_adapter` for what a file or an earlier run gave."""


@dataclass(frozen=True)
class Facts:
    """All that is known about a run."""

    run: RunDir
    manifest: Manifest
    curves: Curves
    verdict: Verdict
    trained_rows: Sequence[Mapping[str, Any]] = ()
    evaluations: Sequence[Evaluation] = ()
    """From the oldest to the newest."""
    items: Sequence[Mapping[str, Any]] = ()
    """Items of the newest evaluation, each with its answers."""
    samples: Sequence[Mapping[str, Any]] = ()
    """Completions during training."""
    predictions: Predictions | None = None
    artefacts: Sequence[Mapping[str, Any]] = ()
    """What was merged or exported, each with its proof."""
    recipe: Sequence[RecipeValue] = ()
    bad_steps: Sequence[int] = ()
    """Steps that were skipped because their gradient was not finite."""
    notes: Sequence[str] = field(default_factory=tuple)
    """What could not be read."""

    @property
    def eval_rows(self) -> int:
        """Number of evaluation rows."""
        return self.manifest.data.eval.rows if self.manifest.data.eval else 0

    @property
    def commands(self) -> dict[str, str]:
        """Commands that go on from this run, by what they do."""
        run, objective = shlex.quote(str(self.run.path)), self.manifest.recipe.objective
        asks = '--input "..."' if objective.answers != "score" else "--input-file rows.jsonl"
        found = {}
        if self.manifest.status != "finished":
            found["resume"] = resume_command(self.run.path, self.manifest.recipe.distributed).strip("`")
        else:
            found |= {"infer": f"lorans infer {run} {asks}", "evaluate": f"lorans eval {run}"}
            found["merge"] = f"lorans merge {run} --output merged"
        if self.verdict.is_trouble:
            found = {"explain": f"lorans explain {run}", **found}
        return {**found, "reproduce": f"lorans reproduce {run}", "report": f"lorans report {run}"}

    def as_table(self) -> dict[str, Any]:
        """Return the facts as JSON values, without secrets."""
        manifest = self.manifest
        series = {name: thin(one, POINTS).as_table() for name, one in self.curves.series.items()}
        series["tokens_per_second"] = thin(speed(self.curves), POINTS).as_table()
        table = {
            "version": VERSION,
            "lorans": manifest.lorans,
            "run_id": manifest.run_id,
            "directory": str(self.run.path),
            "task_name": manifest.recipe.task_name,
            "status": manifest.status,
            "created": manifest.created,
            "updated": manifest.updated,
            "verdict": asdict(self.verdict),
            "metrics": manifest.metrics,
            "baseline": manifest.baseline,
            "curves": series,
            "trained_rows": list(self.trained_rows),
            "data": manifest.data.model_dump(mode="json", exclude={"eval_rows"}),
            "evaluations": [
                {"folder": str(one.folder), "created": one.created, "suites": list(one.suites)}
                for one in self.evaluations
            ],
            "predictions": self.predictions and self.predictions.as_table(),
            "entities": [
                dict(zip(("name", "precision", "recall", "f1"), row, strict=True))
                for row in entity_rows(manifest.metrics)
            ],
            "seal": manifest.seal and manifest.seal.model_dump(mode="json"),
            "adapter": manifest.adapter,
            "artefacts": list(self.artefacts),
            "base": manifest.base.model_dump(mode="json"),
            "recipe": [asdict(one) for one in self.recipe],
            "plan": manifest.plan.model_dump(mode="json"),
            "environment": {"packages": manifest.packages, "machine": manifest.machine},
            "best": manifest.best and manifest.best.model_dump(mode="json"),
            "ended": manifest.ended,
            "bad_steps": list(self.bad_steps),
            "commands": self.commands,
            "notes": list(self.notes),
        }
        clean = scrubbed_table(table)
        assert isinstance(clean, dict)
        return clean


def gather(run: RunDir) -> Facts:
    """Read the facts of a run. What is missing is left out; what is damaged is left out with a note.

    Raises:
        UsageError: if the manifest cannot be read.
    """
    manifest, notes = run.read(), list[str]()

    def told(what: str, read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except (LoransError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            notes.append(f"{what}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return otherwise

    curves: Curves = told("metrics.jsonl", lambda: read_curves(run.metrics), Curves())
    notes.extend(curves.notes)
    evaluations = told("evaluations", lambda: list(_evaluations(run, notes)), [])
    of_training = next((one for one in reversed(evaluations) if one.is_of_training), None)
    newest = of_training or (evaluations[-1] if evaluations else None)
    items = told("items.jsonl", lambda: _items(newest.folder / "items.jsonl"), []) if newest else []
    predictions: Predictions | None = told("predictions.json", lambda: _predictions(run, notes), None)
    answers = _answers(items) or (predictions.answers if predictions else [])
    verdict = judge(manifest, curves, newest.suites if newest else (), answers)
    return Facts(
        run,
        manifest,
        curves,
        verdict,
        told("trained_rows.json", lambda: _listed(run.trained_rows), []),
        evaluations,
        items,
        told("samples.jsonl", lambda: read_metrics(run.samples).rows, ()),
        predictions,
        told("artefacts.jsonl", lambda: _artefacts(run), []),
        told("recipe.toml", lambda: _recipe(run, manifest), []),
        told("bad_batch.jsonl", lambda: sorted({row["step"] for row in read_metrics(run.bad_batch).rows}), []),
        tuple(notes),
    )


def systems_of(suite: Mapping[str, Any]) -> list[str]:
    """The names of the systems in a suite, in their order; empty if the record is damaged."""
    try:
        return list(next(iter(suite["whole"]["figures"].values())))
    except (KeyError, TypeError, AttributeError, StopIteration):
        return []


def _evaluations(run: RunDir, notes: list[str]) -> Iterator[Evaluation]:
    if not is_folder(run.evaluations):
        return
    numbered = sorted(int(one.name) for one in run.evaluations.iterdir() if one.name.isdecimal())
    for number in numbered:
        folder = run.evaluations / str(number)
        file = folder / "results.json"
        if not is_file(file):
            continue
        try:
            table = read_json(file)
            suites = [suite for suite in table["suites"] if systems_of(suite)]
            yield Evaluation(folder, str(table.get("created", "")), suites)
        except (LoransError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"evaluations/{number}/results.json: {str(error).splitlines()[0]}")


def _items(file: Path) -> list[Mapping[str, Any]]:
    if not is_file(file):
        return []
    found: list[Mapping[str, Any]] = []
    for line in read_bytes(file, most=LARGEST_TEXT).split(b"\n", MOST_ITEMS)[:MOST_ITEMS]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("answers"), dict):
            found.append(row)
    return found


def _answers(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Expected answers with those of the trained model, if both are text."""
    pairs = [(item.get("expected"), item["answers"].get("after", item["answers"].get("adapter"))) for item in items]
    return [(want, got) for want, got in pairs if isinstance(want, str) and isinstance(got, str)]


def _listed(file: Path) -> list[Mapping[str, Any]]:
    """A list of tables."""
    if not is_file(file):
        return []
    return [row for row in read_json(file) if isinstance(row, dict)]


def _predictions(run: RunDir, notes: list[str]) -> Predictions | None:
    if not is_file(run.predictions):
        return None
    found = Predictions.of(read_json(run.predictions, most=LARGEST_TEXT))
    if found is None:
        notes.append("predictions.json: is damaged")
    return found


def _artefacts(run: RunDir) -> list[Mapping[str, Any]]:
    """What was made of this run; of a place that was written several times, the last."""
    if not is_file(run.artefacts):
        return []
    found: dict[str, Mapping[str, Any]] = {}
    for line in read_text(run.artefacts).splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("output"), str):
            found[row["output"]] = row
    return list(found.values())


def _recipe(run: RunDir, manifest: Manifest) -> list[RecipeValue]:
    """Every value of the recipe with its origin."""
    lines = line_numbers(read_text(run.recipe)) if is_file(run.recipe) else {}
    aliases = {f"{manifest.recipe.objective.toml}.": "objective."}
    written = {_renamed(key, aliases) for key in lines}
    overrides = [_renamed(one, aliases) for one in manifest.overrides]
    found = dict(_flat(manifest.recipe.model_dump(mode="json")))
    filled = _filled(manifest)
    origins = {key: _origin(key, written, overrides) for key in found if key != "objective.table"}
    return [
        RecipeValue(
            _shown_key(key, manifest),
            as_toml(found[key]) if found[key] is not None else "none",
            filled.get(key, origin) if origin == "default" else origin,
        )
        for key, origin in origins.items()
    ]


def _filled(manifest: Manifest) -> dict[str, str]:
    """The files that may have set values, by the keys whose value is not the default."""
    recipe = manifest.recipe
    has_file, has_run = recipe.distributed.accelerate_config is not None, recipe.model.init_adapter is not None
    keys = [*_no_defaults(recipe), "distributed.strategy"]
    found = {key: "accelerate_config" for key in keys if has_file and not key.startswith("peft.")}
    return found | {key: "init_adapter" for key in keys if has_run and key.startswith("peft.")}


def _no_defaults(table: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a table, and of the tables in it, whose value is not the default."""
    for name, described in type(table).model_fields.items():
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            yield from _no_defaults(value, f"{prefix}{name}.")
        elif value != described.get_default(call_default_factory=True):
            yield f"{prefix}{name}"


def _origin(key: str, written: set[str], overrides: Sequence[str]) -> str:
    owners = {key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)} - {key.split(".", maxsplit=1)[0]}
    lines = dict.fromkeys([*written, *([key] if written & owners else [])], 1)
    return origin_of(lines, overrides, key)


def _renamed(key: str, aliases: Mapping[str, str]) -> str:
    return next((new + key.removeprefix(old) for old, new in aliases.items() if key.startswith(old)), key)


def _shown_key(key: str, manifest: Manifest) -> str:
    return f"{manifest.recipe.objective.toml}.{key.removeprefix('objective.')}" if key.startswith("objective.") else key


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
