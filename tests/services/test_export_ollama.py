"""A run for Ollama: a GGUF file with a Modelfile, and each planted fault is found at its stage."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

from services_recipes import RECIPE
from tokenizers import processors
from typer.testing import CliRunner

from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import RunError, UsageError
from lora_ns.exports.modelfile import read_modelfile
from lora_ns.services import export_ollama
from lora_ns.services.export_ollama import modelfile_of
from lora_ns.services.ollama_prompts import CHATS, RunPrompts
from lora_ns.services.verify_ollama import _OllamaFolder, verify_ollama

STAGES = ["template", "token ids", "system", "stop", "sampling"]


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(lora_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("ollama") / "out"
    done = call("export", lora_run.path, "--to", "ollama", "-o", place)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"next:\n  ollama create NAME -f {place}/Modelfile\n")
    assert {file.name for file in place.parent.iterdir()} == {"out"}
    return place


def test_a_folder_has_all_that_ollama_needs_and_is_the_trained_model(lora_run, folder):
    names = {file.name for file in folder.iterdir()}
    records = {"export_report.json", "lineage.json", "lorans_run.json", "README.md"}
    assert names == {"Modelfile", "task-F16.gguf", *records}
    found = read_modelfile((folder / "Modelfile").read_text())
    assert (found.source, found.system, found.others) == ("./task-F16.gguf", None, ())
    assert {name: list(values) for name, values in found.parameters.items()} == {
        "stop": ["<|im_end|>"],
        "temperature": ["0"],
        "repeat_penalty": ["1"],
        "num_predict": ["256"],
        "num_ctx": ["512"],
    }
    report = json.loads((folder / "export_report.json").read_text())
    stages = [stage["name"] for stage in report["proof"]["stages"]]
    assert (report["verified"], report["kind"], report["made"]["notes"]) == (True, "ollama", [])
    assert stages[6:11] == [f"Modelfile {name}" for name in STAGES]
    card = (folder / "README.md").read_text()
    assert "library_name: gguf" in card
    assert "| Ollama | `ollama create NAME -f FOLDER/Modelfile` |" in card
    done = call("verify", folder, "--against", lora_run.path, "--json")
    assert (done.exit_code, json.loads(done.stdout)["frozen"]) == (0, True)


def replaced(old, new):
    def change(folder):
        file = folder / "Modelfile"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


FAULTS = {
    "no line with a file": ("files", replaced("FROM", "# FROM")),
    "another file": ("files", replaced("task-F16", "other")),
    "a message of its own": ("files", replaced("PARAMETER temp", "MESSAGE user hi\nPARAMETER temp")),
    "half a file": ("files", lambda folder: (folder / "Modelfile").write_text('FROM x\nTEMPLATE """')),
    "a damaged model": ("files", lambda folder: (folder / "task-F16.gguf").write_bytes(b"GGUF")),
    "another template": ("Modelfile template", replaced("<|im_start|>assistant", "<|im_start|>model")),
    "no template": ("Modelfile template", replaced("TEMPLATE", "LICENSE")),
    "a template of another language": ("Modelfile template", replaced("range $i, $_ :=", "for x in")),
    "a system turn": ("Modelfile system", replaced("PARAMETER temp", "SYSTEM Be kind.\nPARAMETER temp")),
    "a missing stop": ("Modelfile stop", replaced('PARAMETER stop "<|im_end|>"\n', "")),
    "another stop": ("Modelfile stop", replaced('stop "<|im_end|>"', 'stop "<|end|>"')),
    "another temperature": ("Modelfile sampling", replaced("temperature 0", "temperature 0.7")),
    "no temperature": ("Modelfile sampling", replaced("PARAMETER temperature 0\n", "")),
    "a length that is no number": ("Modelfile sampling", replaced("num_predict 256", "num_predict many")),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_at_its_stage(lora_run, folder, tmp_path, name):
    stage, plant = FAULTS[name]
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "export_report.json").unlink()
    plant(copy)
    proof = verify_ollama(open_run(lora_run), copy)
    assert not proof.is_verified
    first = next(one for one in proof.stages if not one.is_same)
    assert (first.name, bool(first.fault)) == (stage, True)
    done = call("verify", copy, "--against", lora_run.path)
    assert (done.exit_code, f"differs in {stage}" in done.output) == (1, True)


BOS = "{{- bos_token -}}{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
BOS += "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"


def retold(run, template=None, adds_bos=False, **generation):
    """An opened run with another chat template, another beginning or other settings."""
    opened = open_run(run)
    tokenizer, recipe = opened.tokenizer, opened.manifest.recipe
    if template is not None:
        tokenizer.chat_template = template
    if adds_bos:
        tokenizer.bos_token = "<pad>"
        ends = [("<pad>", tokenizer.bos_token_id)]
        added = processors.TemplateProcessing(single="<pad> $A", pair="<pad> $A $B", special_tokens=ends)
        tokenizer.backend_tokenizer.post_processor = added
    changed = recipe.model_copy(update={"generation": recipe.generation.model_copy(update=generation)})
    return replace(opened, manifest=opened.manifest.model_copy(update={"recipe": changed}))


def test_a_beginning_that_the_file_adds_is_not_in_the_template(lora_run):
    opened = retold(lora_run, BOS, adds_bos=True)
    template = modelfile_of(opened).template
    assert "<pad>" not in template
    with pytest.raises(UsageError, match=r"llama.cpp puts <pad> before every text, and the conversations"):
        modelfile_of(retold(lora_run, BOS.replace("bos_token", "''"), adds_bos=True))


