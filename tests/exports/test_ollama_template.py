"""A chat template as a TEMPLATE of Ollama, in a Modelfile: the same text for every conversation, or a refusal."""

import contextlib

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer

from lora_ns.data.chat_templates import BUILT_IN
from lora_ns.errors import UsageError
from lora_ns.exports.go_template import ollama_text
from lora_ns.exports.modelfile import Modelfile, read_modelfile
from lora_ns.exports.ollama_template import literal, parts_of
from lora_ns.services.ollama_prompts import CHATS

LLAMA2 = (
    "{%- set lead = '' -%}{%- if messages[0].role == 'system' -%}"
    "{%- set lead = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' -%}"
    "{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '<s>[INST] ' + (lead if loop.first else '') + message.content + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + message.content + ' </s>' }}{%- endif -%}{%- endfor -%}"
)
SINGLE = (
    "{%- if messages | length > (2 if messages[0].role == 'system' else 1) -%}{{ raise_exception('one') }}{%- endif -%}"
    "{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\n\n' }}{%- endif -%}"
    "{{ '### Instruction:\n' + messages[-1].content + '\n\n### Response:\n' }}"
)
BRACES = (
    "{%- for message in messages -%}"
    "{{ '{{' + message.role[0] + '\"\"\"\\\\ {' + message.content + '}\xa0{' }}{%- endfor -%}"
)
OWN = {
    "llama-2": LLAMA2,
    "one question": SINGLE,
    "braces and quotes": BRACES,
}


def rendering(template):
    tokenizer = make_tokenizer(SHAPES["llama-3"])
    tokenizer.chat_template = template

    def render(turns, generates):
        turns = [{"role": role, "content": text} for role, text in turns]
        try:
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generates)
        except Exception:  # a template raises what its author wrote
            return None

    return render


ALL = {
    **{name: shape.template for name, shape in SHAPES.items()},
    **{f"built-in {name}": text for name, (text, _) in BUILT_IN.items()},
    **OWN,
}


@pytest.mark.parametrize("name", ALL)
def test_ollama_writes_the_text_of_the_chat_template(name):
    render = rendering(ALL[name])
    parts = parts_of(render)
    template = read_modelfile(str(Modelfile("./a.gguf", str(parts)))).template
    assert template == str(parts)
    tried = [turns for turns in CHATS if render(turns, True) is not None]
    assert tried
    for turns in tried:
        assert ollama_text(template, turns) == render(turns, True)


@pytest.mark.parametrize("name", ["llama-3", "gemma", "mistral", "llama-2"])
def test_a_beginning_is_left_to_the_file_that_adds_it(name):
    render = rendering(ALL[name])
    bos = "<s>" if name == "llama-2" else "<|begin_of_text|>"
    template = str(parts_of(render).without(bos))
    for turns in CHATS:
        if (text := render(turns, True)) is not None:
            assert bos + ollama_text(template, turns) == text


def test_an_answer_that_was_begun_goes_on():
    template = str(parts_of(rendering(ALL["chatml"])))
    text = ollama_text(template, [("user", "a"), ("assistant", "b")])
    assert text.endswith("<|im_start|>assistant\nb")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1].content }}",
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[0].content }}",
        "{{ raise_exception('never') }}",
    ],
    ids=["history is dropped", "a turn twice", "nothing"],
)
def test_a_template_that_is_more_than_texts_between_turns_is_refused(template):
    with pytest.raises(UsageError, match=r"does not show each of \d turns once and in order.*--to gguf"):
        parts_of(rendering(template))


@pytest.mark.parametrize(
    "text", ["a {b} }}", "{{", "x{", 'a"', '"""', "\\n", "\xa0\u200b\r", "東京 🙂", "a\n\tb ", "{{{ {{"]
)
def test_a_literal_is_written_as_it_is(text):
    written = f"{literal(text)}{{{{ .System }}}}{literal(text)}"
    kept = read_modelfile(str(Modelfile("./a.gguf", written))).template
    assert ollama_text(f"{kept}{{{{ range .Messages }}}}{{{{ end }}}}", [("system", "|")]) == f"{text}|{text}"


def test_a_modelfile_is_read_as_it_was_written():
    found = Modelfile(
        "./a b.gguf",
        'say "{{ .Prompt }}"\n',
        ' Be """quoted""", \n and #kind ',
        {"stop": ["<|end|>", 'a"b', "x\ny", " ", '"'], "temperature": ["0.7"]},
    )
    assert read_modelfile(str(found)) == found


@pytest.mark.parametrize("value", ['a"""\nb', "a\xa0b", "\u200b", "a\0"])
def test_what_no_quotes_keep_is_refused(value):
    with pytest.raises(UsageError, match="Modelfile cannot hold the text"):
        str(Modelfile("./a.gguf", system=value))


READ = {
    "any case, comments, spaces": ("# a\n\n  from ./a.gguf\nTemplate x y # z\n", Modelfile("./a.gguf", "x y # z")),
    "one pair of quotes": ('FROM a\nSYSTEM "b\n c"\n', Modelfile("a", system="b\n c")),
    "three": ('FROM a\nTEMPLATE """\n"b"\n"""', Modelfile("a", '\n"b"\n')),
    "text after quotes": ('FROM a\nSYSTEM "b" c"\n', Modelfile("a", system='b" c')),
    "invisible characters": ("FROM a\xa0\u200b\nSYSTEM \x00b", Modelfile("a", system="b")),
    "parameters": ('FROM a\nPARAMETER stop "x"\nPARAMETER stop y\n', Modelfile("a", parameters={"stop": ["x", "y"]})),
    "others": ("FROM a\nMESSAGE user hi\nADAPTER b", Modelfile("a", others=("MESSAGE", "ADAPTER"))),
}


@pytest.mark.parametrize("name", READ)
def test_a_modelfile_is_read_as_ollama_reads_it(name):
    text, expected = READ[name]
    assert read_modelfile(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TEMPLATE a\n", "no FROM line"),
        ("FROM a\n\nSAY b\n", "line 3: `SAY` is no command"),
        ('FROM a\nTEMPLATE """b\n', "line 2: `TEMPLATE` has no whole value"),
        ("FROM a\nPARAMETER stop\n", "line 2: `PARAMETER STOP` has no whole value"),
        ("FROM", "has no whole value"),
    ],
)
def test_what_ollama_does_not_read_is_named_with_its_line(text, told):
    with pytest.raises(UsageError, match=told):
        read_modelfile(text)


@pytest.mark.parametrize("text", ['FROM a\nSYSTEM """' + '"\n' * 300_000, "FROM a\n" * 100_000 + "\n" * 300_000])
def test_a_long_file_is_read_once(text):
    """A search that began again at each of its lines would not end here."""
    with contextlib.suppress(UsageError):
        read_modelfile(text)
