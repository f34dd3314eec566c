"""Broken data files, each with the whole message that it leads to: where, what, remedy; never a traceback."""

import gzip
import json
import sys

import pytest

from lora_ns.data.files.kinds import KNOWN
from lora_ns.data.rows import for_each
from lora_ns.data.sources import read_sources
from lora_ns.errors import DataError
from lora_ns.recipe.load import load_recipe, locating

GOOD = b'{"prompt": "a", "completion": "b"}\n'
HEAD = b"prompt,completion\n"
ON_LINE = "each line is one JSON object"
AS_ROW = 'a row is `{"column": value, ...}`'
AS_LIST = 'write `[{"column": value, ...}, ...]`'
AS_TEXT = "save the file as UTF-8"
AS_CLASS = "a class is a name or a whole number"
QUOTES = "double a quote inside quotes"
SEMICOLONS = 'if its cells are separated by `;`, write `delimiter = ";"`; '
NO_ROWS = "no rows (it needs at least one row)"
PACK = "fetch or pack it again"
EMPTY_ANSWER = "the answer is empty (it would teach the model to say nothing; remove the row)"
TEMPLATES = "write `prompt_template` and `completion_template` with `{column}` in them"
TWICE = "appears twice in one object (remove one of them: only the last would be read)"
TRAILING_COMMA = (
    "column 34: illegal trailing comma before end of object"
    if sys.version_info >= (3, 13)
    else "column 35: expecting property name enclosed in double quotes"
)


def no_format(columns: str, first: str = "") -> str:
    ways = "`prompt_template` and `completion_template` with `{column}` in them, or map the columns, such as"
    example = '`columns = {question = "...", answer = "..."}`'
    return f"no format matches the columns {columns} ({first}write {ways} {example})"


HEADER = "the first line is the header: if it is a row, write `column_names = [...]`; "

LINES = {
    "text": (b"prompt: a", f"not JSON at column 1: expecting value ({ON_LINE})"),
    "half an object": (b'{"prompt": ', f"not JSON at column 12: expecting value ({ON_LINE})"),
    "trailing comma": (b'{"prompt": "a", "completion": "b",}', f"not JSON at {TRAILING_COMMA} ({ON_LINE})"),
    "no comma": (b'{"prompt": "a" "completion": "b"}', f"not JSON at column 16: expecting ',' delimiter ({ON_LINE})"),
    "single quotes": (
        b"{'prompt': 'a'}",
        f"not JSON at column 2: expecting property name enclosed in double quotes ({ON_LINE})",
    ),
    "open string": (b'{"prompt": "a', f"not JSON at column 12: unterminated string ({ON_LINE})"),
    "tab in a string": (
        b'{"prompt": "a\tb"}',
        "not JSON at column 14: invalid control character (write a line break as `\\n`, a tab as `\\t`)",
    ),
    "wrong escape": (b'{"prompt": "\\x41"}', f"not JSON at column 13: invalid \\escape ({ON_LINE})"),
    "Python": (b'{"prompt": None}', f"not JSON at column 12: expecting value ({ON_LINE})"),
    "comment": (b"// rows", f"not JSON at column 1: expecting value ({ON_LINE})"),
    "two objects": (GOOD.strip() * 2, f"not JSON at column 35: extra data ({ON_LINE})"),
    "the start of a list": (b"[", "not JSON at column 2: expecting value (a file that is one list is called .json)"),
    "zero bytes": (b"\0\0", f"not JSON at column 1: expecting value ({ON_LINE})"),
    "latin-1": ('{"prompt": "é"}'.encode("latin-1"), f"not UTF-8 at byte 13 of the line ({AS_TEXT})"),
    "1 MB": (
        b'{"prompt": "' + b"a" * 2**20 + b'", "completion": }',
        f"not JSON at column 1048606: expecting value ({ON_LINE})",
    ),
    "list": (b'["a", "b"]', f"a list instead of an object ({AS_ROW})"),
    "nested list": (b'[[{"prompt": "a"}]]', f"a list instead of an object ({AS_ROW})"),
    "null": (b"null", f"null instead of an object ({AS_ROW})"),
    "string": (b'"a"', f"a string instead of an object ({AS_ROW})"),
    "number": (b"1", f"a number instead of an object ({AS_ROW})"),
    "true": (b"true", f"true or false instead of an object ({AS_ROW})"),
    "NaN": (b'{"prompt": NaN}', "NaN is not a finite number (write null, or a string)"),
    "infinity": (b'{"prompt": [-Infinity]}', "-Infinity is not a finite number (write null, or a string)"),
    "overflow": (b'{"prompt": 1e999}', "1e999 is not a finite number (write null, or a string)"),
    "huge integer": (
        b'{"prompt": ' + b"1" * 5000 + b"}",
        "cannot be read: an integer has too many digits (write it as a string)",
    ),
    "deep nesting": (
        b'{"prompt": ' + b"[" * 100_000 + b"}",
        "cannot be read: nested too deeply (write it as a string)",
    ),
    "key twice": (b'{"prompt": "a", "completion": "b", "prompt": "c"}', f"key `prompt` {TWICE}"),
    "inner key twice": (b'{"prompt": {"x": 1, "x": 1}}', f"key `x` {TWICE}"),
    "long key twice": (b'{"%s": 1, "%s": 2}' % (b"k" * 99, b"k" * 99), f"key `{'k' * 37}...` {TWICE}"),
    "half a character": (
        b'{"prompt": "\\ud83d", "completion": "b"}',
        "`\\ud83d` is half a character (write both halves, or the character itself)",
    ),
}
"""A second line of JSON lines, and what is said of it."""

