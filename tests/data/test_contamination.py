"""Items of suites in training rows: planted ones are found, with their row, and nothing else is."""

import random
import weakref

import pytest

from lora_ns.data.contamination import MOST_QUESTIONS, RUN, Item, Overlap, Turn, search

WORDS = [f"{first}{second}" for first in "bcdfghjklmnprstvwz" for second in ("a", "e", "i", "o", "u", "ay", "ink")]


def item(question, answer=""):
    return Item((Turn(question),), answer)


def row(question, answer=None):
    return (Turn(question), *([Turn(answer, is_answer=True)] if answer is not None else []))


def rows_of(*dialogues):
    return [(f"train:{number}", [dialogue]) for number, dialogue in enumerate(dialogues, start=1)]


def found(items, *dialogues):
    return search([items], rows_of(*dialogues))[0]


LONG = "Mara buys three crates of pears on Monday and sells half of them before noon; how many pears are left over?"
REASON = "Each crate holds forty pears, so she has one hundred and twenty of them; half of these is sixty. #### 60"
OTHERS = [
    item("A baker sells nine loaves in an hour, and rests for two of the eight hours. How much is sold?", "54"),
    item("What is 7 - 2?", "5"),
]


def test_a_planted_leak_is_found_exactly_among_ten_thousand_rows():
    draw = random.Random(1)

    def text(count):
        return " ".join(draw.choices(WORDS, k=count))

    items = [item(text(40), text(60)) for _ in range(150)] + [item(text(5), text(1)) for _ in range(150)]
    rows = [(f"train:{number}", [row(text(40), text(50))]) for number in range(10_000)]
    planted = dict(zip(draw.sample(range(300), 30), draw.sample(range(10_000), 30), strict=True))
    for place, number in planted.items():
        rows[number] = (f"train:{number}", [row(items[place].question[0].text, items[place].answer)])
    (overlaps,) = search([items], iter(rows))
    assert {place: one for place, one in enumerate(overlaps) if one} == {
        place: Overlap(f"train:{number}", 1.0) for place, number in planted.items()
    }


APPLES = "\u5c0f\u660e\u6709\u4e09\u4e2a\u82f9\u679c\u4ed6\u53c8\u4e70\u4e86\u4e94\u4e2a"
"""A question about apples in Chinese, of sixteen characters."""

