"""A tokenizer whose tokens are words: `<s>` begins a text, `</s>` ends it, `<|end|>` ends a turn."""

WORDS = (
    "<unk> <s> </s> <|end|> one two three : user: assistant: system: Below is an instruction that describes a task, "
    "task. paired with input provides further context. Write response appropriately completes the request. ### "
    "Instruction: Input: Response: be brief USER: ASSISTANT: SYSTEM: human: gpt:"
)


CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} <|end|> {% endfor %}"


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(dict.fromkeys(WORDS.split()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", words["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|end|>"],
        chat_template=CHAT_TEMPLATE,
    )


def shown(tokenizer, sequences):
    """Each sequence as words, with those in brackets that are learned."""
    return [
        " ".join(
            f"[{word}]" if learned else word
            for word, learned in zip(tokenizer.convert_ids_to_tokens(list(one.ids)), one.trained, strict=True)
        )
        for one in sequences
    ]
