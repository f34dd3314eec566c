"""Rules for keys that stand by themselves: each tool has a table of them, `{"lora_r": maps("peft.lora_r", whole)}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lora_ns.importers.draft import Draft
from lora_ns.importers.values import Reader, UnreadableError, plain

Rule = Callable[[Draft, str], None]
"""Accounts for a source key that is there and not blank."""


def maps(recipe: str, read: Reader = plain, own: Any = None, said: str = "") -> Rule:
    """The value becomes that of a recipe key.

    Args:
        recipe: the dotted recipe key.
        read: how the value is read, such as `number` or `flag` of `importers/values.py`.
        own: lorans's own constant default, which need not be written.
        said: what there is to say of it.
    """

    def rule(draft: Draft, key: str) -> None:
        draft.put(recipe, draft.read(key, read), key, own=own, said=said)

    return rule


def among(recipe: str, values: Mapping[Any, Any], remedy: str = "", own: Any = None, read: Reader = plain) -> Rule:
    """Some values become others of a recipe key, the rest is refused.

    Args:
        recipe: the dotted recipe key.
        values: the source's values with the recipe's.
        remedy: what to do about other values; those that are taken, if absent.
        own: lorans's own constant default.
        read: how the value is read.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.read(key, read)
        if draft.is_refused(key):
            return
        if not isinstance(value, (list, dict)) and value in values:
            draft.put(recipe, values[value], key, own=own)
        else:
            taken = ", ".join(f"`{name}`" for name in values)
            draft.refuse(key, "lorans has no such value", remedy or f"one of: {taken}")

    return rule


def same(said: str, *values: Any, remedy: str, read: Reader = plain, fatal: bool = False) -> Rule:
    """These values ask for what lorans does anyway, others are refused.

    Args:
        said: what lorans does.
        values: the values that ask for it.
        remedy: what to do about other values.
        read: how the value is read, such as `flag`.
        fatal: whether other values are another training altogether.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.read(key, read)
        if draft.is_refused(key):
            return
        if value in values:
            draft.same(key, said)
        else:
            draft.refuse(key, "lorans cannot do this", remedy, fatal)

    return rule


def unused(why: str, read: Reader | None = None) -> Rule:
    """The key has no meaning here, whatever its value, and changes nothing that is learned."""

    def rule(draft: Draft, key: str) -> None:
        if read is not None:
            draft.read(key, read)
        draft.unused(key, why)

    return rule


def refused(what: str, remedy: str, unless: tuple[Any, ...] = (False,), fatal: bool = False) -> Rule:
    """The key asks for what lorans cannot do, unless its value switches it off.

    Args:
        what: the reason.
        remedy: what to do.
        unless: values that switch it off.
        fatal: whether a recipe without it would be another training altogether.
    """

    def rule(draft: Draft, key: str) -> None:
        value = draft.get(key)
        if any(type(value) is type(off) and value == off for off in unless):
            draft.unused(key, "it is switched off")
        else:
            draft.refuse(key, what, remedy, fatal)

    return rule


def gone(tool: str, since: str, rule: Rule) -> Rule:
    """A key that its tool no longer knows: what has become of it, and the rule that it had."""

    def told(draft: Draft, key: str) -> None:
        rule(draft, key)
        draft.amend(key, f"{tool} no longer knows it ({since})")

    return told


def told_apart(read: Reader, when: Callable[[Any], Rule]) -> Rule:
    """The rule depends on the value, as it is read."""

    def rule(draft: Draft, key: str) -> None:
        try:
            value = read(draft.get(key))
        except UnreadableError as fault:
            draft.refuse(key, fault.what, fault.remedy)
            return
        when(value)(draft, key)

    return rule


def each(keys: str, rule: Rule) -> dict[str, Rule]:
    """The same rule for several keys, divided by spaces."""
    return dict.fromkeys(keys.split(), rule)
