"""Choice of the base model and its quantisation, from the base's files if they are on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_ns.errors import MissingError, ModelError, Problem, UsageError
from lora_ns.model.abilities import Abilities
from lora_ns.model.files import PACKAGED, find_base
from lora_ns.model.stored_quantization import read_stored
from lora_ns.objectives import Objective
from lora_ns.services.init.draft import Draft


def fit_base(draft: Draft) -> None:
    """Write the base and its stored quantisation. Raises `ModelError` if the base does not exist or is damaged."""
    wanted = draft.wanted
    if wanted.model is not None:
        draft.tables["model"] = {"name_or_path": wanted.model}
    name = draft.tables["model"]["name_or_path"]
    try:
        base = find_base(name, "main", [Path.cwd()], download=False)
    except MissingError as error:
        draft.reasons.append(f"base: {name}, not inspected: {error.problems[0].what}")
        return
    except ModelError as error:
        raise ModelError(_as_option(problem) for problem in error.problems) from None
    if base is None:
        draft.reasons.append(f"base: {name}, not inspected because it is not on this machine")
        return
    draft.base = Abilities(base)
    if base.commit is None and not name.startswith(PACKAGED):
        draft.tables["model"] = {"name_or_path": wanted.from_folder(name)}
    draft.reasons.append(f"base: {name}, {draft.base.description}{_stored(draft, draft.base)}")


def check_objective(draft: Draft, kind: type[Objective]) -> None:
    """Check that the base can be trained for an objective. Raises `UsageError`."""
    base = draft.base
    if base and not base.writes_text and kind.answers == "text":
        what = f"`{base.base.name}` is {base.description}, which cannot generate text"
        raise UsageError(Problem("--model", what, "choose a causal language model, or rows with labels"))


def _as_option(problem: Problem) -> Problem:
    remedy = problem.remedy or "write a folder with a model, a hub id, or `lorans:nano`"
    return replace(problem, where=problem.where or "--model", key="", remedy=remedy)


def _stored(draft: Draft, base: Abilities) -> str:
    """Write `[quantization]` for a base that is stored quantised, and return a description of it."""
    quantization = draft.tables.get("quantization")
    if base.base.gguf_file:
        draft.tables.pop("quantization", None)
        return f", a GGUF file, which is dequantised{_instead(quantization, None)}"
    if not base.base.facts.quantization:
        return ""
    stored = read_stored(base.base.facts.quantization)
    draft.tables["quantization"] = {"method": stored.method, **stored.model_dump(mode="json", exclude_defaults=True)}
    return f", stored in {stored.bits} bits ({stored.method}){_instead(quantization, stored.method)}"


def _instead(quantization: dict[str, object] | None, stored: str | None) -> str:
    """Describe the quantisation of the starting recipe that is left out."""
    return f", so `{quantization['method']}` is left out" if quantization and quantization["method"] != stored else ""
