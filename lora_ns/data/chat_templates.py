"""Built-in chat templates that a recipe can choose for a base without one, or instead of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.data.files.paths import places
from lora_ns.errors import ModelError, Problem, at_key, did_you_mean
from lora_ns.files.reading import LARGEST_RECIPE, exists, read_text
from lora_ns.model.template_limits import is_of_template
from lora_ns.objectives.text import PASSED_TO_TEMPLATES
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.secrets import secrets_of_named
from lora_ns.safety.deadline import OverrunError, bounded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHATML = """\
{%- if tools -%}
{{ '<|im_start|>system\\n' + (messages[0].content + '\\n\\n' if messages[0].role == 'system' else '') }}
{{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
{{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools -%}{{ '\\n' + tool | tojson }}{%- endfor -%}
{{ '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments ' }}
{{- 'within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
{{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{ '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' }}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
{%- elif not (tools and loop.first and message.role == 'system') -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls -%}
{{ '\\n' if message.content or not loop.first }}
{{- '<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
{{- '\\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""


_LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""


_MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('turns go user, assistant, user, assistant, ...') }}
{%- elif message.role == 'user' -%}{{ '[INST] ' + message.content + ' [/INST]' }}
{%- else -%}{{ ' ' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}"""


_GEMMA = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{ raise_exception('there is no system role') }}{%- endif -%}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- message.content | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""


BUILT_IN: Mapping[str, tuple[str, str]] = {
    "chatml": (_CHATML, "<|im_end|>"),
    "llama-3": (_LLAMA_3, "<|eot_id|>"),
    "mistral": (_MISTRAL, ""),
    "gemma": (_GEMMA, "<end_of_turn>"),
}
"""Template and end-of-turn token, by name; the token is empty if it is the tokenizer's end-of-sequence token."""


def use_template(recipe: Recipe, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the chat template of the recipe, if it has one.

    Raises:
        ModelError: if there is no such template, or the tokenizer lacks its end-of-turn token.
    """
    name = recipe.objective.rendering.chat_template
    if name is None:
        return
    if name in BUILT_IN:
        template, end = BUILT_IN[name]
        if end and end not in tokenizer.get_vocab():
            what = f"{name} ends turns with `{end}`, which this tokenizer does not have"
            raise ModelError(Problem("", what, _fitting(tokenizer), key=recipe.objective.key("chat_template")))
        tokenizer.chat_template = template
        return
    tokenizer.chat_template = read_template(recipe, folder)


def check_kwargs(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse variables that the chat template never reads. Raises `ModelError`."""
    given = recipe.objective.rendering.chat_template_kwargs
    template = tokenizer.chat_template
    if not given or template is None:
        return
    read = _variables("\n".join(template.values()) if isinstance(template, dict) else template)
    if read is None:
        return
    problems = []
    for key in (key for key in given if key not in read):
        remedy = did_you_mean(key, sorted(read)) or f"it reads: {', '.join(sorted(read)) or 'none'}"
        what = f"the chat template does not read `{key}`"
        problems.append(Problem("", what, remedy, key=recipe.objective.key(f"chat_template_kwargs.{key}")))
    if problems:
        raise ModelError(problems)


def _variables(template: str) -> set[str] | None:
    """Return the variables that a template expects from outside; None if plain jinja cannot parse it."""
    import jinja2
    import jinja2.defaults
    import jinja2.meta

    # The template is not run here, but jinja folds its constants, such as `'a' * 10**11`.
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    plain = _GENERATION.sub("", template)
    try:
        found = bounded(lambda: jinja2.meta.find_undeclared_variables(environment.parse(plain)))
    except OverrunError:  # reported when a row is rendered
        return None
    except Exception as error:
        if not is_of_template(error):
            raise
        return None
    given = {*PASSED_TO_TEMPLATES, *jinja2.defaults.DEFAULT_NAMESPACE, "raise_exception", "strftime_now"}
    return found - given


_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""The tags around generated text, which plain jinja does not know."""


def _fitting(tokenizer: PreTrainedTokenizerBase) -> str:
    vocabulary = tokenizer.get_vocab()
    names = [f'"{name}"' for name, (_, end) in BUILT_IN.items() if not end or end in vocabulary]
    return f"write {' or '.join(names)}, or a .jinja file that ends turns with a token that the tokenizer has"


def read_template(recipe: Recipe, folder: Path) -> str | None:
    """Return the template of the recipe; None if it has none.

    Raises:
        ModelError: if there is no such template, or its file is unreadable or contains secrets.
    """
    name, key = recipe.objective.rendering.chat_template, recipe.objective.key("chat_template")
    if name is None or name in BUILT_IN:
        return BUILT_IN[name][0] if name else None
    for candidate in places(folder, name):
        if exists(candidate):
            with at_key(key):
                text = read_text(candidate, ModelError, where="", before=f"{candidate} ", most=LARGEST_RECIPE)
            if secrets := list(secrets_of_named(candidate, text)):
                raise ModelError(secrets)
            return text
    what = f"`{name}` is neither a file nor one of {', '.join(BUILT_IN)}"
    raise ModelError(Problem("", what, "use a .jinja file, or one of these", key=key))