FILES = {
    "no bytes": ("a.jsonl", b"", f"a.jsonl: {NO_ROWS}"),
    "blank lines": ("a.jsonl", b"\n  \r\n\t\n", f"a.jsonl: {NO_ROWS}"),
    "a byte order mark": ("a.jsonl", b"\xef\xbb\xbf\n", f"a.jsonl: {NO_ROWS}"),
    "after a byte order mark": (
        "a.jsonl",
        b"\xef\xbb\xbf" + GOOD + b"x\n",
        f"a.jsonl:2: not JSON at column 1: expecting value ({ON_LINE})",
    ),
    "windows line ends": (
        "a.jsonl",
        GOOD.replace(b"\n", b"\r\n") + b"\r\nx\r\n",
        f"a.jsonl:3: not JSON at column 1: expecting value ({ON_LINE})",
    ),
    "UTF-16": (
        "a.csv",
        HEAD.decode().encode("utf-16"),
        f"a.csv:1: not UTF-8 at byte 1 of the line ({AS_TEXT})",
    ),
    "JSON without a byte": ("a.json", b"", f"a.json: {NO_ROWS}"),
    "JSON without a row": ("a.json", b"[]", f"a.json: {NO_ROWS}"),
    "JSON object": ("a.json", b"{}", f"a.json: an object instead of a list of rows ({AS_LIST})"),
    "JSON object of columns": (
        "a.json",
        b'{"prompt": ["a"], "completion": ["b"]}',
        f"a.json: an object instead of a list of rows ({AS_LIST})",
    ),
    "JSON string": ("a.json", b'"rows"', f"a.json: a string instead of a list of rows ({AS_LIST})"),
    "JSON null": ("a.json", b"null", f"a.json: null instead of a list of rows ({AS_LIST})"),
    "JSON of two documents": (
        "a.json",
        GOOD * 2,
        "a.json:2: not JSON at column 1: extra data (a file with one object a line is called .jsonl)",
    ),
    "JSON cut short": (
        "a.json",
        b"[\n" + GOOD,
        "a.json:3: not JSON at column 1: expecting ',' delimiter (check the syntax)",
    ),
    "JSON row": ("a.json", b"[%s, [1]]" % GOOD, f"a.json, row 2: a list instead of an object ({AS_ROW})"),
    "JSON row in data": ("a.json", b'{"data": [1]}', f"a.json, row 1: a number instead of an object ({AS_ROW})"),
    "JSON with NaN": (
        "a.json",
        b'[%s, {"prompt": NaN}]' % GOOD,
        "a.json, row 2: NaN is not a finite number (write null, or a string)",
    ),
    "JSON with a key twice": ("a.json", b'[%s, {"a": 1, "a": 2}]' % GOOD, f"a.json, row 2: key `a` {TWICE}"),
    "JSON in data with a key twice": ("a.json", b'{"data": [{"a": 1, "a": 2}]}', f"a.json: key `a` {TWICE}"),
    "JSON in latin-1": ("a.json", b'["\xe9"]', f"a.json: not UTF-8 at byte 3 ({AS_TEXT})"),
    "table without a row": ("a.csv", HEAD, f"a.csv: {NO_ROWS}"),
    "column twice": ("a.csv", b"\na,b,a\n1,2,3\n", "a.csv:2: column `a` appears twice (rename one of them)"),
    "missing cell": ("a.csv", HEAD + b"a,b\nc\n", "a.csv:3: 1 cell, but the header has 2 (check the quotes)"),
    "cell too many": ("a.csv", HEAD + b"a,b,\n", "a.csv:2: 3 cells, but the header has 2 (check the quotes)"),
    "open quote": (
        "a.csv",
        HEAD + b'a,b\n"c,d\ne,f\n',
        f"a.csv:3: not CSV: a quote is opened and never closed ({QUOTES})",
    ),
    "open quote in the header": (
        "a.csv",
        b'"prompt,completion\na,b\n',
        f"a.csv:1: not CSV: a quote is opened and never closed ({QUOTES})",
    ),
    "quote that swallows a line": (
        "a.csv",
        HEAD + b'"a,b\nc,"d\n',
        f"a.csv:2: not CSV: ',' expected after '\"' ({QUOTES})",
    ),
    "quote in quotes": ("a.csv", HEAD + b'"a "b" c",d\n', f"a.csv:2: not CSV: ',' expected after '\"' ({QUOTES})"),
    "table in latin-1": ("a.csv", HEAD + b"a,\xe9\n", f"a.csv:2: not UTF-8 at byte 3 of the line ({AS_TEXT})"),
    "semicolons and a comma": (
        "a.csv",
        b"prompt, short;completion\na, c;b\n",
        f"recipe.toml:10: a.csv: {no_format('`prompt`, ` short;completion`', HEADER + SEMICOLONS)}",
    ),
    "semicolons and a comma, with quotes": (
        "a.csv",
        b'prompt, short;completion\n"a";"b"\n',
        f"a.csv:2: not CSV: ',' expected after '\"' ({QUOTES}; {SEMICOLONS.removesuffix('; ')})",
    ),
    "empty cell": ("a.csv", HEAD + b"a,b\nc,\n", f"a.csv:3: {EMPTY_ANSWER}"),
    "quote around a tab": (
        "a.tsv",
        b'prompt\tcompletion\n"a\tb"\tc\n',
        "a.tsv:2: 3 cells, but the header has 2 (check the tabs)",
    ),
    "spaces for tabs": (
        "a.tsv",
        b"prompt\tcompletion\na    b\n",
        "a.tsv:2: 1 cell, but the header has 2 (check the tabs)",
    ),
    "commas for tabs": (
        "a.tsv",
        b"prompt,completion\na,b\n",
        f"recipe.toml:10: a.tsv: {no_format('`prompt,completion`', HEADER)}",
    ),
    "empty text": ("a.txt", b" \n", f"a.txt: {NO_ROWS}"),
    "text in latin-1": ("a.txt", b"\xe9", f"a.txt: not UTF-8 at byte 1 ({AS_TEXT})"),
    "gzip without a byte": ("a.jsonl.gz", b"", f"a.jsonl.gz: {NO_ROWS}"),
    "gzip without a row": ("a.jsonl.gz", gzip.compress(b""), f"a.jsonl.gz: {NO_ROWS}"),
    "gzip that is none": ("a.jsonl.gz", GOOD, f"a.jsonl.gz: damaged, or not .gz ({PACK})"),
    "gzip cut short": (
        "a.jsonl.gz",
        gzip.compress(GOOD * 999)[:-9],
        f"a.jsonl.gz: cut short, its .gz has no end ({PACK})",
    ),
    "gzip with another checksum": (
        "a.csv.gz",
        gzip.compress(HEAD + b"a\n")[:-8] + bytes(8),
        f"a.csv.gz: damaged, or not .gz ({PACK})",
    ),
    "gzip of broken lines": (
        "a.jsonl.gz",
        gzip.compress(GOOD + b"x\n"),
        f"a.jsonl.gz:2: not JSON at column 1: expecting value ({ON_LINE})",
    ),
    "unknown kind": ("a.xlsx", b"PK", f"a.xlsx: cannot read `.xlsx` (known: {KNOWN})"),
    "packed Parquet": ("a.parquet.gz", b"", f"a.parquet.gz: cannot read `.parquet.gz` (known: {KNOWN})"),
    "archive": ("a.tar.gz", b"", f"a.tar.gz: cannot read `.tar.gz` (known: {KNOWN})"),
    "no kind": ("rows", b"", f"rows: cannot read `rows` (known: {KNOWN})"),
    "folder without data": (
        "data/a.xlsx",
        b"",
        f"--set: dataset.path: folder `data` has no data file (known: {KNOWN}; `data/**/*.jsonl` also looks below it)",
        "dataset.path=data",
    ),
    "pattern without a match": (
        "data/a.jsonl",
        GOOD,
        "--set: dataset.path: no file matches `data/*.csv` (looked at data/*.csv)",
        "dataset.path=data/*.csv",
    ),
    "one file of two": (
        "a.jsonl",
        GOOD,
        "--set: dataset.path: no file `b.jsonl` (looked at b.jsonl)",
        'dataset.path=["a.jsonl", "b.jsonl"]',
    ),
    "word without a tag": (
        "a.conll",
        b"a O\nb\nc\n\nd O\n",
        "a.conll:2: `b` has no tag (a line is a word, a tab or space, and its tag)",
    ),
    "word with an empty tag": (
        "a.iob",
        b"a\tO\nb\t\n",
        "a.iob:2: `b` has an empty tag (a word outside of all entities has the tag O)",
    ),
    "tag without a word": (
        "a.bio",
        b"a\tO\n\tO\n",
        "a.bio:2: a tag without a word (remove the line, or make it blank)",
    ),
    "columns that come and go": (
        "a.conll",
        b"a NN O\n\nb O\n",
        "a.conll:3: 2 columns, but the first line has 3 (a blank line ends a sentence)",
    ),
    "CoNLL in latin-1": ("a.conll", b"\xe9 O\n", f"a.conll:1: not UTF-8 at byte 1 of the line ({AS_TEXT})"),
    "CoNLL without a word": ("a.conll", b"# nothing\n\n-DOCSTART- O\n", f"a.conll: {NO_ROWS}"),
    "a bad row more than allowed": (
        "a.jsonl",
        GOOD + b"x\n" + GOOD + b"[]\n",
        f"a.jsonl:2: not JSON at column 1: expecting value ({ON_LINE})\n"
        f"a.jsonl:4: a list instead of an object ({AS_ROW})",
        "dataset.max_bad_rows=1",
    ),
}
"""A whole file, and what is said of it; an override of the recipe where one is needed."""


