"""The shell of a page: one self-contained HTML file, light and dark, printable, readable on a phone, without requests.

Everything that comes from a run is foreign: it goes through `escape` on its way into a page.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence

from lora_ns.safety.printable import readable

LIGHT: Mapping[str, str] = {
    "surface": "#ffffff",
    "raised": "#f5f6f8",
    "ink": "#1b1f24",
    "muted": "#59636e",
    "line": "#d5d9df",
    "accent": "#0b62d6",
    "second": "#b4500b",
    "third": "#1a7f4b",
    "fourth": "#8a3ffc",
    "good": "#1a7f37",
    "bad": "#c1272d",
    "wait": "#8a5a00",
    "learned": "#d6f2df",
}
"""Colours on a light page, by their role. Text on `surface` and `raised` has a contrast of 4.5 or more."""


DARK: Mapping[str, str] = {
    "surface": "#11151a",
    "raised": "#1a2027",
    "ink": "#e8ebef",
    "muted": "#a1abb6",
    "line": "#353e48",
    "accent": "#6cacff",
    "second": "#f0985a",
    "third": "#5ccb8f",
    "fourth": "#c3a0ff",
    "good": "#5fd087",
    "bad": "#ff8a85",
    "wait": "#e3b341",
    "learned": "#17422a",
}
"""The same roles on a dark page."""


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{role}:{colour};" for role, colour in colours.items())


STYLE = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
@media print{{:root{{color-scheme:light;{_variables(LIGHT)}}}
  section,figure,tr,.card{{break-inside:avoid}} details::details-content{{content-visibility:visible;block-size:auto}}
  .scroll{{overflow:visible}} nav{{display:none!important}}
  main{{max-width:none!important}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--surface);color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}}
main{{max-width:1120px;margin:0 auto;padding:24px 20px 64px}}
h1{{font-size:1.6rem;line-height:1.25;margin:.2em 0}} h2{{font-size:1.2rem;margin:2.4em 0 .7em}}
h3{{font-size:1rem;margin:1.6em 0 .5em}} p{{margin:.5em 0;max-width:75ch}}
a{{color:var(--accent)}}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{{outline:2px solid var(--accent)}}
.muted{{color:var(--muted)}} .small{{font-size:.86rem}}
code,pre,.mono{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:.87em}}
pre{{background:var(--raised);border:1px solid var(--line);border-radius:8px;padding:12px 14px;margin:.5em 0;
  white-space:pre-wrap;overflow-wrap:anywhere}}
.verdict{{border-left:6px solid var(--tone,var(--muted));background:var(--raised);border-radius:0 10px 10px 0;
  padding:14px 18px;margin:14px 0}}
.verdict p{{font-size:1.15rem;margin:0;max-width:none}} .verdict p+p{{font-size:.92rem;margin-top:.4em}}
.badge{{display:inline-block;border:1px solid var(--tone,var(--muted));color:var(--tone,var(--muted));
  border-radius:99px;padding:0 .7em;font-size:.82rem;font-weight:600;white-space:nowrap}}
.good{{--tone:var(--good)}} .bad{{--tone:var(--bad)}} .wait{{--tone:var(--wait)}} .plain{{--tone:var(--muted)}}
.plots{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px}}
figure{{margin:0;border:1px solid var(--line);border-radius:10px;padding:12px}}
figure svg{{display:block;width:100%;height:auto}} figcaption{{font-size:.86rem;color:var(--muted);margin-top:6px}}
.scroll{{overflow-x:auto;margin:.6em 0}} .scroll th,.scroll td{{overflow-wrap:break-word;max-width:46ch}}
.scroll thead th{{white-space:nowrap}} .scroll .long{{min-width:28ch}}
table{{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;min-width:min(100%,420px)}}
caption{{text-align:left;color:var(--muted);font-size:.86rem;padding-bottom:4px}}
th,td{{text-align:left;vertical-align:top;padding:5px 14px 5px 0;border-bottom:1px solid var(--line)}}
th{{font-weight:600}} thead th{{color:var(--muted)}} .n{{text-align:right}}
td pre{{margin:0;padding:6px 8px}}
.row{{white-space:pre-wrap;background:var(--raised);border:1px solid var(--line);border-radius:8px;padding:10px 12px;
  margin:.4em 0 1em}}
.row mark{{background:var(--learned);color:inherit;border-radius:3px;box-shadow:inset 0 -2px 0 var(--good)}}
.row .special{{color:var(--muted)}}
.key mark{{background:var(--learned);color:inherit;padding:0 .3em;box-shadow:inset 0 -2px 0 var(--good)}}
details{{margin:.6em 0}} summary{{cursor:pointer;font-weight:600}}
@media (max-width:600px){{body{{font-size:15px}} main{{padding:14px 14px 48px}} h1{{font-size:1.3rem}}
  .verdict{{padding:10px 12px}} .verdict p{{font-size:1.03rem}} figure{{padding:8px}}
  .facts,.facts tbody,.facts tr,.facts th,.facts td{{display:block;width:100%;padding:0;border:0}}
  .facts tr{{border-bottom:1px solid var(--line);padding:5px 0}} .facts th{{color:var(--muted);font-size:.86rem}}}}
"""
"""The style sheet that all pages share."""


POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""The content security policy of a page that loads nothing and runs nothing."""


def escape(value: object) -> str:
    """Return foreign text as HTML that shows it: markup as characters, controls as escapes, secrets as `***`."""
    return html.escape(readable(str(value)), quote=True)


def document(title: str, body: str, *, policy: str = POLICY, head: str = "") -> str:
    """Return a whole page.

    Args:
        title: plain text.
        body: HTML, in which all that is foreign is escaped.
        policy: content security policy.
        head: more HTML for the head.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{head}</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def badge(text: str, tone: str) -> str:
    """Return a short word in a frame; `tone` is `good`, `bad`, `wait` or `plain`."""
    return f'<span class="badge {tone}">{escape(text)}</span>'


def section(title: str, *parts: str, anchor: str) -> str:
    """Return a section of a page; without any part there is none."""
    shown = "\n".join(part for part in parts if part)
    if not shown:
        return ""
    name = f"{anchor}-title"
    return (
        f'<section id="{anchor}" aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}</h2>\n{shown}\n</section>'
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def facts(pairs: Iterable[tuple[str, object]], caption: str = "") -> str:
    """Return names and values as a table of two columns, which become one on a phone; empty without pairs."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return f'<table class="facts">{_caption(caption)}<tbody>{rows}</tbody></table>' if rows else ""


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", numbers: Iterable[int] = ()
) -> str:
    """Return a table that scrolls sideways on a narrow screen; empty without rows.

    Args:
        heads: names of the columns.
        rows: the cells of each row as plain text; the first one names it.
        caption: plain text above the table.
        numbers: places of the columns that are aligned as numbers.
    """
    right = set(numbers)

    def kind(place: int, cell: object = "") -> str:
        return ' class="n"' if place in right else ' class="long"' if len(str(cell)) > _LONG else ""

    def element(place: int, cell: object) -> str:
        if not place:
            return f'<th scope="row"{kind(0)}>{escape(cell)}</th>'
        return f"<td{kind(place, cell)}>{escape(cell)}</td>"

    body = "".join(f"<tr>{''.join(itertools.starmap(element, enumerate(row)))}</tr>" for row in rows)
    if not body:
        return ""
    top = "".join(f'<th scope="col"{kind(place)}>{escape(name)}</th>' for place, name in enumerate(heads))
    label = escape(caption or ", ".join(heads))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>{_caption(caption)}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


_LONG = 50
"""Characters from which a cell keeps some width on a narrow screen."""


def _caption(text: str) -> str:
    return f"<caption>{escape(text)}</caption>" if text else ""
