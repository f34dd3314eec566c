"""What is trained is what the assistant says and the token that ends it, and inference asks with the same tokens."""

import contextlib
import itertools
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from lora_ns.data.chat_templates import BUILT_IN, use_template
from lora_ns.data.render import Renderer
from lora_ns.errors import ModelError
from lora_ns.formats import Conversation, Message, PromptCompletion, RawText, RowFaultError
from lora_ns.model.tokenizer import choose_pad_token, stop_token_ids
from lora_ns.recipe.load import load_recipe

WORDS = [
    "plum",
    "Größe",
    "two  words",
    "line\nbreak",
    "naïve",
    "日本",
    "🙂",
    "[x]",
    "a,b",
    "'quoted'",
    "3 + 4 = 7",
    "<b>",
]


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def tokenizer(shape):
    return make_tokenizer(shape)


@pytest.fixture
def renderer(tokenizer, tmp_path):
    return Renderer(tokenizer, stop_token_ids(tokenizer, tmp_path))


def conversations(system, count=60):
    """Random conversations of up to four exchanges."""
    drawn = random.Random(11)

    def text():
        return " ".join(drawn.choices(WORDS, k=drawn.randint(1, 5)))

    for _ in range(count):
        turns = [Message("system", text())] if system and drawn.random() < 0.5 else []
        for _ in range(drawn.randint(1, 4)):
            turns += [Message("user", text()), Message("assistant", text())]
        yield Conversation(tuple(turns))


def runs(rendered):
    """The trained stretches, each as (first, one past the last)."""
    places = [number for number, learned in enumerate(rendered.trained) if learned]
    starts = [place for place in places if place - 1 not in set(places)]
    return [(start, next(end for end in itertools.count(start) if end not in set(places))) for start in starts]


def said(tokenizer, sequences):
    return [tokenizer.decode(row.input_ids[start:end]) for row in sequences for start, end in runs(row)]


def test_the_trained_spans_are_the_assistant_turns_with_their_end_tokens(shape, tokenizer, renderer):
    for conversation in conversations(shape.system):
        answers = [shape.answer(turn.content) for turn in conversation.messages if turn.role == "assistant"]
        sequences = renderer.examples(conversation)
        assert said(tokenizer, sequences) == answers
        assert len(sequences) == (len(answers) if shape.splits and len(answers) > 1 else 1)
        for row in sequences:
            assert not row.trained[0]
            assert all(row.input_ids[end - 1] in renderer.stops for _, end in runs(row))


def test_a_greeting_that_opens_a_conversation_is_learned_or_refused_with_what_to_do(shape, tokenizer, renderer):
    turns = [Message("assistant", "Hello, friend"), Message("user", "hi"), Message("assistant", "yo")]
    for opening in ([], [Message("system", "Be brief.")]) if shape.system else ([],):
        conversation = Conversation((*opening, *turns))
        if shape.template == SHAPES["mistral"].template:
            with pytest.raises(RowFaultError, match="must alternate") as caught:
                renderer.examples(conversation)
            assert (caught.value.code, caught.value.remedy) == ("TPL003", "begin with a user turn")
            continue
        sequences = renderer.examples(conversation)
        first, last = said(tokenizer, sequences)
        assert first.startswith("Hello, friend") or shape.splits
        assert "Hello, friend" in first
        assert last == shape.answer("yo")
        assert all(row.input_ids[end - 1] in renderer.stops for row in sequences for _, end in runs(row))
        (only,) = Renderer(tokenizer, renderer.stops, "last").examples(conversation)
        assert said(tokenizer, [only]) == [last]


