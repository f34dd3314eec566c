"""Tokenising reports how many rows it has done, and ends with all of them."""

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer

from lora_ns.data import encode, encode_text
from lora_ns.data.render import Renderer
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.formats import Columns
from lora_ns.formats.registry import FORMATS
from lora_ns.recipe.load import load_recipe


@pytest.mark.parametrize(
    ("overrides", "form", "row"),
    [
        ([], "messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        (["task_type=SEQ_CLS"], "classification", {"text": "a", "label": "x"}),
    ],
)
def test_every_chunk_of_rows_is_reported(write_recipe, monkeypatch, overrides, form, row):
    for module in (encode, encode_text):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)
    recipe = load_recipe(write_recipe(), overrides).recipe
    source = Source("r", [Row(f"r:{number}", row) for number in range(5)])
    reported: list[tuple[int, int]] = []
    renderer = Renderer(make_tokenizer(SHAPES["chatml"]), ())
    encode.encode(
        source,
        FORMATS[form](Columns()),
        renderer,
        recipe.objective,
        ("x",),
        on_rows=lambda *rows: reported.append(rows),
    )
    assert [total for _, total in reported] == [5] * 3
    done = [done for done, _ in reported]
    assert done in ([2, 4, 5], [0, 2, 4])
