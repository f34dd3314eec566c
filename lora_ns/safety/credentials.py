"""Detection of secrets: a recipe with one is refused, and messages and logs show `***` in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN = "***"
"""Replacement for a secret."""


@dataclass(frozen=True)
class Shape:
    """A kind of secret that its form gives away."""

    name: str
    """Name for messages, such as "a GitHub token"."""
    pattern: re.Pattern[str]
    variable: str
    """Environment variable to set instead."""


_START = r"(?<![A-Za-z0-9])"


_OF_ITS_LIBRARY = "the environment variable that its library reads"


SHAPES = (
    Shape("a Hugging Face token", re.compile(_START + r"(?:hf|api_org)_[A-Za-z0-9]{20,}"), "HF_TOKEN"),
    Shape("a GitHub token", re.compile(_START + r"(?:gh[opsur]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"), "GITHUB_TOKEN"),
    Shape("a GitLab token", re.compile(_START + r"glpat-[\w-]{20,}"), "GITLAB_TOKEN"),
    Shape(
        "an API key",  # OpenAI, Anthropic and others; a name of hyphenated words lacks a digit or a capital
        re.compile(_START + r"sk-(?=[\w-]{0,99}[0-9])(?=[\w-]{0,99}[A-Z])[\w-]{20,}"),
        "OPENAI_API_KEY",
    ),
    Shape("an AWS access key", re.compile(_START + r"A[KS]IA[0-9A-Z]{16}(?![0-9A-Za-z])"), "AWS_ACCESS_KEY_ID"),
    Shape("a Google API key", re.compile(_START + r"AIza[\w-]{35}"), "GOOGLE_API_KEY"),
    Shape("a Slack token", re.compile(_START + r"xox[abeprs]-[\w-]{10,}"), "SLACK_TOKEN"),
    Shape("a signed token", re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}(?:\.[\w-]*)?"), _OF_ITS_LIBRARY),
    Shape(
        "a private key",  # up to its END line, or the rest of the text if that was cut off
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:.{0,9000}?-----END [A-Z0-9 ]{0,40}-----|.{0,9000})",
            re.DOTALL,
        ),
        _OF_ITS_LIBRARY,
    ),
)
"""Secrets with a recognisable form."""


_URL = re.compile(
    r"""
    (?P<name> ://? )                                        # `Path` turns two slashes into one
    (?:
        (?: (?<=://) | (?<=http:/) | (?<=https:/) )
        [^/?\#\s:@\["'`]* :
        (?! (?: \d{1,5} | \{\w*\} | \$\w+ ) (?: [/?\#] | $ ) )          # a port
        (?: (?! ://|https?:/ ) [^\s"'`] )+
      | (?: (?<=http://) | (?<=https://) | (?<=http:/) | (?<=https:/) )
        [^/?\#\s"'`]+
      | (?<=[A-Z0-9+.-]{2}:/)
        [^/\s:@"'`]+ : [^/\s"'`]+
    ) (?=@)
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Credentials in a URL: `user:password@`, which may contain slashes and `@`, or a lone `token@` in a web address."""


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
"""The name of a secret and the sign before its value, in messages, tables and command lines."""


_VALUE = re.compile(
    r"""
    \\+ (?P<within>["']) (?P<inner> (?: (?! \\+(?P=within) ) [^\n] )+ ) \\+ (?P=within)     # escaped
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
"""Placeholders, which are no secrets: `$TOKEN`, `<token>`, `your-token`, `...`."""


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
    """A value that follows the name of a secret."""

    key: str
    sign: str
    value: str
    span: tuple[int, int]
    is_quoted: bool

    @property
    def _is_token(self) -> bool:
        """True for the bare name `token`, which may also mean a token of text."""
        return self.key.lower() == "token"

    @property
    def is_sure(self) -> bool:
        """True if the syntax alone makes the value a secret, whatever it looks like."""
        if self._is_token:
            return self.is_quoted and self.sign.strip()[0] in _QUOTES and not _STAND_IN.search(self.value)
        return self.is_quoted or "=" in self.sign

    @property
    def is_hidden(self) -> bool:
        """True if messages and logs must hide the value."""
        is_value = not self._is_token or self.sign == "="
        return self.is_sure or (is_value and self._is_likely)

    @property
    def is_refused(self) -> bool:
        """True if a recipe with this value is refused. Placeholders and code that reads a secret are allowed."""
        is_value = not self._is_token and (self.is_quoted or self.sign == "=") and not _STAND_IN.search(self.value)
        return self._is_likely or (is_value and len(self.value) >= 12 and not _PATH.fullmatch(self.value))

    @property
    def _is_likely(self) -> bool:
        return _is_likely(self.value, 12 if self._is_token else 8)


_QUOTES = ("'", '"', "\\")


_PATH = re.compile(r"[A-Za-z]+(?:[._-][A-Za-z]+)+[(\[]?|(?:\S+\s+){5,}.*")
"""A dotted name, as in code that reads a secret, or a sentence."""


_LONGEST_WORD = 500
"""Characters of an unquoted value. A longer one is matched in parts, so that the time stays linear."""


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
    """True if a value is likely a secret: letters and digits, at least `least` characters, no placeholder."""
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return len(value) >= least and has_both and not _STAND_IN.search(value)


def _hidden(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the secrets in a text. They are unordered and may overlap."""
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
    """Replace the secrets in a text, for messages, logs and stored errors.

    Args:
        text: any text, of any length.
        mask: returns the replacement for a secret.
    """
    parts: list[str] = []
    shown = 0
    for begin, end in _joined(_hidden(text)):
        parts += [text[shown:begin], mask(text[begin:end])]
        shown = end
    return "".join([*parts, text[shown:]])


def scrubbed_table(value: Any) -> Any:
    """Replace the secrets in all texts of a JSON value."""
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, (list, tuple)):
        return [scrubbed_table(one) for one in value]
    return {key: scrubbed_table(one) for key, one in value.items()} if isinstance(value, dict) else value


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort spans and join those that overlap."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def scrub_file(path: Path) -> None:
    """Overwrite the secrets in a log with stars, in place: other processes may still append to it.

    A log of more than 64 MiB is left as it is.
    """
    if path.stat().st_size > _LONGEST_LOG:
        return
    # One character per byte, so that no offset changes.
    text = path.read_bytes().decode("latin-1")
    starred = scrubbed(text, lambda secret: "*" * len(secret))
    if starred == text:
        return
    with path.open("r+b") as file:
        file.write(starred.encode("latin-1"))


_LONGEST_LOG = 64 * 1024 * 1024


def is_secret_name(name: str) -> bool:
    """True if a key names a secret, as `hub_token` and `password` do. `pad_token` and `max_tokens` do not."""
    return _SECRET_NAME.fullmatch(name) is not None


def variable_for(key: str) -> str:
    """The environment variable to set instead of a key that holds a secret."""
    return next((variable for part, variable in _VARIABLES if part in key.lower()), "an environment variable")


def secret_in(text: str) -> tuple[str, str] | None:
    """The kind of a secret that a text contains, judged by its form, and the variable to set instead, or None."""
    for shape in SHAPES:
        if shape.pattern.search(text):
            return f"contains {shape.name}", shape.variable
    if _URL.search(text):
        return "contains a URL with a user name or password", _OF_ITS_LIBRARY
    for found in _QUERY.finditer(text):
        if _is_key_of_a_query(found["key"], found["value"]):
            return "contains a URL with a secret in its query", _OF_ITS_LIBRARY
    for found in _HEADER.finditer(text):
        is_given = found["scheme"] and len(found["value"]) >= 6 and not _STAND_IN.search(found["value"])
        if is_given or _is_likely(found["value"]):
            return "contains the value of an `Authorization` header", _OF_ITS_LIBRARY
    return None


def _is_key_of_a_query(key: str, value: str) -> bool:
    if key.lower() == "key":
        return _is_likely(value, 16)
    is_secret = is_secret_name(key) or key.lower().endswith(("sig", "signature", "credential"))
    return is_secret and len(value) >= 4 and not _STAND_IN.search(value)


def secret_told_in(text: str) -> tuple[str, str] | None:
    """Like `secret_in`, for comments and prose: also finds a secret that follows its name."""
    if by_looks := secret_in(text):
        return by_looks
    for given in _assignments(text):
        if given.is_refused:
            return f"contains a secret (`{given.key}`)", _variable_of(given.key)
    for found in _OPTION.finditer(text):
        if _is_likely(found["value"]):
            return "contains a secret, as an option of a command", _OF_ITS_LIBRARY
    return None


def _variable_of(key: str) -> str:
    return key if key.isupper() and "_" in key else variable_for(key)


def secrets_of(table: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, str]]:
    """The secrets of a table: dotted key, kind, and the environment variable to set instead. Never the value."""
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
            yield dotted, "holds a secret", variable_for(dotted)
        elif found := secret_told_in(table):
            yield dotted, *found


def _names_a_secret(path: tuple[str, ...]) -> bool:
    """True if a key names a secret. Names of columns and of a template's variables are the user's own."""
    names = [name for name in path if not name.isdecimal()]
    return bool(names) and is_secret_name(names[-1]) and not {"columns", "chat_template_kwargs"} & set(names)