def turns(*roles, **changed):
    """A row of messages; `changed` goes into the last turn."""
    messages = [{"role": role, "content": "text"} for role in roles]
    messages[-1].update(changed)
    return {"messages": messages}


ROLES = "one of: system, user, assistant, tool"
ROWS = {
    "role of another tool": (turns("human", "assistant"), f"`messages[0].role` is 'human' ({ROLES})"),
    "role in capitals": (turns("user", "Assistant"), f"`messages[1].role` is 'Assistant' ({ROLES})"),
    "null role": (turns("user", "assistant", role=None), f"`messages[1].role` is null ({ROLES})"),
    "no answer": (turns("user"), "the last turn has the role `user` (a training row must end with an assistant turn)"),
    "answer of a tool": (
        turns("user", "tool"),
        "the last turn has the role `tool` (a training row must end with an assistant turn)",
    ),
    "empty answer": (turns("user", "assistant", content=""), EMPTY_ANSWER),
    "null content": (turns("user", "assistant", content=None), "`messages[1].content` is null instead of text"),
    "content with a picture": (
        turns("user", "assistant", content=[{"type": "image_url", "image_url": {"url": "a.png"}}]),
        "`messages[1].content[0]` is of type `image_url` (only text is supported)",
    ),
    "text for turns": ({"messages": "a"}, "`messages` is 'a' instead of a list of turns"),
    "null for turns": ({"messages": None}, "`messages` is null instead of a list of turns"),
    "text for a turn": (
        {"messages": ["a"]},
        '`messages[0]` is \'a\' instead of a turn (write `{"role": ..., "content": ...}`)',
    ),
}
"""A second row of messages, and what is said of it."""

