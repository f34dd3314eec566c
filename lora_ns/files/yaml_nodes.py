"""Untrusted YAML, parsed to nodes that know their lines, with limits on aliases and depth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.reading import DEEPEST, TOO_DEEP

if TYPE_CHECKING:
    import yaml


MOST_ALIASES = 16
"""Maximum number of YAML aliases; a few nested ones can expand to more than the memory holds."""


def yaml_loader(text: str, where: str, error: type[LoransError] = UsageError) -> yaml.SafeLoader:
    """Return a loader for a text that does not expand to large values.

    Raises:
        LoransError: of class `error`, for too many aliases and deep nesting.
    """
    import yaml

    _check_events(yaml.SafeLoader(text), where, error)
    return yaml.SafeLoader(text)


def _check_events(loader: yaml.SafeLoader, where: str, error: type[LoransError]) -> None:
    """Refuse small files that expand to large values: too many aliases, and deep nesting."""
    import yaml

    aliases = depth = 0
    for event in iter(loader.get_event, None):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        what = f"more than {MOST_ALIASES} aliases (`*name`)" if aliases > MOST_ALIASES else TOO_DEEP
        if aliases > MOST_ALIASES or depth > DEEPEST:
            raise error(Problem(f"{where}:{event.start_mark.line + 1}", what, "write the values themselves"))


@contextlib.contextmanager
def reading_yaml(where: str, error: type[LoransError] = UsageError) -> Iterator[None]:
    """Turn an error of the YAML parser into a problem with its line."""
    import yaml

    try:
        yield
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        mark = getattr(fault, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        what = getattr(fault, "problem", None) or str(fault).partition("\n")[0]
        raise error(Problem(place, f"invalid YAML: {what}", "fix it")) from None
