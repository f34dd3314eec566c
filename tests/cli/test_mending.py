"""Every command that is given a run finds the one that a killed command had put aside."""

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL

from lora_ns.run.directory import RunDir

WORDS = {
    "infer": ["infer", "run", "-i", "x"],
    "eval": ["eval", "run"],
    "bisect": ["bisect", "run"],
    "merge": ["merge", "run", "-o", "merged"],
    "train": ["train", "recipe.toml"],
    "train --overwrite": ["train", "recipe.toml", "--overwrite"],
    "train --resume": ["train", "run", "--resume"],
    "train --resume of a recipe": ["train", "recipe.toml", "--resume"],
    "launch-command": ["launch-command", "run"],
    "launch-command of a recipe": ["launch-command", "recipe.toml"],
    "submit": ["submit", "recipe.toml", "--to", "ray"],
}


class ReachedError(Exception):
    """The command asks for it."""


@pytest.mark.parametrize("name", WORDS)
def test_a_command_looks_for_what_was_put_aside(tmp_path, monkeypatch, name):
    (tmp_path / "recipe.toml").write_text(MINIMAL)
    (tmp_path / "run").mkdir()
    asked = []

    def reached(*arguments):
        asked.append(next(str(one.path if isinstance(one, RunDir) else one) for one in arguments if one is not RunDir))
        raise ReachedError

    uses = name in {"infer", "eval", "bisect", "merge"}
    monkeypatch.setattr(RunDir, "open_to_use" if uses else "mend", classmethod(reached) if uses else reached)
    with pytest.raises(ReachedError):
        lorans(*WORDS[name])
    assert [path.rpartition("/")[2] for path in asked] == ["run"]