PLAIN_ROWS = {
    "no prompt": ({"completion": "b"}, "no column `prompt` (columns: completion)"),
    "no completion": ({"prompt": "a"}, "no column `completion` (columns: prompt)"),
    "null prompt": ({"prompt": None, "completion": "b"}, "`prompt` is null instead of text"),
    "null completion": ({"prompt": "a", "completion": None}, "`completion` is null instead of text"),
    "list": ({"prompt": ["a"], "completion": "b"}, "`prompt` is a list instead of text"),
    "object": ({"prompt": {"a": 1}, "completion": "b"}, "`prompt` is an object instead of text"),
    "true": ({"prompt": True, "completion": "b"}, "`prompt` is true or false instead of text"),
    "empty completion": ({"prompt": "a", "completion": ""}, EMPTY_ANSWER),
    "blank completion": ({"prompt": "a", "completion": " \n"}, EMPTY_ANSWER),
}
"""A second row of prompts, and what is said of it: the type of a column is not that of the first row."""

CLASS_ROWS = {
    "no label": ({"text": "a"}, "no column `label` (columns: text)"),
    "null label": ({"text": "a", "label": None}, f"`label` is null ({AS_CLASS})"),
    "empty label": ({"text": "a", "label": ""}, f"`label` is '' ({AS_CLASS})"),
    "label of one and a half": ({"text": "a", "label": 1.5}, f"`label` is 1.5 ({AS_CLASS})"),
    "true label": ({"text": "a", "label": True}, f"`label` is true or false ({AS_CLASS})"),
    "labels": ({"text": "a", "label": ["x", "y"]}, f"`label` is a list ({AS_CLASS})"),
    "NaN in text": ({"text": "a", "label": float("nan")}, "NaN is not a finite number (write null, or a string)"),
    "no text": ({"label": "x"}, "no column `text` (columns: label)"),
    "null text": ({"text": None, "label": "x"}, "`text` is null instead of text"),
}
"""A second row of classes, and what is said of it."""


