"""Score tables as text and HTML, and the HTML report of a run with its curves."""

from __future__ import annotations

import dataclasses
import html
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from paligemma_jax.core import atomic_io

Cell = str | float | None

_WIDTH, _HEIGHT = 320, 130  # Of one chart, in CSS pixels.

_STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 12px; }
figcaption { display: flex; justify-content: space-between; gap: 8px; overflow-wrap: anywhere; }
figcaption b { font-variant-numeric: tabular-nums; }
figure svg { width: 100%; height: auto; display: block; }
polyline { fill: none; stroke: var(--predicted); stroke-width: 1.8; stroke-linejoin: round; }
.axis { stroke: var(--line); } svg text { fill: var(--soft); font-size: 12px; }
"""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table whose first column is text; numbers are shown with three decimals, None as '–'."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]


def scores_table(title: str, scores: Mapping[str, Mapping[str, float]]) -> Table:
  """A row for each metric of the last of `scores`, a column for each of them.

  Args:
    scores: {'baseline': {metric: value}, 'before': {…}, 'after': {…}}.
  """
  metrics = list(scores[list(scores)[-1]])
  rows = tuple((m, *(values.get(m) for values in scores.values())) for m in metrics)
  return Table(title, ("metric", *scores), rows)


def text(table: Table) -> str:
  """The table as text with aligned columns."""
  lines = [table.columns, *(tuple(map(_shown, row)) for row in table.rows)]
  widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
  lines.insert(1, tuple("-" * width for width in widths))
  out = [table.title]
  for first, *rest in lines:
    cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
    out.append("  ".join(cells).rstrip())
  return "\n".join(out)


def table_html(table: Table) -> str:
  """The table as an HTML fragment."""
  head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
  rows = "".join(
    "<tr>" + "".join(f"<td>{escape(_shown(c))}</td>" for c in row) + "</tr>" for row in table.rows
  )
  return (
    f'<h2>{escape(table.title)}</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
  )


def write_report(
  path: str | os.PathLike[str],
  title: str,
  *,
  tables: Sequence[Table],
  lines: Sequence[Mapping[str, float]],
  lead: str = "",
) -> None:
  """Writes a self-contained HTML page with the tables and a chart of each metric that changes.

  Args:
    lines: of metrics.jsonl, from `metrics.read`.
    lead: one sentence below the title.
  """
  body = "".join(table_html(table) for table in tables)
  charts = [_chart(name, _points(lines, name)) for name in _names(lines)]
  if any(charts):
    body += f'<h2>Course of the run</h2><div class="charts">{"".join(charts)}</div>'
  atomic_io.write_atomically(path, page(title, lead, body, style=_STYLE))


def _shown(cell: Cell) -> str:
  if cell is None:
    return "–"
  if isinstance(cell, str):
    return cell
  return f"{cell:.0f}" if abs(cell) >= 1000 or float(cell).is_integer() else f"{cell:.3f}"


def _names(lines: Sequence[Mapping[str, float]]) -> list[str]:
  """All metrics, in the order in which they first occur."""
  return [n for n in dict.fromkeys(name for line in lines for name in line) if n != "step"]


def _points(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
  values = [(line["step"], line[name]) for line in lines if name in line]
  return [(step, value) for step, value in values if math.isfinite(value)]


def _chart(name: str, points: Sequence[tuple[float, float]]) -> str:
  """One curve with its extremes; '' when the values do not change."""
  low, high = (f(v for _, v in points) if points else 0.0 for f in (min, max))
  first, last = (points[0][0], points[-1][0]) if points else (0, 0)
  if low == high or first == last:
    return ""
  width, height = _WIDTH, _HEIGHT
  left, right, top, bottom = 6, width - 6, 8, height - 20
  drawn = " ".join(
    f"{left + (right - left) * (s - first) / (last - first):.1f},"
    f"{bottom - (bottom - top) * (v - low) / (high - low):.1f}"
    for s, v in points
  )
  return (
    f"<figure><figcaption><span>{escape(name)}</span><b>{points[-1][1]:.4g}</b></figcaption>"
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
    f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    f'<polyline points="{drawn}"/>'
    f'<text x="{left}" y="{height - 5}">step {first:.0f}</text>'
    f'<text x="{width / 2}" y="{height - 5}" text-anchor="middle">{low:.4g} to {high:.4g}</text>'
    f'<text x="{right}" y="{height - 5}" text-anchor="end">{last:.0f}</text></svg></figure>'
  )


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_HTML_PAGE_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1f24;
  --soft: #5d6673; --line: #dfe3e8; --target: #12853f; --predicted: #c2410c; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1e2228; --ink: #e8eaed;
  --soft: #9aa4b1; --line: #343a43; --target: #4ade80; --predicted: #fb923c; --wrong: #f2857d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 14px 60px; }
h1 { font-size: 1.5rem; margin: .2em 0 .1em; }
h2 { font-size: 1.05rem; margin: 1.6em 0 .5em; }
p.lead { color: var(--soft); margin: 0 0 1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
"""


def escape(value: Any) -> str:
  """Any text, made safe inside an element and inside a quoted attribute."""
  text = str(value).encode("utf-8", "replace").decode()
  return html.escape(_CONTROL.sub("\ufffd", text), quote=True)


def page(title: str, lead: str, body: str, *, style: str = "") -> str:
  """An HTML document of plain texts `title` and `lead`, an escaped `body`, and further CSS."""
  # The policy forbids scripts and external content, should a text ever not be escaped.
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_HTML_PAGE_STYLE}{style}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
{f'<p class="lead">{escape(lead)}</p>' if lead else ""}
{body}
</main></body>
</html>
"""
