"""Secrets in text and in tables: found, so that they are refused in a recipe, and hidden in whatever is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN = "***"
"""What stands where a secret was."""


@dataclass(frozen=True)
class Shape:
    """A kind of secret that is known by its looks."""

    name: str
    """What it is, in words."""
    pattern: re.Pattern[str]
    variable: str
    """The environment variable that its users read it from."""


_START = r"(?<![A-Za-z0-9])"


_OF_ITS_LIBRARY = "the variable that its library reads credentials from"


SHAPES = (
    Shape("a Hugging Face token", re.compile(_START + r"(?:hf|api_org)_[A-Za-z0-9]{20,}"), "HF_TOKEN"),
    Shape("a GitHub token", re.compile(_START + r"(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"), "GITHUB_TOKEN"),
    Shape("a GitLab token", re.compile(_START + r"glpat-[\w-]{20,}"), "GITLAB_TOKEN"),
    Shape(
        "an API key",  # of OpenAI, Anthropic and others; names that are words with hyphens are none
        re.compile(_START + r"sk-(?=[\w-]{0,99}[0-9])(?=[\w-]{0,99}[A-Z])[\w-]{20,}"),
        "OPENAI_API_KEY",
    ),
    Shape("an AWS access key", re.compile(_START + r"A[KS]IA[0-9A-Z]{16}(?![0-9A-Za-z])"), "AWS_ACCESS_KEY_ID"),
    Shape("a Google API key", re.compile(_START + r"AIza[\w-]{35}"), "GOOGLE_API_KEY"),
    Shape("a Slack token", re.compile(_START + r"xox[abeprs]-[\w-]{10,}"), "SLACK_TOKEN"),
    Shape("a signed token", re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}(?:\.[\w-]*)?"), _OF_ITS_LIBRARY),
    Shape(
        "a private key",  # to its end, or what is left of one that was cut off
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:.{0,9000}?-----END [A-Z0-9 ]{0,40}-----|.{0,9000})",
            re.DOTALL,
        ),
        _OF_ITS_LIBRARY,
    ),
)
"""Tokens that say themselves what they are."""


_URL = re.compile(
    r"""
    (?P<name> ://? )                                        # `Path` makes one slash of two
    (?:
        (?: (?<=://) | (?<=http:/) | (?<=https:/) )
        [^/?\#\s:@\["'`]* :
        (?! (?: \d{1,5} | \{\w*\} | \$\w+ ) (?: [/?\#] | $ ) )          # which is a port
        (?: (?! ://|https?:/ ) [^\s"'`] )+
      | (?: (?<=http://) | (?<=https://) | (?<=http:/) | (?<=https:/) )
        [^/?\#\s"'`]+
      | (?<=[A-Z0-9+.-]{2}:/)
        [^/\s:@"'`]+ : [^/\s"'`]+
    ) (?=@)
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""A user and a password in a URL, with any slash and `@` in them, or what stands alone before the host of a web
address."""


_QUERY = re.compile(
    r"(?i)(?<=[?&#;])(?P<name>(?P<key>(?:[\w-]*[_-])?"
    r"(?:token|api_?key|key|password|secret|sig|signature|credential))=)(?P<value>[^&#\s\"'`]+)"
)


_NAMES = (
    r"passw(?:or)?d|passphrase|(?:client[_-]?)?secret|credentials?"
    r"|(?:secret[_-])?access[_-]?key|(?:api|secret|private|account|auth)[_-]?key"
)


_TOKENS = (
    r"(?:auth|access|api|bearer|refresh|hub|hf|github|gitlab|wandb|session|id|personal|security|use_auth)[_-]?token"
)


_SECRET_NAME = re.compile(rf"(?i)(?:.*[_.-])?(?:{_NAMES}|{_TOKENS})|token|key|wandb_?key|authorization")


_NAMED = re.compile(r"(?i)passw|passphrase|secret|credential|key|token")


_ASSIGNED = re.compile(
    r"(?i)(?P<key>(?<![A-Z0-9])(?:[A-Z0-9]{1,40}[_-]){0,6}"
    rf"(?:{_NAMES}|{_TOKENS})|(?<![\w-])(?:--)?token)(?P<sign>\\{{0,3}}[\"']?[^\S\n]*[=:][^\S\n]*)"
)
"""A name of a secret, as messages, tables and command lines write it before its value."""


_VALUE = re.compile(
    r"""
    \\+ (?P<within>["']) (?P<inner> (?: (?! \\+(?P=within) ) [^\n] )+ ) \\+ (?P=within)     # in a string
  | (?P<quote>["']) (?P<whole> (?: \\. | (?!(?P=quote)) [^\\\n] )+ ) (?P=quote)
  | \\{0,3} ["']? (?P<word> [^\s"'`,;)}\]]+ )
    """,
    re.VERBOSE,
)


_OPTION = re.compile(rf"(?i)(?<![\w-])--(?:[\w-]{{0,40}}-)?(?:{_NAMES}|{_TOKENS}|token)[^\S\n]+(?P<value>[^\s\"'`]+)")


_HEADER = re.compile(
    r"(?i)(?:(?<![A-Z])authorization\\{0,3}[\"']?[^\S\n]*[:=][^\S\n]*\\{0,3}[\"']?"
    r"(?P<scheme>(?:bearer|basic|token|digest|apikey|negotiate)[^\S\n]+)?|(?<![A-Z0-9])bearer[^\S\n]+)"
    r"(?P<value>(?![<$])[^\s\"'`,;)}\]\\]+)"
)


_STAND_IN = re.compile(
    r"^[$<{%\[(*.]|^[A-Za-z_][\w.]*\(|\.\.\.|\*\*\*|[xX]{3}|your|YOUR|example|changeme|placeholder|^[A-Z]+(?:_[A-Z0-9]*)*$"
)
"""What stands for a secret where there is none: `$TOKEN`, `<token>`, `your-token`, `...`."""


_VARIABLES = (
    ("wandb", "WANDB_API_KEY"),
    ("hub", "HF_TOKEN"),
    ("hf", "HF_TOKEN"),
    ("hugging", "HF_TOKEN"),
    ("auth", "HF_TOKEN"),
    ("mlflow", "MLFLOW_TRACKING_TOKEN"),
    ("tracking", "WANDB_API_KEY"),
    ("github", "GITHUB_TOKEN"),
    ("aws", "AWS_SECRET_ACCESS_KEY"),
    ("secret_access", "AWS_SECRET_ACCESS_KEY"),
    ("openai", "OPENAI_API_KEY"),
    ("token", "HF_TOKEN"),
)


@dataclass(frozen=True)
class _Assignment:
    """What stands behind the name of a secret."""

    key: str
    sign: str
    value: str
    span: tuple[int, int]
    is_quoted: bool

    @property
    def _is_token(self) -> bool:
        """Whether the name is that of other tokens, too."""
        return self.key.lower() == "token"

    @property
    def is_sure(self) -> bool:
        """Whether the value is the secret, whatever it looks like, and no word about it."""
        if self._is_token:
            return self.is_quoted and self.sign.strip()[0] in _QUOTES and not _STAND_IN.search(self.value)
        return self.is_quoted or "=" in self.sign

    @property
    def is_hidden(self) -> bool:
        """Whether it is not to be shown."""
        is_value = not self._is_token or self.sign == "="
        return self.is_sure or (is_value and self._is_likely)

    @property
    def is_refused(self) -> bool:
        """Whether it is not to be kept: what stands for a secret may be, and the code that reads one."""
        is_value = not self._is_token and (self.is_quoted or self.sign == "=") and not _STAND_IN.search(self.value)
        return self._is_likely or (is_value and len(self.value) >= 12 and not _PATH.fullmatch(self.value))

    @property
    def _is_likely(self) -> bool:
        return _is_likely(self.value, 12 if self._is_token else 8)


_QUOTES = ("'", '"', "\\")


_PATH = re.compile(r"[A-Za-z]+(?:[._-][A-Za-z]+)+[(\[]?|(?:\S+\s+){5,}.*")
"""What code reads a value from, and sentences."""


_LONGEST_WORD = 500
"""Characters of a value that may be a word; what is longer is looked at in parts, so that no text takes long."""


def _assignments(text: str) -> Iterator[_Assignment]:
    if not _NAMED.search(text):
        return
    at = 0
    while found := _ASSIGNED.search(text, at):
        at, is_token = found.end(), found["key"].lower() == "token"
        is_whole = text[at : at + 1] in _QUOTES or ("=" in found["sign"] and not is_token)
        given = _VALUE.match(text, at, len(text) if is_whole else at + _LONGEST_WORD)
        if given is None:
            continue
        part = next(name for name in ("inner", "whole", "word") if given[name] is not None)
        assignment = _Assignment(found["key"], found["sign"], given[part], given.span(part), part != "word")
        yield assignment
        at = given.end() if assignment.is_sure else at


def _is_likely(value: str, least: int = 8) -> bool:
    """Whether a value is a secret rather than a word, a number, or what stands for one."""
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return len(value) >= least and has_both and not _STAND_IN.search(value)


def _hidden(text: str) -> Iterator[tuple[int, int]]:
    """Where the secrets of a text begin and end, in no order."""
    for shape in SHAPES:
        yield from (found.span() for found in shape.pattern.finditer(text))
    if "@" in text:
        yield from ((found.end("name"), found.end()) for found in _URL.finditer(text))
    yield from (found.span("value") for found in _QUERY.finditer(text))
    for found in _HEADER.finditer(text):
        if found["scheme"] or _is_likely(found["value"]):
            yield found.span("value")
    if "--" in text:
        yield from (found.span("value") for found in _OPTION.finditer(text) if _is_likely(found["value"], 6))
    yield from (given.span for given in _assignments(text) if given.is_hidden)


def scrubbed(text: str, mask: Callable[[str], str] = lambda _: HIDDEN) -> str:
    """A text without the secrets in it, for messages, logs and what is kept of an error.

    Args:
        text: of any length and content.
        mask: what stands in the place of a secret.
    """
    parts: list[str] = []
    shown = 0
    for begin, end in _joined(_hidden(text)):
        parts += [text[shown:begin], mask(text[begin:end])]
        shown = end
    return "".join([*parts, text[shown:]])


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in their order, those that overlap as one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def scrub_file(path: Path) -> None:
    """Put stars in the place of the secrets in a log, where others may still be adding lines to it."""
    if path.stat().st_size > _LONGEST_LOG:
        return
    # Bytes for characters, so that everything stays where it is.
    text = path.read_bytes().decode("latin-1")
    starred = scrubbed(text, lambda secret: "*" * len(secret))
    if starred == text:
        return
    with path.open("r+b") as file:
        file.write(starred.encode("latin-1"))


_LONGEST_LOG = 64 * 1024 * 1024


def is_secret_name(name: str) -> bool:
    """Whether a key is called after a secret: `hub_token` and `password` are, `pad_token` and `max_tokens` not."""
    return _SECRET_NAME.fullmatch(name) is not None


def variable_for(key: str) -> str:
    """The environment variable to use instead of a key that holds a secret."""
    return next((variable for part, variable in _VARIABLES if part in key.lower()), "an environment variable")


def secret_in(text: str) -> tuple[str, str] | None:
    """What kind of secret a text has in it, by its looks, and the variable to use instead; None if there is none."""
    for shape in SHAPES:
        if shape.pattern.search(text):
            return f"has {shape.name} in it", shape.variable
    if _URL.search(text):
        return "has a user or a password in a URL", _OF_ITS_LIBRARY
    for found in _QUERY.finditer(text):
        if _is_key_of_a_query(found["key"], found["value"]):
            return "has a secret in the query of a URL", _OF_ITS_LIBRARY
    for found in _HEADER.finditer(text):
        is_given = found["scheme"] and len(found["value"]) >= 6 and not _STAND_IN.search(found["value"])
        if is_given or _is_likely(found["value"]):
            return "has what a server is to trust in it (`Authorization`)", _OF_ITS_LIBRARY
    return None


def _is_key_of_a_query(key: str, value: str) -> bool:
    if key.lower() == "key":
        return _is_likely(value, 16)
    is_secret = is_secret_name(key) or key.lower().endswith(("sig", "signature", "credential"))
    return is_secret and len(value) >= 4 and not _STAND_IN.search(value)


def secret_told_in(text: str) -> tuple[str, str] | None:
    """The same of a text that is no code, such as a comment: a secret may also stand behind its name."""
    if by_looks := secret_in(text):
        return by_looks
    for given in _assignments(text):
        if given.is_refused:
            return f"has a secret in it (`{given.key}`)", _variable_of(given.key)
    for found in _OPTION.finditer(text):
        if _is_likely(found["value"]):
            return "has a secret in it, an option of a command", _OF_ITS_LIBRARY
    return None


def _variable_of(key: str) -> str:
    return key if key.isupper() and "_" in key else variable_for(key)


def secrets_of(table: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """The secrets of a table: dotted key, what it is, and the environment variable to use instead; never the value."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from secrets_of(value, (*path, str(key)))
    elif isinstance(table, (list, tuple)):
        for number, value in enumerate(table):
            yield from secrets_of(value, (*path, str(number)))
    elif isinstance(table, str) and table:
        dotted = ".".join(path)
        if found := secret_in(table):
            yield dotted, *found
        elif _names_a_secret(path):
            yield dotted, "is the key of a secret", variable_for(dotted)
        elif found := secret_told_in(table):
            yield dotted, *found


def _names_a_secret(path: tuple[str, ...]) -> bool:
    """Whether the key is a secret's; names of columns and of a template's own variables are the user's."""
    names = [name for name in path if not name.isdecimal()]
    return bool(names) and is_secret_name(names[-1]) and not {"columns", "chat_template_kwargs"} & set(names)
