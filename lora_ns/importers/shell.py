"""Reader of shell scripts: the options of their training command as keys and values. Nothing is executed."""

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
    """True if a file is a shell script, by its name or its first line."""
    return path.suffix in (".sh", ".bash") or (not path.suffix and text.startswith("#!"))


@dataclass(frozen=True)
class _Word:
    text: str
    line: int
    ends: bool = False
    """True for the end of a command, which has no text."""


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
    """Yield the words of a script, and the ends of its commands; values that a shell would insert become `${...}`."""
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
    """Return the line of the first quote that is not closed; None if there is none."""
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
    """A training command: the tool, its subcommand, its arguments, and the variables that are set for it."""

    tool: str
    name: str
    """Program and subcommand, such as `swift sft`."""
    arguments: tuple[_Word, ...]
    variables: Mapping[str, _Word]
    line: int
    launcher: tuple[_Word, ...] = ()
    """Words before it, such as `torchrun --nproc_per_node 2`."""


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


_SUBCOMMANDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "swift": ("ms-swift", ("sft", "pt", "rlhf")),
    "trl": ("trl", ("sft", "dpo", "kto", "grpo", "reward", "rloo")),
    "unsloth": ("unsloth", ("train",)),
    **{name: (tool, ("train",)) for name, tool in _FILES.items()},
}


_SCRIPTS = ("sft", "pt", "rlhf", "dpo", "grpo", "orpo", "kto", "reward")
"""Names of training scripts in Python: of TRL, of projects that are built on it, and of ms-swift's `swift/cli/`."""


def _training(words: Sequence[_Word], variables: Mapping[str, _Word]) -> _Command | None:
    for number, word in enumerate(words):
        name = PurePath(word.text).name
        after = words[number + 1].text if number + 1 < len(words) else ""
        tool, subcommands = _SUBCOMMANDS.get(name, ("", ()))
        if number == 0 and after in subcommands:
            return _Command(tool, f"{name} {after}", tuple(words[number + 2 :]), variables, word.line)
        if number > 1 and word.text == "axolotl.cli.train" and words[number - 1].text == "-m":
            before, after_it = tuple(words[:number]), tuple(words[number + 1 :])
            return _Command("axolotl", "axolotl train", after_it, variables, word.line, before)
        verb = name.removesuffix(".py")
        if number > 0 and verb in _SCRIPTS and name != verb and not word.text.startswith("-"):
            program = "swift" if "swift" in PurePath(word.text).parts else "trl"
            before, after_it = tuple(words[:number]), tuple(words[number + 1 :])
            return _Command(_SUBCOMMANDS[program][0], f"{program} {verb}", after_it, variables, word.line, before)
    return None


def parse_shell(path: Path, text: str) -> Source:
    """Parse the training command of a script.

    Raises:
        UsageError: if there is none or more than one, if it has a file as well as options, or if a quote is not closed.
    """
    if (line := _open_quote(text)) is not None:
        raise UsageError(Problem(f"{path}:{line}", "this quote is not closed", "close it"))
    found = list(_commands(text))
    if len(found) != 1:
        listed = " and ".join(f"`{one.name}` in line {one.line}" for one in found[:2])
        what = f"has several training commands: {listed}" if found else "has no training command, such as `swift sft`"
        remedy = "copy the file, and keep one of them" if found else _NAME_FILE
        raise UsageError(Problem(str(path), what, remedy))
    command = found[0]
    gpus = _gpus(command)
    if (named := _named_file(path, command)) is not None:
        source = read_source(named)
        return replace(source, tool=command.tool, gpus=gpus)
    builder = SourceBuilder(path)
    builder.leaf("command", command.name, command.line)
    if command.variables:
        builder.table("environment", {key: word.text for key, word in command.variables.items()}, command.line)
    for key, word in command.variables.items():
        builder.leaf(f"environment.{key}", word.text, word.line)
    _options(path, command, builder)
    return replace(builder.source(), tool=command.tool, gpus=gpus)


_NAME_FILE = "name the configuration file of the training run"


def _named_file(path: Path, command: _Command) -> Path | None:
    """Return the configuration file that the command has instead of options; None if it has options."""
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
        what = f"the shell would insert `{words[0]}`, and lorans does not run the script"
        raise UsageError(Problem(f"{path}:{command.line}", what, _NAME_FILE))
    if len(words) > 1:
        raise UsageError(_beside(path, command, words[:1]))
    if Path(words[0]).suffix not in (".yaml", ".yml", ".json"):
        raise UsageError(Problem(f"{path}:{command.line}", f"`{words[0]}` is not a YAML or JSON file", _NAME_FILE))
    return Path(words[0])


def _beside(path: Path, command: _Command, named: Sequence[str]) -> Problem:
    name = named[0] if named else "a file"
    what = f"`{command.name}` has options in addition to {name}"
    return Problem(f"{path}:{command.line}", what, f"copy {name}, add the options to it, and import the copy")


def _options(path: Path, command: _Command, builder: SourceBuilder) -> None:
    """Add the options `--key value ...`, `--key=value` and `--key` as keys and values."""
    key, values, line = "", list[str](), 0
    for word in (*command.arguments, _Word("--", 0)):
        if not word.text.startswith("--"):
            if not key:
                what = f"`{word.text}` does not belong to an option"
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
    """Return the number of processes that the command starts; None if it is not known."""
    given = {key: word.text for key, word in command.variables.items()}
    per_node, nodes = given.get("NPROC_PER_NODE"), given.get("NNODES", "1")
    words = [part for word in command.launcher for part in word.text.split("=", 1)]
    for name, value in pairwise(words):
        if name.lstrip("-").replace("-", "_") in _PROCESSES:
            per_node = value
    if per_node is None or not per_node.isdecimal() or not nodes.isdecimal() or len(per_node + nodes) > 9:
        return None
    return max(1, int(per_node) * int(nodes))
