"""Tables of scores as text and as HTML, and the report of a run with its curves."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence

from paligemma_jax.core import atomic_io
from paligemma_jax.report import html_page

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
  """A small table; the first column is text, numbers are shown with three decimals, None as '–'."""

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[Cell, ...], ...]


def scores_table(title: str, scores: Mapping[str, Mapping[str, float]]) -> Table:
  """Metrics down, their values across.

  Args:
    scores: {'baseline': {metric: value}, 'before': {…}, 'after': {…}}; the columns in this order, a
      row for each metric of the last one.
  """
  metrics = list(scores[list(scores)[-1]])
  rows = tuple((m, *(values.get(m) for values in scores.values())) for m in metrics)
  return Table(title, ("metric", *scores), rows)


def text(table: Table) -> str:
  """The table with aligned columns, for a terminal or a log."""
  lines = [table.columns, *(tuple(map(_shown, row)) for row in table.rows)]
  widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
  lines.insert(1, tuple("-" * width for width in widths))
  out = [table.title]
  for first, *rest in lines:
    cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
    out.append("  ".join(cells).rstrip())
  return "\n".join(out)


def html(table: Table) -> str:
  """The table as an HTML fragment."""
  head = "".join(f"<th>{html_page.escape(c)}</th>" for c in table.columns)
  rows = "".join(
    "<tr>" + "".join(f"<td>{html_page.escape(_shown(c))}</td>" for c in row) + "</tr>"
    for row in table.rows
  )
  return (
    f"<h2>{html_page.escape(table.title)}</h2>"
    f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
  )


def write_report(
  path: str | os.PathLike[str],
  title: str,
  *,
  tables: Sequence[Table],
  lines: Sequence[Mapping[str, float]],
  lead: str = "",
) -> None:
  """Writes a self-contained HTML page with the tables and a chart of everything that changed.

  Args:
    lines: of metrics.jsonl, as `metrics.read` gives them.
    lead: one sentence below the title.
  """
  body = "".join(html(table) for table in tables)
  charts = [_chart(name, _points(lines, name)) for name in _names(lines)]
  if any(charts):
    body += f'<h2>Course of the run</h2><div class="charts">{"".join(charts)}</div>'
  atomic_io.write_atomically(path, html_page.page(title, lead, body, style=_STYLE))


def _shown(cell: Cell) -> str:
  if cell is None:
    return "–"
  if isinstance(cell, str):
    return cell
  return f"{cell:.0f}" if abs(cell) >= 1000 or float(cell).is_integer() else f"{cell:.3f}"


def _names(lines: Sequence[Mapping[str, float]]) -> list[str]:
  """All metrics, in the order in which they first come."""
  return [n for n in dict.fromkeys(name for line in lines for name in line) if n != "step"]


def _points(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
  values = [(line["step"], line[name]) for line in lines if name in line]
  return [(step, value) for step, value in values if math.isfinite(value)]


def _chart(name: str, points: Sequence[tuple[float, float]]) -> str:
  """One curve with its extremes, or '' when nothing changes."""
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
    f"<figure><figcaption><span>{html_page.escape(name)}</span><b>{points[-1][1]:.4g}</b></figcaption>"
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html_page.escape(name)}">'
    f'<line class="axis" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    f'<polyline points="{drawn}"/>'
    f'<text x="{left}" y="{height - 5}">step {first:.0f}</text>'
    f'<text x="{width / 2}" y="{height - 5}" text-anchor="middle">{low:.4g} to {high:.4g}</text>'
    f'<text x="{right}" y="{height - 5}" text-anchor="end">{last:.0f}</text></svg></figure>'
  )
