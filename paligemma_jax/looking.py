"""What people look at: rows before training, and answers with their images.

The results print as text, and a notebook shows their images.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.pp import boxes
from paligemma_jax.pp import image_input
from paligemma_jax.regions import loc
from paligemma_jax.report import report

if TYPE_CHECKING:
  import ml_collections

_NUM_EXAMPLES = 8
_NUM_BAD = 10  # Bad rows that are printed.
_SIDE = 640  # Of a shown image, in pixels.


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
  """A text, and the same as an HTML page with images.

  Attributes:
    text: for terminals.
    html: a self-contained page.
  """

  text: str
  html: str

  def __repr__(self) -> str:
    return self.text

  def _repr_html_(self) -> str:
    from paligemma_jax.trainer import notebook

    return notebook.frame(self.html)


@dataclasses.dataclass(frozen=True, repr=False)
class Checked(Page):
  """What `check` found.

  Attributes:
    bad: (what the row is for, file and line, reason) of each bad row.
  """

  bad: tuple[tuple[str, str, str], ...]


@dataclasses.dataclass
class _Part:
  """The rows that training or an evaluator reads, and what was found in them."""

  name: str
  make_example: Any  # data.examples.ExampleMaker
  num_rows: int
  num_checked: int = 0
  longest: int = 0  # Tokens.
  bad: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)


def check(config: ml_collections.ConfigDict, *, limit: int = 200) -> Checked:
  """Reads rows as a run of this configuration would, before any weights are read.

  Args:
    config: as of `paligemma_jax.train`.
    limit: rows to read of the training source and of each evaluator, spread over all; 0: all.

  Returns:
    The numbers of rows and of bad ones with their reasons, the longest text, and examples.

  Raises:
    ConfigError, DataError, CheckpointError: a run would end before its first row.
  """
  from paligemma_jax.config import load as configs
  from paligemma_jax.data import examples
  from paligemma_jax.models import variants
  from paligemma_jax.trainer import bad_rows
  from paligemma_jax.trainer import setup as setups

  configs.validate(config, training=True, variants=variants.VARIANTS)
  tokenizer = setups.prepare(config).tokenizer
  parts: list[_Part] = []
  for name, spec in {"training": config.train, **{e.name: e for e in config.evals}}.items():
    rows = spec.source.open()
    encoding = getattr(spec, "encoding", "train")
    maker = examples.ExampleMaker(
      rows, tuple(spec.pp), tokenizer, encoding, spec.text_len, spec.overflow, config.seed,
      keep=("prefix", "suffix") if not parts else (),
    )  # fmt: skip
    num_rows = min(len(rows), getattr(spec, "limit", 0) or len(rows))
    parts.append(_Part(name, maker, num_rows))
  notes: collections.Counter[str] = collections.Counter()
  items: list[report.GalleryItem] = []
  for part in parts:
    for row in bad_rows.spread(part.num_rows):
      if limit and part.num_checked == limit:
        break
      found = part.make_example(0, row)
      part.num_checked += 1
      if found.rejected or found.failed:
        part.bad.append((part.name, found.where, found.rejected or found.failed))
      if found.arrays is None:
        continue
      part.longest = max(part.longest, int(np.count_nonzero(found.arrays["text"])))
      if part is parts[0]:
        notes.update(found.notes)
        if len(items) < _NUM_EXAMPLES:
          prompt, answer = found.kept["prefix"], _answer(found.kept["suffix"])
          items.append(report.GalleryItem(found.arrays["image"], prompt, answer, None))
  bad = [row for part in parts for row in part.bad]
  tables = [_counts(parts)]
  if notes:
    rows = tuple((bad_rows.meaning(name), float(num)) for name, num in sorted(notes.items()))
    tables.append(report.Table("Training rows", ("what became of them", "rows"), rows))
  if bad:
    tables.append(report.Table("Bad rows", ("rows of", "place", "reason"), tuple(bad[:_NUM_BAD])))
  lines = [f"{item.prompt} -> {item.target}" for item in items]
  text = "\n\n".join([*map(report.text, tables), "\n".join(["Examples", *lines])])
  page = report.gallery(items, "Rows as the model sees them", tables=tables)
  return Checked(text, page, tuple(bad))


def show(
  images: Any,
  prompts: str | Sequence[str],
  predictions: Any,
  targets: Sequence[str] | None = None,
  *,
  title: str = "Predictions",
) -> Page:
  """Answers with their images; boxes and masks are drawn.

  Args:
    images, prompts: as given to `PaliGemma.generate`, one image for each prompt.
    predictions: what it returned, or texts.
    targets: the true answers; None where they are not known.
  """
  one = image_input.is_one(images)
  images = [images] if one else list(images)
  texts = [getattr(p, "text", p) for p in _listed(predictions)]
  images *= len(texts) if one else 1
  prompts = [prompts] * len(texts) if isinstance(prompts, str) else list(prompts)
  true: list[str | None] = [None] * len(texts) if targets is None else list(_listed(targets))
  if not len(images) == len(prompts) == len(texts) == len(true):
    raise errors.ConfigError(
      f"There are {len(images)} images, {len(prompts)} prompts, {len(texts)} predictions and"
      f" {len(true)} targets; expected as many of each."
    )
  items = [
    report.GalleryItem(_small(image), prompt, target, text)
    for image, prompt, text, target in zip(images, prompts, texts, true, strict=True)
  ]
  lines = [f"{item.prompt} -> {item.prediction}" for item in items]
  return Page("\n".join(lines), report.gallery(items, title))


def _listed(value: Any) -> Sequence[Any]:
  return [value] if isinstance(value, str) or hasattr(value, "text") else value


def _small(image: Any) -> np.ndarray:
  """uint8[H, W, 3] with sides of at most _SIDE."""
  found = image_input.pixels(image)
  if found.dtype != np.uint8:
    found = ((found + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
  small = Image.fromarray(found)
  small.thumbnail((_SIDE, _SIDE))
  return np.asarray(small)


def _answer(suffix: Any) -> str:
  """The text of a suffix, without objects that are noise."""
  text = suffix if isinstance(suffix, str) else "".join(str(piece[0]) for piece in suffix)
  kept = (part for part in text.split(loc.SEPARATOR) if boxes.NOISE not in part)
  return loc.SEPARATOR.join(kept) if boxes.NOISE in text else text


def _counts(parts: Sequence[_Part]) -> report.Table:
  columns = ("rows of", "rows", "checked", "bad", "longest text", "limit")
  found: list[tuple[report.Cell, ...]] = []
  for part in parts:
    text_len = part.make_example.text_len
    counts = (part.num_rows, part.num_checked, len(part.bad), part.longest, text_len)
    found.append((part.name, *map(float, counts)))
  return report.Table("Rows (texts in tokens)", columns, tuple(found))
