"""`--trust-remote-code`: the user's consent to Python code from others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.cli.show import note

if TYPE_CHECKING:
    from lora_ns.answers.artefact import Artefact
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.run.directory import RunDir


def trust_recipe(is_given: bool, loaded: LoadedRecipe) -> None:
    """Allow the code of a recipe's base, if the user consents. Raises `LoransError`."""
    if not (is_given and _is_asked_for(loaded.recipe.model.trust_remote_code)):
        return
    from lora_ns.model.consent import allow_code
    from lora_ns.model.find import find_recipe_base
    from lora_ns.recipe.load import locating

    with locating(loaded):
        base = find_recipe_base(loaded.recipe.model, loaded.folder)
    allow_code(base.path, note)


def trust_run(is_given: bool, run: RunDir, base_path: Path | None = None) -> None:
    """Allow the code of a run's base and tokenizer, if the user consents. Raises `LoransError`."""
    if not is_given:
        return
    manifest = run.read()
    if not _is_asked_for(manifest.recipe.model.trust_remote_code):
        return
    from lora_ns.answers.changed_files import Force
    from lora_ns.answers.opened import reopen_base
    from lora_ns.model.consent import allow_code

    silent = Force(lambda _: None)  # the command itself reports a mismatch
    allow_code(reopen_base(manifest, base_path, silent).path, note)
    if run.adapter.is_dir():
        allow_code(run.adapter, note)


def trust_artefact(is_given: bool, artefact: Artefact, base_path: Path | None = None) -> None:
    """Allow the code of an artefact and of its base, if the user consents. Raises `LoransError`."""
    if not (is_given and _is_asked_for(artefact.manifest.recipe.model.trust_remote_code)):
        return
    from lora_ns.answers.artefact import base_of
    from lora_ns.model.consent import allow_code

    if artefact.place.is_dir():
        allow_code(artefact.place, note)
    if (base := base_of(artefact, base_path)) is not None:
        allow_code(base.path, note)


def check_trusted(loaded: LoadedRecipe) -> None:
    """Refuse a recipe whose local base brings code that is not allowed, before a job starts it.

    Raises:
        ModelError: with the files, the digest and the option that allows them.
    """
    if not loaded.recipe.model.trust_remote_code:
        return
    from lora_ns.model.consent import check_allowed, code_in
    from lora_ns.model.find import recipe_base_here
    from lora_ns.recipe.load import locating

    with locating(loaded):
        base = recipe_base_here(loaded.recipe.model, loaded.folder)
    if base is not None and (code := code_in(base.path)):
        check_allowed(code)


def _is_asked_for(is_needed: bool) -> bool:
    if not is_needed:
        from lora_ns.model.consent import OPTION

        note(f"`{OPTION}` has no effect: the recipe has no `model.trust_remote_code = true`, and no code is run")
    return is_needed