AS_SCORE = "a score is a finite number"
SCORE_ROWS = {
    "no score": ({"text": "a"}, "no column `label` (columns: text)"),
    "null score": ({"text": "a", "label": None}, f"`label` is null ({AS_SCORE})"),
    "name for a score": ({"text": "a", "label": "good"}, f"`label` is 'good' ({AS_SCORE})"),
    "empty score": ({"text": "a", "label": ""}, f"`label` is '' ({AS_SCORE})"),
    "true score": ({"text": "a", "label": True}, f"`label` is true or false ({AS_SCORE})"),
    "list for a score": ({"text": "a", "label": [1.5]}, f"`label` is a list ({AS_SCORE})"),
    "NaN score": ({"text": "a", "label": "nan"}, f"`label` is 'nan' ({AS_SCORE})"),
    "infinite score": ({"text": "a", "label": "-inf"}, f"`label` is '-inf' ({AS_SCORE})"),
}
"""A second row of scores, and what is said of it."""

AS_LABEL = "a label is a name or a whole number"
ONE_OR_NONE = 'write ["a"] for one label, [] for none'
LABEL_ROWS = {
    "no labels": ({"text": "a"}, "no column `label` (columns: text)"),
    "null for labels": ({"text": "a", "label": None}, f"`label` is null instead of a list ({ONE_OR_NONE})"),
    "name for labels": ({"text": "a", "label": "x"}, f"`label` is 'x' instead of a list ({ONE_OR_NONE})"),
    "number for labels": ({"text": "a", "label": 1}, f"`label` is 1 instead of a list ({ONE_OR_NONE})"),
    "nested labels": ({"text": "a", "label": ["x", ["y"]]}, f"`label[1]` is a list ({AS_LABEL})"),
    "null label in labels": ({"text": "a", "label": [None]}, f"`label[0]` is null ({AS_LABEL})"),
    "true label in labels": ({"text": "a", "label": [True]}, f"`label[0]` is true or false ({AS_LABEL})"),
    "score in labels": ({"text": "a", "label": [0.5]}, f"`label[0]` is 0.5 ({AS_LABEL})"),
    "empty label in labels": ({"text": "a", "label": [""]}, f"`label[0]` is '' ({AS_LABEL})"),
    "label twice": (
        {"text": "a", "label": ["x", "y", "x"]},
        "label `x` occurs twice in `label` (list each label that applies once; 0 and 1 are read as names of labels)",
    ),
    "broken list in text": (
        {"text": "a", "label": '["x"'},
        '`label` is not JSON: expecting \',\' delimiter at character 5 (write a list, such as ["a", "b"])',
    ),
}
"""A second row of labels, and what is said of it."""

