"""Secrets in text and in tables; those here are made of parts, so that no scanner takes this file for a leak."""

import re
import time
from pathlib import Path

import pytest

from lora_ns.errors import LoransError, Problem
from lora_ns.safety.credentials import (
    HIDDEN,
    is_secret_name,
    scrub_file,
    scrubbed,
    secret_in,
    secret_told_in,
    secrets_of,
)

LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA2bC4"
TOKENS = (
    f"hf_{LETTERS}",
    f"ghp_{LETTERS}",
    f"github_pat_{LETTERS}",
    f"glpat-{LETTERS[:20]}",
    f"sk-{LETTERS}",
    f"sk-proj-{LETTERS}",
    f"AKIA{'ABCDEFGH23456789'}",
    f"AIza{LETTERS[:35]}",
    f"xoxb-{LETTERS}",
)
SECRET_TEXTS = (
    *TOKENS,
    "https://someone:pa55word@example.org/rows.jsonl",
    f"https://{LETTERS}@example.org/rows.jsonl",
    "https://someone:pa55@word@example.org/rows.jsonl",
    "https://someone:pa55/wo+rd@example.org/rows.jsonl",
    "https://someone:pa55?wo#rd@example.org/rows.jsonl",
    "https://someone@example.org:pa55word@example.org/rows.jsonl",
    "https:/someone:pa55word@example.org/rows.jsonl",
    "s3:/key:pa55word@bucket/rows.jsonl",
    f"https:/{LETTERS}@example.org/rows.jsonl",
    "s3://key:pa55word@bucket/rows.jsonl",
)
JWT = ".".join(("eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", LETTERS))
HARMLESS = (
    "mistralai/Mistral-7B-v0.1",
    "sk-learn-based-text-classifier-of-news",
    "task-1b-some-long-name-of-a-folder",
    "https://example.org/rows.jsonl?page=2",
    "ssh://git@example.org/rows",
    "someone@example.org",
    "https://example.org:8080/rows@v2",
    "http://[::1]:8080/rows@v2",
    "https://example.org/@someone/rows",
    "git+ssh://git@example.org:someone/rows.git@v1",
    "git@example.org:someone/rows.git",
    "C:/Users/someone@example.org:rows",
    r"C:\Users\someone:rows",
    "/opt:/srv:/data@rows",
    "token 330 (`<n70>`)",
    "eos_token: </s>",
    'pad_token = "<pad>"',
    '{"token": "<pad>", "id": 5}',
    "max_new_tokens=5",
    "the token budget: 512",
    "password-less login",
    "tokenizer: LlamaTokenizer2",
    "api_key: holds a secret",
    "the bearer of news, and basic tutorial2024",
    "Authorization: Bearer <token>",
    "key = value",
    "0123456789abcdef0123456789abcdef01234567",
    "hf_hub_download",
    "<|AKIA|>",
    "`{question}` @ `{answer}`: https://example.org/a and b@c",
)


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_a_secret_is_found_wherever_it_stands_and_never_shown(text: str) -> None:
    secret = re.sub("^[a-z0-9]+:/+", "", text).rpartition("@")[0] or text
    for around in ("{}", 'got "{}"', "cannot open {}: no such file", "a={};b", "`{}`", "/home/{}"):
        said = around.format(text)
        assert secret_in(said)
        assert secret not in scrubbed(said)
        assert secret not in scrubbed(str(Path(said)))
        assert HIDDEN in scrubbed(said)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert secret_in(text) is None
    assert scrubbed(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "hub_token=abcd1234",
        'password = "abcd1234"',
        "{'wandb_api_key': 'abcd1234'}",
        '{"client_secret": "abcd1234"}',
        "AWS_SECRET_ACCESS_KEY=abcd1234",
        "https://example.org/rows?access_token=abcd1234&page=2",
        "https://example.org/rows?X-Amz-Signature=abcd1234",
        "https://example.org/rows#access_token=abcd1234",
        'curl -H "Authorization: Bearer abcd1234"',
        "Authorization: Basic abcd1234",
        '{"Authorization": "Bearer abcd1234"}',
        "X-Api-Key: abcd1234",
        "password: abcd1234",
        "--token=abcd1234",
        "--token abcd1234",
        "--api-key abcd1234",
        '{"token": "abcd1234"}',
        "{'api_key': 'a b abcd1234 d'}",
        r"{'api_key': 'it\'s abcd1234'}",
        r'{"a": "{\"api_key\": \"a abcd1234\"}"}',
        'apiKey="abcd1234',
        JWT.replace(LETTERS, "abcd1234"),
        "-----BEGIN PRIVATE KEY-----\nabcd1234\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\\nabcd1234",
    ],
)
def test_the_value_of_a_name_is_hidden(text: str) -> None:
    assert "abcd1234" not in scrubbed(text)
    assert HIDDEN in scrubbed(text)


