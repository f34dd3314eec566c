"""What to say about a key that cannot be read: where it is, what was found, what to write instead."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter

from lora_ns.errors import Problem, close_to, did_you_mean
from lora_ns.methods import METHODS, REFUSED, REFUSED_STARTS
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.recipe.distributed import STRATEGIES
from lora_ns.recipe.foreign_keys import FOREIGN_KEYS
from lora_ns.recipe.objective_tables import chosen_objective, kinds_of, top_level
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import CONTROL, JOINERS, LONG_NAME, PLACE, WORD, Table, control_in

Keys = Sequence[int | str]


Locate = Callable[[str], str]
"""From a dotted key to `recipe.toml:13`."""


UNIONS: Mapping[str, Mapping[str, type[Table]]] = {
    "peft": METHODS,
    "quantization": QUANTIZATIONS,
    "distributed": STRATEGIES,
}
"""The tables that are tagged unions, by their tag."""


def tag_of(union: str) -> str:
    """The key that tells the classes of a tagged union apart."""
    return "strategy" if union == "distributed" else "method"


MOST_CHOICES = 10
"""Choices that are all told."""


def untagged(table: Mapping[str, Any], location: Keys) -> list[int | str]:
    """The location of an error without the tag that pydantic puts in for a tagged or plain union."""
    keys: list[int | str] = []
    for index, key in enumerate(location):
        is_tag = index == 1 and location[0] in UNIONS and key in UNIONS[str(location[0])]
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
    """The problem that one of pydantic's error details stands for."""
    dotted = ".".join(str(key) for key in keys)
    plain = key_of(keys)
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(locate(dotted), "unknown key", _suggest(table, [str(key) for key in keys]), key=dotted)
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
    return Problem(locate(plain), f"got {shown}", _expectation(plain, detail, table), key=plain)


_NO_NAMES = {
    CONTROL: (
        "has the control character {character} in it",
        "names and paths are made of characters that can be seen",
    ),
    LONG_NAME: ("is longer than a file name can be", "a path has up to 4,000 bytes, and each name in it up to 255"),
}
"""What is wrong with a text that cannot be a name, by pydantic's kind of error, and what to do."""


def key_of(keys: Keys) -> str:
    """The dotted key that a location is about: without the number of a value in a list, with that of a table in it."""
    named = max((depth for depth, key in enumerate(keys, start=1) if isinstance(key, str)), default=0)
    return ".".join(str(key) for key in keys[:named])


def _tag_problem(table: Mapping[str, Any], dotted: str, locate: Locate) -> Problem:
    methods = UNIONS[dotted]
    entry = table.get(dotted)
    choices = f"one of: {', '.join(methods)}" if len(methods) <= MOST_CHOICES else "`lorans methods` lists them"
    tag = tag_of(dotted)
    if not isinstance(entry, Mapping) or tag not in entry:
        return Problem(locate(dotted), "required", choices, key=f"{dotted}.{tag}")
    if dotted == "peft" and isinstance(entry[tag], str) and entry[tag] in REFUSED:
        what = f"{entry['method']} cannot be trained"
        return Problem(locate(f"{dotted}.method"), what, REFUSED[entry["method"]], key=f"{dotted}.method")
    remedy = did_you_mean(str(entry[tag]), methods, beside=choices)
    key = f"{dotted}.{tag}"
    return Problem(locate(key), f"got {as_toml(entry[tag])}", remedy, key=key)


def _expectation(dotted: str, detail: Any, table: Mapping[str, Any]) -> str:
    """What a key takes, in the words of the recipe rather than of pydantic."""
    schema = _schema(dotted, table)
    if schema:
        return f"expected {describe(schema)}"
    return str(detail["msg"][:1].lower() + detail["msg"][1:])


def describe(schema: Mapping[str, Any]) -> str:
    """A JSON Schema of a key in a few words, such as `a whole number from 1` or `one of: "a", "b"`."""
    if "const" in schema:
        return as_toml(schema["const"])
    if "enum" in schema:
        return "one of: " + ", ".join(as_toml(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe(part) for part in schema["anyOf"] if part.get("type") != "null")
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
        "boolean": "true or false",
        "array": "a list",
        "object": "a table",
    }[schema["type"]]
    if "$ref" in schema.get("items", {}):
        return "a list of tables"
    if schema["type"] == "array":
        return (
            f"a list of {describe(schema['items']).removeprefix('a ').removeprefix('one of: ')} values"
            if "items" in schema
            else words
        )
    bounds = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    found = {text: schema[key] for key, text in bounds.items() if key in schema}
    limits = [text.format(bound if isinstance(bound, int) else f"{bound:g}") for text, bound in found.items()]
    if schema.get("pattern"):
        limits.append(_PATTERNS[schema["pattern"]])
    if schema.get("maxLength") == 1:
        limits.append("of one character")
    elif schema.get("minLength"):
        limits.append("that is not empty")
    return " ".join([words, *limits])


_PATTERNS = {WORD: "of letters, digits, `.`, `_`, `-`", PLACE: "of an address and a port from 1 to 65535"}
"""What the patterns of keys mean."""


