"""Translation of `trl dpo`: the trainer that a file is for, which TRL's YAML does not name, and the keys of DPO."""

from __future__ import annotations

from lora_ns.importers import preferences
from lora_ns.importers.draft import Draft
from lora_ns.importers.rules import Rule, each, gone, maps, refused, same, unused
from lora_ns.importers.trl_keys import OTHER_TRAININGS, PREFERENCES
from lora_ns.importers.values import flag, number, text

_REFERENCE = refused("the reference of lorans is the base without the adapter", "remove it", (False, None))
_LENGTH = gone(
    "TRL", "now `max_length` alone", refused("lorans limits prompt and answer together", "set `dpo.max_seq_length`", ())
)

_DPO_KEYS: dict[str, Rule] = {
    "beta": preferences.BETA,
    "label_smoothing": preferences.SMOOTHING,
    "ld_alpha": maps("dpo.ld_alpha", number),
    "f_divergence_type": maps("dpo.f_divergence_type", text, own="reverse_kl"),
    "use_weighting": maps("dpo.use_weighting", flag, own=False),
    "discopop_tau": maps("dpo.discopop_tau", number, own=0.05),
    "precompute_ref_log_probs": preferences.SAME_REFERENCE,
    "generate_during_eval": unused("it only shows samples"),
    "disable_dropout": same(
        "dropout is off", True, remedy="write true: the reference would differ by chance", read=flag
    ),
    "rpo_alpha": gone("TRL", "now the loss `sft`", refused("it is a loss now", "add `sft` to `dpo.loss_type`", ())),
    **each("max_prompt_length max_completion_length max_target_length", _LENGTH),
    **each("sync_ref_model ref_model_sync_steps ref_model_mixup_alpha ref_model_init_kwargs", _REFERENCE),
    **each("reference_free ref_adapter_name model_adapter_name", _REFERENCE),
}


def _is_dpo(draft: Draft) -> bool:
    """True for the command `trl dpo`, or a file of preferences whose name says so."""
    if draft.has("command"):
        return bool(draft.get("command") == "trl dpo")
    named = "dpo" in draft.source.path.stem.lower() and any(draft.has(key) for key in (*PREFERENCES, "loss_type"))
    if named:
        draft.note("TRL's YAML does not name its trainer: lorans takes `trl dpo` from the name of the file")
    return named


def objective(draft: Draft) -> None:
    """Translate the keys of DPO, and refuse those of all other trainers but that of fine-tuning."""
    if _is_dpo(draft):
        draft.objective = "dpo"
        preferences.losses(draft, "loss_type", "sigmoid", "loss_weights", "command")
        for key, rule in _DPO_KEYS.items():
            if draft.has(key):
                rule(draft, key)
    elif draft.get("command") == "trl sft":
        draft.same("command", "lorans imports supervised fine-tuning")
    elif draft.has("command"):
        what = "lorans imports supervised fine-tuning and DPO only"
        draft.refuse("command", what, "use TRL for this run", fatal=True)
    for key, kind in OTHER_TRAININGS.items():
        if draft.has(key) and not draft.is_accounted(key):
            what = f"it is for {kind}; lorans imports supervised fine-tuning and DPO only"
            remedy = "if it is for DPO, import the script with `trl dpo`, or write `dpo` into the name of the file"
            draft.refuse(key, what, remedy if key in PREFERENCES else "use TRL for this run", fatal=True)
    if draft.has("loss_weights") and not draft.is_accounted("loss_weights"):
        draft.unused("loss_weights", "it only applies to DPO")
