"""The HTML pages of a run: the report with its scores and curves, the gallery of its predictions.

They are self-contained: images lie in the page, and nothing is loaded.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from paligemma_jax.core import atomic_io
from paligemma_jax.evals import localization
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

Cell = str | float | None

_WIDTH, _HEIGHT = 320, 130  # Of one chart, in CSS pixels.

_CHART_STYLE = """
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
) -> None:
  """Writes a self-contained HTML page with the tables and a chart of each metric that changes.

  Args:
    lines: of metrics.jsonl, from `metrics.read`.
  """
  body = "".join(table_html(table) for table in tables)
  charts = []
  for name in dict.fromkeys(name for line in lines for name in line if name != "step"):
    values = [(line["step"], line[name]) for line in lines if name in line]
    charts.append(_chart(name, [(step, value) for step, value in values if math.isfinite(value)]))
  if any(charts):
    body += f'<h2>Course of the run</h2><div class="charts">{"".join(charts)}</div>'
  atomic_io.write_atomically(path, page(title, body, style=_CHART_STYLE))


def _shown(cell: Cell) -> str:
  if cell is None:
    return "–"
  if isinstance(cell, str):
    return cell
  return f"{cell:.0f}" if abs(cell) >= 1000 or float(cell).is_integer() else f"{cell:.3f}"


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


_BINS = 1024  # The convention of `regions.loc` that boxes are drawn by.
_MAX_FRAMES = 8  # Of a video; more would be too small to see.
_MASK_COLORS = {"target": (34, 197, 94), "predicted": (249, 115, 22), "before": (249, 115, 22)}
_FILL, _EDGE = 70, 230  # Opacity of a mask, of 255.
_PNG_SIDE = 256  # Larger images become JPEG, to keep files small.

_CARD_STYLE = """
.legend span { margin-right: 14px; white-space: nowrap; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; border: 2.5px solid; }
.target { color: var(--target); } .predicted { color: var(--predicted); }
.wrong { color: var(--wrong); }
.before { border-style: dashed; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr));
  gap: 14px; margin-top: 14px; }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; }
.wide .single { display: flex; flex-wrap: wrap; align-items: flex-start; }
.wide .single .views { flex: 1 1 150px; } .wide .single dl { flex: 1 1 180px; }
.views { display: flex; gap: 2px; }
.views > div { flex: 1 1 0; position: relative; min-width: 0; }
.views svg { display: block; width: 100%; height: auto; }
.views small { position: absolute; left: 6px; bottom: 6px; background: #000a; color: #fff;
  border-radius: 5px; padding: 1px 7px; }
.views rect { fill: none; stroke-width: 3; vector-effect: non-scaling-stroke; }
.box-target { stroke: #22c55e; } .box-predicted { stroke: #f97316; }
.box-before { stroke: #f97316; stroke-dasharray: 5 4; }
.views text { font-weight: 600; stroke: #000c; paint-order: stroke; stroke-linejoin: round; }
.text-target { fill: #4ade80; } .text-predicted { fill: #fdba74; }
dl { margin: 0; padding: 10px 12px 12px; display: grid; grid-template-columns: auto 1fr;
  gap: 3px 12px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
dd.prompt { font-weight: 600; }
dd small { color: var(--soft); white-space: nowrap; }
dd details { color: var(--soft); font-size: .8em; } dd summary { cursor: pointer; }
"""


@dataclasses.dataclass(frozen=True)
class GalleryItem:
  """One example.

  image: uint8[H, W, 3], or [F, H, W, 3] of which up to 8 frames are shown side by side.
  target, prediction: None where there is none.
  before: the prediction before fine-tuning; None when unknown.
  """

  image: np.ndarray
  prompt: str
  target: str | None
  prediction: str | None
  before: str | None = None


def gallery(
  items: Iterable[GalleryItem], title: str, *, tables: Iterable[Table] = (), codec: str = ""
) -> str:
  """An HTML page of the items, with loc tokens drawn as boxes and seg tokens as masks.

  Args:
    tables: to show above the examples.
    codec: of the seg tokens, as of `mask_codec.open_codec`.
  """
  items = list(items)
  with_before = any(item.before is not None for item in items)
  cards = "".join(_card(i, item, codec) for i, item in enumerate(items))
  body = "".join(map(table_html, tables)) + f"<h2>{len(items)} examples</h2>"
  if any(_has_boxes(item) and item.prediction is not None for item in items):
    body += _legend(with_before)
  body += f'<div class="cards{" wide" if with_before else ""}">{cards}</div>'
  return page(title, body, style=_CARD_STYLE)


