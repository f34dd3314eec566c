"""Explain a key that cannot be read: its line, its value, and the key or value to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_ns.errors import Problem, close_to, did_you_mean, plain_name
from lora_ns.methods import METHODS, REFUSED, REFUSED_STARTS
from lora_ns.recipe.advise import Adviser
from lora_ns.recipe.keys import UNIONS, as_toml, describe, known_keys, model_at, names_in, schema_of, tag_of
from lora_ns.recipe.tagged_lists import TAG_PLACE, TaggedList, tagged_list
from lora_ns.table import CONTROL, LONG_NAME

Keys = Sequence[int | str]


MOST_CHOICES = 10
"""Choices that a message lists in full."""


OVERRIDE = "--set"
"""Place of a key that an override sets."""


Locate = Callable[[str], str]
"""Function from a dotted key to its place, such as `recipe.toml:13`."""


def untagged(table: Mapping[str, Any], location: Keys) -> list[int | str]:
    """Return the location of an error without the tags that pydantic adds for unions."""
    keys: list[int | str] = []
    listed = tagged_list(location)
    for index, key in enumerate(location):
        is_tag = index == 1 and location[0] in UNIONS and key in UNIONS[str(location[0])]
        is_tag |= listed is not None and index == TAG_PLACE and key in listed.classes
        if not is_tag and not (_is_branch(key) and not _is_key(table, keys, key)):
            keys.append(key)
    return keys


def _is_branch(key: int | str) -> bool:
    marks = ("literal[", "tuple[", "constrained-", "function-")
    return isinstance(key, str) and (key in {"int", "bool", "float", "str"} or any(mark in key for mark in marks))


def _is_key(table: Any, keys: Keys, key: int | str) -> bool:
    for name in keys:
        table = table[name] if isinstance(table, Mapping) and name in table else None
    return isinstance(table, Mapping) and key in table


def explain(table: Mapping[str, Any], keys: Keys, detail: Any, locate: Locate) -> Problem:
    """Turn one of pydantic's error details into a problem."""
    dotted = ".".join(str(key) for key in keys)
    plain = key_of(keys)
    kind = detail["type"]
    if kind == "extra_forbidden":
        where = locate(dotted)
        adviser = Adviser(table, where == OVERRIDE)
        return Problem(where, "unknown key", _suggest(adviser, [str(key) for key in keys]), key=dotted)
    if kind == "missing":
        return Problem(locate(dotted), "required", _example(dotted), key=dotted)
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        return _tag_problem(table, dotted, locate)
    if kind in _NO_NAMES:
        what, remedy = _NO_NAMES[kind]
        return Problem(locate(plain), f"{what.format(**detail.get('ctx', {}))}", remedy, key=plain)
    got = _at(table, keys)
    shown = "a table" if isinstance(got, dict) else as_toml(got)
    if plain == "peft.init_lora_weights" and isinstance(got, str) and got in REFUSED_STARTS:
        return Problem(locate(plain), f"{shown} is refused", REFUSED_STARTS[got], key=plain)
    where = locate(plain)
    advice = Adviser(table, where == OVERRIDE).on_value(plain, got)
    return Problem(where, f"got {shown}", _expectation(plain, detail, table, advice), key=plain)


_NO_NAMES = {
    CONTROL: (
        "contains the control character {character}",
        "remove it: names and paths may only have visible characters",
    ),
    LONG_NAME: ("is too long for a file name", "a path has at most 4,000 bytes, and each name in it at most 255"),
}
"""Fault and remedy of a text that cannot be a name, by the type of pydantic's error."""


def key_of(keys: Keys) -> str:
    """Return the dotted key of a location: it keeps the number of a table in a list, and drops that of a value."""
    named = max((depth for depth, key in enumerate(keys, start=1) if isinstance(key, str)), default=0)
    return ".".join(str(key) for key in keys[:named])