def _schema(dotted: str, table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    owner, _, name = dotted.rpartition(".")
    if not owner and (name in UNIONS or kinds_of(name)):
        return {"type": "object"}
    model = _model(owner.split(".") if owner else [], table)
    if model is None or name not in model.key_names():
        return None
    info = model.model_fields[name]
    annotated: Any = info.annotation
    if isinstance(annotated, type) and issubclass(annotated, Table):
        return {"type": "object"}
    for constraint in info.metadata:
        annotated = Annotated[annotated, constraint]
    return TypeAdapter(annotated).json_schema()


def _model(keys: Sequence[str], table: Mapping[str, Any]) -> type[Table] | None:
    """The class of the table at these keys."""
    model: type[Table] = Recipe
    for key in keys:
        if model is Recipe and (key in UNIONS or kinds_of(key)):
            chosen = _chosen(table, key)
            if chosen is None:
                return None
            model = chosen
            continue
        if key.isdigit():
            continue  # of the tables in a list, all are of one class
        info = model.model_fields.get(key)
        below = info and table_class(info.annotation)
        if below is None:
            return None
        model = below
    return model


def table_class(annotation: Any) -> type[Table] | None:
    """The class of a key that is a table, or a list of them."""
    kinds = get_args(annotation)[:1] if get_origin(annotation) is tuple else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)


def _chosen(table: Mapping[str, Any], union: str) -> type[Table] | None:
    """The class that a tagged union's tag stands for, if it stands for one; of an objective's table, its class."""
    if kinds := kinds_of(union):
        chosen = chosen_objective(table)
        return chosen if chosen in kinds else kinds[0]
    entry = table.get(union)
    method = entry.get(tag_of(union)) if isinstance(entry, Mapping) else None
    return UNIONS[union].get(method) if isinstance(method, str) else None


def known_keys(table: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Every dotted key that a recipe can have; of a union, those of its chosen method, or of all."""
    for name in top_level():
        models = _classes(name, table or {})
        yield from dict.fromkeys(f"{name}.{key}" for model in models for key in model.key_names())
        if not models:
            yield name


def _classes(name: str, table: Mapping[str, Any]) -> Sequence[type[Table]]:
    """The classes that a table at the top may be of; none for a key."""
    if name in UNIONS:
        chosen = _chosen(table, name)
        return [chosen] if chosen else list(UNIONS[name].values())
    if kinds_of(name):
        return kinds_of(name)
    kind = Recipe.model_fields[name].annotation
    return [kind] if isinstance(kind, type) and issubclass(kind, Table) else []


def choices(key: str) -> list[str]:
    """The values of a dotted key that has a few, as they stand after `--set key=`."""
    owner, _, name = key.rpartition(".")
    if owner in UNIONS and name == tag_of(owner):
        return list(UNIONS[owner])
    tables: list[dict[str, Any]] = [{owner: {tag_of(owner): tag}} for tag in UNIONS.get(owner, ())] or [{}]
    schemas = [schema for table in tables if (schema := _schema(key, table))]
    return list(dict.fromkeys(value for schema in schemas for value in _choices(schema)))


def _choices(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    for part in schema.get("anyOf", ()):
        yield from _choices(part)
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    yield from (value if isinstance(value, str) else as_toml(value) for value in values)


def _suggest(table: Mapping[str, Any], keys: Sequence[str]) -> str:
    owner, name = list(keys[:-1]), keys[-1]
    if owner and owner[0] == "peft" and (hint := _of_this_or_another_method(name, table)):
        return hint
    model = _model(owner, table)
    if hint := did_you_mean(name, _keys_at(model) if model else ()):
        return hint
    everywhere = list(known_keys(table))
    for key in everywhere:
        if key.split(".")[-1] == name:
            return f"`{name}` belongs in `[{key.rpartition('.')[0]}]`" if "." in key else f"`{name}` belongs at the top"
    if name in FOREIGN_KEYS:
        return f"it is called `{FOREIGN_KEYS[name]}` here"
    by_name = {key.split(".")[-1]: key for key in reversed(everywhere)}
    if hint := did_you_mean(name, by_name, cutoff=0.75, write=by_name.get):
        return hint
    fields = _keys_at(model) if model else ()
    return f"known here: {', '.join(fields)}" if fields else "remove it"


def _keys_at(model: type[Table]) -> Sequence[str]:
    return top_level() if model is Recipe else model.key_names()


def _of_this_or_another_method(name: str, table: Mapping[str, Any]) -> str:
    method = table["peft"].get("method")
    owners = [tag for tag, model in METHODS.items() if name in model.model_fields and tag != method]
    own = METHODS[method].model_fields if method in METHODS else {}
    if FOREIGN_KEYS.get(name, "").removeprefix("peft.") in own:
        return f"it is called `{FOREIGN_KEYS[name]}` here"
    if owners and name not in own and not close_to(name, own, cutoff=0.8):
        shown = " and ".join([*owners[:3], *([f"{len(owners) - 3} more"] if len(owners) > 3 else [])])
        return f"`{name}` belongs to {shown}, and the method is {method}"
    return ""


def _example(dotted: str) -> str:
    examples = {
        "task_name": 'such as `task_name = "gsm8k"`',
        "task_type": 'write `task_type = "CAUSAL_LM"` to write text, `"SEQ_CLS"` to classify it, `"TOKEN_CLS"` to tag',
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


def as_toml(value: Any) -> str:
    """A value as it would stand in TOML."""
    if isinstance(value, (float, datetime.date, datetime.time)):
        return str(value)
    written = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(f"\\u{ord(sign):04x}" if control_in(sign, JOINERS) else sign for sign in written)