def test_messages_about_names_stay_readable() -> None:
    for text in (
        "training.extra.hub_token: holds a secret (set HF_TOKEN instead)",
        "pad_token = 5 and eos_token: </s>",
        "max_new_tokens=128, add_tokens = ['<think>']",
        "model.revision: got 3",
    ):
        assert scrubbed(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "key",
        "password",
        "passwd",
        "hub_token",
        "auth_token",
        "use_auth_token",
        "access_token",
        "api_key",
        "apikey",
        "wandb_api_key",
        "wandb_key",
        "secret",
        "client_secret",
        "aws_secret_access_key",
        "private_key",
        "HF_TOKEN",
        "credentials",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "pad_token",
        "eos_token",
        "bos_token",
        "unk_token",
        "add_tokens",
        "max_new_tokens",
        "token_indices",
        "trainable_token_indices",
        "tokens",
        "average_tokens_across_devices",
        "num_virtual_tokens",
        "keys",
        "monkey",
        "key_proj",
        "label_column",
        "secretary",
        "tokenizer",
    ],
)
def test_names_that_only_look_like_those_of_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_of_a_table_by_key_without_values() -> None:
    table = {
        "training": {"extra": {"hub_token": "abcd1234", "nested": [{"password": "abcd1234"}], "pad_token": "x"}},
        "dataset": {"path": ["rows.jsonl", f"https://{LETTERS}@example.org/x"], "columns": {"key": "token"}},
        "sft": {"chat_template_kwargs": {"key": "value"}},
        "peft": {"rank_pattern": {"key": 8}},
    }
    found = list(secrets_of(table))
    assert [key for key, _, _ in found] == [
        "training.extra.hub_token",
        "training.extra.nested.0.password",
        "dataset.path.1",
    ]
    assert found[0][2] == "HF_TOKEN"
    assert not any("abcd1234" in part or LETTERS in part for row in found for part in row)


@pytest.mark.parametrize(
    "said",
    [
        "rows from https://example.org/rows.jsonl?token=supersecretvalue",
        'curl -H "Authorization: Bearer supersecretvalue2"',
        "WANDB_API_KEY=supersecretvalue3",
        "WANDB_API_KEY=supersecretvalue",
        "password: supersecretvalue4",
        "token: supersecretvalue5",
        'api_key = "super secret value"',
        "lorans-like --api-key supersecretvalue6",
        JWT,
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_comment_has_no_secret_behind_its_name(said: str) -> None:
    told = secret_told_in(f"# {said}, and more")
    assert told
    assert "supersecret" not in told[0]
    assert told[1] == "WANDB_API_KEY" or "WANDB" not in said


@pytest.mark.parametrize(
    "said",
    [
        *HARMLESS,
        "HF_TOKEN=... lorans train recipe.toml",
        "export HF_TOKEN=$(cat ~/.token1)",
        "HF_TOKEN=<token> or HF_TOKEN=your_token_here_1",
        "password: see the vault of 2024",
        "api_key=os.environ.get",
        "api_key='name-of-a-key'",
        "Output(token=TokenElement(id=1425, text='100'))",
        "'--token': 'Use a token of your own rather than that of others.'",
        "https://example.org/rows?token=TOKEN",
        "https://example.org/rows?page_token=1234abcd&sort_key=name",
        "use_auth_token=True",
        "max_new_tokens: 64",
        "secret: none",
    ],
)
def test_a_comment_may_be_about_secrets(said: str) -> None:
    assert secret_told_in(f"# {said}") is None


ENDLESS = [
    *("a_", "sk-", "://a:", "?a_", "password: '", "hf_a", "hub_token = ", " ", "\u202e", "https:/a:", "https://a@"),
    *("://a:b@", "eyJ", "eyJ-", "eyJaaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "authorization: ", "bearer ", "--a-"),
    *(
        "--token ",
        "password=\\'",
        'password="a\\',
        "password='\"",
        "\\",
        "token",
        '"token":"',
        "a:/b:",
        "password=\\\\",
    ),
    *("?token=", "token=", "token:", "password:", "api_key\\'", "https://", "-----BEGIN "),
]


@pytest.mark.parametrize("unit", ENDLESS)
def test_any_text_is_scrubbed_in_a_time_that_follows_its_length(unit: str) -> None:
    begin = time.process_time()
    scrubbed(unit * 50_000)
    secret_told_in(unit * 50_000)
    assert time.process_time() - begin < 5


def test_a_log_keeps_its_length_and_what_is_added_meanwhile(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    before = f"é: loading\nHF_TOKEN={LETTERS} and {TOKENS[0]}\n".encode()
    log.write_bytes(before)
    with log.open("ab", buffering=0) as other:
        scrub_file(log)
        other.write(b"more\n")
    text = log.read_text(encoding="utf-8")
    stars = "*" * len(LETTERS)
    assert text == f"é: loading\nHF_TOKEN={stars} and {'*' * len(TOKENS[0])}\nmore\n"
    log.write_bytes(b"\xff nothing here\n")
    scrub_file(log)
    assert log.read_bytes() == b"\xff nothing here\n"


def test_no_problem_has_a_secret_in_it() -> None:
    problem = Problem(TOKENS[0], f"cannot open {SECRET_TEXTS[-1]}", f"remove {TOKENS[1]}")
    assert str(LoransError(problem)) == f"{HIDDEN}: cannot open s3://{HIDDEN}@bucket/rows.jsonl (remove {HIDDEN})"
