"""Sentences on their way to the processes that tag them."""

import json

from lora_ns.answers.label import Sentence
from lora_ns.data.encode_labels import Fitted


def test_a_sentence_is_the_same_after_it_was_written_for_another_process():
    begins = Fitted({"input_ids": [5, 6, 7]}, 4, first={0: 0, 2: 1}, lost_words=1, tokenless=(1,))
    sentence = Sentence(["a", "", "b", "c"], begins)
    assert Sentence.of_json(json.loads(json.dumps(sentence.as_json()))) == sentence
