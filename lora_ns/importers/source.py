"""Configuration files as keys and values, each with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import LARGEST_YAML, parse_json, parse_toml, read_text
from lora_ns.files.yaml_nodes import reading_yaml, yaml_loader

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class Source:
    """The keys of a file, dotted: `lora_r`, `gradient_checkpointing_kwargs.use_reentrant`, `datasets.0.path`.

    A leaf is a key whose value is a scalar, a list without tables, or an empty table. Tables are also values, so that
    they can be read as a whole, but only leaves have an outcome.
    """

    path: Path
    values: Mapping[str, Any]
    """Leaves and tables by dotted key, in the order of the file."""
    lines: Mapping[str, int]
    """Line of each key, from 1."""
    leaves: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    """Keys that the file contains twice; the last one counts."""
    tool: str | None = None
    """Tool, if the file names it: that of the command in a script."""
    gpus: int | None = None
    """Number of devices, if the file names it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The top-level keys."""
        return tuple(key for key in self.values if "." not in key)

    def get(self, key: str) -> Any:
        """Return the value of a key; None if it is missing or blank."""
        value = self.values.get(key)
        return None if is_blank(value) else value

    def below(self, key: str) -> tuple[str, ...]:
        """Return the leaves of a key: itself, or those in its table or list."""
        return tuple(leaf for leaf in self.leaves if f"{leaf}.".startswith(f"{key}."))

    def has(self, key: str) -> bool:
        """True if a key is present and not blank."""
        return any(not is_blank(self.values[leaf]) for leaf in self.below(key))

    def where(self, key: str) -> str:
        """Return the place of a key, or of the table that it is missing from, such as `config.yaml:13`."""
        owner = key
        while owner:
            if owner in self.lines:
                return f"{self.path}:{self.lines[owner]}"
            owner = owner.rpartition(".")[0]
        return str(self.path)


def is_blank(value: Any) -> bool:
    """True if a value counts as missing: nothing after the colon, or an empty string, list or table."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


@dataclass
class SourceBuilder:
    """Builder of a `Source`, for readers of any kind of file."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    leaves: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def table(self, key: str, value: Any, line: int) -> None:
        """Add a table or a list of tables."""
        self._place(key, value, line)

    def leaf(self, key: str, value: Any, line: int) -> None:
        """Add a leaf."""
        self._place(key, value, line)
        self.leaves.append(key)

    def _place(self, key: str, value: Any, line: int) -> None:
        if key in self.values:
            self.repeated.append(key)
            self.leaves = [leaf for leaf in self.leaves if not f"{leaf}.".startswith(f"{key}.")]
        self.values[key] = value
        self.lines[key] = line

    def source(self) -> Source:
        """Return the source."""
        return Source(self.path, self.values, self.lines, tuple(self.leaves), tuple(self.repeated))


def read_source(path: Path) -> Source:
    """Read a YAML or JSON file, or the command in a shell script.

    Raises:
        UsageError: if it cannot be read, is too large, is none of these, or has no table at the top.
    """
    text = read_text(path, UsageError, most=LARGEST_YAML, if_folder="name a file in it", takes_pipes=True)
    return parse_source(path, text)


def parse_source(path: Path, text: str) -> Source:
    """Parse the text of a file; `path` appears in messages."""
    from lora_ns.importers.shell import is_shell, parse_shell

    if is_shell(path, text):
        return parse_shell(path, text)
    builder = SourceBuilder(path)
    if path.suffix == ".toml":  # no supported tool uses TOML, but it may be a recipe
        for name, value in parse_toml(text, str(path), UsageError).items():
            builder.leaf(name, value, 1)
        return builder.source()
    if path.suffix == ".json":
        text = _json_as_yaml(path, text)
    with reading_yaml(str(path), UsageError):
        loader = yaml_loader(text, str(path), UsageError)
        _walk(loader, _root(loader, path), "", builder)
    return builder.source()


def _json_as_yaml(path: Path, text: str) -> str:
    """Return JSON in a form that YAML parses to the same values: with only spaces between its tokens."""
    if any(line.lstrip().startswith(("//", "/*")) for line in text.splitlines()):
        raise UsageError(Problem(str(path), "not JSON: it has comments", "remove the comments, or save it as YAML"))
    parse_json(text, str(path), UsageError)
    return text.replace("\t", " ")  # a tab in a string of JSON is written `\t`


def _root(loader: yaml.SafeLoader, path: Path) -> yaml.MappingNode:
    import yaml

    node = loader.get_single_node()
    if not isinstance(node, yaml.MappingNode) or not node.value:
        what = "is empty" if node is None or isinstance(node, yaml.MappingNode) else "not a table of settings"
        raise UsageError(Problem(str(path), what, "name a training configuration of the other tool"))
    return node


def _walk(loader: yaml.SafeLoader, node: yaml.MappingNode, before: str, builder: SourceBuilder) -> None:
    own = {id(key) for key, _ in node.value}
    names = {str(loader.construct_object(key)) for key, _ in node.value if key.tag != _MERGE}
    loader.flatten_mapping(node)  # `<<: *defaults`
    for key_node, value_node in node.value:
        name = str(loader.construct_object(key_node))
        if id(key_node) in own or name not in names:
            _place(loader, value_node, f"{before}{name}", key_node.start_mark.line + 1, builder)


_MERGE = "tag:yaml.org,2002:merge"


def _place(loader: yaml.SafeLoader, node: yaml.Node, key: str, line: int, builder: SourceBuilder) -> None:
    import yaml

    value = loader.construct_object(node, deep=True)
    if isinstance(node, yaml.MappingNode) and node.value:
        builder.table(key, value, line)
        _walk(loader, node, f"{key}.", builder)
    elif isinstance(node, yaml.SequenceNode) and any(_tables_in(node)):
        builder.table(key, value, line)
        for number, below in enumerate(node.value):
            _place(loader, below, f"{key}.{number}", below.start_mark.line + 1, builder)
    else:
        builder.leaf(key, value, line)


def _tables_in(node: yaml.SequenceNode) -> Iterator[yaml.Node]:
    import yaml

    return (below for below in node.value if isinstance(below, yaml.MappingNode))
