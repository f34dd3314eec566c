"""YAML from strangers: parsed to nodes, which have lines, with limits on references and depth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.reading import DEEPEST, TOO_DEEP

if TYPE_CHECKING:
    import yaml


MOST_ALIASES = 16
"""References to what a file said before; a few that refer to one another stand for more than fits into the memory."""


def yaml_loader(text: str, where: str, error: type[LoransError] = UsageError) -> yaml.SafeLoader:
    """A loader of a text that is small and stays small.

    Raises:
        LoransError: of class `error`, for references to references, and nesting that is too deep.
    """
    import yaml

    _check_events(yaml.SafeLoader(text), where, error)
    return yaml.SafeLoader(text)


def _check_events(loader: yaml.SafeLoader, where: str, error: type[LoransError]) -> None:
    """Refuse what is small and becomes large: references to references, and nesting."""
    import yaml

    aliases = depth = 0
    for event in iter(loader.get_event, None):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        what = f"more than {MOST_ALIASES} references (`*name`)" if aliases > MOST_ALIASES else TOO_DEEP
        if aliases > MOST_ALIASES or depth > DEEPEST:
            raise error(Problem(f"{where}:{event.start_mark.line + 1}", what, "write the values themselves"))


@contextlib.contextmanager
def reading_yaml(where: str, error: type[LoransError] = UsageError) -> Iterator[None]:
    """Turn what the parser says of a text into a problem with its line."""
    import yaml

    try:
        yield
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        mark = getattr(fault, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        what = getattr(fault, "problem", None) or str(fault).partition("\n")[0]
        raise error(Problem(place, f"not YAML: {what}", "mend it")) from None
