# ruff: noqa: E501 -- a case is a line
"""Go's text/template as far as chat templates need it, and what Ollama does around it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lora_ns.errors import UsageError
from lora_ns.exports.go_template import executed, ollama_text

MESSAGES = [
    {"Role": role, "Content": f"{role[0]}{place}"} for place, role in enumerate(["system", "user", "assistant"])
]
VALUES = {"System": "be", "Prompt": "say", "Empty": "", "Messages": MESSAGES, "None": []}
CASES = {
    "text": ("a\n {b} }}", "a\n {b} }}"),
    "fields": ("<{{ .System }}|{{.Prompt}}|{{ .Empty }}>", "<be|say|>"),
    "the root": ("{{ range .Messages }}{{ $.System }}{{ end }}", "bebebe"),
    "if": ("{{ if .System }}yes{{ end }}{{ if .Empty }}no{{ end }}", "yes"),
    "else": ("{{ if .Empty }}a{{ else }}b{{ end }}", "b"),
    "else if": ('{{ if .Empty }}a{{ else if eq .Prompt "say" }}b{{ else }}c{{ end }}', "b"),
    "else if, last": ('{{ if .Empty }}a{{ else if eq .Prompt "x" }}b{{ else }}c{{ end }}', "c"),
    "nested": ("{{ if .System }}{{ if .Empty }}a{{ else }}b{{ end }}c{{ end }}d", "bcd"),
    "trimmed before": ("a \n\t{{- .System }} b", "abe b"),
    "trimmed after": ("a {{ .System -}} \n b", "a beb"),
    "trimmed around a text": ("{{ .System -}}  \n {{- .Prompt }}", "besay"),
    "a minus": ("{{ slice .Prompt 1 -}} b", "ayb"),
    "a comment": ("a{{/* }} */}}b {{- /* c */ -}} d", "abd"),
    "a text as a value": ('{{ "{{ \\"x\\" }}\\n\\t\\\\\\u00a0\\U0001f642" }}', '{{ "x" }}\n\t\\\xa0🙂'),
    "a raw text": ("{{ `a\\n\"b` }}", 'a\\n"b'),
    "range": ("{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}", "[system:s0][user:u1][assistant:a2]"),
    "range of nothing": ("{{ range .None }}a{{ else }}b{{ end }}", "b"),
    "range by number": ("{{ range $i, $one := .Messages }}{{ $i }}{{ $one.Role }} {{ end }}", "0system 1user 2assistant "),
    "range with one name": ("{{ range $one := .Messages }}{{ $one.Content }}{{ end }}", "s0u1a2"),
    "the last one": (
        "{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}{{ .Role }}{{ end }}{{ end }}",
        "assistant",
    ),
    "a variable": ("{{ $a := .System }}{{ $a }}{{ $a = .Prompt }}{{ $a }}", "besay"),
    "a variable of a block": ("{{ $a := 1 }}{{ if .System }}{{ $a := 2 }}{{ $a }}{{ end }}{{ $a }}", "21"),
    "a variable that a block sets": ("{{ $a := 1 }}{{ if .System }}{{ $a = 2 }}{{ end }}{{ $a }}", "2"),
    "a truth": ("{{ $a := eq .System \"be\" }}{{ $a }} {{ not $a }} {{ true }}", "true false true"),
    "and": ('{{ if and .System (ne .Prompt "say") }}a{{ else }}b{{ end }}', "b"),
    "or": ('{{ if or .Empty .None (eq .Prompt "x" "say") }}a{{ else }}b{{ end }}', "a"),
    "and, or of texts": ("{{ and .System .Prompt }}{{ or .Empty .Prompt }}", "saysay"),
    "orders": ("{{ lt 1 2 }} {{ le 2 1 }} {{ gt 2 1 }} {{ ge 1 1 }}", "true false true true"),
    "len and slice": ("{{ len .Messages }} {{ len (slice .Messages 1 2) }} {{ slice .Prompt 0 2 }}", "3 1 sa"),
    "dots": ("{{ range .Messages }}{{ if .Role }}{{ .Role }}{{ end }}{{ end }}", "systemuserassistant"),
    "lines in an action": ("{{ if\n  .System }}a{{\nend }}", "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_template_writes_what_go_writes(name):
    template, written = CASES[name]
    assert executed(template, VALUES) == written


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_gos_own_text_template_writes_the_same(tmp_path):
    examples = [{"Template": template, "Values": VALUES} for template, _ in CASES.values()]
    program = Path(__file__).parents[1] / "support/text_template.go"
    done = subprocess.run(
        ["go", "run", program],
        input=json.dumps(examples),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GO111MODULE": "off", "GOCACHE": str(tmp_path)},
    )
    assert json.loads(done.stdout) == [written for _, written in CASES.values()]


TURNS = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
OLLAMA = {
    "messages": ("{{ .System }}{{ range .Messages }}[{{ .Role }} {{ .Content }}]{{ end }}", TURNS, "S[system S][user U][assistant A][user V]"),
    "neighbours of one role": ("{{ range .Messages }}[{{ .Content }}]{{ end }}", [("user", "a"), ("user", "b")], "[a\n\nb]"),
    "system turns": ("{{ .System }}{{ range .Messages }}{{ end }}", [("system", "a"), ("user", "b"), ("system", "c")], "a\n\nc"),
    "a prompt": ("<{{ .Prompt }}>", [("user", "U")], "<U>"),
    "prompts": ("{{ .System }}<{{ .Prompt }}>{{ .Response }};", TURNS, "S<U>A;<V>"),
    "prompts, and an answer that is appended": ("{{ .System }}<{{ .Prompt }}>", TURNS, "S<U>A<V>"),
    "a system turn later": ("{{ .System }}<{{ .Prompt }}>", [("user", "U"), ("system", "S"), ("user", "V")], "<U>S<V>"),
}  # fmt: skip


@pytest.mark.parametrize("name", OLLAMA)
def test_turns_become_the_values_that_ollama_gives(name):
    template, turns, written = OLLAMA[name]
    assert ollama_text(template, turns) == written


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ if .System }}a", "`if` is not closed"),
        ("a{{ end }}", "`end` closes nothing"),
        ("a {{ .System", "is not closed"),
        ("{{ .System | printf }}", r"`\| printf`"),
        ("{{ json .Messages }}{{ .System }}", "`json`"),
        ("{{ $a }}", r"`\$a` is no variable"),
        ("{{ range .Messages }}{{ . }}{{ end }}", "is no text"),
        ("{{ .Tools }}", "is no text"),
        ("{{ .System .Prompt }}", "has arguments"),
        ("{{ if (eq .System .Prompt }}a{{ end }}", "bracket"),
        ("{{ slice .Messages }}", "evaluate"),
        ("{{ if .Prompt }}{{ .Response }}{{ end }}", "inside a block"),
        ('{{ "\\z" }}', r"`\\z`"),
        ('{{ "a }}', "is not closed"),
        ("{{ if .System }}" * 2000, "evaluate"),
    ],
)
def test_what_is_not_known_is_refused(template, told):
    with pytest.raises(
        UsageError, match=f"lorans cannot evaluate the TEMPLATE: .*{told}" if told != "evaluate" else told
    ):
        ollama_text(template, TURNS)


@pytest.mark.parametrize(
    "text", ['{{ "a"' * 20_000, "{{ " + '"a"' * 40, "{{ `" * 20_000, "{{ /* " * 20_000, "{{ - " + " -" * 20_000]
)
def test_a_hostile_template_ends(text):
    with pytest.raises(UsageError):
        executed(text, VALUES)
