"""Options of a run that goes on."""

import pytest
from typer.testing import CliRunner

from lora_ns.cli.app import app


@pytest.mark.parametrize(("option", "value"), [("--base", ["elsewhere"]), ("--from-start", [])])
def test_what_is_for_a_run_that_goes_on_needs_resume(write_recipe, option, value):
    done = CliRunner().invoke(app, ["train", str(write_recipe()), option, *value])
    assert str(done.exception) == f"{option}: only works with `--resume` (add `--resume`, or remove it)"