AS_TAG = "a tag is a name or a whole number"
TAG_ROWS = {
    "no words": ({"tags": ["O"]}, "no column `tokens` (columns: tags)"),
    "no tags": ({"tokens": ["a"]}, "no column `tags` (columns: tokens)"),
    "empty words": ({"tokens": [], "tags": []}, "`tokens` has no words (remove the row)"),
    "text for words": ({"tokens": "a b", "tags": ["O", "O"]}, "`tokens` is 'a b' instead of a list"),
    "text for tags": ({"tokens": ["a"], "tags": "O"}, "`tags` is 'O' instead of a list"),
    "null for tags": ({"tokens": ["a"], "tags": None}, "`tags` is null instead of a list"),
    "fewer tags": (
        {"tokens": ["a", "b"], "tags": ["O"]},
        "2 words in `tokens`, but 1 tags in `tags` (each word needs one tag)",
    ),
    "null word": ({"tokens": ["a", None], "tags": ["O", "O"]}, "`tokens[1]` is null instead of text"),
    "nested words": ({"tokens": [["a"]], "tags": ["O"]}, "`tokens[0]` is a list instead of text"),
    "null tag": ({"tokens": ["a"], "tags": [None]}, f"`tags[0]` is null ({AS_TAG})"),
    "nested tags": ({"tokens": ["a"], "tags": [["O"]]}, f"`tags[0]` is a list ({AS_TAG})"),
    "empty tag": ({"tokens": ["a"], "tags": [""]}, f"`tags[0]` is '' ({AS_TAG})"),
}
"""A second row of tags, and what is said of it."""


def examples(loaded):
    with locating(loaded):
        sources = read_sources(loaded.recipe, loaded.folder)
    return for_each(sources.train.rows, lambda row: sources.format.example(row.values))


