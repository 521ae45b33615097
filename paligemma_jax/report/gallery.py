"""A self-contained HTML gallery: images with prompt, target, prediction, boxes and masks."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from paligemma_jax.core import atomic_io
from paligemma_jax.evals import localization
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg
from paligemma_jax.report import report

_MAX_FRAMES = 8  # Of a video; more would be too small to see.
_MASK_COLORS = {"target": (34, 197, 94), "predicted": (249, 115, 22), "before": (249, 115, 22)}
_FILL, _EDGE = 70, 230  # Opacity of a mask, of 255.
_PNG_SIDE = 256  # Larger images become JPEG, to keep files small.

_STYLE = """
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
  before: the prediction before fine-tuning; None when unknown.
  """

  image: np.ndarray
  prompt: str
  target: str
  prediction: str
  before: str | None = None


def write_gallery(
  path: str | os.PathLike[str],
  items: Iterable[GalleryItem],
  title: str,
  *,
  table: report.Table | None = None,
  lead: str = "",
  bins: int = 1024,
  codec: str = "",
) -> None:
  """Writes the page, with loc tokens drawn as boxes and seg tokens as masks.

  Args:
    table: scores to show above the examples.
    lead: one sentence below the title.
    bins: 1023 or 1024, the convention of `regions.loc`.
    codec: of the seg tokens, as of `mask_codec.open_codec`.
  """
  items = list(items)
  with_before = any(item.before is not None for item in items)
  cards = "".join(_card(i, item, bins, codec) for i, item in enumerate(items))
  body = (report.table_html(table) if table else "") + f"<h2>{len(items)} examples</h2>"
  if any(_has_boxes(item) for item in items):
    body += _legend(with_before)
  body += f'<div class="cards{" wide" if with_before else ""}">{cards}</div>'
  atomic_io.write_atomically(path, report.page(title, lead, body, style=_STYLE))


def _card(number: int, item: GalleryItem, bins: int, codec: str) -> str:
  def read(text: str) -> Answer | None:
    return parse_answer(text, *_frames(item.image).shape[:2], codec=codec, bins=bins)

  target, predicted = read(item.target), read(item.prediction)
  before = None if item.before is None else read(item.before)
  rows = [("prompt", f'<dd class="prompt" dir="auto">{report.escape(item.prompt)}</dd>')]
  rows.append(("target", _answer(item.target, target, None)))
  if item.before is not None:
    rows.append(("before", _answer(item.before, before, item.target, target)))
  name = "prediction" if item.before is None else "after"
  rows.append((name, _answer(item.prediction, predicted, item.target, target)))
  listed = "".join(f"<dt>{name}</dt>{value}" for name, value in rows)
  views = _views(number, item, target, before, predicted)
  kind = "single" if views.count("<svg") == 1 else "pair"
  return f'<article class="{kind}"><div class="views">{views}</div><dl>{listed}</dl></article>'


def _answer(
  text: str, predicted: Answer | None, target: str | None, true_answer: Answer | None = None
) -> str:
  """A text marked as right or wrong; of boxes their labels and overlaps."""
  if predicted is None:
    mark, kind = "", ""
    if target is not None:
      is_right = text.strip() == target.strip()
      mark, kind = (" ✓", "target") if is_right else (" ✗", "wrong")
    shown = report.escape(text) if text else "<small>(nothing)</small>"
    return f'<dd dir="auto" class="{kind}">{shown}{mark}</dd>'
  labels = report.escape(" ; ".join(label or "(no label)" for label in predicted.objects.labels))
  notes = []
  if true_answer is not None:
    found = overlaps(true_answer, predicted)
    notes.append("overlap " + (", ".join(f"{v:.2f}" for v in found) or "–"))
  if predicted.objects.num_invalid:
    notes.append(f"{predicted.objects.num_invalid} unreadable")
  note = f" <small>{report.escape(' · '.join(notes))}</small>" if notes else ""
  tokens = f"<details><summary>tokens</summary>{report.escape(text)}</details>"
  kind = "target" if target is None else "predicted"
  return f'<dd dir="auto" class="{kind}">{labels}{note}{tokens}</dd>'


def _views(
  number: int,
  item: GalleryItem,
  target: Answer | None,
  before: Answer | None,
  predicted: Answer | None,
) -> str:
  """The image with its boxes and masks: once, or before and after side by side."""
  pixels = _frames(item.image)
  height, width = pixels.shape[:2]
  url = _data_url(pixels, "png" if max(height, width) <= _PNG_SIDE else "jpeg")
  image = f'<image id="i{number}" width="{width}" height="{height}" href="{url}"/>'
  if item.image.ndim != 3 or not _has_boxes(item):
    return f"<div>{_svg(image, width, height)}</div>"
  true_marks = _marks(target, "target", width, height)
  predicted_marks = _marks(predicted, "predicted", width, height)
  if item.before is None:
    return f"<div>{_svg(image + true_marks + predicted_marks, width, height)}</div>"
  before_marks = _marks(before, "before", width, height)
  again = f'<use href="#i{number}"/>'
  return (
    f"<div>{_svg(image + true_marks + before_marks, width, height)}<small>before</small></div>"
    f"<div>{_svg(again + true_marks + predicted_marks, width, height)}<small>after</small></div>"
  )


def _svg(content: str, width: int, height: int) -> str:
  return f'<svg viewBox="0 0 {width} {height}" role="img">{content}</svg>'


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
      f' stroke-width="{size / 6:.2f}">{report.escape(label)}</text>'
    )
  return "".join(marks)


def _legend(with_before: bool) -> str:
  kinds = [("target", "target")]
  kinds += [("predicted before", "before")] if with_before else []
  kinds += [("predicted", "after" if with_before else "prediction")]
  spans = "".join(f'<span><i class="swatch {kind}"></i>{name}</span>' for kind, name in kinds)
  return f'<p class="legend">{spans}</p>'


def _has_boxes(item: GalleryItem) -> bool:
  return "<loc" in item.target + item.prediction + (item.before or "")


def _frames(image: np.ndarray) -> np.ndarray:
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


def parse_answer(text: str, height: int, width: int, *, codec: str, bins: int) -> Answer | None:
  """The objects of any text for an image of this size; None where it has no loc tokens.

  An object with a valid box and invalid seg tokens keeps its box and counts as invalid.
  """
  if "<loc" not in text:
    return None
  predicted = loc.parse_boxes(text, bins=bins)
  if "<seg" not in text:
    return Answer(predicted, None)
  model = mask_codec.open_codec(codec)
  parts = text.split(";")
  mask = np.zeros((height, width), bool)
  num_unpainted = len(parts[_MAX_MASKS:])
  for start in range(0, min(len(parts), _MAX_MASKS), _AT_ONCE):
    some = ";".join(parts[start : min(start + _AT_ONCE, _MAX_MASKS)])
    for part in seg.text_to_masks(some, height, width, codec=model, bins=bins):
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