def shapeless(count):
    """Conversations of any roles in any order, of none, with texts that may be empty, and tools in some of them."""
    drawn = random.Random(5)
    call = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": None}}}]}
    extras = {"assistant": [{}, {}, call, {"reasoning_content": "hm"}, {"name": "a"}], "tool": [{}, {"name": "f"}]}
    for _ in range(count):
        roles = drawn.choices(["system", "user", "assistant", "tool"], [1, 4, 4, 1], k=drawn.randint(0, 6))
        texts = drawn.choices(["", " ", "\n", "x", "loransmark", "<|im_end|>", "{{ x }}", *WORDS], k=len(roles))
        turns = tuple(
            Message(role, text, drawn.choice(extras.get(role, [{}])), drawn.choice([None, None, True, False]))
            for role, text in zip(roles, texts, strict=True)
        )
        yield Conversation(turns, drawn.choice([None, None, ({"type": "function", "function": {"name": "f"}},)]))


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("merges", [False, True])
def test_a_conversation_of_any_shape_is_rendered_or_a_fault_of_its_row(tokenizer, renderer, train_on, merges):
    any_shape = Renderer(tokenizer, renderer.stops, train_on, merges)
    rendered = 0
    for conversation in shapeless(60):
        any_shape.ahead([conversation])
        with contextlib.suppress(RowFaultError):
            any_shape.prompt(conversation)
        sequences = []
        with contextlib.suppress(RowFaultError):
            sequences = any_shape.examples(conversation)
            rendered += 1
        for row in sequences:
            assert len(row.trained) == len(row.input_ids)
            assert train_on == "all" or all(row.input_ids[end - 1] in renderer.stops for _, end in runs(row))
    assert rendered


def test_a_template_without_a_stop_token_is_refused_whatever_is_trained(tokenizer, renderer):
    bare = make_tokenizer(SHAPES["chatml"])
    bare.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    for train_on in ("assistant", "last", "all"):
        with pytest.raises(RowFaultError) as caught:
            Renderer(bare, renderer.stops, train_on).examples(
                Conversation((Message("user", "a"), Message("assistant", "b")))
            )
        assert caught.value.code == "EOS001"


def test_inference_asks_with_the_tokens_that_stand_before_the_answer(shape, tokenizer, renderer):
    for conversation in conversations(shape.system):
        row = renderer.examples(conversation)[-1]
        start, end = runs(row)[-1]
        asked = renderer.prompt(Conversation(conversation.messages[:-1]))
        assert asked == row.input_ids[:start]
        assert tokenizer.decode(row.input_ids[start:end]) == shape.answer(conversation.messages[-1].content)


def test_only_the_last_answer_is_trained_if_the_recipe_says_so(shape, tokenizer, renderer):
    last = Renderer(tokenizer, renderer.stops, "last")
    for conversation in conversations(shape.system, 20):
        sequences = last.examples(conversation)
        assert said(tokenizer, sequences) == [shape.answer(conversation.messages[-1].content)]


def test_all_tokens_are_trained_if_the_recipe_says_so(shape, tokenizer, renderer):
    whole = Renderer(tokenizer, renderer.stops, "all")
    for conversation in conversations(shape.system, 5):
        (row,) = whole.examples(conversation)
        assert all(row.trained)


def test_there_is_one_token_at_the_beginning_at_most(shape, tokenizer, renderer):
    for conversation in conversations(shape.system, 20):
        ids = renderer.examples(conversation)[0].input_ids
        assert tokenizer.bos_token_id is None or ids.count(tokenizer.bos_token_id) == 1


def test_a_text_that_has_a_beginning_token_by_itself_gets_no_second_one():
    tokenizer = make_tokenizer(SHAPES["llama-3"])
    begin, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{begin} $A", special_tokens=[(begin, number)])
    renderer = Renderer(tokenizer, (tokenizer.eos_token_id,))
    for text in ("plum", f"{begin}plum"):
        assert renderer.examples(RawText(text))[0].input_ids.count(number) == 1
        assert renderer.prompt(RawText(text)).count(number) == 1


def test_a_system_turn_that_the_template_refuses_is_told(shape, renderer):
    turns = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"))
    if shape.system:
        assert renderer.examples(Conversation(turns))
        return
    with pytest.raises(RowFaultError) as caught:
        renderer.examples(Conversation(turns))
    assert caught.value.code == "TPL003"


def test_the_pad_token_is_no_stop_token_if_there_is_one_to_spare(shape, renderer):
    tokenizer = make_tokenizer(shape)
    choose_pad_token(tokenizer, renderer.stops)
    spare = any(token in tokenizer.get_vocab() for token in ("<pad>", "<unk>"))
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id not in renderer.stops or not spare


def test_a_template_that_asks_another_way_than_it_answers_is_refused(renderer):
    tokenizer = make_tokenizer(SHAPES["chatml"])
    tokenizer.chat_template = SHAPES["chatml"].template.replace("<|im_start|>assistant\n' }}", "<|im_start|>bot\n' }}")
    broken = Renderer(tokenizer, renderer.stops)
    with pytest.raises(RowFaultError) as caught:
        broken.examples(Conversation((Message("user", "a"), Message("assistant", "b"))))
    assert caught.value.code == "TPL002"