@pytest.fixture
def told(write_recipe, tmp_path):
    """What is said of a data file that a recipe reads to its last row."""

    def read(name, content, *overrides):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        recipe = write_recipe()
        recipe.write_text(recipe.read_text().replace("train.jsonl", name))
        with pytest.raises(DataError) as caught:
            examples(load_recipe(recipe, overrides))
        assert all(problem.where for problem in caught.value.problems)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return read


def as_lines(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.mark.parametrize(("line", "expected"), LINES.values(), ids=LINES)
def test_a_broken_line_is_told(told, line, expected):
    assert told("a.jsonl", GOOD + line + b"\n" + GOOD) == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize("case", FILES)
def test_a_broken_file_is_told(told, case):
    name, content, expected, *overrides = FILES[case]
    assert told(name, content, *overrides) == expected


@pytest.mark.parametrize(("row", "expected"), ROWS.values(), ids=ROWS)
def test_a_row_of_broken_turns_is_told(told, row, expected):
    assert told("a.jsonl", as_lines(turns("user", "assistant"), row)) == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize(("row", "expected"), PLAIN_ROWS.values(), ids=PLAIN_ROWS)
def test_a_row_of_broken_text_is_told(told, row, expected):
    assert told("a.jsonl", GOOD + as_lines(row)) == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize(("row", "expected"), CLASS_ROWS.values(), ids=CLASS_ROWS)
def test_a_row_of_a_broken_class_is_told(told, row, expected):
    assert told("a.jsonl", as_lines({"text": "a", "label": "x"}, row), "task_type=SEQ_CLS") == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize(
    ("kind", "first", "row", "expected"),
    [
        (kind, first, row, expected)
        for kind, first, cases in (
            ("regression", 1.5, SCORE_ROWS),
            ("multi_label_classification", ["x"], LABEL_ROWS),
        )
        for row, expected in cases.values()
    ],
)
def test_a_row_of_a_broken_score_or_of_broken_labels_is_told(told, kind, first, row, expected):
    content = as_lines({"text": "a", "label": first}, row)
    asked = ["task_type=SEQ_CLS", f"classification.problem_type={kind}"]
    assert told("a.jsonl", content, *asked) == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize(("row", "expected"), TAG_ROWS.values(), ids=TAG_ROWS)
def test_a_row_of_broken_tags_is_told(told, row, expected):
    good = {"tokens": ["a", "b"], "tags": ["O", "B-x"]}
    assert told("a.jsonl", as_lines(good, row), "task_type=TOKEN_CLS") == f"a.jsonl:2: {expected}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_none_in_parquet_is_told(told, value):
    pyarrow = pytest.importorskip("pyarrow")
    content = in_arrow(["text", "label"], lambda _: [pyarrow.array(["a", "b"]), pyarrow.array([0.5, value])])
    assert told("a.arrow", content, "task_type=SEQ_CLS") == f"a.arrow, row 2: `label` is {value} ({AS_SCORE})"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda _: GOOD, "damaged, or not .zst"),
        (lambda _: gzip.compress(GOOD), "damaged, or not .zst"),
        (lambda pack: pack(GOOD * 999)[:-3], "cut short, its .zst has no end"),
        (lambda pack: pack(GOOD * 999)[:6], "cut short, its .zst has no end"),
        (lambda pack: pack(GOOD) + pack(GOOD)[:-1], "cut short, its .zst has no end"),
        (lambda pack: pack(GOOD) + b"more", "damaged, or not .zst"),
    ],
)
def test_a_broken_zstandard_file_is_told(told, content, what):
    zstandard = pytest.importorskip("zstandard")
    assert told("a.jsonl.zst", content(zstandard.ZstdCompressor().compress)) == f"a.jsonl.zst: {what} ({PACK})"


