"""The strict, frozen base class of every recipe table, and the field types that tables share."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

IGNORED = -100
"""Label of a token that is not in the loss, the default `ignore_index` of PyTorch's cross entropy."""


class Table(BaseModel):
    """A table of the recipe. Unknown keys, wrong types and non-finite numbers are errors; values never change.

    The docstring under a field is its only description: the JSON Schema, docs/recipe.md and `lorans init` use it.
    The validator of a table is built when it is first used: most are only parts of others.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,
    )

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Keys of the TOML table."""
        return tuple(cls.model_fields)

    @classmethod
    def described(cls, key: str) -> str:
        """Description of a key in one line; `unknown` for a key that does not exist."""
        known = cls.model_fields.get(key)
        return " ".join((known.description or _descriptions(cls).get(key, "")).split()) if known else "unknown"

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The JSON Schema, with the descriptions of the keys.

        pydantic's `use_attribute_docstrings` would read the source of every table whenever one is imported.
        """
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for key, text in _descriptions(cls).items():
            properties[key] = {"description": text, **properties[key]}
        return schema


def _descriptions(table: type[Table]) -> dict[str, str]:
    """Docstrings under the fields of a table and of those that it derives from; a field defined anew has its own."""
    found: dict[str, str] = {}
    for owner in reversed(table.mro()):
        if issubclass(owner, Table) and owner is not Table:
            found |= _attribute_docstrings(owner.__module__).get(owner.__qualname__, {})
    return {key: text for key, text in found.items() if text and key in table.model_fields}


@cache
def _attribute_docstrings(module: str) -> dict[str, dict[str, str]]:
    """Docstrings under the annotated names of the classes of a module, by class and name; empty without its source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return {}
    return {node.name: dict(_documented(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the annotated names of a class, each with its docstring; "" if it has none."""
    for field, below in itertools.zip_longest(node.body, node.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            yield field.target.id, inspect.cleandoc(text) if isinstance(text, str) else ""


@dataclass(frozen=True)
class Conflict:
    """Keys that cannot be combined."""

    keys: tuple[str, ...]
    """Dotted keys in conflict. The error names the line of the last one."""
    what: str
    remedy: str


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


Probability = Annotated[float, Field(ge=0.0, le=1.0)]


PositiveInt = Annotated[int, Field(ge=1)]


NonNegativeInt = Annotated[int, Field(ge=0)]


PositiveFloat = Annotated[float, Field(gt=0.0)]


NonNegativeFloat = Annotated[float, Field(ge=0.0)]


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""Seed of the random number generators of Python, numpy and torch."""


Text = Annotated[str, Field(min_length=1)]
"""Non-empty text of any characters."""


CONTROL = "control_character"
"""Type of the pydantic error for a control character in a name."""


JOINERS = "\u200c\u200d"
"""Zero-width characters that are part of words in Persian, Hindi and other languages; not allowed in paths."""


def control_in(text: str, besides: str = "") -> str | None:
    """The first control character of a text, as `U+000A`, or None.

    Control characters here are those that move, hide or reverse text on a screen: line breaks and other controls, line
    and paragraph separators, zero-width characters, and changes of the writing direction.

    Args:
        text: the text to search.
        besides: characters that are allowed.
    """
    for character in text:
        kind = unicodedata.category(character)
        if kind in {"Cc", "Cf", "Zl", "Zp", "Cs"} and character not in besides:
            return f"U+{ord(character):04X}"
    return None


def _without_control(text: str, besides: str = "") -> str:
    if found := control_in(text, besides):
        raise PydanticCustomError(CONTROL, "{character}", {"character": found})
    return text


def _names_alone(table: dict[str, Any]) -> dict[str, Any]:
    """Refuse control characters in the keys and strings of a table of library arguments."""

    def look(value: Any) -> None:
        if isinstance(value, str):
            _without_control(value)
        elif isinstance(value, dict):
            for key, below in value.items():
                look(key)
                look(below)
        elif isinstance(value, (list, tuple)):
            for below in value:
                look(below)

    look(table)
    return table


LONG_NAME = "long_name"
"""Type of the pydantic error for a name that is too long for a file."""


def _as_long_as_a_path(text: str) -> str:
    """Refuse a path that is too long for any file system, so that the error names the recipe line."""
    sizes = [len(part.encode(errors="replace")) for part in text.split("/")]
    if max(sizes) > 255 or sum(sizes) + len(sizes) > 4000:
        raise PydanticCustomError(LONG_NAME, "longer than a file name can be")
    return text


WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Name that can be used in commands and file names without quoting."""


_PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"


PLACE = rf"^[A-Za-z0-9_.:\[\]][A-Za-z0-9_.:%\[\]-]{{0,252}}:{_PORT}$"
"""Endpoint of a rendezvous: host name or address, and a port."""


DURATION = r"^[1-9]\d{0,8}[dhms](\d{1,9}[dhms])*$"
"""Length of time such as `2h30m`."""


NO_CONTROL = AfterValidator(_without_control)


Name = Annotated[str, Field(min_length=1), NO_CONTROL, AfterValidator(_as_long_as_a_path)]
"""Name or path, without control characters and short enough for a file system. It may appear in scripts."""


Pattern = Annotated[str, Field(min_length=1), NO_CONTROL]
"""Pattern of module names, without control characters."""


Column = Annotated[str, Field(min_length=1), AfterValidator(lambda text: _without_control(text, JOINERS))]
"""Name of a column or a label, in any language."""


Extra = Annotated[dict[str, Any], AfterValidator(_names_alone)]
"""Further arguments for a library, without control characters."""


@final
@dataclass(frozen=True)
class Refusal:
    """A row in a table of settings that cannot be combined with something."""

    key: str
    """Dotted key of the setting."""
    applies: bool
    what: str
    remedy: str = ""


def first_of(*rows: Refusal) -> Refusal | None:
    """The first row that applies. One reason is enough, and the others may follow from it."""
    return next((row for row in rows if row.applies), None)
