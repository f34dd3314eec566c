"""A chat template is a program of others: it ends, what it raises is its refusal, and a row says where."""

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer

import lora_ns.safety.deadline
from lora_ns.data.chat_templates import _variables, use_template
from lora_ns.data.render import Renderer
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError, ModelError
from lora_ns.formats import Conversation, EndlessRowError, Message, RowFaultError
from lora_ns.model import template_limits as rendering
from lora_ns.model.tokenizer import stop_token_ids
from lora_ns.recipe.load import load_recipe

TURNS = (Message("user", "hello"), Message("assistant", "there"))
OPENED, CLOSED = "{% for a in range(9999) %}", "{% endfor %}"

ENDLESS = {
    "loops": OPENED * 4 + CLOSED * 4,
    "recursion in a loop": f"{{% macro m() %}}{OPENED * 4}{{% endfor %}}{{% endfor %}}{{% endfor %}}{{% endfor %}}"
    "{% endmacro %}{{ m() }}",
    "one allocation": "{{ 'a' * 10**11 }}",
    "one allocation that is not folded": "{{ messages[0].role * 10**11 }}",
    "a list": "{% set n = namespace(rows=[0]) %}" + OPENED * 2 + "{% set n.rows = n.rows + n.rows %}" + CLOSED * 2,
    "a text that doubles": "{% set all = namespace(t='a') %}" + OPENED + "{% set all.t = all.t + all.t %}" + CLOSED,
    "a filter": "{{ 'a' | center(10**11) }}",
    "a format": "{{ '%99999999999d' | format(1) }}",
    "output": OPENED + "{{ 'a' * 9999 }}" + CLOSED,
    "a long text": "{{ 'a' * 3000000 }}",
    "a power": "{{ (messages | length) ** (10 ** 9) }}",
}
REFUSED = {
    "raise_exception": "{{ raise_exception('never') }}",
    "a missing function": "{{ nothing() }}",
    "a wrong type": "{{ 1 + 'a' }}",
    "a division": "{{ 1 / 0 }}",
    "a key": "{{ {}['a']['b'] }}",
    "a value": "{{ 'a' | int('x') + 'b' | round }}",
    "a recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a syntax": "{% if %}",
    "an unknown filter": "{{ 'a' | nothing }}",
    "a nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "too many blocks": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "a range": "{% for a in range(10**9) %}{% endfor %}",
    "a private attribute": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "an import": "{% import 'os' as os %}{{ os }}",
    "half a character": "{{ '\\ud800'.encode() }}",
    "an overflow": "{{ 10.0 ** 400 }}",
    "an unpacking": "{% set a, b = 1 %}",
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (0.2, 64 * 2**20))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(SHAPES["chatml"])


def with_template(tokenizer, template):
    tokenizer.chat_template = template
    return Renderer(tokenizer, (tokenizer.eos_token_id,))


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_told_with_its_row_and_no_other_row_is_tried(tokenizer, name):
    renderer = with_template(tokenizer, ENDLESS[name])
    rows = [Row(f"rows.jsonl:{number}", {}) for number in range(1, 9)]
    tried = []

    def examples(row):
        tried.append(row)
        return renderer.examples(Conversation(TURNS))

    with pytest.raises(DataError) as told:
        for_each(rows, examples)
    (problem,) = told.value.problems
    assert problem.where == "rows.jsonl:1"
    assert problem.code == "TPL005"
    assert "the chat template" in problem.what
    assert problem.remedy
    assert len(tried) == 1


def test_a_row_that_had_no_end_when_rows_were_rendered_ahead_is_not_rendered_again(tokenizer, monkeypatch):
    renderer = with_template(tokenizer, ENDLESS["loops"])
    rendered = []
    before = rendering.bounded
    monkeypatch.setattr(rendering, "bounded", lambda call: rendered.append(call) or before(call))
    conversation = Conversation(TURNS)
    renderer.memo.shown.clear()
    renderer.ahead([conversation, Conversation(TURNS[:1])])
    with pytest.raises(EndlessRowError):
        renderer.examples(conversation)
    assert len(rendered) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_a_template_raises_is_its_refusal(tokenizer, name):
    renderer = with_template(tokenizer, REFUSED[name])
    with pytest.raises(RowFaultError) as told:
        renderer.examples(Conversation(TURNS))
    assert told.value.code == "TPL003", told.value.what
    assert len(told.value.what) < 500


def test_marks_that_lead_nowhere_are_as_none(tokenizer):
    """transformers looks for the token before a mark at the very beginning."""
    plain = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    plain += "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    found = [
        with_template(tokenizer, f"{marks}{plain}").examples(Conversation(TURNS))
        for marks in ("", "{% generation %}{% endgeneration %}")
    ]
    assert found[0] == found[1]
    assert any(found[0][0].trained)


def test_a_fault_of_ours_is_not_taken_for_the_template_s(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(TypeError):
        rendering.render(tokenizer, [{"role": "user", "content": "a"}], tokenizer_kwargs=3, tokenize=True)


def test_a_template_that_has_no_end_is_told_when_the_stops_are_looked_for(tokenizer, tmp_path):
    tokenizer.chat_template = ENDLESS["loops"]
    with pytest.raises(ModelError, match="takes more than"):
        stop_token_ids(tokenizer, tmp_path)


@pytest.mark.parametrize("template", [*ENDLESS.values(), *REFUSED.values()])
def test_variables_of_a_template_that_cannot_be_rendered_are_looked_for_in_vain_and_not_in_error(template):
    assert _variables(template) is None or isinstance(_variables(template), set)


def test_a_secret_in_a_chat_template_is_refused(write_recipe, tmp_path):
    secret = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8x"
    (tmp_path / "own.jinja").write_text(f"{{# mine #}}\n{{{{ '{secret}' }}}}\n")
    loaded = load_recipe(write_recipe(), ["sft.chat_template=own.jinja"])
    with pytest.raises(ModelError) as refused:
        use_template(loaded.recipe, loaded.folder, make_tokenizer(SHAPES["chatml"]))
    assert str(refused.value).startswith(f"{tmp_path / 'own.jinja'}:2: ")
    assert "HF_TOKEN" in str(refused.value)
    assert secret not in str(refused.value)