ARROW = {
    "Parquet without a byte": ("a.parquet", b"", "parquet file size is 0 bytes"),
    "Parquet that is none": ("a.parquet", b"no Parquet at all", "parquet magic bytes not found in footer"),
    "Arrow without a byte": ("a.arrow", b"", "tried reading schema message, was null or length 0"),
    "Arrow that is none": (
        "a.arrow",
        b"no Arrow at all",
        "expected to read 1092644718 metadata bytes, but only read 11",
    ),
    "Arrow cut short": ("a.arrow", b"ARROW1\0\0" + b"x" * 99, "not an Arrow file"),
}
"""A file that pyarrow refuses, and its reason."""


@pytest.mark.parametrize(("name", "content", "reason"), ARROW.values(), ids=ARROW)
def test_a_broken_arrow_file_is_told(told, name, content, reason):
    pytest.importorskip("pyarrow")
    kind = "Parquet" if name.endswith(".parquet") else "Arrow"
    assert told(name, content) == f"{name}: damaged, or not {kind}: {reason} (fetch or write it again)"


def in_arrow(names, columns):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_arrays(columns(pyarrow), names)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_column_that_is_there_twice_in_an_arrow_file_is_told(told):
    content = in_arrow(["a", "a"], lambda pyarrow: [pyarrow.array(["x"]), pyarrow.array(["y"])])
    assert told("a.arrow", content) == "a.arrow: column `a` appears twice (rename one of them)"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (b"\1", "in column 0: Invalid: Invalid UTF8 sequence at string index 0"),
        (b"\x7f", "in column 0: Invalid: Offset invariant failure: offset for slot 1 out of bounds: 127 > 8"),
    ],
)
def test_text_that_is_none_in_an_arrow_file_is_told(told, end, reason):
    def columns(pyarrow):
        offsets = pyarrow.py_buffer(b"\0\0\0\0" + end + b"\0\0\0\2\0\0\0")
        return [pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"\xff" * 8))]

    content = in_arrow(["a"], columns)
    assert told("a.arrow", content) == f"a.arrow: damaged, or not Arrow: {reason} (fetch or write it again)"


def test_a_value_that_python_cannot_hold_in_an_arrow_file_is_told(told):
    content = in_arrow(["a"], lambda pyarrow: [pyarrow.array([2**62], pyarrow.timestamp("s"))])
    reason = "python int too large to convert to C int"
    assert told("a.arrow", content) == f"a.arrow: a value cannot be read: {reason} (write it as a string)"


def test_a_row_of_1_mb_is_read(write_recipe, tmp_path):
    row = {"prompt": "a" * 2**20, "completion": "b"}
    (tmp_path / "train.jsonl").write_bytes(as_lines(row))
    loaded = load_recipe(write_recipe())
    assert [row.values for row in read_sources(loaded.recipe, loaded.folder).train.rows] == [row]


def test_mixed_types_are_read_where_they_can_be_text(write_recipe, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(GOOD + as_lines({"prompt": 1, "completion": 2.5}))
    read = examples(load_recipe(write_recipe()))
    assert [(example.prompt, example.completion) for example in read] == [("a", "b"), ("1", "2.5")]


def test_rows_of_other_columns_in_a_later_file_are_told(told, tmp_path):
    (tmp_path / "b.csv").write_bytes(b"before,after\na,b\n")
    assert (
        told("a.jsonl", GOOD, 'dataset.path=["a.jsonl", "b.csv"]')
        == "b.csv:2: no column `prompt` (columns: before, after)"
    )


def test_rows_that_are_left_out_are_carried_to_the_plan(write_recipe, tmp_path):
    (tmp_path / "train.jsonl").write_bytes((GOOD * 10 + b"x\n") * 2)
    recipe = write_recipe()
    loaded = load_recipe(recipe, ["dataset.max_bad_rows=2", "dataset.eval_fraction=0.2"])
    sources = read_sources(loaded.recipe, loaded.folder)
    places = [f"{tmp_path}/train.jsonl:{number}" for number in (11, 22)]
    assert [problem.where for problem in sources.train.left_out] == places
    assert sources.eval.left_out == ()
    assert (len(sources.train.rows), len(sources.eval.rows)) == (16, 4)
