"""What a chat template does not print is told: nothing of a row is lost in silence."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from shapes import CHATML, SHAPES, make_tokenizer

from lora_ns.data.render import Renderer
from lora_ns.formats import Conversation, Message, RowFaultError
from lora_ns.model.tokenizer import stop_token_ids

CALL = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds."}},)
SHOWS_ALL = (
    "{%- for tool in tools or [] -%}{{ tool | tojson }}{%- endfor -%}"
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.name -%}{{ message.name + ': ' }}{%- endif -%}"
    "{%- if message.reasoning_content -%}{{ message.reasoning_content }}{%- endif -%}{{ message.content | tojson }}"
    "{%- for call in message.tool_calls or [] -%}{{ call | tojson }}{%- endfor -%}"
    "{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def renderer_of(template, shape="chatml", **more):
    tokenizer = make_tokenizer(replace(SHAPES[shape], template=template))
    return Renderer(tokenizer, stop_token_ids(tokenizer, Path("nowhere")), **more)


def told(renderer, conversation):
    with pytest.raises(RowFaultError) as caught:
        renderer.examples(conversation)
    return caught.value


def with_call(*before, text="", extra=CALL):
    turns = (Message("assistant", text, extra), Message("tool", "2"), Message("assistant", "It is 2."))
    return Conversation((*before, Message("user", "1 + 1?"), *turns))


PLAIN = Conversation((Message("user", "a"), Message("assistant", "b")))
LOST = {
    "tools": (SHOWS_ALL.replace("tools or []", "[]"), replace(PLAIN, tools=TOOLS)),
    "tool calls": (SHOWS_ALL.replace("message.tool_calls or []", "[]"), with_call()),
    "tool calls, their arguments": (SHOWS_ALL.replace("call | tojson", "call.function.name"), with_call()),
    "turns of the role `tool`": (
        SHOWS_ALL.replace("{{ message.content | tojson }}", "{{ message.content if message.role != 'tool' }}"),
        with_call(),
    ),
    "the text beside tool calls": (
        SHOWS_ALL.replace("{{ message.content | tojson }}", "{{ message.content if not message.tool_calls }}"),
        with_call(text="Let me see."),
    ),
    **{
        f"`{key}`": (CHATML, Conversation((Message("user", "a"), Message("assistant", "b", {key: "hm"}))))
        for key in ("thinking", "reasoning_content")
    },
    **{
        f"`name`, of {role}": (
            SHOWS_ALL.replace("if message.name", f"if message.name and message.role != '{role}'"),
            Conversation(
                tuple(
                    Message(one, "a", {"name": f"name-of-{one}"} if one == role else {})
                    for one in ("system", "user", "assistant")
                )
            ),
        )
        for role in ("system", "user", "assistant")
    },
    "`name`, of a tool that no turn before it names": (
        SHOWS_ALL.replace("if message.name", "if false"),
        Conversation((Message("user", "1 + 1?"), Message("tool", "2", {"name": "add"}), Message("assistant", "2"))),
    ),
    "the system turn": (
        CHATML.replace("{{ '<|im_start|>' +", "{{ '' if message.role == 'system' else '<|im_start|>' +"),
        Conversation((Message("system", "Be brief."), *PLAIN.messages)),
    ),
}


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("name", LOST)
def test_what_the_template_does_not_show_is_an_error_in_training_and_in_inference(name, train_on):
    template, conversation = LOST[name]
    renderer = renderer_of(template, loss_on=train_on)
    fault = told(renderer, conversation)
    assert fault.code == "TPL004"
    assert fault.what == f"the chat template does not show {name.partition(',')[0]}, which would be lost"
    assert fault.remedy
    with pytest.raises(RowFaultError, match="does not show"):
        renderer.prompt(conversation)
    assert renderer.examples(PLAIN)


@pytest.mark.parametrize("name", LOST)
def test_what_the_template_shows_is_learned(name):
    conversation = LOST[name][1]
    (row,) = (renderer := renderer_of(SHOWS_ALL)).examples(conversation)
    text = renderer.tokenizer.decode(row.input_ids)
    assert all(message.content in text for message in conversation.messages)
    assert all(message.extra.get("name", "") in text for message in conversation.messages)
    assert ("arguments" in text) == any("tool_calls" in message.extra for message in conversation.messages)


NAMED = {"name": "add"}


@pytest.mark.parametrize(
    "turns",
    [
        (Message("user", "a", {"name": " "}), Message("assistant", "b")),
        (*with_call().messages[:2], Message("tool", "2", {**NAMED, "tool_call_id": "1"}), Message("assistant", "2")),
        (
            Message("user", "1 + 1?"),
            Message("assistant", '<functioncall> {"name": "add"}'),
            Message("tool", "2", NAMED),
            Message("assistant", "2"),
        ),
    ],
    ids=["empty", "of a tool that is called", "of a tool that a text names"],
)
def test_a_name_that_says_nothing_new_may_be_left_out(turns):
    assert renderer_of(SHOWS_ALL.replace("if message.name", "if false")).examples(Conversation(turns))


def test_the_name_of_a_system_turn_that_is_merged_is_an_error():
    renderer = renderer_of(SHOWS_ALL, merges_system=True)
    turns = (Message("system", "s", {"name": "rules"}), *PLAIN.messages)
    assert told(renderer, Conversation(turns)).code == "TPL004"
    assert renderer.examples(Conversation((replace(turns[0], extra={}), *turns[1:])))


def test_reasoning_that_is_shown_with_the_last_answer_alone_is_not_lost():
    template = SHAPES["qwen-3"].template.replace(
        "\n<think>\n\n</think>", "\n<think>\n' + message.reasoning_content + '\n</think>"
    )
    renderer = renderer_of(template, "qwen-3")
    thought = ["first", "second"]
    turns = [
        turn
        for text in thought
        for turn in (Message("user", "a"), Message("assistant", "b", {"reasoning_content": text}))
    ]
    rows = renderer.examples(Conversation(tuple(turns)))
    assert [word in renderer.tokenizer.decode(row.input_ids) for row, word in zip(rows, thought, strict=True)] == [
        True,
        True,
    ]


def test_many_rows_of_a_kind_cost_one_look(monkeypatch):
    renderer = renderer_of(SHOWS_ALL)
    rows = [with_call(text=f"{number}") for number in range(50)]
    renderer.ahead(rows)
    for row in rows:
        renderer.examples(row)
    texts = []
    apply = renderer.tokenizer.apply_chat_template
    monkeypatch.setattr(
        renderer.tokenizer, "apply_chat_template", lambda *args, **more: texts.append(apply(*args, **more)) or texts[-1]
    )
    renderer.ahead(rows)
    for row in rows:
        renderer.examples(row)
    assert not any("loransmark" in text for text in texts)


def test_a_template_that_refuses_tool_turns_is_told_to_have_no_place_for_them():
    refusing = "{%- for message in messages if message.role == 'tool' -%}{{ raise_exception('no') }}{%- endfor -%}"
    fault = told(renderer_of(refusing + SHOWS_ALL), with_call())
    assert fault.code == "TPL003"
    assert fault.what == "the chat template does not support tools, tool calls and tool answers: no"
    assert "`chat_template` of the objective" in fault.remedy


def test_turns_that_do_not_alternate_for_their_tools_are_told_to_be_lost():
    fault = told(renderer_of(SHAPES["mistral"].template, "mistral"), with_call())
    assert (fault.code, fault.what) == ("TPL004", "the chat template does not show tool calls, which would be lost")


@pytest.mark.parametrize("shape", [name for name, shape in SHAPES.items() if not shape.system])
def test_a_template_that_refuses_a_row_says_whether_the_system_turn_is_the_cause(shape):
    renderer = renderer_of(SHAPES[shape].template, shape)
    system = Message("system", "Be brief.")
    assert "merge-into-user" in told(renderer, Conversation((system, *PLAIN.messages))).remedy


def test_a_system_turn_is_not_blamed_for_turns_that_do_not_alternate():
    renderer = renderer_of(SHAPES["mistral"].template, "mistral")
    turns = (Message("system", "s"), Message("user", "a"), Message("user", "b"), Message("assistant", "c"))
    fault = told(renderer, Conversation(turns))
    assert (fault.code, fault.remedy) == ("TPL003", "change its turns")