@pytest.mark.parametrize("completion", ["", " "])
def test_plain_text_ends_with_the_end_token(tokenizer, renderer, completion):
    (row,) = renderer.examples(PromptCompletion("a plum", f"{completion}falls"))
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert row.trained[-1]
    assert renderer.prompt(PromptCompletion("a plum")) == row.input_ids[: row.trained.index(True)]


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_raw_text_is_learned_whole_with_one_end(tokenizer, renderer, train_on):
    for text in ("Once upon a time", f"The end.{tokenizer.eos_token}"):
        (row,) = Renderer(tokenizer, renderer.stops, train_on).examples(RawText(text))
        assert row.input_ids.count(tokenizer.eos_token_id) == 1
        assert row.input_ids[-1] == tokenizer.eos_token_id
        assert all(row.trained)


def test_raw_text_needs_an_end_token(shape, renderer):
    tokenizer = make_tokenizer(shape)
    tokenizer.eos_token = None
    with pytest.raises(RowFaultError) as caught:
        Renderer(tokenizer, renderer.stops).examples(RawText("Once"))
    assert caught.value.code == "EOS001"


@pytest.mark.parametrize("train_on", ["assistant", "last"])
def test_a_message_says_itself_whether_it_is_trained(shape, tokenizer, renderer, train_on):
    def turns(first, second):
        answers = (Message("assistant", "one", train=first), Message("assistant", "two", train=second))
        return Conversation((Message("user", "a"), answers[0], Message("user", "b"), answers[1]))

    chooser = Renderer(tokenizer, renderer.stops, train_on)
    one, two = shape.answer("one"), shape.answer("two")
    assert said(tokenizer, chooser.examples(turns(True, False))) == [one]
    assert said(tokenizer, chooser.examples(turns(False, None))) == [two]
    assert said(tokenizer, chooser.examples(turns(True, None))) == [one, two]
    assert said(tokenizer, chooser.examples(turns(False, False))) == []


def test_the_template_sees_tools_and_tool_calls(renderer):
    tokenizer = make_tokenizer(SHAPES["chatml"])
    tokenizer.chat_template = (
        "{%- for tool in tools or [] -%}{{ 'T:' + tool.function.name + ';' }}{%- endfor -%}"
        + "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
        + "{%- for call in message.tool_calls or [] -%}{{ call.function.name + '!' }}{%- endfor -%}"
        + "{{ '<|im_end|>\n' }}{%- endfor -%}"
        + "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )
    call = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}
    tools = ({"type": "function", "function": {"name": "add"}},)
    turns = (Message("user", "1 + 1?"), Message("assistant", "", call), Message("tool", "2"), Message("assistant", "2"))
    caller = Renderer(tokenizer, stop_token_ids(tokenizer, Path("nowhere")))
    sequences = caller.examples(Conversation(turns, tools))
    assert said(tokenizer, sequences) == ["add!<|im_end|>", "2<|im_end|>"]
    assert tokenizer.decode(sequences[0].input_ids).startswith("T:add;")
    assert tokenizer.decode(caller.prompt(Conversation(turns[:1], tools))).startswith("T:add;")


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_built_in_chatml_shows_tools_their_calls_and_what_they_say(system, write_recipe):
    """As Qwen 3's own template does, which those of Qwen 2.5 and Hermes agree with."""
    tokenizer = make_tokenizer(SHAPES["chatml"])
    loaded = load_recipe(write_recipe(), ["sft.chat_template=chatml"])
    use_template(loaded.recipe, loaded.folder, tokenizer)
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    told = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'
    turns = (
        *([Message("system", system)] if system else []),
        Message("user", "1 + 1?"),
        Message("assistant", "", {"tool_calls": [call, call]}),
        Message("tool", "2"),
        Message("tool", "3"),
        Message("assistant", "So:", {"tool_calls": [call]}),
        Message("tool", "4"),
        Message("assistant", "2"),
    )
    caller = Renderer(tokenizer, stop_token_ids(tokenizer, Path("nowhere")))
    conversation = Conversation(turns, ({"type": "function", "function": {"name": "add"}},))
    (row,) = caller.examples(conversation)
    text = tokenizer.decode(row.input_ids)
    assert said(tokenizer, [row]) == [f"{told}\n{told}<|im_end|>", f"So:\n{told}<|im_end|>", "2<|im_end|>"]
    assert text.startswith(f"<|im_start|>system\n{system}\n\n# Tools" if system else "<|im_start|>system\n# Tools")
    assert text.count("<|im_start|>system") == 1
    assert '<tools>\n{"type": "function", "function": {"name": "add"}}\n</tools>' in text
    response = "<tool_response>\n{}\n</tool_response>"
    assert f"<|im_start|>user\n{response.format(2)}\n{response.format(3)}<|im_end|>\n<|im_start|>assistant" in text


