"""A run's way of writing conversations as a TEMPLATE of Ollama, found by what it makes of marked turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_ns.errors import Problem, UsageError

Turns = Sequence[tuple[str, str]]
"""Roles and texts."""

Render = Callable[[Turns, bool], str | None]
"""Renders turns, up to the next answer if the flag is set; None if the run refuses them."""

_SYSTEM, _USER, _ANSWER, _LAST = "loransystem", "loransuser", "loransanswer", "loranslast"
"""Words of letters only, which templates leave intact, and which appear in no template."""

REMEDY = "export it as `--to gguf`: the file holds the chat template itself, for programs that read it from there"

_HARD = re.compile(r'\{{2,}|\{\Z|"{3,}|\\|[^\S \t\n]+|[^\x00-\x7f]')
"""Parts of a text that mean something to Go or to the parser of Modelfiles."""

_IS_LAST = "eq (len (slice $.Messages $i)) 1"


@dataclass(frozen=True)
class TemplateParts:
    """The texts between turns."""

    opening: str
    """Text before the first turn, without a system turn."""
    system: tuple[str, str] | None
    """Text before and after a system turn; None if there can be none."""
    user: tuple[str, str]
    """Text before and after a question."""
    answer: tuple[str, str] | None
    """Text before and after an answer; None if there can be one question only."""
    following: str
    """Text between the last question and its answer."""

    def without(self, bos: str) -> TemplateParts:
        """These parts for a file whose reader adds a beginning-of-sequence token itself."""
        system = self.system and (self.system[0].removeprefix(bos), self.system[1])
        if self.opening or not self.user[0].startswith(bos):
            return TemplateParts(self.opening.removeprefix(bos), system, self.user, self.answer, self.following)
        return TemplateParts("", system, (self.user[0].removeprefix(bos), self.user[1]), self.answer, self.following)

    def __str__(self) -> str:
        """The template in Go's language."""
        opening = literal(self.opening)
        if self.system is not None:
            before, after = map(literal, self.system)
            other = f"{{{{ else }}}}{opening}" if opening else ""
            opening = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after}{other}{{{{ end }}}}"
        (before, after), following = map(literal, self.user), literal(self.following)
        if self.answer is None:
            return f"{opening}{before}{{{{ .Prompt }}}}{after}{following}"
        start, end = map(literal, self.answer)
        return (
            f"{opening}{{{{ range $i, $_ := .Messages }}}}{{{{ $last := {_IS_LAST} }}}}"
            f'{{{{ if eq .Role "user" }}}}{before}{{{{ .Content }}}}{after}{{{{ if $last }}}}{following}{{{{ end }}}}'
            f'{{{{ else if eq .Role "assistant" }}}}{start}{{{{ .Content }}}}'
            f"{{{{ if not $last }}}}{end}{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}"
        )


def literal(text: str) -> str:
    """Return a text as it is written in a template of Go and in a Modelfile."""
    return _HARD.sub(lambda found: _as_action(found[0]), text)


def _as_action(text: str) -> str:
    if text.isprintable() and not text.isascii():
        return text
    escaped = "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text
    )
    return f'{{{{ "{escaped}" }}}}'


def parts_of(render: Render) -> TemplateParts:
    """Find the texts that a run puts between turns. Raises `UsageError` if they depend on more than roles."""
    once = _between(render, [("user", _USER)], generates=True)
    answered = [("user", _USER), ("assistant", _ANSWER), ("user", _LAST)]
    several = _between(render, answered, generates=True, optional=True)
    opened = _between(render, [("system", _SYSTEM), ("user", _USER)], generates=True, optional=True)
    assert once is not None, "what is not optional is there"
    if several is None:
        system = None if opened is None else (opened[0], opened[1])
        return TemplateParts(once[0], system, ("", ""), None, once[1])
    asked = _between(render, answered[:1], optional=True)
    whole = _between(render, answered[:2], optional=True)
    after = asked[1] if asked and several[1].startswith(asked[1]) and once[1].startswith(asked[1]) else ""
    ended = whole[2] if whole and several[2].startswith(whole[2]) else several[2]
    before = several[2][len(ended) :]
    if not once[0].endswith(before) or (opened is not None and not opened[1].endswith(before)):
        ended, before = several[2], ""  # a system turn is part of the first question
    system = None if opened is None else (opened[0], opened[1].removesuffix(before))
    answer = (several[1].removeprefix(after), ended)
    opening = once[0].removesuffix(before)
    return TemplateParts(opening, system, (before, after), answer, once[1].removeprefix(after))


def _between(render: Render, turns: Turns, generates: bool = False, optional: bool = False) -> list[str] | None:
    """Return the texts around the marks of turns; None if the run refuses them, and they are optional."""
    text = render(turns, generates)
    if text is None and optional:
        return None
    parts, rest = list[str](), text or ""
    for _, mark in turns:
        part, found, rest = rest.partition(mark)
        if not found or mark in rest:
            what = f"the chat template does not show each of {len(turns)} turns once and in order"
            raise UsageError(Problem("", f"{what}, as Ollama's TEMPLATE does", REMEDY))
        parts.append(part)
    return [*parts, rest]
