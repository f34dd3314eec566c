"""The report of a run as a page: what happened first, then the data, the answers, the proofs and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_ns.report.charts import curve_plots, objective_plots, prediction_plots
from lora_ns.report.facts import Evaluation, Facts, systems_of
from lora_ns.report.page import badge, document, escape, facts, paragraph, section, table
from lora_ns.report.plots import Plot, svg
from lora_ns.report.predictions import entity_rows
from lora_ns.run.manifest import SourceRecord
from lora_ns.statistics.wording import p_text

SAMPLES = 8
"""Items and completions that are shown."""


LONGEST = 1_500
"""Characters of a text that are shown."""


def page(found: Facts) -> str:
    """Return the report of a run as one self-contained HTML page."""
    manifest = found.manifest
    parts = [
        _head(found),
        section("Curves", _figures(curve_plots(found)), anchor="curves"),
        section("Preferences and rewards", _figures(objective_plots(found.curves, found.eval_rows)), anchor="rewards"),
        section("Evaluation rows", *_predicted(found), anchor="predictions"),
        section("What was trained", *_trained(found), anchor="trained"),
        section("Data", *_data(found), anchor="data"),
        section("Before and after", *_compared(found), anchor="compared"),
        section("Samples", *_samples(found), anchor="samples"),
        section("Proofs", *_proofs(found), anchor="proofs"),
        section("Recipe", *_recipe(found), anchor="recipe"),
        section("Environment", *_environment(found), anchor="environment"),
        section("Commands", *_commands(found), anchor="commands"),
        section("Notes", _listed(found.notes), anchor="notes"),
    ]
    body = "\n".join(part for part in parts if part)
    return document(f"{manifest.recipe.task_name}: {found.verdict.state}", f"<main>\n{body}\n</main>")


def _head(found: Facts) -> str:
    manifest, verdict = found.manifest, found.verdict
    peft, base = manifest.recipe.peft, manifest.base
    method = getattr(peft, "method", peft.tag())
    about = f"{method} on {base.name}, {manifest.recipe.objective.toml}, {manifest.data.train.rows:,} rows"
    reasons = "".join(paragraph(text) for text in (*verdict.reasons, *_endings(found)))
    if verdict.is_trouble:
        reasons += f"<p>To find the cause: <code>{escape(found.commands['explain'])}</code></p>"
    return (
        f"<header><h1>{escape(manifest.recipe.task_name)}</h1>\n"
        f'<p class="muted">{escape(about)} · {escape(manifest.created[:16].replace("T", " "))} UTC · '
        f'<span class="mono">{escape(manifest.run_id)}</span></p>\n'
        f'<div class="verdict {verdict.tone}"><p>{badge(verdict.state, verdict.tone)} {escape(verdict.sentence)}</p>'
        f"{reasons}</div></header>"
    )


def _endings(found: Facts) -> Iterator[str]:
    """Why training ended before its last step, which step is the best, and which ones were skipped."""
    manifest, skipped = found.manifest, found.bad_steps
    if manifest.ended:
        yield f"Ended early: {manifest.ended}."
    if manifest.best:
        best = manifest.best
        is_saved = " The adapter is that of this step." if manifest.adapter_step == best.step else ""
        yield f"The best evaluation is that of step {best.step:,}: eval_{best.metric} {best.value:.4g}.{is_saved}"
    if skipped:
        shown = ", ".join(f"{step:,}" for step in skipped[:10]) + (" and others" if len(skipped) > 10 else "")
        were = f"{len(skipped):,} steps were" if len(skipped) > 1 else "1 step was"
        yield f"{were} skipped, because the gradient was not finite: {shown}. The rows are in bad_batch.jsonl."


def _figures(plots: Iterator[Plot]) -> str:
    drawn = [f"<figure>{svg(plot)}<figcaption>{escape(plot.alternative)}.</figcaption></figure>" for plot in plots]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _predicted(found: Facts) -> Iterator[str]:
    """Confusion matrix, calibration and figures of each class, entity or score."""
    predictions = found.predictions
    if predictions is not None:
        yield _figures(prediction_plots(predictions))
        rows = [
            (
                one.name,
                f"{one.rows:,}",
                f"{one.predicted:,}",
                _share(one.precision),
                _share(one.recall),
                f"{one.recall_interval[0]:.3f} to {one.recall_interval[1]:.3f}" if one.rows else "-",
                _share(one.f1),
            )
            for one in predictions.classes
        ]
        heads = ("class", "rows", "predicted", "precision", "recall", "95 % interval of the recall", "F1")
        yield table(heads, rows, f"By class, on the evaluation rows after step {predictions.step:,}", range(1, 7))
    entities = [(kind, *map(_share, values)) for kind, *values in entity_rows(found.manifest.metrics)]
    yield table(("entity", "precision", "recall", "F1"), entities, "By type of entity", range(1, 4))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _trained(found: Facts) -> Iterator[str]:
    shown = [part for row in found.trained_rows for part in _row(row)]
    if not shown:
        return
    is_masked = any(side.get("trained") for row in found.trained_rows for side in _tables(row.get("sides")))
    if is_masked:
        marked = "<mark>Marked tokens</mark> are in the loss."
        yield f'<p class="key">The first rows as the model receives them. {marked}</p>'
    else:
        yield paragraph("The first rows as the model receives them. The loss is that of the label.")
    yield from shown


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    for side in _tables(row.get("sides")):
        counted = f"{side.get('tokens', 0):,} tokens" if isinstance(side.get("tokens"), int) else ""
        trained = f"{side['trained']:,} trained" if side.get("trained") else ""
        head = [part for part in (side.get("name"), counted, trained, row.get("learned")) if part]
        pieces = "".join(_piece(piece) for piece in _tables(side.get("pieces")))
        yield f'<h3 class="small">{escape(", ".join(map(str, head)))}</h3>\n<div class="row mono">{pieces}</div>'


def _piece(piece: Mapping[str, Any]) -> str:
    text, kind = escape(piece.get("text", "")), str(piece.get("kind", ""))
    if kind.endswith("special"):
        text = f'<span class="special">{text}</span>'
    tag = f'<sub class="small"> {escape(piece["tag"])}</sub>' if piece.get("tag") else ""
    return f"<mark>{text}</mark>{tag}" if kind.startswith("trained") else text


def _data(found: Facts) -> Iterator[str]:
    data = found.manifest.data
    parts = [("training", data.train), *([("evaluation", data.eval)] if data.eval else [])]
    heads = ("rows", "source", "kept", "truncated", "dropped", "left out", "tokens", "in the loss")
    yield table(heads, [_source(name, part) for name, part in parts], f"Read as {data.format}", range(2, 8))
    sources = [
        (one.source, f"{one.rows:,}", f"{one.used:,}", f"{one.repeated:,}", f"{one.held_out:,}") for one in data.sources
    ]
    yield table(("source", "rows", "used", "repeated", "held out"), sources, "Mixture", range(1, 5))
    leaks = [
        (str(suite.get("name", "")), f"{len(held):,}", f"{suite.get('whole', {}).get('items', 0):,}")
        for evaluation in found.evaluations[-1:]
        for suite in evaluation.suites
        if isinstance(held := suite.get("contaminated"), dict)
    ]
    yield table(("suite", "items in the training rows", "items"), leaks, "Contamination", (1, 2))
    yield _listed([note for note in found.manifest.plan.notes if " rows" in note])
    hashes = [(f"SHA-256 of the {name} rows", part.sha256) for name, part in parts]
    yield f"<details><summary>Hashes</summary>{facts(hashes)}</details>"


def _source(name: str, part: SourceRecord) -> tuple[str, ...]:
    counts = (part.rows, part.truncated, part.dropped, part.left_out, part.tokens, part.trained_tokens)
    return (name, part.source, *(f"{count:,}" for count in counts))


def _compared(found: Facts) -> Iterator[str]:
    for evaluation in found.evaluations[-4:]:
        for suite in evaluation.suites:
            yield _suite(evaluation, suite)
    metrics = found.manifest.metrics
    names = dict.fromkeys(name.removeprefix("before/") for name in metrics if not name.startswith("baseline/"))
    rows = [
        (name, *(_number(metrics.get(key)) for key in (f"before/{name}", name, f"baseline/{name}"))) for name in names
    ]
    whole = table(("metric", "before", "after", "a constant answer"), rows, "Metrics of the run", range(1, 4))
    yield whole


def _suite(evaluation: Evaluation, suite: Mapping[str, Any]) -> str:
    """The figures of all systems on a suite, and the paired tests."""
    try:
        whole, systems = suite["whole"], systems_of(suite)
        rows = [
            (name, *(_figure(by_system.get(system)) for system in systems))
            for name, by_system in whole["figures"].items()
        ]
        tests = [
            (
                f"{one['system']} against {one['against']}",
                one["figure"],
                _number(one["difference"]),
                _ends(one["low"], one["high"]),
                f"{one['test']}, {p_text(one['p_value'])}",
                _counts(one),
                one["verdict"],
            )
            for one in whole["contests"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError):
        return ""
    caption = f"{suite.get('name', '')}: {whole.get('items', 0):,} items, {evaluation.created[:16].replace('T', ' ')}"
    heads = ("systems", "figure", "difference", "95 % interval", "test", "won / equal / lost", "verdict")
    return table(("figure", *systems), rows, caption) + table(heads, tests, "Paired on the same items")


def _figure(value: Any) -> str:
    if not isinstance(value, dict) or value.get("value") is None:
        return "-"
    ends = _ends(value.get("low"), value.get("high"))
    return f"{_number(value['value'])} ({ends})" if ends != "-" else _number(value["value"])


def _ends(low: Any, high: Any) -> str:
    return "-" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _counts(contest: Mapping[str, Any]) -> str:
    counts = [contest.get(name) for name in ("wins", "ties", "losses")]
    return "-" if None in counts else " / ".join(f"{count:,}" for count in counts)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _samples(found: Facts) -> Iterator[str]:
    """The answers of both models to the same items; without an evaluation, completions during training."""
    systems = systems_of(found.evaluations[-1].suites[0]) if found.evaluations and found.evaluations[-1].suites else []
    if found.items:
        systems = list(found.items[0]["answers"]) or systems
        rows = [
            (
                _text(item.get("question") or item.get("item")),
                _text(item.get("expected")),
                *(_text(item["answers"].get(system)) for system in systems),
            )
            for item in _telling(found.items)
        ]
        yield table(
            ("item", "expected", *systems), rows, "Answers, first those that changed from wrong to right and back"
        )
        return
    steps = sorted({row["step"] for row in found.samples})
    ends = dict.fromkeys([*steps[:1], *steps[-1:]])
    prompts = dict.fromkeys(str(row.get("prompt", "")) for row in found.samples)
    by_place = {(row["step"], str(row.get("prompt", ""))): row for row in found.samples}
    rows = [
        (_text(prompt), *(_text(by_place.get((step, prompt), {}).get("completion")) for step in ends))
        for prompt in list(prompts)[:SAMPLES]
    ]
    yield table(("prompt", *(f"after step {step:,}" for step in ends)), rows, "Completions of evaluation prompts")


def _telling(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Some items: up to half of them won, some lost, then others, each in their order."""
    groups: dict[int, list[Mapping[str, Any]]] = {1: [], -1: [], 0: []}
    for item in items:
        groups[_change(item)].append(item)
    won, lost = groups[1][: SAMPLES // 2], groups[-1][: SAMPLES // 4]
    return [*won, *lost, *groups[0][: SAMPLES - len(won) - len(lost)]]


def _change(item: Mapping[str, Any]) -> int:
    """1 if the newer model is better on this item, -1 if it is worse, 0 if neither or unknown."""
    try:
        scores = item["scores"]
        newer, older = next((one, other) for one, other in (("after", "before"), ("adapter", "base")) if one in scores)
        values = [next(iter(scores[system].values())) for system in (newer, older)]
        return int(values[0] > values[1]) - int(values[0] < values[1])
    except (KeyError, TypeError, AttributeError, StopIteration):
        return 0


def _text(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def _proofs(found: Facts) -> Iterator[str]:
    manifest = found.manifest
    seal = manifest.seal
    if seal is None:
        yield paragraph("The adapter was not checked: the run has not finished.")
    else:
        told = f"The saved adapter, loaded onto a fresh base, gives the logits of the trained model on {seal.rows} rows"
        told += f" within {seal.largest_difference:.1e} of the largest." if seal.largest_difference else "."
        if seal.adapter_effect is not None:
            told += f" It changes the base's logits by {seal.adapter_effect:.2g} of the largest."
        yield f"<p>{badge('adapter check passed', 'good')} {escape(told)}</p>"
    rows = [
        (
            _text(one.get("kind")),
            _text(one.get("output")),
            "verified" if one.get("verified") is True else "not the trained model",
            _text(one.get("proof")),
        )
        for one in found.artefacts
    ]
    yield table(("made", "in", "result", "proof"), rows, "Merged and exported")
    hashes = [(name, digest) for name, digest in manifest.adapter.items()]
    yield f"<details><summary>SHA-256 of the adapter's files</summary>{facts(hashes)}</details>" if hashes else ""


def _recipe(found: Facts) -> Iterator[str]:
    heads = ("key", "value", "origin")
    chosen = [(one.key, _text(one.value), one.origin) for one in found.recipe if one.origin != "default"]
    default = [(one.key, _text(one.value), one.origin) for one in found.recipe if one.origin == "default"]
    yield table(heads, chosen, "Written")
    plan = found.manifest.plan
    derived = [
        (name, _number(value.value), f"{value.origin}: {value.why}" if value.why else value.origin)
        for name in type(plan).model_fields
        if hasattr(value := getattr(plan, name), "origin")
    ]
    yield _listed([note for note in plan.notes if " rows" not in note])
    yield _folded("Planned values", table(heads, derived))
    yield _folded("Defaults", table(heads, default))


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def _environment(found: Facts) -> Iterator[str]:
    manifest = found.manifest
    machine, base = manifest.machine, manifest.base
    gpus = machine.get("gpus") or []
    names = [str(gpu.get("name", "GPU")) if isinstance(gpu, dict) else str(gpu) for gpu in gpus]
    memory = machine.get("memory_bytes")
    yield facts(
        [
            ("base", f"{base.name}, {base.parameters:,} parameters"),
            ("commit of the base", base.commit or "none"),
            ("fingerprint of the base", base.fingerprint),
            ("machine", f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores"),
            ("memory", f"{memory / 1e9:.1f} GB" if isinstance(memory, (int, float)) else "unknown"),
            ("GPUs", ", ".join(names) or "none"),
            ("lorans", manifest.lorans),
            ("seed", manifest.seed),
            ("directory", found.run.path),
        ]
    )
    versions = [(name, version) for name, version in manifest.packages.items()]
    yield _folded("Versions of packages", facts(versions))


def _commands(found: Facts) -> Iterator[str]:
    for name, command in found.commands.items():
        yield f'<h3 class="small">{escape(name.capitalize())}</h3><pre>{escape(command)}</pre>'


def _listed(texts: Sequence[str]) -> str:
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{rows}</ul>" if rows else ""


def _tables(value: Any) -> list[Mapping[str, Any]]:
    """The tables in a list that a file held."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
