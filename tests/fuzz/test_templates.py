"""Chat templates by chance: each renders, or is refused in a row's problem; none hangs, grows or reaches Python."""

import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from campaign import fuzz, holds_for, lasts
from hypothesis import strategies as st
from shapes import SHAPES, make_tokenizer

import lora_ns.safety.deadline
from lora_ns.data.chat_templates import _variables
from lora_ns.data.render import Renderer
from lora_ns.errors import LoransError
from lora_ns.formats import Conversation, Message, RowFaultError
from lora_ns.model.tokenizer import choose_pad_token, stop_token_ids, template_hash

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

LIMIT = 0.5
SLOW = 5.0


def words(text):
    return st.sampled_from(text.split())


NAMES = words(
    "messages message tools add_generation_prompt bos_token eos_token x y n loop range dict namespace cycler joiner "
    "lipsum raise_exception strftime_now self caller varargs m"
)
ATTRIBUTES = words(
    "role content x items keys format join upper split replace append pop update encode decode format_map setdefault "
    "zfill ljust expandtabs translate index0 length mro gi_frame f_globals __class__ __mro__ __subclasses__ __init__ "
    "__globals__ __builtins__"
)
FILTERS = words(
    "trim tojson length join upper list first last sort reverse string int float safe map('upper') selectattr('role') "
    "center(10**10) indent(9**9) wordwrap(1) replace('','aaaaaaaaa') urlize batch(10**9) slice(10**9) groupby('role') "
    "attr('__class__') format(1) default(1) round nothing xmlattr sum max min unique pprint truncate(1) filesizeformat "
    "random tojson(indent=10**9) striptags"
)
NUMBERS = st.sampled_from(
    ["0", "1", "-1", "2", "10", "99999", "10**9", "10**10", "2**4000", "1.5", "1e308", "0x7fffffffffffffff"]
)
TEXTS = st.sampled_from(
    ["''", "'a'", "'<|im_end|>'", "'%s'", "'%999999999d'", "'{0.__class__}'", "'{:>999999999}'", "'\\ud800'", "'é🙂'"]
)
LITERALS = st.one_of(
    NUMBERS, TEXTS, st.sampled_from(["[]", "{}", "[1,2]", "{'a': 1}", "none", "true", "false", "(1,2)"])
)
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "and", "or", "in", "not in", "is"])


def larger(inner):
    return st.one_of(
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("{}.{}".format, inner, ATTRIBUTES),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}({})".format, inner, inner),
        st.builds("{}()".format, inner),
        st.builds("{} | {}".format, inner, FILTERS),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("range({})".format, inner),
        st.builds("namespace({}={})".format, NAMES, inner),
        st.builds("-{}".format, inner),
        st.builds("{}[{}:{}:{}]".format, inner, inner, inner, inner),
    )


EXPRESSIONS = st.recursive(st.one_of(NAMES, LITERALS), larger, max_leaves=8)
PLAIN = st.sampled_from(["", "a", "<|im_start|>", "<|im_end|>\n", "{{ messages[0].content }}", "{#", "#}", "\n"])
MARKER = "{{ (cycler.__init__.__globals__.os.system('touch ' ~ bos_token)) }}"


def statements(inner):
    return st.one_of(
        st.builds("{{% for x in {} %}}{}{{% endfor %}}".format, EXPRESSIONS, inner),
        st.builds("{{% for x in range(99999) %}}{}{{% endfor %}}".format, inner),
        st.builds("{{% for x in messages recursive %}}{}{{{{ loop(messages) }}}}{{% endfor %}}".format, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, EXPRESSIONS, inner, inner),
        st.builds("{{% macro m(x, y) %}}{}{{% endmacro %}}{{{{ m({}, 1) }}}}".format, inner, EXPRESSIONS),
        st.builds("{{% macro m() %}}{}{{{{ m() }}}}{{% endmacro %}}{{{{ m() }}}}".format, inner),
        st.builds("{{% set n = namespace(x=1) %}}{}{{% set n.x = {} %}}".format, inner, EXPRESSIONS),
        st.builds("{{% set x = {} %}}{}".format, EXPRESSIONS, inner),
        st.builds("{{% set x %}}{}{{% endset %}}{{{{ x }}}}".format, inner),
        st.builds("{{% generation %}}{}{{% endgeneration %}}".format, inner),
        st.builds("{{% filter {} %}}{}{{% endfilter %}}".format, FILTERS, inner),
        st.builds("{{% call(x) {} %}}{}{{% endcall %}}".format, EXPRESSIONS, inner),
        st.builds("{{% include {} %}}{}".format, EXPRESSIONS, inner),
        st.builds("{{% import 'os' as os %}}{}".format, inner),
        st.builds("{{% with x = {} %}}{}{{% endwith %}}".format, EXPRESSIONS, inner),
        st.builds("{}{}".format, inner, inner),
        st.builds("{}{{% break %}}".format, inner),
    )


PIECES = st.one_of(PLAIN, st.builds("{{{{ {} }}}}".format, EXPRESSIONS), st.just(MARKER), st.text(max_size=20))
TEMPLATES = st.recursive(PIECES, statements, max_leaves=6)
ROWS = [
    Conversation((Message("user", "hello"), Message("assistant", "there"))),
    Conversation(
        (Message("system", "be brief"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    ),
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(SHAPES["chatml"])


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (LIMIT, 256 * 2**20))


def use(tokenizer, template, folder):
    """All that is done with a template; what it is refused for."""
    tokenizer.chat_template = template
    _variables(template)
    try:
        stops = stop_token_ids(tokenizer, folder)
        choose_pad_token(tokenizer, stops)
        template_hash(tokenizer)
    except LoransError:
        return
    renderer = Renderer(tokenizer, stops)
    renderer.ahead(ROWS)
    for read in (renderer.examples, renderer.prompt):
        for row in ROWS:
            try:
                read(row)
            except RowFaultError:
                continue


@pytest.fixture
def check(tokenizer, tmp_path):
    def checked(template):
        started, here = time.process_time(), set(Path.cwd().iterdir())
        use(tokenizer, template, tmp_path)
        assert time.process_time() - started < SLOW
        assert set(Path.cwd().iterdir()) == here

    return checked


def test_a_template_by_chance_renders_or_is_refused(check):
    holds_for(TEMPLATES, check, 40)


@fuzz
def test_templates_by_chance_render_or_are_refused(check):
    lasts(TEMPLATES, check)
