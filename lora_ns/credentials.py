"""Secrets in text and in tables: found, so that they are refused in a recipe, and hidden in whatever is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
)
"""Tokens that say themselves what they are."""

_USER_INFO = re.compile(
    r"(?<=://)[^/\s:@\"'`]*:[^/\s@\"'`]+(?=@)|(?:(?<=http://)|(?<=https://))[^/\s@\"'`]+(?=@)", re.IGNORECASE
)
"""A user and a password in a URL, or what stands alone before the host of a web address."""
_QUERY = re.compile(
    r"(?i)(?<=[?&])(?P<name>(?:[\w-]*[_-])?(?:token|api_?key|key|password|secret|sig|signature|credential)=)[^&\s\"'`]+"
)
_NAMES = (
    r"passw(?:or)?d|passphrase|secret|credentials?|(?:secret_)?access_?key|(?:api|secret|private|account|auth)_?key"
)
_TOKENS = r"(?:auth|access|api|bearer|refresh|hub|hf|github|gitlab|wandb|session|id|personal|security|use_auth)_?token"
_SECRET_NAME = re.compile(rf"(?i)(?:.*[_.-])?(?:{_NAMES}|{_TOKENS})|token|key|wandb_?key|authorization")
_ASSIGNED = re.compile(
    rf"(?i)(?<![A-Za-z0-9])(?P<name>(?:[A-Za-z0-9]{{1,40}}[_-]){{0,6}}(?:{_NAMES}|{_TOKENS})[\"']?\s*"
    r"(?:=\s*[\"']?|:\s*[\"'](?=[^\"']+[\"'])))[^\s\"'`,;)}\]]+"
)
"""A name of a secret with its value, as messages and tables write them."""

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


def scrubbed(text: str, mask: Callable[[str], str] = lambda _: HIDDEN) -> str:
    """A text without the secrets in it, for messages, logs and what is kept of an error.

    Args:
        text: of any length and content.
        mask: what stands in the place of a secret.
    """
    for pattern in (*(shape.pattern for shape in SHAPES), _USER_INFO):
        text = pattern.sub(lambda found: mask(found[0]), text)
    for pattern in (_QUERY, _ASSIGNED):
        text = pattern.sub(lambda found: found["name"] + mask(found[0].removeprefix(found["name"])), text)
    return text


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
    """What kind of secret a text has in it, and the variable to use instead; None if there is none."""
    for shape in SHAPES:
        if shape.pattern.search(text):
            return f"has {shape.name} in it", shape.variable
    if _USER_INFO.search(text):
        return "has a user or a password in a URL", "the variable that its library reads credentials from"
    return None


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


def _names_a_secret(path: tuple[str, ...]) -> bool:
    """Whether the key is a secret's; names of columns and of a template's own variables are the user's."""
    names = [name for name in path if not name.isdecimal()]
    return bool(names) and is_secret_name(names[-1]) and not {"columns", "chat_template_kwargs"} & set(names)
