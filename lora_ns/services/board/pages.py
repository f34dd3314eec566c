"""The pages of the board. Everything from a run is escaped; the only script polls for changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from lora_ns.report import page
from lora_ns.run import wording
from lora_ns.run.overview import Overview
from lora_ns.safety.credentials import scrubbed
from lora_ns.services.board.shelf import Shelved
from lora_ns.services.compare_page import STATUS_TONES

STYLE = """
header{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:baseline;justify-content:space-between}
form.filter{display:flex;flex-wrap:wrap;gap:8px;align-items:end;margin:14px 0}
form.filter label{display:block;font-size:.86rem;color:var(--muted)} form.filter div{flex:1 1 260px;max-width:520px}
input[type=text]{width:100%;font:inherit;padding:6px 10px;color:inherit;background:var(--surface);
  border:1px solid var(--muted);border-radius:8px}
button{font:inherit;padding:6px 14px;color:var(--surface);background:var(--accent);border:0;border-radius:8px;
  cursor:pointer} button:focus-visible,input:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
main.wide{max-width:1500px} .runs table{width:100%} .runs td,.runs th{padding:6px 12px 6px 0}
.runs td{white-space:nowrap;overflow-wrap:normal} .runs .name{min-width:160px;white-space:normal;font-weight:600}
.runs input[type=checkbox]{width:20px;height:20px;margin:0;accent-color:var(--accent)}
.runs thead a{color:inherit;text-decoration:none} .runs thead a:hover{text-decoration:underline}
progress{width:90px;height:8px;margin-left:8px;accent-color:var(--accent)}
.alert{border-left:4px solid var(--bad);padding:6px 12px;background:var(--raised)}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
"""


SCRIPT = """
const live = document.querySelector('[data-live]'), state = document.getElementById('connection');
let tag = live.dataset.tag;
async function look() {
  if (!document.hidden) try {
    const answer = await fetch(live.dataset.live, {headers: {'If-None-Match': tag}, cache: 'no-store'});
    if (answer.status === 200) {
      const chosen = [...live.querySelectorAll('input:checked')].map(box => box.id), focus = document.activeElement.id;
      const open = [...live.querySelectorAll('details[open]')].map(part => part.id);
      live.innerHTML = await answer.text();
      tag = answer.headers.get('ETag');
      for (const id of chosen) { const box = document.getElementById(id); if (box) box.checked = true; }
      for (const id of open) { const part = document.getElementById(id); if (part) part.open = true; }
      if (focus && live.querySelector('#' + CSS.escape(focus))) document.getElementById(focus).focus();
    }
    state.textContent = answer.ok || answer.status === 304 ? '' : 'The board does not answer: ' + answer.status;
  } catch { state.textContent = 'The board is not reachable. What you see is no longer updated.'; }
  setTimeout(look, 3000);
}
setTimeout(look, 3000);
"""


def policy(nonce: str) -> str:
    """Return the content security policy of a page: its own script, and nothing of other origins."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; connect-src 'self'; style-src 'unsafe-inline'; "
        "img-src data:; form-action 'self'; base-uri 'none'"
    )


def document(title: str, body: str, nonce: str, is_live: bool = False) -> str:
    """Return a whole page of the board."""
    script = f'<script nonce="{nonce}">{SCRIPT}</script>' if is_live else ""
    told = '<p id="connection" class="muted small" role="status"></p>'
    return page.document(title, f"{body}\n{told}\n{script}", policy=policy(nonce), head=f"<style>{STYLE}</style>\n")


# The list

_KEYS: Mapping[str, str] = {
    "run": "run",
    "status": "status",
    "step": "progress",
    "best": "best",
    "data": "data",
    "method": "method",
    "age": "created",
    "size": "size",
    "base": "base",
}
"""The key by which each column sorts."""


def listing(
    folder: str, rows: str, count: str, query: Sequence[tuple[str, str]], sort: str, fault: str, live: str, tag: str
) -> str:
    """Return the body of the first page.

    Args:
        folder: the folder of the board.
        rows: the rows of the table, as `table_rows` returns them.
        count: how many runs there are, in words.
        query: the fields of the current address.
        sort: the key by which the rows are sorted.
        fault: what is wrong with the filter; empty if nothing is.
        live: address of the rows.
        tag: the version of the rows.
    """
    filters = " ".join(value for name, value in query if name == "filter")
    alert = f'<p class="alert" role="alert">{page.escape(fault)}</p>' if fault else ""
    heads = "".join(_head(title, sort, filters) for title in wording.TITLES)
    none = "" if rows else page.paragraph("No run here. A run appears as soon as it has started.", "muted")
    return f"""<main class="wide">
<header><h1>Runs</h1>
<p class="muted small"><span class="mono">{page.escape(folder)}</span>, {page.escape(count)}</p></header>
<form class="filter" method="get" action="/"><div><label for="filter">Filter, such as
<code>status=finished learning_rate&gt;1e-4</code></label>
<input type="text" id="filter" name="filter" value="{page.escape(filters)}" autocomplete="off" spellcheck="false"></div>
<input type="hidden" name="sort" value="{page.escape(sort)}"><button>Filter</button></form>
{alert}
<form method="get" action="/compare">
<div class="scroll runs" tabindex="0" role="region" aria-label="Runs"><table>
<thead><tr><th scope="col"><span class="hidden">Selected</span></th>{heads}</tr></thead>
<tbody data-live="{page.escape(live)}" data-tag="{page.escape(tag)}">{rows}</tbody></table></div>
{none}
<button>Compare selected runs</button></form>
</main>"""