def test_a_system_turn_becomes_the_beginning_of_the_first_user_turn_if_the_recipe_says_so(shape, tokenizer, renderer):
    merging = Renderer(tokenizer, renderer.stops, merges_system=True)
    turns = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"))
    joined = (Message("user", "Be brief.\n\na"), Message("assistant", "b"))
    assert merging.examples(Conversation(turns)) == renderer.examples(Conversation(joined))
    assert merging.prompt(Conversation(turns[:2])) == renderer.prompt(Conversation(joined[:1]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_template_that_the_recipe_names_is_used_if_the_tokenizer_has_its_tokens(shape, write_recipe, name, tmp_path):
    tokenizer = make_tokenizer(shape)
    loaded = load_recipe(write_recipe(), [f"sft.chat_template={name}"])
    end = BUILT_IN[name][1]
    if end and end not in shape.special:
        with pytest.raises(ModelError, match=f"{name} ends turns with"):
            use_template(loaded.recipe, loaded.folder, tokenizer)
        assert tokenizer.chat_template == shape.template
        return
    use_template(loaded.recipe, loaded.folder, tokenizer)
    told = Renderer(tokenizer, stop_token_ids(tokenizer, tmp_path))
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    endings = [text.strip() for text in said(tokenizer, told.examples(Conversation(turns)))]
    assert endings == [f"b{end or shape.eos}", f"d{end or shape.eos}"]


def test_a_template_may_be_a_file_beside_the_recipe(shape, write_recipe):
    tokenizer = make_tokenizer(shape)
    path = write_recipe()
    (path.parent / "mine.jinja").write_text("{{ messages[0].content }}")
    loaded = load_recipe(path, ["sft.chat_template=mine.jinja"])
    use_template(loaded.recipe, loaded.folder, tokenizer)
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    loaded = load_recipe(path, ["sft.chat_template=other"])
    with pytest.raises(ModelError, match="`other` is neither a file nor one of chatml, llama-3, mistral, gemma"):
        use_template(loaded.recipe, loaded.folder, tokenizer)


def test_encoding_ahead_changes_nothing(shape, tokenizer, renderer):
    examples = [
        *conversations(shape.system),
        PromptCompletion("a plum", " falls"),
        PromptCompletion("a", "b"),
        RawText("Once upon a time"),
    ]
    alone = [renderer.examples(example) for example in examples]
    ahead = Renderer(tokenizer, renderer.stops)
    ahead.ahead(examples)
    assert ahead.memo.ids
    assert [ahead.examples(example) for example in examples] == alone


def test_looking_at_the_rest_after_the_last_added_token_gives_what_looking_at_all_gives(shape, tokenizer, renderer):
    slow = Renderer(tokenizer, renderer.stops)
    slow.memo._added = re.compile(r"(?!)")
    for conversation in conversations(shape.system):
        assert slow.examples(conversation) == renderer.examples(conversation)


def test_what_only_looks_like_an_added_token_moves_no_boundary(tmp_path):
    """`Anna` has the added token `Ann` in it, which counts as a word of its own alone."""
    tokenizer = make_tokenizer(SHAPES["chatml"])
    tokenizer.add_tokens([AddedToken("Ann", single_word=True)])
    turns = (
        Message("user", "Anna Anna Anna Anna"),
        Message("assistant", "b"),
        Message("user", "c"),
        Message("assistant", "d"),
    )
    sequences = Renderer(tokenizer, stop_token_ids(tokenizer, tmp_path)).examples(Conversation(turns))
    assert said(tokenizer, sequences) == ["b<|im_end|>", "d<|im_end|>"]
