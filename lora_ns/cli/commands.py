"""The parser of the command line: help in groups, and the way from a wrong option or command to the right one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from lora_ns.errors import Problem, UsageError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """A command with its place in the help."""

    name: str
    function: Callable[..., None]
    group: str = ""
    """Heading in `lorans --help`; empty for a command that only lorans itself runs."""
    examples: Sequence[str] = ()
    """Command lines that work as they stand, or with the user's own names."""

    def add_to(self, app: typer.Typer) -> None:
        """Register the command."""
        app.command(
            self.name,
            cls=Command,
            help=_in_paragraphs(inspect.getdoc(self.function) or ""),
            hidden=not self.group,
            rich_help_panel=self.group or None,
            epilog=_epilog(self.examples),
        )(self.function)


@dataclass(frozen=True)
class Family:
    """Commands with a first word in common, such as `lorans adapter check`."""

    name: str
    sentence: str
    """What they are about, as a sentence for the help."""
    group: str
    commands: Sequence[Entry]
    examples: Sequence[str]

    def add_to(self, app: typer.Typer) -> None:
        """Register the commands."""
        family = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
        for command in self.commands:
            command.add_to(family)
        app.add_typer(
            family,
            name=self.name,
            cls=Group,
            help=self.sentence,
            rich_help_panel=self.group,
            epilog=_epilog(self.examples),
            no_args_is_help=True,
        )


def _in_paragraphs(text: str) -> str:
    """Join the lines of each paragraph, so that a terminal of any width wraps them."""
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.split("\n\n"))


def is_rich() -> bool:
    """Return whether help has panels and colours: on a terminal, but not in a pipe or a file."""
    return sys.stdout.isatty()


def is_own_process(context: typer.Context) -> bool:
    """Return whether the process ends with the command, so that the command may import only what it needs itself."""
    return context.find_root().obj is OWN_PROCESS


OWN_PROCESS = "own process"
"""The parser's `obj` where the process was started for this command line."""


def _epilog(examples: Sequence[str]) -> str | None:
    """Format the examples, one per line, for either formatter of help."""
    if not examples:
        return None
    if is_rich():
        return "\n\n".join(["Examples:", *(example.replace("[", "\\[") for example in examples)])
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


_Usage: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""The parser's error for a wrong command line; its module depends on the version of typer."""


def _problem_of(error: Any, command: str, advice: str = "") -> Problem:
    """Describe a wrong command line.

    Args:
        error: the parser's error.
        command: the command with its parents.
        advice: the replacement for an option that the command does not have, if one is known.
    """
    remedy = advice or f"`{command} --help` lists the options"
    if option := getattr(error, "option_name", "") if hasattr(error, "possibilities") else "":
        return Problem(option, f"`{command}` has no such option", remedy)
    parameter = getattr(error, "param", None)
    what = error.message.removeprefix("Value error, ") if parameter and error.message else error.format_message()
    where = max(parameter.opts, key=len) if parameter and error.message else ""
    return Problem(where, f"{what[:1].lower()}{what[1:]}".rstrip("."), remedy)


def _without_flag_types(parameters: Sequence[Any]) -> list[Any]:
    """Show no type beside a flag in the help: it takes no value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return list(parameters)


class Command(TyperCommand):
    """A command that knows the options of other tools."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options, for the help."""
        return _without_flag_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an option of another tool is an error that names the key to set."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except _Usage as error:
            option = getattr(error, "option_name", "") if hasattr(error, "possibilities") else ""
            advice = self._advice(option, given) if option else ""
            raise UsageError(_problem_of(error, _words_of(ctx), advice)) from None

    def _advice(self, option: str, given: Sequence[str]) -> str:
        """Return the replacement for an option that the command does not have, empty if there is none."""
        own = [name for parameter in self.params for name in parameter.opts]
        if meant := _OPTIONS.get((self.name or "", option)) or _OPTIONS.get(("", option)):
            return meant
        if close := did_you_mean(option, own, cutoff=0.85):
            return close
        if "--set" not in own:
            return ""
        from lora_ns.recipe.advise import setting_of

        setting = setting_of(
            option.lstrip("-"), _value_of(option, given), only="generation" if self.name == "infer" else ""
        )
        return f"write `--set {setting}`" if setting else ""


