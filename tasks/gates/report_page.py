"""One readable, self-contained HTML page per gate report: no script, no outside resource."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from tasks.contracts.gate_reports import Figure, GateCheck, GateReport
from tasks.gates.plots import svg

STYLE = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #5b6470;
  --line: #dfe3e8; --good: #1a7f4b; --good-bg: #e5f5ec; --bad: #b3261e; --bad-bg: #fdeceb;
  --warn: #8a5a00; --warn-bg: #fff4db; --s0: #2f6fb7; --s1: #c2571a; --s2: #2b8a5f; --s3: #7a4fb0;
  --s4: #8a8f98; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1c2026; --ink: #e6e9ed;
  --soft: #9aa4b0; --line: #333a43; --good: #5fd39a; --good-bg: #173326; --bad: #ff9189;
  --bad-bg: #3d1d1b; --warn: #f0bd5b; --warn-bg: #3a2d10; --s0: #6ea8e6; --s1: #f0955b;
  --s2: #5fcf9b; --s3: #b591e6; --s4: #8f98a3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin-bottom: 18px; }
header.refused { border-left: 8px solid var(--bad); }
header.passed { border-left: 8px solid var(--good); }
header.warned { border-left: 8px solid var(--warn); }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; }
.refused h1 { color: var(--bad); } .passed h1 { color: var(--good); }
.warned h1 { color: var(--warn); }
h2 { font-size: 18px; margin: 0 0 12px; } h3 { font-size: 14px; margin: 0 0 2px; }
p { margin: 4px 0; } .soft, dt { color: var(--soft); font-size: 13px; }
code { font: 12.5px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
dl { display: grid; gap: 10px 28px; margin: 16px 0 0;
  grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
dd { margin: 0; font-size: 19px; font-weight: 600; overflow-wrap: anywhere; }
ul.findings { margin: 0; padding: 0; list-style: none; display: grid; gap: 10px; }
ul.findings li { padding: 10px 14px; border-radius: 8px; background: var(--bad-bg); }
ul.findings li.warning { background: var(--warn-bg); }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: 13px; } tr:last-child td { border: 0; }
td.name { font-weight: 600; } td code { color: var(--soft); font-size: 11.5px; }
.mark { display: inline-block; min-width: 72px; padding: 1px 8px; border-radius: 99px;
  text-align: center; font-size: 12.5px; font-weight: 600; }
.mark.good { color: var(--good); background: var(--good-bg); }
.mark.bad { color: var(--bad); background: var(--bad-bg); }
.mark.warn { color: var(--warn); background: var(--warn-bg); }
.figures { display: grid; gap: 18px; background: none; border: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; } svg { width: 100%; height: auto; display: block; margin-top: 6px; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg text.label { fill: var(--ink); font-size: 13px; }
svg text.value { fill: var(--ink); font-size: 13px; font-weight: 600; }
svg .grid { stroke: var(--line); } svg .zero { stroke: var(--soft); }
svg .bound { stroke: var(--bad); stroke-dasharray: 5 4; stroke-width: 1.5; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .whisker { stroke-width: 2; }
svg .s0 { --c: var(--s0); } svg .s1 { --c: var(--s1); } svg .s2 { --c: var(--s2); }
svg .s3 { --c: var(--s3); } svg .s4 { --c: var(--s4); }
svg .line, svg .whisker { stroke: var(--c); } svg .dot, svg .bar { fill: var(--c); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 5px 0 0; }
.keys span + span:not(.key) { margin-right: 14px; }
footer { font-size: 13px; color: var(--soft); }
"""


def page(report: GateReport) -> str:
    """Return the page; it depends on nothing but the report."""
    title = f"Gate {report.kind.value}: {_verdict(report)[0]}"
    parts = [
        _header(report),
        _findings("What stopped it", report.failures),
        _findings("Worth a look, does not block", report.warnings),
        _figures(report.figures),
        _table(report.checks),
        _footer(),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(report: GateReport) -> tuple[str, str]:
    """Return the verdict in words and its CSS class."""
    if not report.passed:
        return "refused", "refused"
    return ("passed with warnings", "warned") if report.warnings else ("passed", "passed")


def _header(report: GateReport) -> str:
    words, css = _verdict(report)
    passed = sum(check.passed for check in report.checks)
    note = f"<p>{escape(report.note)}</p>" if report.note else ""
    figures = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in (report.key_figures or {}).items()
    )
    return (
        f'<header class="{css}"><p class="soft">Gate after <b>{report.kind.value}</b></p>'
        f"<h1>{words.capitalize()}</h1>"
        f"<p>{passed} of {len(report.checks)} expectations met, {len(report.failures)} failed, "
        f"{len(report.warnings)} warned.</p>{note}"
        f'<p class="soft">artifact <code>{escape(report.artifact)}</code><br>'
        f"content <code>sha256:{escape(report.content)}</code></p>"
        f"{f'<dl>{figures}</dl>' if figures else ''}</header>"
    )


def _findings(title: str, checks: Iterable[GateCheck]) -> str:
    rows = "".join(
        f'<li class="{check.severity}"><h3>{escape(check.name)}</h3>'
        f"<p>{escape(check.expected)} expected, <b>{escape(check.found)} found</b> "
        f"{escape(check.where)}</p>"
        + (f'<p class="soft">{escape(check.why)}</p>' if check.why else "")
        + "</li>"
        for check in checks
    )
    return f'<section><h2>{title}</h2><ul class="findings">{rows}</ul></section>' if rows else ""


def _mark(check: GateCheck) -> str:
    if check.passed:
        return '<span class="mark good">met</span>'
    css, word = ("bad", "failed") if check.severity == "critical" else ("warn", "warning")
    return f'<span class="mark {css}">{word}</span>'


def _table(checks: Iterable[GateCheck]) -> str:
    rows = "".join(
        f'<tr><td>{_mark(check)}</td><td class="name">{escape(check.name)}</td>'
        f"<td>{escape(check.expected)}</td><td>{escape(check.found)} {escape(check.where)}</td>"
        f"<td>{'blocks' if check.severity == 'critical' else 'informs'}</td>"
        f"<td><code>{escape(check.expectation.removeprefix('expect_')).replace('_', '_<wbr>')}</code></td></tr>"
        for check in checks
    )
    return (
        '<section><h2>All expectations</h2><div class="wide"><table><thead><tr><th>Verdict</th>'
        "<th>Of what</th><th>Expected</th><th>Found</th><th>Unmet</th>"
        "<th>Great Expectations</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _figures(figures: Iterable[Figure]) -> str:
    drawn = "".join(
        f"<figure><h3>{escape(figure.title)}</h3>"
        f'<div class="soft">{escape(figure.note)}{_legend(figure)}</div>{svg(figure)}</figure>'
        for figure in figures
    )
    return f'<section class="figures">{drawn}</section>' if drawn else ""


def _legend(figure: Figure) -> str:
    bound = "<span>dashed: the bound</span>" if figure.bound is not None else ""
    if len(figure.series) < 2:
        return f'<div class="keys">{bound}</div>' if bound else ""
    keys = "".join(
        f'<span class="key" style="background:var(--s{number % 5})"></span>'
        f"<span>{escape(series.name)}</span>"
        for number, series in enumerate(figure.series)
    )
    return f'<div class="keys">{keys}{bound}</div>'


def _footer() -> str:
    return (
        "<footer>Checked by Great Expectations on the sealed payload. The same findings as data: "
        "<code>report.json</code> beside this page. A failed expectation that blocks ends the "
        "release; users keep the model they have.</footer>"
    )