def _head(title: str, sort: str, filters: str) -> str:
    """Return the head of a column: a link that sorts by it, the other way round if it is sorted already."""
    key, is_sorted = _KEYS[title], sort.removeprefix("-") == _KEYS[title]
    is_down = sort.startswith("-")
    following = key if is_sorted and is_down else f"-{key}"
    address = "/?" + urlencode({"sort": following, **({"filter": filters} if filters else {})})
    order = f' aria-sort="{"descending" if is_down else "ascending"}"' if is_sorted else ""
    arrow = (" ↓" if is_down else " ↑") if is_sorted else ""
    kind = ' class="n"' if title == "size" else ""
    return f'<th scope="col"{kind}{order}><a href="{page.escape(address)}">{title}{arrow}</a></th>'


def table_rows(runs: Sequence[Shelved], now: float) -> str:
    """Return the rows of the table of runs."""
    return "".join(_row(one, now) for one in runs)


def _row(one: Shelved, now: float) -> str:
    run = one.overview
    cells = wording.cells(run, one.name, now)
    name = page.escape(scrubbed(one.name))
    box = (
        f'<td><input type="checkbox" name="run" id="c-{one.key}" value="{one.key}" aria-label="Select {name}"></td>'
        f'<th scope="row" class="name"><a id="r-{one.key}" href="/runs/{one.key}">{name}</a></th>'
    )
    shown = {
        "status": page.badge(run.status, STATUS_TONES[run.status]),
        "step": page.escape(cells["step"]) + (_bar(run, name) if run.is_in_progress else ""),
        **{title: page.escape(scrubbed(cells[title])) for title in ("best", "data", "method", "age", "base")},
    }
    columns = "".join(f"<td>{shown[title]}</td>" for title in wording.TITLES if title in shown and title != "base")
    return f'<tr>{box}{columns}<td class="n">{page.escape(cells["size"])}</td><td>{shown["base"]}</td></tr>'


def _bar(run: Overview, name: str) -> str:
    if run.progress is None:
        return ""
    return f'<progress max="1" value="{run.progress:.3f}" aria-label="Progress of {name}"></progress>'


# A run and a comparison


def run_page(one: Shelved, live: str, fragment: str, tag: str) -> str:
    """Return the body of the page of a run; `fragment` is what changes, at the address `live`."""
    return f"""<main>
<nav aria-label="Board"><a href="/">All runs</a></nav>
<h1>{page.escape(scrubbed(one.name))}</h1>
<div data-live="{page.escape(live)}" data-tag="{page.escape(tag)}">{fragment}</div>
</main>"""


def run_state(one: Shelved, verdict: tuple[str, str] | None, plots: str, warnings: Sequence[str], now: float) -> str:
    """Return what changes on the page of a run: its state, facts and curves.

    Args:
        one: the run.
        verdict: the verdict on it, with its tone; None if its manifest says too little.
        plots: its curves.
        warnings: the last warnings of its log.
        now: the current time, in seconds since 1970.
    """
    run, cells = one.overview, wording.cells(one.overview, one.name, now)
    listed = [(title, scrubbed(cells[title])) for title in wording.TITLES if title != "run" and cells[title]]
    more = [("task", run.task_name), ("training rows", run.rows and f"{run.rows:,}"), ("error", run.error)]
    listed += [(name, scrubbed(str(value))) for name, value in more if value]
    told = [*run.notes, *warnings]
    tone, sentence = verdict or (STATUS_TONES[run.status], f"{run.status.capitalize()}.")
    state = f'<div class="verdict {tone}"><p>{page.escape(scrubbed(sentence))}</p></div>'
    bar = f"<p>{_bar(run, page.escape(scrubbed(one.name)))}</p>" if run.is_in_progress else ""
    link = f'<p><a href="/runs/{one.key}/report">Report of this run</a></p>' if run.status != "damaged" else ""
    return "\n".join(
        (
            state,
            bar,
            link,
            page.facts(listed),
            page.section("Curves", plots, anchor="curves"),
            page.section("Notes and warnings", *(page.paragraph(scrubbed(note)) for note in told), anchor="notes"),
        )
    )


def message(title: str, text: str) -> str:
    """Return the body of a page with one message."""
    return f"""<main><nav aria-label="Board"><a href="/">All runs</a></nav>
<h1>{page.escape(title)}</h1>{page.paragraph(scrubbed(text))}</main>"""


def comparison(names: Sequence[str], body: str) -> str:
    """Return the body of the page that compares runs."""
    return f"""<main><nav aria-label="Board"><a href="/">All runs</a></nav>
<h1>{page.escape(scrubbed(f"{len(names)} runs compared"))}</h1>{body}</main>"""