def _tag_problem(table: Mapping[str, Any], dotted: str, locate: Locate) -> Problem:
    if listed := tagged_list(dotted.split(".")):
        return _listed_problem(listed, table, dotted, locate)
    methods = UNIONS[dotted]
    entry = table.get(dotted)
    adviser = Adviser(table, locate(dotted) == OVERRIDE)
    if advice := adviser.on_value(dotted, entry):
        return Problem(locate(dotted), f"got {as_toml(entry)}", advice, key=dotted)
    choices = f"one of: {', '.join(methods)}" if len(methods) <= MOST_CHOICES else "`lorans methods` lists them"
    tag = tag_of(dotted)
    if not isinstance(entry, Mapping) or tag not in entry:
        return Problem(locate(dotted), "required", choices, key=f"{dotted}.{tag}")
    if dotted == "peft" and isinstance(entry[tag], str) and entry[tag] in REFUSED:
        what = f"{entry['method']} cannot be trained"
        return Problem(locate(f"{dotted}.method"), what, REFUSED[entry["method"]], key=f"{dotted}.method")
    key = f"{dotted}.{tag}"
    remedy = adviser.on_value(key, entry[tag]) or did_you_mean(str(entry[tag]), methods, beside=choices)
    return Problem(locate(key), f"got {as_toml(entry[tag])}", remedy, key=key)


def _listed_problem(listed: TaggedList, table: Mapping[str, Any], dotted: str, locate: Locate) -> Problem:
    """Return the problem of a table in a list whose tag is missing or unknown."""
    entry = _at(table, [int(part) if part.isdigit() else part for part in dotted.split(".")])
    choices = f"one of: {', '.join(listed.classes)}"
    key = f"{dotted}.{listed.tag}"
    if not isinstance(entry, Mapping) or listed.tag not in entry:
        return Problem(locate(dotted), "required", choices, key=key)
    remedy = did_you_mean(str(entry[listed.tag]), listed.classes, beside=choices)
    return Problem(locate(key), f"got {as_toml(entry[listed.tag])}", remedy, key=key)


def _expectation(dotted: str, detail: Any, table: Mapping[str, Any], advice: str) -> str:
    """Describe the values of a key in the recipe's words rather than pydantic's."""
    schema = schema_of(dotted, table)
    if schema:
        expected = f"expected {describe(schema)}"
        return f"{advice}; {expected}" if advice and schema.get("type") != "object" else advice or expected
    return advice or str(detail["msg"][:1].lower() + detail["msg"][1:])


def _suggest(adviser: Adviser, keys: Sequence[str]) -> str:
    """Return the remedy for an unknown key."""
    table, owner, name = adviser.tables, list(keys[:-1]), keys[-1]
    model = model_at(owner, table)
    fields = names_in(model) if model else ()
    same = [other for other in fields if plain_name(other) == plain_name(name)]
    if advice := "" if same else adviser.on_key(".".join(owner), name, _at(table, keys)):
        return advice
    if owner and owner[0] == "peft" and not same and (hint := _of_another_method(name, table)):
        return hint
    if hint := did_you_mean(name, fields):
        return hint
    everywhere = list(known_keys(table))
    for key in everywhere:
        if key.split(".")[-1] == name:
            return f"`{name}` belongs in `[{key.rpartition('.')[0]}]`" if "." in key else f"`{name}` belongs at the top"
    by_name = {key.split(".")[-1]: key for key in reversed(everywhere)}
    if hint := did_you_mean(name, by_name, cutoff=0.75, write=by_name.get):
        return hint
    return f"known here: {', '.join(fields)}" if fields else "remove it"


def _of_another_method(name: str, table: Mapping[str, Any]) -> str:
    method = table["peft"].get("method")
    owners = [tag for tag, model in METHODS.items() if name in model.model_fields and tag != method]
    own = METHODS[method].model_fields if method in METHODS else {}
    if owners and name not in own and not close_to(name, own, cutoff=0.8):
        shown = " and ".join([*owners[:3], *([f"{len(owners) - 3} more"] if len(owners) > 3 else [])])
        return f"`{name}` belongs to {shown}, but the method is {method}"
    return ""


def _example(dotted: str) -> str:
    examples = {
        "task_name": 'such as `task_name = "gsm8k"`',
        "task_type": '`task_type = "CAUSAL_LM"` generates text, `"SEQ_CLS"` classifies it, `"TOKEN_CLS"` tags words',
        "model": 'add `[model]` with `name_or_path = "lorans:nano"`',
        "model.name_or_path": 'such as `name_or_path = "lorans:nano"`',
        "peft": 'add `[peft]` with `method = "lora"`',
        "dataset": 'add `[dataset]` with `path = "train.jsonl"`',
        "training": 'add `[training]` with `output_dir = "outputs/run"`',
        "training.output_dir": 'such as `output_dir = "outputs/run"`',
    }
    return examples.get(dotted, "add it")


def _at(table: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            table = table[key]
        except (KeyError, IndexError, TypeError):
            return table
    return table