def _words_of(ctx: Any) -> str:
    """Return the words of a command line up to its command, whatever the program was started as."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(["lorans", *names])


def _value_of(option: str, given: Sequence[str]) -> str:
    """Return the value that was given to an option, empty if none was."""
    for place, argument in enumerate(given):
        name, _, value = argument.partition("=")
        if name == option:
            following = given[place + 1] if place + 1 < len(given) else ""
            return value or ("" if following.startswith("--") else following)
    return ""


_OPTIONS: Mapping[tuple[str, str], str] = {
    ("", "--config"): "write the path of the recipe without an option",
    ("train", "--resume-from-checkpoint"): "write `--resume`",
    ("train", "--resume_from_checkpoint"): "write `--resume`",
    ("train", "--overwrite-output-dir"): "write `--overwrite`",
    ("train", "--overwrite_output_dir"): "write `--overwrite`",
    ("train", "--nproc-per-node"): "write `--num-processes` with their number",
    ("train", "--nproc_per_node"): "write `--num-processes` with their number",
    ("train", "--nnodes"): "write `--nodes` with their number",
    ("infer", "--prompt"): "write `--input`",
    ("infer", "--text"): "write `--input`",
    ("infer", "--file"): "write `--input-file`",
    ("merge", "--output-dir"): "write `--output`",
    ("merge", "--output_dir"): "write `--output`",
    ("merge", "--save-path"): "write `--output`",
}
"""Options of other tools, by command, with the option that does the same here."""


class Group(TyperGroup):
    """The commands, in groups."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, for the help."""
        return _without_flag_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command."""
        if not args:
            return super().parse_args(ctx, args)  # shows the help
        try:
            return super().parse_args(ctx, args)
        except _Usage as error:
            raise UsageError(_problem_of(error, _words_of(ctx))) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a wrong name is an error that says which to use."""
        name = args[0] if args else ""
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        shown = [known for known, command in self.commands.items() if not command.hidden]
        words = _words_of(ctx)
        if words != "lorans":
            hint = did_you_mean(name, shown) or f"`{words} --help` lists them"
            raise UsageError(Problem("", f"no command `{words} {name}`", hint))
        raise UsageError(Problem("", f"no command `{name}`", _command_advice(name, args, shown)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 -- the parser's signature
        """Write the groups with a whole sentence for each command; panels are drawn by typer."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                sentence = (command.help or "").partition("\n\n")[0].replace("\n", " ")
                groups.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, sentence))
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)


def _command_advice(name: str, args: Sequence[str], shown: Sequence[str]) -> str:
    if name.endswith(".toml"):
        return f"did you mean `lorans train {' '.join(args)}`?"
    if meant := _COMMANDS.get(name):
        return f"use `lorans {meant}`"
    return did_you_mean(name, shown) or "`lorans --help` lists them"


_COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("api", "chat", "generate", "inference", "predict"), "infer"),
    **dict.fromkeys(("check", "lint"), "validate"),
    **dict.fromkeys(("create", "new"), "init"),
    **dict.fromkeys(("doctor", "env"), "env-check"),
    **dict.fromkeys(("evaluate", "test"), "eval"),
    **dict.fromkeys(("merge-lora", "fuse"), "merge"),
    **dict.fromkeys(("upload", "push-to-hub"), "push"),
    **dict.fromkeys(("finetune", "fine-tune", "pt", "run", "sft", "tune"), "train"),
    "resume": "train RUN --resume",
}
"""Commands of other tools, and the one with the same purpose."""
