"""`lorans diff`: what differs between runs, and which one is better on the items that both have answered."""

import json

import pytest
from command_line import lorans
from run_folders import HOSTILE, is_inert, manifest, rows, write_evaluation, write_run

from lora_ns.errors import UsageError
from lora_ns.services.diff_runs import diff_runs, short_names


@pytest.fixture
def pair(tmp_path):
    """Two runs that differ in rank, data, a version and a core."""
    one, two = (
        manifest("one"),
        manifest("two", packages={"torch": "2.14.0"}, machine={"cores": 4, "available_bytes": 2}),
    )
    two["recipe"]["peft"]["lora_r"] = 8
    two["recipe"]["objective"]["packing"] = True
    two["overrides"] = ["peft.lora_r=8"]
    two["data"]["train"]["sha256"] = "b" * 64
    recipe = "[peft]\nlora_r = 16\n[sft]\npacking = true\n"
    return (
        write_run(tmp_path / "one", one, rows(), recipe="[peft]\nlora_r = 16\n"),
        write_run(tmp_path / "two", two, rows(rate=0.5), recipe=recipe),
    )


def test_only_what_differs_is_listed_with_its_origin(pair):
    found = diff_runs(pair)
    assert {row.key: (row.values, row.origins) for row in found.recipe} == {
        "peft.lora_r": ((16, 8), ("recipe", "--set")),
        "sft.packing": ((False, True), ("default", "recipe")),
    }
    assert [row.key for row in found.data] == ["training rows, sha256"]
    assert [(row.key, row.values) for row in found.versions] == [("torch", ("2.13.0", "2.14.0"))]
    assert [row.key for row in found.machine] == ["cores"]


def test_a_run_without_its_recipe_has_unknown_origins(pair):
    (pair[1] / "recipe.toml").unlink()
    assert {row.origins[1] for row in diff_runs(pair).recipe} == {"unknown"}


def test_figures_on_the_same_items_are_tested_pair_by_pair(pair):
    pytest.importorskip("scipy")
    write_evaluation(pair[0], [1.0] * 30 + [0.0] * 30)
    write_evaluation(pair[1], [1.0] * 55 + [0.0] * 5)
    measured = diff_runs(pair).metrics[0]
    assert (measured.name, measured.values, measured.is_share) == ("exact match.exact_match", (0.5, 55 / 60), True)
    (paired,) = measured.paired
    assert (paired.run, paired.items, paired.verdict) == (1, 60, "better")


@pytest.mark.parametrize(("shared", "tested"), [(0, False), (20, True)])
def test_only_shared_items_are_tested(pair, shared, tested):
    pytest.importorskip("scipy")
    write_evaluation(pair[0], [1.0] * 40)
    folder = write_evaluation(pair[1], [0.0] * 40)
    lines = (folder / "items.jsonl").read_text().splitlines()
    changed = [line if place < shared else line.replace('"q', '"other ') for place, line in enumerate(lines)]
    (folder / "items.jsonl").write_text("\n".join([*changed, '{"half a li']))
    paired = diff_runs(pair).metrics[0].paired
    assert [(one.items, one.of_items) for one in paired] == ([(20, 40)] if tested else [])


def test_a_figure_of_which_less_is_better_is_judged_so(pair):
    pytest.importorskip("scipy")
    for run, scores in zip(
        pair,
        ([2.0 + place % 7 for place in range(40)], [1.0 + place % 7 + place % 2 / 2 for place in range(40)]),
        strict=True,
    ):
        folder = write_evaluation(run, scores, name="loss")
        table = json.loads((folder / "results.json").read_text())
        table["suites"][0] |= {"shares": [], "lower_is_better": ["loss"]}
        (folder / "results.json").write_text(json.dumps(table))
    assert diff_runs(pair).metrics[0].paired[0].verdict == "better"


def test_json_has_everything(pair):
    table = json.loads(lorans("diff", *pair, "--json").stdout)
    assert table["names"] == ["one", "two"]
    assert len(table["curves"]) == 2
    assert table["curves"][0]["loss"]["steps"][-1] == 100
    assert {"recipe", "data", "versions", "machine", "metrics", "runs", "notes"} < table.keys()


def test_the_text_names_runs_differences_and_curves(pair):
    done = lorans("diff", *pair)
    assert done.returncode == 0
    for part in ("peft.lora_r", "8 (--set)", "torch", "loss", "step 100"):
        assert part in done.stdout


def test_the_page_overlays_the_curves_and_shows_hostile_text_as_text(tmp_path, pair):
    pytest.importorskip("matplotlib")
    table = manifest("three", base={"name": HOSTILE})
    table["recipe"]["task_name"] = HOSTILE
    hostile = write_run(tmp_path / HOSTILE, table, rows(rate=2))
    done = lorans("diff", *pair, hostile, "--html", tmp_path / "diff.html")
    assert done.returncode == 0
    page = (tmp_path / "diff.html").read_text()
    assert is_inert(page)
    assert page.count("<svg") >= 2
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "<script" not in page


@pytest.mark.parametrize("which", [[0], [0, 0], [0, "missing"], [0, "."]])
def test_what_cannot_be_compared_is_refused(tmp_path, pair, which):
    paths = [pair[0] if one == 0 else tmp_path / one for one in which]
    with pytest.raises(UsageError):
        diff_runs(paths)


def test_a_damaged_run_is_refused_and_damaged_metrics_are_a_note(pair):
    (pair[1] / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\nbroken\n')
    assert any("1 line" in note for note in diff_runs(pair).notes)
    (pair[1] / "manifest.json").write_text("{")
    done = lorans("diff", *pair)
    assert done.returncode == 2
    assert "manifest.json" in done.stderr


def test_names_are_as_short_as_they_can_be(tmp_path):
    paths = [tmp_path / name for name in ("a/run", "b/run", "b/other")]
    assert short_names(paths) == ["a/run", "b/run", "b/other"]
    assert short_names(paths[1:]) == ["run", "other"]