CHAT = (Turn("Hello"), Turn("Hi!", is_answer=True), Turn("What is 7 - 2?"), Turn("It is 5.", is_answer=True))
LEAKS = {
    "the row itself": (item(LONG, REASON), row(LONG, REASON)),
    "in other case, spaces and punctuation": (item(LONG, REASON), row(LONG.upper().replace(";", "  --"), REASON)),
    "with another answer": (item(LONG, REASON), row(LONG, "No idea.")),
    "the answer to another question": (item(LONG, REASON), row("Solve it.", REASON)),
    "within other text": (item(LONG, "60"), row(f"Here is one I like. {LONG} I do not know.")),
    "most of the question": (item(LONG, "60"), row(LONG.replace("left over", "sold"), "60")),
    "a short row": (item("What is 7 - 2?", "5"), row("what is 7 - 2", "5")),
    "a short row with a longer answer": (item("What is 7 - 2?", "5"), row("What is 7 - 2?", "It is 5, I think.")),
    "a short row in a chat": (item("What is 7 - 2?", "5"), CHAT),
    "a short row as a text": (item("What is 7 - 2?", "It is 5."), row("What is 7 - 2? It is 5.")),
    "a short prompt without an answer": (item("Write a poem."), row("Write a poem.", "Roses are red.")),
    "short parts that are long together": (
        item("Which town is older, Ghent or Bruges?", "Ghent is older, by about two hundred years."),
        row("Quiz. Which town is older, Ghent or Bruges? Ghent is older, by about two hundred years. Next?"),
    ),
    "a text": (item(REASON), row(REASON)),
    "characters without spaces": (item(f"{APPLES}\u3002", "8"), row(f"\u9898\uff1a{APPLES}\uff0c\u8bf7\u7b54", "8")),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_row_that_holds_an_item_is_found(case):
    one, dialogue = LEAKS[case]
    overlaps = found([OTHERS[0], one, item("A last one.", "x")], row("Something else", "entirely"), dialogue)
    assert [overlap and overlap.row for overlap in overlaps] == [None, "train:2", None]
    assert overlaps[1].share >= 0.5


FALSE_ALARMS = {
    "a short answer alone": (item("What is 7 - 2?", "5"), row("What is 8 - 3?", "5")),
    "a short question with another answer": (item("What is it?", "a plum"), row("What is it?", "a stone")),
    "a sign that differs": (item("12 * 1 = ?", "12"), row("12 / 1 = ?", "12")),
    "an answer that is part of a word": (item("What is it?", "5"), row("What is it?", "15")),
    "a paraphrase": (
        item(LONG, REASON),
        row("On Monday Mara purchased three crates of pears. By noon she had sold half. How many remain?", "Sixty."),
    ),
    "other numbers and names": (
        item(LONG, REASON),
        row(LONG.replace("Mara", "Nils").replace("three", "five").replace("half", "a third"), "It is 133."),
    ),
    "a run of common words": (
        item(f"{LONG} Show all the steps of your work and write the final number at the end.", REASON),
        row("What is 1 + 1? Show all the steps of your work and write the final number at the end.", "2"),
    ),
    "a question within a longer one": (item("What is it?", "5"), row("What is it? I ask for a friend.", "5")),
    "an item without words": (item("", ""), row("", "")),
    "an empty answer": (item("What is it?", "5"), row("What is it?", "")),
}


@pytest.mark.parametrize("case", FALSE_ALARMS)
def test_a_row_that_only_looks_alike_is_no_alarm(case):
    one, dialogue = FALSE_ALARMS[case]
    assert found([OTHERS[0], one, item("A last one.", "x")], dialogue) == [None, None, None]


BEFORE = "Below is a question. Think about it step by step and give the shortest answer that is right. Question: "
AFTER = " Please answer with a single word and nothing else, or you will lose a point at the end. Answer:"
CAPITALS = {"Chad": "N'Djamena", "Togo": "Lome", "Peru": "Lima"}


def capital(name):
    return f"{BEFORE}What is the capital of {name}?{AFTER}"


def test_the_words_of_a_template_are_no_leak():
    items = [item(capital(name), f"The answer is {city}.") for name, city in CAPITALS.items()]
    items += [item(f"{BEFORE}How long is the Nile?{AFTER}", "The answer is 6650 km.")]
    others = [row(capital("Mali"), "The answer is Bamako."), row(f"{BEFORE}How long is the Po?{AFTER}", "652 km")]
    assert found(items, *others, row(capital("Togo"), "Lome")) == [None] * 4
    assert found(items, *others, row(capital("Togo"), "The answer is Lome."))[1] == Overlap("train:3", 1.0)


def test_a_passage_that_several_items_share_is_none_of_them():
    questions = ["Who sells pears?", "Where are they grown, and by whom?", "When?"]
    items = [item(f"Read on. {REASON} {question} Say it.", str(place)) for place, question in enumerate(questions)]
    items += OTHERS  # so that the passage is not how all items begin
    assert found(items, row(f"Read on. {REASON} Which colour has it? Say it.", "0")) == [None] * 5
    assert found(items, row(items[1].question[0].text, "1"))[1] == Overlap("train:1", 1.0)


def test_an_answer_to_many_questions_is_a_common_phrase_and_many_answers_to_one_question_are_a_leak():
    several = range(MOST_QUESTIONS + 1)
    asked = [row(f"Question {number}", REASON) for number in several]
    assert found([item(LONG, REASON)], *asked) == [None]
    assert found([item(LONG, REASON)], *asked[1:]) == [Overlap("train:1", 1.0)]
    answered = [row(LONG, f"Answer {number}") for number in several]
    assert found([item(LONG, REASON)], *answered) == [Overlap("train:1", 1.0)]


def test_the_row_that_holds_most_is_named():
    words = LONG.split()
    half = " ".join(words[: -len(words) // 2 + RUN // 2 + 3])
    first, whole = found([item(LONG)], row(half, "1")), found([item(LONG)], row(half, "1"), row(LONG, "1"))
    assert first[0].share < whole[0].share == 1
    assert whole[0].row == "train:2"


def test_equal_items_and_suites_are_all_found():
    items = [item(LONG, REASON), *OTHERS, item(LONG, REASON)]
    suites = search([items, items[1:], []], rows_of(row("Hm", "x"), row(LONG, REASON)))
    hit = Overlap("train:2", 1.0)
    assert suites == [[hit, None, None, hit], [None, None, hit], []]


def test_both_answers_of_a_pair_are_searched():
    sides = [row(LONG, "Thirty."), row(LONG, REASON)]
    assert search([[item("Solve it.", REASON)]], [("train:1", sides)]) == [[Overlap("train:1", 1.0)]]


def test_no_training_row_is_kept():
    seen = []

    def rows():
        for number in range(20):
            turn = Turn(LONG)
            seen.append(weakref.ref(turn))
            yield f"train:{number}", [(turn,)]
            assert sum(ref() is not None for ref in seen) == 1

    assert search([[item(LONG)]], rows())[0][0].row == "train:0"
