"""The one training command of a shell script, as keys and values; nothing of it is ever run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from lora_ns.errors import Problem, UsageError
from lora_ns.importers.source import Source, SourceBuilder, read_source


def is_shell(path: Path, text: str) -> bool:
    """Whether a file is a script, by its name or by its first line."""
    return path.suffix in (".sh", ".bash") or (not path.suffix and text.startswith("#!"))


@dataclass(frozen=True)
class _Word:
    text: str
    line: int
    ends: bool = False
    """Whether it is no word but the end of a command."""


_TOKEN = re.compile(
    r"""
    (?P<blank>[ \t\r]+|\\\r?\n)
  | (?P<comment>(?<![^\s;&|(])\#[^\n]*)
  | (?P<redirect>\d*(?:>>?|<)(?:&\d+|[ \t]*[^\s;&|]*)|&>>?[ \t]*[^\s;&|]*)
  | (?P<end>\n|;|&&?|\|\|?|[()](?=\s|$))
  | (?P<single>'[^']*')
  | (?P<double>"(?:[^"\\]|\\.)*")
  | (?P<command>\$\([^()]*(?:\([^()]*\)[^()]*)*\)|`[^`]*`)
  | (?P<braces>\$\{[^}]*\})
  | (?P<name>\$[A-Za-z_@*\#?0-9][A-Za-z0-9_]*)
  | (?P<escaped>\\.)
  | (?P<plain>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _words(text: str) -> Iterator[_Word]:
    """The words of a script, and the ends of its commands. What a shell would fill in stands in `${...}`."""
    word: str | None = None
    start = line = 1
    for token in _TOKEN.finditer(text):
        kind, part = token.lastgroup, token[0]
        if kind in ("blank", "comment", "end", "redirect"):
            if word is not None:
                yield _Word(word, start)
                word = None
            if kind == "end":
                yield _Word("", line, ends=True)
        else:
            start = line if word is None else start
            word = (word or "") + _unquoted(kind, part)
        line += part.count("\n")
    if word is not None:
        yield _Word(word, start)
    yield _Word("", line, ends=True)


def _open_quote(text: str) -> int | None:
    """The line of a quote that never ends."""
    tokens = _TOKEN.finditer(text)
    return next((text.count("\n", 0, one.start()) + 1 for one in tokens if one["plain"] in ("'", '"', "`")), None)


def _unquoted(kind: str | None, part: str) -> str:
    if kind == "single":
        return part[1:-1]
    if kind == "double":
        inside = re.sub(r"\\\n", "", part[1:-1])
        inside = re.sub(r"(?<!\\)\$([A-Za-z_][A-Za-z0-9_]*)", r"${\1}", inside)
        inside = re.sub(r"(?<!\\)\$\(([^()]*)\)|`([^`]*)`", "${ ... }", inside)
        return re.sub(r'\\(["\\$`])', r"\1", inside)
    if kind == "name":
        return f"${{{part[1:]}}}"
    if kind == "command":
        return "${ ... }"
    return part[1:] if kind == "escaped" else part


@dataclass(frozen=True)
class _Command:
    """A command that trains: the tool, what it does, its arguments, and variables that are set for it."""

    tool: str
    does: str
    arguments: tuple[_Word, ...]
    variables: Mapping[str, _Word]
    line: int
    launcher: tuple[_Word, ...] = ()
    """What stands before it, such as `torchrun --nproc_per_node 2`."""


_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def _commands(text: str) -> Iterator[_Command]:
    exported: dict[str, _Word] = {}
    words: list[_Word] = []
    for word in _words(text):
        if not word.ends:
            words.append(word)
            continue
        given = dict(exported)
        while words and (words[0].text in _BEFORE or _ASSIGNMENT.fullmatch(words[0].text)):
            first = words.pop(0)
            if first.text == "export":
                exported |= {found[1]: replace(one, text=found[2]) for one in words if (found := _assigned(one))}
            elif found := _assigned(first):
                given[found[1]] = replace(first, text=found[2])
        if words and (command := _training(words, given)):
            yield command
        words = []


def _assigned(word: _Word) -> re.Match[str] | None:
    return _ASSIGNMENT.fullmatch(word.text)


_BEFORE = ("export", "env", "nohup", "time", "exec", "sudo")


_FILES = {
    "llamafactory-cli": "llamafactory",
    "llamafactory": "llamafactory",
    "lmf": "llamafactory",
    "axolotl": "axolotl",
}


_DOES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "swift": ("ms-swift", ("sft", "pt", "rlhf")),
    "trl": ("trl", ("sft", "dpo", "kto", "grpo", "reward", "rloo")),
    "unsloth": ("unsloth", ("train",)),
    **{name: (tool, ("train",)) for name, tool in _FILES.items()},
}


_SCRIPTS = ("sft", "pt", "rlhf", "dpo", "grpo", "orpo", "kto", "reward")
"""Names of Python files, in TRL and those built on it, and in ms-swift's `swift/cli/`."""


