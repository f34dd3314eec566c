"""The ground of every table of a recipe: closed, strict, frozen."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any, final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

IGNORED = -100
"""Label of a token that is not in the loss, as PyTorch's cross entropy has it."""


class Table(BaseModel):
    """A table of the recipe. Unknown keys, wrong types and non-finite numbers are errors; nothing is ever changed.

    The docstring under a field is its one description: the JSON Schema, the reference and `lorans init` read it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Names of the keys in the TOML table."""
        return tuple(cls.model_fields)


@dataclass(frozen=True)
class Conflict:
    """Keys that do not go together."""

    keys: tuple[str, ...]
    """The dotted keys that clash; the last is the one to point at."""
    what: str
    remedy: str


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


Probability = Annotated[float, Field(ge=0.0, le=1.0)]


PositiveInt = Annotated[int, Field(ge=1)]


NonNegativeInt = Annotated[int, Field(ge=0)]


PositiveFloat = Annotated[float, Field(gt=0.0)]


NonNegativeFloat = Annotated[float, Field(ge=0.0)]


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What numpy and torch start their random numbers from."""


Text = Annotated[str, Field(min_length=1)]
"""A text of any characters."""


CONTROL = "control_character"
"""The kind of error that a control character in a name is."""


JOINERS = "\u200c\u200d"
"""Characters without a width that Persian, Hindi and others write words with; paths and identifiers have none."""


def control_in(text: str, besides: str = "") -> str | None:
    """The first character of a text that moves, hides or turns what is shown, as `U+000A`; None if there is none.

    Those are line breaks and other control characters, separators of lines and paragraphs, characters without a width
    and those that change the direction of writing. `besides` are allowed.
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
    """Refuse control characters in the keys and strings of a table that is handed on to a library."""

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
"""The kind of error that a name is which no file can have."""


def _as_long_as_a_path(text: str) -> str:
    """Refuse what no file system takes: it is told where it is written, rather than where it is used."""
    sizes = [len(part.encode(errors="replace")) for part in text.split("/")]
    if max(sizes) > 255 or sum(sizes) + len(sizes) > 4000:
        raise PydanticCustomError(LONG_NAME, "longer than a file name can be")
    return text


WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""A name that is a part of commands and file names as it is."""


_PORT = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"


PLACE = rf"^[A-Za-z0-9_.:\[\]][A-Za-z0-9_.:%\[\]-]{{0,252}}:{_PORT}$"
"""Where programs meet: the name or address of a machine, and a port."""


NO_CONTROL = AfterValidator(_without_control)


Name = Annotated[str, Field(min_length=1), NO_CONTROL, AfterValidator(_as_long_as_a_path)]
"""A name or a path, which becomes a part of commands and scripts: without control characters, and not too long."""


Pattern = Annotated[str, Field(min_length=1), NO_CONTROL]
"""A pattern of names of modules, without control characters."""


Column = Annotated[str, Field(min_length=1), AfterValidator(lambda text: _without_control(text, JOINERS))]
"""The name of a column or a label, in any language."""


Extra = Annotated[dict[str, Any], AfterValidator(_names_alone)]
"""Further arguments of a library."""


@final
@dataclass(frozen=True)
class Refusal:
    """A row of a table of what something does not go with."""

    key: str
    """The dotted key that it does not go with."""
    applies: bool
    what: str
    remedy: str = ""


def first_of(*rows: Refusal) -> Refusal | None:
    """The first row of a table that applies: one reason is enough, and the others may follow from it."""
    return next((row for row in rows if row.applies), None)
