"""Translation of LLaMA-Factory's templates, and of the tokens that are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.importers.axolotl_prompts import escaped
from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_prompts import frame_of

_BUILT_IN: Mapping[str, str] = {
    "chatml": "chatml",
    "gemma": "gemma",
    "llama3": "llama-3",
    "qwen3_nothink": "chatml",
}
"""LLaMA-Factory's templates that render the same text as lorans's own."""


_GENERIC = ("alpaca", "chatml_de", "default", "empty", "fewshot", "vicuna")
"""Templates that belong to no model, and that lorans does not have."""


_REASONING = (
    *("deepseekr1", "ernie_vl", "glm4_5v", "glm4_7", "glm4_moe", "glm4v", "glmz1", "gpt_oss", "hy3", "keye_vl"),
    *("mimo", "mimo_v2", "mimo_vl", "minimax2", "qwen3", "qwen3_5", "qwen3_6", "qwen3_omni", "qwen3_vl", "seed_oss"),
    "youtu",
)
"""Templates that put an empty thought before answers without one."""


def chat_template(draft: Draft) -> None:
    """Translate the chat template of the rows, and their system message."""
    forms = _forms(draft)
    name = draft.text("template", "")
    chats = [form for form in forms if form.get("format") not in ("text", "prompt-completion")]
    if not forms or draft.is_refused("template"):
        _drop(draft, "the datasets are not carried over")
    elif not chats and draft.get("stage") == "pt":
        _drop(draft, "the rows are plain text")
    elif not chats:
        _plain(draft, name)
    else:
        _template(draft, name, chats)
        _system(draft, forms)
    _reasoning(draft, name)


def _plain(draft: Draft, name: str) -> None:
    """Account for a template that renders plain text, which the prompt templates already contain."""
    recipe = "dataset.sources" if "dataset.sources" in draft.recipe else "dataset.prompt_template"
    before, frame = draft.origins[recipe], frame_of(name, None)
    draft.put(recipe, draft.recipe[recipe], "template", "default_system", said=frame.said if frame else "")
    draft.origins[recipe] = (*before, *draft.origins[recipe])


def _forms(draft: Draft) -> list[Mapping[str, Any]]:
    """Return the keys of each dataset in the recipe."""
    if "dataset.format" in draft.recipe and "dataset.sources" not in draft.recipe:
        return [{key.removeprefix("dataset."): value for key, value in draft.recipe.items() if "dataset." in key}]
    return list(draft.recipe.get("dataset.sources", []))


def _drop(draft: Draft, why: str) -> None:
    for key in ("template", "default_system"):
        if draft.has(key):
            draft.unused(key, why)


def _template(draft: Draft, name: str, chats: list[Mapping[str, Any]]) -> None:
    has_tools = any("tools" in form.get("columns", {}) for form in chats)
    if not name:
        draft.note("`template` is missing: LLaMA-Factory uses the base's own chat template, and so does lorans")
    elif name in _GENERIC:
        what = f"lorans has no chat template equal to `{name}`"
        remedy = "set `sft.chat_template` to the `chat_template.jinja` that LLaMA-Factory saves with an adapter"
        draft.refuse("template", what, remedy)
    elif name in _BUILT_IN and not (has_tools and name not in ("chatml", "qwen3_nothink")):
        draft.put("sft.chat_template", _BUILT_IN[name], "template", said="it renders the same text")
        if name == "gemma":
            draft.put("sft.system_role", "merge-into-user", "template")
    else:
        said = "lorans uses the base's own chat template; `lorans validate --show 1` shows its output"
        draft.same("template", said)


def _system(draft: Draft, forms: list[Mapping[str, Any]]) -> None:
    """Translate `default_system`, which lorans supports for one dataset with a prompt template."""
    key = "default_system"
    if not draft.has(key) or draft.is_refused(key):
        return
    if "dataset.sources" not in draft.recipe and "prompt_template" in forms[0]:
        draft.put("dataset.system_template", escaped(draft.text(key, "")), key)
    else:
        draft.refuse(key, "lorans uses the system turns in the rows", "add it to the rows")


def _reasoning(draft: Draft, name: str) -> None:
    """Translate the keys of reasoning models' templates, and note their empty thoughts."""
    is_reasoning = name in _REASONING and draft.get("stage") != "pt"
    if is_reasoning and draft.has("enable_thinking") and not draft.flag("enable_thinking", True):
        draft.put("sft.chat_template_kwargs", {"enable_thinking": False}, "enable_thinking")
    elif draft.has("enable_thinking"):
        why = "the template does so by default" if is_reasoning else "it only applies to templates of reasoning models"
        draft.unused("enable_thinking", why)
    if is_reasoning:
        draft.note(
            f"`template: {name}` puts an empty thought before each answer without one, and trains on it unless "
            "`enable_thinking` is false; in lorans, the base's own template decides this"
        )
    if draft.has("preserve_thinking"):
        if is_reasoning and draft.flag("preserve_thinking"):
            what = "in lorans, the base's own template decides this"
            draft.refuse("preserve_thinking", what, "remove it if you do not need it")
        else:
            draft.unused("preserve_thinking", "it is off, or only applies to other templates")


def trained_tokens(draft: Draft) -> None:
    """Translate the choice of tokens that are trained on."""
    whole, last = draft.flag("train_on_prompt"), draft.flag("mask_history")
    if draft.get("stage") == "pt":
        for key in ("train_on_prompt", "mask_history"):
            if draft.has(key):
                draft.unused(key, "lorans trains on whole texts")
        return
    draft.put("sft.train_on", "all" if whole else "assistant", "train_on_prompt", own="assistant")
    if last:
        draft.put("sft.train_on", "last", "mask_history")
    elif draft.has("mask_history"):
        draft.same("mask_history", "lorans trains on every answer by default")