def _training(words: Sequence[_Word], variables: Mapping[str, _Word]) -> _Command | None:
    for number, word in enumerate(words):
        name = PurePath(word.text).name
        after = words[number + 1].text if number + 1 < len(words) else ""
        tool, does = _DOES.get(name, ("", ()))
        if number == 0 and after in does:
            return _Command(tool, f"{name} {after}", tuple(words[number + 2 :]), variables, word.line)
        if number > 1 and word.text == "axolotl.cli.train" and words[number - 1].text == "-m":
            before, after_it = tuple(words[:number]), tuple(words[number + 1 :])
            return _Command("axolotl", "axolotl train", after_it, variables, word.line, before)
        verb = name.removesuffix(".py")
        if number > 0 and verb in _SCRIPTS and name != verb and not word.text.startswith("-"):
            program = "swift" if "swift" in PurePath(word.text).parts else "trl"
            before, after_it = tuple(words[:number]), tuple(words[number + 1 :])
            return _Command(_DOES[program][0], f"{program} {verb}", after_it, variables, word.line, before)
    return None


def parse_shell(path: Path, text: str) -> Source:
    """The keys of the one training command of a script.

    Raises:
        UsageError: if there is none or more than one, if it names a file and options beside it, or if a quote is open.
    """
    if (line := _open_quote(text)) is not None:
        raise UsageError(Problem(f"{path}:{line}", "a quote that never ends", "end it"))
    found = list(_commands(text))
    if len(found) != 1:
        listed = " and ".join(f"`{one.does}` in line {one.line}" for one in found[:2])
        what = f"has several commands that train: {listed}" if found else "has no command that trains"
        remedy = "leave one of them in a copy" if found else f"such as `swift sft`; or {_NAME_FILE}"
        raise UsageError(Problem(str(path), what, remedy))
    command = found[0]
    gpus = _gpus(command)
    if (named := _named_file(path, command)) is not None:
        source = read_source(named)
        return replace(source, tool=command.tool, gpus=gpus)
    builder = SourceBuilder(path)
    builder.leaf("command", command.does, command.line)
    if command.variables:
        builder.table("environment", {key: word.text for key, word in command.variables.items()}, command.line)
    for key, word in command.variables.items():
        builder.leaf(f"environment.{key}", word.text, word.line)
    _options(path, command, builder)
    return replace(builder.source(), tool=command.tool, gpus=gpus)


_NAME_FILE = "name the file that the tool trains with"


def _named_file(path: Path, command: _Command) -> Path | None:
    """The configuration that the command names instead of options."""
    words = [word.text for word in command.arguments]
    if words[:1] == ["--config"]:
        words = words[1:]
    elif words and words[0].startswith("--config="):
        words[0] = words[0].removeprefix("--config=")
    elif "--config" in words:
        raise UsageError(_beside(path, command, words[words.index("--config") + 1 :][:1]))
    if not words or words[0].startswith("-"):
        return None
    if "${" in words[0]:
        raise UsageError(Problem(f"{path}:{command.line}", f"`{words[0]}` is filled in by the shell", _NAME_FILE))
    if len(words) > 1:
        raise UsageError(_beside(path, command, words[:1]))
    if Path(words[0]).suffix not in (".yaml", ".yml", ".json"):
        raise UsageError(Problem(f"{path}:{command.line}", f"`{words[0]}` is no YAML or JSON file", _NAME_FILE))
    return Path(words[0])


def _beside(path: Path, command: _Command, named: Sequence[str]) -> Problem:
    name = named[0] if named else "a file"
    what = f"`{command.does}` names {name} and options beside it"
    return Problem(f"{path}:{command.line}", what, f"write the options into a copy of {name}, and import that")


def _options(path: Path, command: _Command, builder: SourceBuilder) -> None:
    """`--key value ...`, `--key=value` and `--key` as keys and values."""
    key, values, line = "", list[str](), 0
    for word in (*command.arguments, _Word("--", 0)):
        if not word.text.startswith("--"):
            if not key:
                what = f"`{word.text}` belongs to no option"
                raise UsageError(Problem(f"{path}:{word.line}", what, "write it after its `--option`"))
            values.append(word.text)
            continue
        if key:
            builder.leaf(key, _value(values), line)
        name, equals, value = word.text[2:].partition("=")
        key, values, line = name.replace("-", "_"), [value] if equals else [], word.line


def _value(values: Sequence[str]) -> Any:
    if len(values) != 1:
        return [_scalar(one) for one in values] if values else True
    text = values[0]
    if text.startswith(("{", "[")) and "${" not in text:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return _scalar(text)


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("None", "null"):
        return None
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][-+]?\d{1,3})", text) else text


_PROCESSES = ("nproc_per_node", "num_processes")


def _gpus(command: _Command) -> int | None:
    """The processes that the command is started in."""
    given = {key: word.text for key, word in command.variables.items()}
    per_node, nodes = given.get("NPROC_PER_NODE"), given.get("NNODES", "1")
    words = [part for word in command.launcher for part in word.text.split("=", 1)]
    for name, value in pairwise(words):
        if name.lstrip("-").replace("-", "_") in _PROCESSES:
            per_node = value
    if per_node is None or not per_node.isdecimal() or not nodes.isdecimal() or len(per_node + nodes) > 9:
        return None
    return max(1, int(per_node) * int(nodes))
