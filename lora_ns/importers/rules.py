"""Rules for independent keys. Each tool has a table of them, such as `{"lora_r": maps("peft.lora_r", whole)}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lora_ns.importers.draft import Draft
from lora_ns.importers.values import Reader, UnreadableError, plain, text

Rule = Callable[[Draft, str], None]
"""Function that accounts for a source key, which is present and not blank."""


def maps(recipe: str, read: Reader = plain, own: Any = None, said: str = "") -> Rule:
    """Write the value to a recipe key.

    Args:
        recipe: the dotted recipe key.
        read: reader of the value, such as `number` or `flag` of `importers/values.py`.
        own: lorans's constant default, which is not written.
        said: a remark for the report.
    """

    def rule(draft: Draft, key: str) -> None:
        draft.put(recipe, draft.read(key, read), key, own=own, said=said)

    return rule


def among(recipe: str, values: Mapping[Any, Any], remedy: str = "", own: Any = None, read: Reader = plain) -> Rule:
    """Replace values by those of a recipe key, and refuse other values.

    Args:
        recipe: the dotted recipe key.
        values: values of the recipe, by value of the source.
        remedy: advice about other values; a list of the accepted ones if empty.
        own: lorans's constant default.
        read: reader of the value.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.read(key, read)
        if draft.is_refused(key):
            return
        if not isinstance(value, (list, dict)) and value in values:
            draft.put(recipe, values[value], key, own=own)
        else:
            taken = ", ".join(f"`{name}`" for name in values)
            draft.refuse(key, "lorans does not support this value", remedy or f"write one of: {taken}")

    return rule


def same(said: str, *values: Any, remedy: str, read: Reader = plain, fatal: bool = False) -> Rule:
    """Accept values that ask for lorans's own behaviour, and refuse others.

    Args:
        said: description of lorans's behaviour.
        values: accepted values.
        remedy: advice about other values.
        read: reader of the value, such as `flag`.
        fatal: True if no recipe can be equivalent with another value.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.read(key, read)
        if draft.is_refused(key):
            return
        if value in values:
            draft.same(key, said)
        else:
            draft.refuse(key, "lorans does not support this value", remedy, fatal)

    return rule


def unused(why: str, read: Reader | None = None) -> Rule:
    """Ignore a key that does not change results, whatever its value."""

    def rule(draft: Draft, key: str) -> None:
        if read is not None:
            draft.read(key, read)
        draft.unused(key, why)

    return rule


def refused(what: str, remedy: str, unless: tuple[Any, ...] = (False,), fatal: bool = False) -> Rule:
    """Refuse a key that lorans does not support, unless its value turns it off.

    Args:
        what: the reason.
        remedy: advice to the user.
        unless: values that turn it off.
        fatal: True if no recipe without it can be equivalent.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.get(key)
        if any(type(value) is type(off) and value == off for off in unless):
            draft.unused(key, "it is off")
        else:
            draft.refuse(key, what, remedy, fatal)

    return rule


def gone(tool: str, since: str, rule: Rule) -> Rule:
    """Apply the old rule of a key that its tool has removed; `since` says what replaced it, if anything."""

    def amended(draft: Draft, key: str) -> None:
        rule(draft, key)
        draft.amend(key, f"removed from {tool}{f' ({since})' if since else ''}")

    return amended


def by_value(read: Reader, choose: Callable[[Any], Rule]) -> Rule:
    """Choose the rule by the value of the key."""

    def rule(draft: Draft, key: str) -> None:
        try:
            value = read(draft.get(key))
        except UnreadableError as fault:
            draft.refuse(key, fault.what, fault.remedy)
            return
        choose(value)(draft, key)

    return rule


def initialisation(default: str) -> Rule:
    """Write `peft.init_lora_weights`, unless the value is true or the tool's word for PEFT's default."""
    return by_value(
        plain,
        lambda value: (
            same("it is PEFT's default", True, default, remedy="")
            if value in (True, default)
            else maps("peft.init_lora_weights", text)
        ),
    )


def each(keys: str, rule: Rule) -> dict[str, Rule]:
    """Return the same rule for several keys, which are separated by spaces."""
    return dict.fromkeys(keys.split(), rule)
