"""Recipes for `validate --learn`: healthy ones, and ones with a planted defect."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import write_decoder, write_encoder
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lora_ns.data.render import Rendered, Renderer
from lora_ns.errors import DataError
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.learn.certificate import Certificate
from lora_ns.services.learn.learn import learn
from lora_ns.training import fit

RECIPE = """\
task_name = "lesson"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
format = "messages"
[training]
output_dir = "run"
learning_rate = 5e-3
[sft]
max_seq_length = 128
"""

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint", "heron", "cedar", "quartz", "willow")
PAIRS = (
    *(
        {"prompt": f"Who owns the {word}?", "completion": f"{WORDS[number - 5]} {WORDS[number - 3]}"}
        for number, word in enumerate(WORDS)
    ),
)

Plant = Callable[[pytest.MonkeyPatch], None]
Write = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """What a recipe has beside `RECIPE`."""

    overrides: Sequence[str] = ()
    template: str = ""
    """Chat template, for `template.jinja`."""
    rows: Sequence[Mapping[str, Any]] = PAIRS
    write: Write = lambda _: None
    """Writes a base."""
    text: str = RECIPE


@dataclass(frozen=True)
class Planted:
    """A recipe with a defect, and the name that it must get."""

    code: str
    case: Case = Case()
    plant: Plant = lambda _: None


def certify(folder: Path, case: Case) -> Certificate:
    """Write a recipe with all its files, and certify it."""
    (folder / "recipe.toml").write_text(case.text)
    (folder / "template.jinja").write_text(case.template)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in case.rows))
    case.write(folder / "base")
    with pytest.MonkeyPatch.context() as patch, Noise() as noise:
        patch.chdir(folder)
        return learn(load_recipe(folder / "recipe.toml", case.overrides), detect(), SilentObserver(), noise)


def name_of(folder: Path, planted: Planted) -> str:
    """Plant a defect, and return the code that it gets: by the certificate, or by a check of the rows before it."""
    with pytest.MonkeyPatch.context() as patch:
        planted.plant(patch)
        try:
            cause = certify(folder, planted.case).cause
        except DataError as error:
            return error.problems[0].code
    return cause.code if cause else "none"


# What breaks the pieces that lorans itself guards


def without_end(patch: pytest.MonkeyPatch) -> None:
    """Plain rows get no end token."""
    patch.setattr(Renderer, "_ended", lambda _, ids: ids)


def without_most_ends(patch: pytest.MonkeyPatch) -> None:
    """Three of four plain rows get no end token."""
    ended = Renderer._ended
    patch.setattr(Renderer, "_ended", lambda own, ids: ids if sum(ids) % 4 else ended(own, ids))


def on_prompts(patch: pytest.MonkeyPatch) -> None:
    """The mask is the wrong way round."""
    plain = Renderer._plain

    def flipped(renderer: Renderer, example: Any) -> Rendered:
        whole = plain(renderer, example)
        return Rendered(whole.input_ids, [not one for one in whole.trained])

    patch.setattr(Renderer, "_plain", flipped)


def collating(change: Callable[[Any, Any], None]) -> Plant:
    """A data collator that changes the labels of every batch."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        make = fit.make_trainer

        def changed(*arguments: Any, **more: Any) -> Any:
            trainer = make(*arguments, **more)
            collate = trainer.data_collator

            def collated(rows: Any) -> Any:
                batch = collate(rows)
                change(batch, trainer.processing_class)
                return batch

            trainer.data_collator = collated
            return trainer

        patch.setattr(fit, "make_trainer", changed)

    return plant


def mask_all(batch: Any, _: Any) -> None:
    """No token is left in the loss."""
    batch["labels"][:] = -100


def label_all(batch: Any, _: Any) -> None:
    """The prompts are in the loss, although the rows leave them out."""
    batch["labels"] = batch["input_ids"].clone()


def mask_ends(batch: Any, tokenizer: Any) -> None:
    """What a collator does that masks pads by their id, where the end token pads."""
    labels = batch["labels"]
    labels[labels == tokenizer.eos_token_id] = -100


def without_gradients(patch: pytest.MonkeyPatch) -> None:
    """The adapter's gradients are all zero."""
    add = fit.add_adapter

    def added(*arguments: Any, **more: Any) -> Any:
        model = add(*arguments, **more)
        for value in model.parameters():
            if value.requires_grad:
                value.register_hook(lambda gradient: gradient * 0)
        return model

    patch.setattr(fit, "add_adapter", added)


def other_optimizer(patch: pytest.MonkeyPatch) -> None:
    """The optimizer holds another parameter than the adapter's."""
    import torch

    def chosen(trainer: Any, _: Any) -> None:
        trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    patch.setattr(fit, "choose_optimizer", chosen)


def other_stops(patch: pytest.MonkeyPatch) -> None:
    """Generation stops at another token than answers end with."""
    from lora_ns.answers import work

    make = work.make_writer

    def made(*arguments: Any) -> Any:
        writer = make(*arguments)
        return type(writer)(writer.model, writer.tokenizer, (259,), writer.dtype, writer.max_positions)

    patch.setattr(work, "make_writer", made)


KNOWN = Case(('dataset.path="lorans:quickstart/train.jsonl"', "dataset.max_samples=64"))
"""Rows that the base answers before training."""
PLAIN = Case(('dataset.format="prompt-completion"',))
TEMPLATE = 'sft.chat_template="template.jinja"'
TURN = "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
OTHER_PROMPT = (
    f"{{%- for m in messages %}}{TURN}{{%- endfor %}}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>user\\nAnswer:' }}{%- endif %}"
)
"""A template whose generation prompt is not what precedes an answer."""
MARKED_PROMPT = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'user' %}{%- generation %}{{- m['content'] }}{%- endgeneration %}"
    "{%- else %}{{- m['content'] }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""A template whose generation marks are around the question."""
