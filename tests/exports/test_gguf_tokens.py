"""Tokenizers in a GGUF file: llama.cpp's way of reading a text gives the tokens of the tokenizer they were made of."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

import gguf
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_base import generate_merges

from lora_ns.errors import UsageError
from lora_ns.exports.gguf_reading import TextReader
from lora_ns.exports.gguf_tokens import SPLITTINGS, read_vocabulary, vocabulary_of

TEXTS = [
    "The bill of 1234567 euros wasn't paid, was it?\n\n  12.5% of 80 is 10.\tDone<|end|>",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.   ",
    "<|start|>user\nx=[1,2,3]; print(x[-1])\r\n# 東京 🙂<|end|>\n<|start|> I'll SAY HELLO to"
    " McDonald's<think>hm</think>",
    " ",
    "",
]


def stages(name):
    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    (pattern,) = SPLITTINGS[name].patterns
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), last])


def finished(tokenizer, bos=None):
    tokenizer.add_special_tokens(["<|start|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    ends = {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    if bos:
        number = tokenizer.token_to_id("<|start|>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", pair="<|start|> $A $B", special_tokens=[("<|start|>", number)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends)


def byte_level(name, bos=None, normalizer=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=SPLITTINGS[name].whole_words))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = stages(name)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return finished(tokenizer, bos)


def sentencepiece(prefix="legacy", bos=None):
    words = [
        "▁the",
        "▁bill",
        "▁was",
        "▁of",
        "▁x",
        "ill",
        "ing",
        "▁Boxk",
        "er",
        "en",
        "▁12",
        "34",
        "▁▁",
        "▁▁▁▁",
        "print",
    ]
    letters = [chr(number) for number in range(33, 127)] + ["▁"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    parts = {word[:end] for word in words for end in range(2, len(word) + 1)}
    pieces += sorted(parts - set(pieces), key=lambda part: (len(part), part))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: float(-number) for piece, number in vocabulary.items()}
    model = models.BPE(
        vocabulary, generate_merges(vocabulary, scores), unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    if prefix == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    tokenizer.add_special_tokens(["<unk>"])
    found = finished(tokenizer, bos)
    found.unk_token = "<unk>"
    return found


def read_back(folder, tokenizer, stops=()):
    vocabulary = vocabulary_of(tokenizer, len(tokenizer) + 3, stops or [tokenizer.eos_token_id])
    writer = gguf.GGUFWriter(folder / "tokens.gguf", "llama")
    vocabulary.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_vocabulary(gguf.GGUFReader(folder / "tokens.gguf"))
    assert found == vocabulary
    return found


CASES = {name: lambda name=name: byte_level(name) for name in SPLITTINGS}
CASES |= {
    "qwen2, NFC": lambda: byte_level("qwen2", normalizer=normalizers.NFC()),
    "llama-bpe, BOS": lambda: byte_level("llama-bpe", bos=True),
    "llama": sentencepiece,
    "llama, BOS": lambda: sentencepiece(bos=True),
    "llama, no prefix": lambda: sentencepiece("never"),
}


@pytest.mark.parametrize("case", CASES)
def test_texts_become_the_same_tokens(tmp_path, case):
    tokenizer = CASES[case]()
    found = read_back(tmp_path, tokenizer)
    assert (found.pre if found.model == "gpt2" else found.model) == case.partition(",")[0]
    assert found.flags["add_bos_token"] == ("BOS" in case)
    reader = TextReader(found)
    for text in TEXTS:
        for is_whole in (True, False):
            expected = tokenizer(text, add_special_tokens=is_whole)["input_ids"]
            assert reader(text, add_special_tokens=is_whole) == expected, text


def test_tokens_have_their_types_and_the_stops_their_names(tmp_path):
    tokenizer = byte_level("qwen2")
    tokenizer.pad_token = "<|start|>"
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|start|>", "<|end|>")]
    found = read_back(tmp_path, tokenizer, ends)
    assert found.ids == {"bos": ends[0], "pad": ends[0], "eos": ends[1], "eot": ends[0]}
    kinds = dict(zip(found.tokens, found.types, strict=True))
    assert [kinds[token] for token in ("<|end|>", "<think>", "a", f"[PAD{len(tokenizer)}]")] == [3, 4, 1, 5]


UNKNOWN = {
    "another pattern": lambda one: setattr(one, "pre_tokenizer", pre_tokenizers.Split(Regex("a|b"), "isolated")),
    "a prefix": lambda one: setattr(one, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "lower case": lambda one: setattr(one, "normalizer", normalizers.Lowercase()),
}


@pytest.mark.parametrize("change", UNKNOWN)
def test_a_tokenizer_that_splits_otherwise_is_refused(change):
    tokenizer = byte_level("gpt-2")
    UNKNOWN[change](tokenizer.backend_tokenizer)
    with pytest.raises(UsageError, match=r"pre-tokenizer is none of those that lorans knows in llama.cpp"):
        vocabulary_of(tokenizer, 500, [])


def test_what_llama_cpp_cannot_hold_is_refused():
    tokenizer = byte_level("gpt-2")
    with pytest.raises(UsageError, match=r"the tokenizer has the token \d+ .*, and the model 300 rows of embeddings"):
        vocabulary_of(tokenizer, 300, [])
    with pytest.raises(UsageError, match="generation stops at 4 tokens, and a GGUF file names up to 3"):
        vocabulary_of(tokenizer, 500, [1, 2, 3, 4])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <think>", special_tokens=[("<think>", tokenizer.convert_tokens_to_ids("<think>"))]
    )
    with pytest.raises(UsageError, match=r"llama.cpp adds BOS and EOS only"):
        vocabulary_of(tokenizer, 500, [])
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(UsageError, match=r"llama.cpp has no WordLevel tokenizer here"):
        vocabulary_of(transformers.PreTrainedTokenizerFast(tokenizer_object=words), 500, [])