def _card(number: int, item: GalleryItem, codec: str) -> str:
  pixels = frames(item.image)
  height, width = pixels.shape[:2]
  said = {} if item.prediction is None else {"prediction": item.prediction}
  if item.before is not None and item.prediction is not None:
    said = {"before": item.before, "after": item.prediction}
  target = parse_answer(item.target or "", height, width, codec=codec)
  found = {name: parse_answer(text, height, width, codec=codec) for name, text in said.items()}
  rows = {"prompt": f'<dd class="prompt" dir="auto">{escape(item.prompt)}</dd>'}
  if item.target is not None:
    rows["target"] = _answer(item.target, target, "target")
  for name in said:
    rows[name] = _answer(said[name], found[name], "predicted", item.target, target)
  listed = "".join(f"<dt>{name}</dt>{value}" for name, value in rows.items())
  drawn = {"": ""}  # {caption: boxes and masks}, before and after side by side.
  if item.image.ndim == 3 and _has_boxes(item):
    true_marks = _marks(target, "target", width, height)
    kinds = {name: "before" if name == "before" else "predicted" for name in said}
    drawn = {n: true_marks + _marks(found[n], kinds[n], width, height) for n in said}
    drawn = drawn or {"": true_marks}
  url = _data_url(pixels, "png" if max(height, width) <= _PNG_SIDE else "jpeg")
  image = f'<image id="i{number}" width="{width}" height="{height}" href="{url}"/>'
  views = ""
  for name, marks in drawn.items():
    svg = f'<svg viewBox="0 0 {width} {height}" role="img">{image}{marks}</svg>'
    views += f"<div>{svg}{f'<small>{name}</small>' if len(drawn) > 1 else ''}</div>"
    image = f'<use href="#i{number}"/>'
  kind = "single" if len(drawn) == 1 else "pair"
  return f'<article class="{kind}"><div class="views">{views}</div><dl>{listed}</dl></article>'


def _answer(
  text: str,
  predicted: Answer | None,
  kind: str,
  target: str | None = None,
  true_answer: Answer | None = None,
) -> str:
  """A text marked as right or wrong by its target; of boxes their labels and overlaps."""
  if predicted is None:
    mark, kind = "", ""
    if target is not None:
      is_right = text.strip() == target.strip()
      mark, kind = (" ✓", "target") if is_right else (" ✗", "wrong")
    shown = escape(text) if text else "<small>(nothing)</small>"
    return f'<dd dir="auto" class="{kind}">{shown}{mark}</dd>'
  labels = escape(" ; ".join(label or "(no label)" for label in predicted.objects.labels))
  notes = []
  if true_answer is not None:
    found = overlaps(true_answer, predicted)
    notes.append("overlap " + (", ".join(f"{v:.2f}" for v in found) or "–"))
  if predicted.objects.num_invalid:
    notes.append(f"{predicted.objects.num_invalid} unreadable")
  note = f" <small>{escape(' · '.join(notes))}</small>" if notes else ""
  tokens = f"<details><summary>tokens</summary>{escape(text)}</details>"
  return f'<dd dir="auto" class="{kind}">{labels}{note}{tokens}</dd>'


def _marks(answer: Answer | None, kind: str, width: int, height: int) -> str:
  """Masks, and boxes with labels: the target's at the top, a prediction's at the bottom."""
  if answer is None:
    return ""
  size = max(width, height) / 17
  marks = []
  if answer.mask is not None and answer.mask.any():
    url = _data_url(_overlay(answer.mask, _MASK_COLORS[kind]), "png")
    marks.append(f'<image class="mask" width="{width}" height="{height}" href="{url}"/>')
  for box, label in zip(answer.objects.boxes, answer.objects.labels, strict=True):
    x, y = box.x_min * width, box.y_min * height
    box_width, box_height = (box.x_max - box.x_min) * width, (box.y_max - box.y_min) * height
    marks.append(
      f'<rect class="box-{kind}" x="{x:.2f}" y="{y:.2f}" width="{box_width:.2f}"'
      f' height="{box_height:.2f}"/>'
    )
    text_y = y + size if kind == "target" else y + box_height - size / 4
    marks.append(
      f'<text class="text-{"target" if kind == "target" else "predicted"}" x="{x + size / 4:.2f}"'
      f' y="{min(max(text_y, size), height):.2f}" font-size="{size:.2f}"'
      f' stroke-width="{size / 6:.2f}">{escape(label)}</text>'
    )
  return "".join(marks)