LONG = [{**row, "completion": row["completion"] + " and others" * (number > 3)} for number, row in enumerate(PAIRS)]
"""Rows of which most do not fit into 52 tokens."""
HOT = ("generation.do_sample=true", "generation.temperature=5.0", "generation.top_k=0")
WORD_LABELS = [{"text": row["prompt"], "label": ("short", "long")[number % 2]} for number, row in enumerate(PAIRS)]
CLASSES = RECIPE.replace("CAUSAL_LM", "SEQ_CLS").replace('format = "messages"', "").replace("[sft]", "[classification]")

PLANTED = {
    "no end token": Planted("EOS002", PLAIN, without_end),
    "no end token in most rows": Planted("no-end-token", PLAIN, without_most_ends),
    "loss on prompts alone": Planted("EOS002", PLAIN, on_prompts),
    "loss on prompts too": Planted("loss-on-prompts", plant=collating(label_all)),
    "marks around the question": Planted("answer-not-in-loss", Case((TEMPLATE,), MARKED_PROMPT)),
    "other template at inference": Planted("other-template", Case((TEMPLATE, 'sft.train_on="all"'), OTHER_PROMPT)),
    "no gradients": Planted("frozen", plant=without_gradients),
    "no gradients, known answers": Planted("frozen", KNOWN, without_gradients),
    "optimizer of other parameters": Planted("frozen", plant=other_optimizer),
    "dead rate": Planted("rate-too-low", Case(("training.learning_rate=1e-7",))),
    "dead rate, known answers": Planted("rate-too-low", replace(KNOWN, overrides=("training.learning_rate=1e-7",))),
    "dead rate, labels": Planted(
        "rate-too-low", Case(("training.learning_rate=1e-7",), rows=WORD_LABELS, text=CLASSES)
    ),
    "low rate": Planted("rate-too-low", Case(("training.learning_rate=2e-5",))),
    "answers cut": Planted("answers-cut", Case(("sft.max_seq_length=52", 'sft.on_overflow="truncate"'), rows=LONG)),
    "all masked": Planted("nothing-in-loss", plant=collating(mask_all)),
    "end token masked as pad": Planted("end-not-in-loss", plant=collating(mask_ends)),
    "stops at another token": Planted("other-stop-token", plant=other_stops),
    "wrong targets": Planted(
        "targets", Case(('peft.target_modules=["k_proj"]', "peft.layers_to_transform=[3]", "peft.lora_r=1"))
    ),
    "one virtual token": Planted("capacity", Case(('peft={method="prompt-tuning", num_virtual_tokens=1}',))),
    "diverging rate": Planted("diverged", Case(("training.learning_rate=5.0",))),
    "sampling": Planted("sampling", Case(HOT)),
    "repetition penalty": Planted("repetition-penalty", Case(("generation.repetition_penalty=50.0",))),
    "answers longer than allowed": Planted("answer-too-long", Case(("generation.max_new_tokens=4",))),
    "prompt with the answer": Planted(
        "prompt-has-answer",
        Case(('dataset.prompt_template="{prompt} {completion}"', 'dataset.completion_template="{completion}"')),
    ),
}

# Healthy recipes

ALPACA = (
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{{- '### Instruction:\\n' + m['content'] + '\\n\\n' }}"
    "{%- else %}{{- '### Response:\\n' + m['content'] + eos_token }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}"
)
INST = (
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}"
)
BASE = 'model.name_or_path="./base"'
SMALL = "training.learning_rate=1e-2"
WORD_TAGS = [
    {"tokens": row["prompt"].split(), "ner_tags": ["O", "O", "O", ("A", "B")[number % 2]]}
    for number, row in enumerate(PAIRS)
]
TAGS = CLASSES.replace("SEQ_CLS", "TOKEN_CLS")


def decoder(config: Any, model: Any, chat: bool) -> Write:
    """Writes a tiny decoder with random weights, the same ones each time."""

    def write(folder: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            write_decoder(folder, config, model, chat=chat)

    return write


HEALTHY = {
    "nano, LoRA, ChatML": Case(),
    "nano, DoRA, pairs without a template": replace(PLAIN, overrides=(*PLAIN.overrides, "peft.use_dora=true")),
    "nano, LoHa, Alpaca's template": Case((TEMPLATE, 'peft={method="loha"}'), ALPACA),
    "Qwen2, LoRA, ChatML": Case((BASE, SMALL), write=decoder(Qwen2Config, Qwen2ForCausalLM, chat=True)),
    "Llama, LoKr, the template of Mistral": Case(
        (BASE, TEMPLATE, SMALL, 'peft={method="lokr"}'), INST, write=decoder(LlamaConfig, LlamaForCausalLM, chat=False)
    ),
    "nano, LoRA, texts": Case(
        ('dataset.format="text"',), rows=[{"text": f"{row['prompt']} {row['completion']}"} for row in PAIRS]
    ),
    "nano, LoRA, known answers": KNOWN,
    "nano, LoRA, labels": Case(rows=WORD_LABELS, text=CLASSES),
    "RoBERTa, LoRA, labels": Case((BASE, SMALL), rows=WORD_LABELS, text=CLASSES, write=write_encoder),
    "nano, LoRA, tags": Case(rows=WORD_TAGS, text=TAGS),
}
