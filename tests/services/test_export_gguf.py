"""A run as a GGUF file, which transformers reads back and llama.cpp's way of reading a text is applied to."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

from typer.testing import CliRunner

from lora_ns.cli.app import app


def call(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.mark.parametrize(("kind", "bound"), [("f32", 1e-4), ("f16", 5e-3), ("bf16", 5e-2), ("q8_0", 5e-2)])
def test_a_gguf_file_is_the_trained_model(lora_run, tmp_path, kind, bound):
    file = tmp_path / "model.gguf"
    done = call("export", lora_run.path, "--to", "gguf", "-o", file, "--type", kind, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    report = json.loads((tmp_path / "model.gguf.export_report.json").read_text())
    assert report["verified"]
    assert report["proof"] == result["proof"]
    assert result["proof"]["bound"] == bound