def test_a_doubled_beginning_is_found_at_its_stage(lora_run, folder, monkeypatch):
    opened = retold(lora_run, BOS, adds_bos=True)
    artefact = SimpleNamespace(encode=lambda text, **_: opened.tokenizer(text)["input_ids"])
    prompts, found = RunPrompts(opened), _OllamaFolder(opened, folder)
    chats = list(prompts.chats())
    right = modelfile_of(opened)
    for template, told in ((right.template, ""), ("<pad>" + right.template, "token 1 of a conversation")):
        found.__dict__.update(_model=artefact, _modelfile=replace(right, template=template))
        assert not found._template(prompts, chats)
        assert found._ids(prompts, chats).startswith(told)
        assert bool(found._ids(prompts, chats)) == bool(told)


def test_sampling_is_in_the_parameters(lora_run):
    more = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.1}
    found = modelfile_of(retold(lora_run, **more, max_new_tokens=32)).parameters
    assert {name: values for name, (*values,) in found.items() if name not in {"stop", "num_ctx"}} == {
        "temperature": ["0.7"],
        "top_p": ["0.9"],
        "top_k": ["0"],
        "repeat_penalty": ["1.1"],
        "repeat_last_n": ["-1"],
        "num_predict": ["32"],
    }


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ strftime_now('%d') }}{{ messages[0].content }}", "writes the date"),
        ("{{ messages[-1].content }}", "does not show each of"),
        ("{% for m in messages %}{{ m.content | upper | lower | replace('2', '') }}|{% endfor %}", "does not do what"),
    ],
    ids=["a date", "no history", "texts that change"],
)
def test_what_a_template_of_ollama_cannot_do_is_refused_before_merging(lora_run, tmp_path, monkeypatch, template, told):
    monkeypatch.setattr("lora_ns.services.export_gguf.open_run", lambda *_, **__: retold(lora_run, template))
    with pytest.raises(UsageError, match=f"{told}.*--to gguf"):
        export_ollama.export_ollama(lora_run, tmp_path / "out")
    with pytest.raises(UsageError, match="name a folder"):
        export_ollama.export_ollama(lora_run, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


LLAMA = BOS.replace("m.content", "m.content | trim").replace("bos_token", "''")
NOTES = {
    "trims": (LLAMA, "removes spaces around a turn"),
    "no system": (
        LLAMA.replace("| trim", "+ (raise_exception('no') if m.role == 'system' else '')"),
        "takes no system turn",
    ),
    "tools": ("{{ (tools | tojson) if tools else '' }}" + BOS.replace("bos_token", "''"), "describes tools"),
    "reasoning": (
        BOS.replace("bos_token", "''").replace("m.content", "m.content.split('</think>')[-1]"),
        "leaves out the reasoning",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_what_a_template_does_beyond_is_told(lora_run, name):
    template, told = NOTES[name]
    opened = retold(lora_run, template)
    modelfile_of(opened)
    (note,) = RunPrompts(opened).notes()
    assert told in note


PLAIN = RECIPE.replace('format = "messages"', "").replace(
    'path = "lorans:quickstart/train.jsonl"\neval_path = "lorans:quickstart/eval.jsonl"', "{rows}"
)
FORMS = {
    "a prompt and its completion": (
        'prompt_template = "Q: {{question}}\\nA:"\ncompletion_template = " {{answer}}"',
        "Q: {{ .Prompt }}\nA:",
        None,
        [],
    ),
    "a wrapped question": (
        'format = "messages"\nprompt_template = "Solve: {{question}}"\ncompletion_template = "{{answer}}"\n'
        'system_template = "Be brief."',
        "<|im_start|>user\nSolve: {{ .Content }}<|im_end|>",
        "Be brief.",
        [],
    ),
    "a question alone": (
        'format = "messages"\nprompt_template = "{{question}}"\ncompletion_template = "{{answer}}"',
        "<|im_start|>user\n{{ .Content }}<|im_end|>",
        None,
        [],
    ),
    "two columns": (
        'prompt_template = "{{question}} {{hint}}:"\ncompletion_template = " {{answer}}"',
        "{{ .Prompt }}",
        None,
        ["the prompt is sent as it is typed; write it as in the rows of the run"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_typed_becomes_what_the_run_was_trained_on(trained, tmp_path, name):
    keys, template, system, notes = FORMS[name]
    rows = [{"question": f"{a} + 1?", "answer": str(a + 1), "hint": "count"} for a in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = f'path = "{tmp_path}/rows.jsonl"\neval_path = "{tmp_path}/rows.jsonl"\n' + keys.format()
    run = trained(PLAIN.format(rows=own), "training.max_steps=1", "evaluation.exact_match=true")
    opened = open_run(run)
    found, prompts = modelfile_of(opened), RunPrompts(opened)
    assert template in found.template
    assert (found.system, list(prompts.notes())) == (system, notes)
    assert len(list(prompts.chats())) > len([turns for turns in CHATS if prompts.text(turns)]), (
        "rows of the run are among them"
    )
    result = export_ollama.export_ollama(run, tmp_path / "out")
    assert result.proof.is_verified


def test_a_template_that_is_changed_in_writing_is_found(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export_ollama, "stops_of", lambda _: ("<|end|>",))
    with pytest.raises(RunError, match="is not the trained model: Modelfile stop: generation stops at"):
        export_ollama.export_ollama(lora_run, tmp_path / "out")
    assert json.loads((tmp_path / "out/export_report.json").read_text())["verified"] is False
