"""The user's consent to code of others, given by `--trust-remote-code` before a command does what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora_ns.answers.opened import Force, reopen_base
from lora_ns.model.consent import OPTION, allow_code, check_allowed, code_in
from lora_ns.model.files import find_base
from lora_ns.model.find import find_recipe_base
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.run.directory import RunDir

Tell = Callable[[str], None]


def trust_recipe(loaded: LoadedRecipe, tell: Tell) -> None:
    """Allow the code of the base that a recipe names. Raises `LoransError`."""
    if _is_asked_for(loaded.recipe.model.trust_remote_code, tell):
        with locating(loaded):
            base = find_recipe_base(loaded.recipe.model, loaded.folder)
        allow_code(base.path, tell)


def trust_run(run: RunDir, base_path: Path | None, tell: Tell) -> None:
    """Allow the code of a run's base and tokenizer. Raises `LoransError`."""
    manifest = run.read()
    if _is_asked_for(manifest.recipe.model.trust_remote_code, tell):
        silent = Force(lambda _: None)  # what does not match is told by the command itself
        allow_code(reopen_base(manifest, base_path, silent).path, tell)
        if run.adapter.is_dir():
            allow_code(run.adapter, tell)


def check_trusted(loaded: LoadedRecipe) -> None:
    """Refuse a recipe whose base is here and brings code that is not allowed, before others start it.

    Raises:
        ModelError: with the files, the digest and what allows them.
    """
    model = loaded.recipe.model
    if not model.trust_remote_code:
        return
    folders = [loaded.folder, Path.cwd()]
    with locating(loaded):
        base = find_base(model.name_or_path, model.revision, folders, download=False, gguf_file=model.gguf_file)
    if base is not None and (code := code_in(base.path)):
        check_allowed(code)


def _is_asked_for(is_needed: bool, tell: Tell) -> bool:
    if not is_needed:
        tell(f"`{OPTION}` has no effect: the recipe has no `model.trust_remote_code = true`, and no code is run")
    return is_needed