def _legend(with_before: bool) -> str:
  kinds = [("target", "target")]
  kinds += [("predicted before", "before")] if with_before else []
  kinds += [("predicted", "after" if with_before else "prediction")]
  spans = "".join(f'<span><i class="swatch {kind}"></i>{name}</span>' for kind, name in kinds)
  return f'<p class="legend">{spans}</p>'


def _has_boxes(item: GalleryItem) -> bool:
  return any("<loc" in (text or "") for text in (item.target, item.prediction, item.before))


def frames(image: np.ndarray) -> np.ndarray:
  """uint8[H, W', 3]: the image, or its first frames side by side."""
  return image if image.ndim == 3 else np.concatenate(list(image[:_MAX_FRAMES]), axis=1)


def _overlay(mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
  """uint8[H, W, 4]: the mask, translucent in this color, its edge nearly opaque."""
  around = np.pad(mask, 1)
  inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
  pixels = np.zeros((*mask.shape, 4), np.uint8)
  pixels[mask] = (*color, _EDGE)
  pixels[mask & inner, 3] = _FILL
  return pixels


def _data_url(pixels: np.ndarray, kind: str) -> str:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind, **({} if kind == "png" else {"quality": 88}))
  return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


_MAX_MASKS = 500  # Of a text.
_AT_ONCE = 32  # Masks in memory.
_CODES = re.compile(r"\s*(<seg[0-9]{3}>)+")


class Answer(NamedTuple):
  """The objects of a text, their labels without seg tokens.

  mask: bool[H, W], the union of their masks; None where the text has no seg tokens.
  """

  objects: loc.Parsed
  mask: np.ndarray | None


def parse_answer(text: str, height: int, width: int, *, codec: str) -> Answer | None:
  """The objects of any text for an image of this size; None where it has no loc tokens.

  An object with a valid box and invalid seg tokens keeps its box and counts as invalid.
  """
  if "<loc" not in text:
    return None
  predicted = loc.parse_boxes(text, bins=_BINS)
  if "<seg" not in text:
    return Answer(predicted, None)
  model = mask_codec.open_codec(codec)
  parts = text.split(";")
  mask = np.zeros((height, width), bool)
  num_unpainted = len(parts[_MAX_MASKS:])
  for start in range(0, min(len(parts), _MAX_MASKS), _AT_ONCE):
    some = ";".join(parts[start : min(start + _AT_ONCE, _MAX_MASKS)])
    for part in seg.text_to_masks(some, height, width, codec=model, bins=_BINS):
      if part is None:
        num_unpainted += 1
      else:
        mask |= part.mask
  labels = tuple(_CODES.sub("", label, count=1).strip() for label in predicted.labels)
  num_invalid = max(predicted.num_invalid, num_unpainted)
  return Answer(loc.Parsed(predicted.boxes, labels, num_invalid), mask)


def overlaps(target: Answer, predicted: Answer) -> list[float]:
  """IoUs with the target: of the two masks where it has one, else of each of its boxes."""
  if target.mask is None:
    return localization.match(target.objects, predicted.objects)
  if predicted.mask is None:
    return [0.0]
  either = (target.mask | predicted.mask).sum()
  return [float((target.mask & predicted.mask).sum() / either) if either else 0.0]


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_PAGE_STYLE = """
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


def page(title: str, body: str, *, style: str = "") -> str:
  """An HTML document of a plain text `title`, an escaped `body`, and further CSS."""
  # The policy forbids scripts and external content, should a text ever not be escaped.
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_PAGE_STYLE}{style}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
{body}
</main></body>
</html>
"""
