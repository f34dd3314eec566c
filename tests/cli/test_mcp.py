"""Coding agents see what a person sees: each tool returns what its command prints as JSON."""

import asyncio
import json
import os
import sys

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL

from lora_ns.cli import mcp as tools
from lora_ns.methods import METHODS


def test_a_recipe_is_validated_with_its_overrides(write_recipe, tmp_path):
    path = str(write_recipe(MINIMAL + "sed = 1\n"))
    assert tools.validate(path) == json.loads(lorans("validate", path, "--json").stdout)
    assert tools.validate(path)["problems"][0]["remedy"] == "did you mean `seed`?"
    good = str(write_recipe())
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert tools.validate(good)["ok"]
    assert not tools.validate(good, ["peft.lora_r=0"])["ok"]


def test_a_plan_has_numbers_with_their_origin(write_recipe, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    found = tools.plan(str(write_recipe()), ["training.learning_rate=0.5"])
    assert (found["learning_rate"]["value"], found["learning_rate"]["origin"]) == (0.5, "--set")


def test_a_command_that_fails_gives_its_errors_and_exit_code(tmp_path):
    found = tools.status(str(tmp_path))
    assert (found["ok"], found["exit_code"]) == (False, 2)
    assert str(tmp_path) in found["errors"][0]


def test_methods_and_schema_are_complete():
    assert [entry["method"] for entry in tools.methods()["methods"]] == list(METHODS)
    assert tools.methods("lora")["method"] == "lora"
    assert "peft" in tools.schema()["properties"]


def test_a_folder_without_runs_has_none(tmp_path):
    assert tools.runs(str(tmp_path))["runs"] == []


def test_every_tool_only_reads_and_describes_its_arguments():
    pytest.importorskip("mcp")
    listed = asyncio.run(tools.server().list_tools())
    assert {tool.name for tool in listed} == {"validate", "plan", "methods", "schema", "status", "runs"}
    for tool in listed:
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint


def test_the_protocol_is_served_on_standard_input_and_output(write_recipe):
    pytest.importorskip("mcp")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def ask():
        server = StdioServerParameters(command=sys.executable, args=["-m", "lora_ns", "mcp"], env=dict(os.environ))
        async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            return await session.call_tool("validate", {"recipe": str(write_recipe(MINIMAL + "sed = 1\n"))})

    answer = asyncio.run(ask())
    assert json.loads(answer.content[0].text)["ok"] is False


def test_without_the_package_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tools, "find_spec", lambda _: None)
    done = lorans("mcp")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: the package `mcp` is not installed (pip install 'lora-ns[mcp]')\n"
