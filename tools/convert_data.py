"""Converts data of other formats to JSON lines for sources.Jsonl.

  python -m tools.convert_data chat data.json --out rows.jsonl

Kinds, each giving rows of image, prefix and suffix:

  chat   messages (OpenAI, LLaMA-Factory) or conversations (LLaVA), as an array or as lines; each
         answer gives a row, with the question before it as the prompt
  csv    a table with a header, which sources.Csv reads as it is; columns keep their names
  json   an array of objects, or objects over several lines
  coco, yolo, voc   boxes as text: 'detect cat ; dog' and '<loc…> cat ; <loc…> dog'

Image names are kept; pass the folder that they are relative to as Jsonl(images=…).
--key NAME=COLUMN renames a column: --key prefix=question.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

from paligemma_jax import sources  # noqa: E402
from paligemma_jax.core import atomic_io  # noqa: E402
from paligemma_jax.core import errors  # noqa: E402
from paligemma_jax.core import strict_json  # noqa: E402
from paligemma_jax.regions import loc  # noqa: E402
from paligemma_jax.sources import jsonl  # noqa: E402

_MAX_BYTES = 4 << 30
_MARKERS = re.compile(r"\s*<(?:image|video|bos|eos)>[ \t]*\n?")
_ASKS, _ANSWERS = ("user", "human"), ("assistant", "gpt", "model")
_BINS = 1024


def main(argv: Sequence[str] | None = None) -> None:
  """Converts the file; prints how many rows were written and skipped.

  Raises:
    DataError: the file has another format; names the place.
    ConfigError: the file cannot be read, or an option is wrong.
  """
  args = _parser().parse_args(argv)
  counts: dict[str, int] = {}

  def count(what: str) -> None:
    counts[what] = counts.get(what, 0) + 1

  renamed = dict(_pair(text) for text in args.key)
  lines = []
  for row in _KINDS[args.kind](args, count):
    for name, column in renamed.items():
      if column not in row:
        raise errors.ConfigError(
          f"--key {name}={column}: there is no column {column!r}.{errors.did_you_mean(column, row)}"
        )
      row = {name: row[column], **{k: v for k, v in row.items() if k not in (name, column)}}
    lines.append(json.dumps(row, ensure_ascii=False) + "\n")
  if not lines:
    raise errors.DataError(f"{args.path} gives no rows. {_summary(counts)}".rstrip())
  atomic_io.write_atomically(args.out, "".join(lines))
  print(f"{len(lines)} rows in {args.out}. {_summary(counts)}".rstrip())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m tools.convert_data",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("kind", choices=tuple(_KINDS))
  add("path", help="the file; for yolo the data.yaml, for voc the folder")
  add("--out", required=True, type=pathlib.Path, metavar="FILE", help="the JSON lines to write")
  add("--split", default="", help="for yolo and voc (default: train)")
  add("--images", default="", metavar="DIR", help="for coco: the image folder")
  add("--prompt", default="", help="for coco, yolo, voc (default: 'detect' and all classes)")
  add("--key", nargs="*", default=[], metavar="NAME=COLUMN", help="renames a column")
  return parser


def _chat(args: argparse.Namespace, count: Callable[[str], None]) -> Iterator[dict[str, Any]]:
  for n, record in enumerate(_records(args.path)):
    where = f"{args.path}: record {n}"
    column = jsonl.is_chat(record)
    if not column:
      raise errors.DataError(
        f"{where} has neither messages nor conversations: {', '.join(map(repr, record))}."
      )
    images, turns = _turns(record, column, where)
    question, num_answers = "", 0
    for role, text in turns:
      if role in _ASKS:
        question = text
      elif role in _ANSWERS and not images:
        count("answers without an image, skipped")
      elif role in _ANSWERS:
        num_answers += 1
        if num_answers > 1:
          count("answers later in a conversation, written without the turns before their question")
        image = images[0] if len(images) == 1 else images
        yield {"image": image, "prefix": question, "suffix": text}
      else:
        count(f"turns of {role!r}, skipped")


def _turns(
  record: Mapping[str, Any], column: str, where: str
) -> tuple[list[str], list[tuple[str, str]]]:
  """(images, [(role, text)]) of a conversation, without image markers."""
  images = [v for name in ("image", "images") for v in _list(record.get(name))]
  turns = []
  for turn in record[column]:
    if not isinstance(turn, Mapping):
      raise errors.DataError(f"{where}: a turn is {str(turn)[:60]!r}; expected an object.")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    texts = []
    for part in [content] if isinstance(content, str) else _list(content):
      if isinstance(part, str):
        texts.append(part)
      elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
        texts.append(part["text"])
      elif isinstance(part, Mapping):
        found = part.get("image") or part.get("path") or part.get("image_url")
        images += [found["url"] if isinstance(found, Mapping) and "url" in found else found]
    turns.append((role, _MARKERS.sub("", "".join(texts)).strip()))
  images = [image for image in images if image is not None]
  if not all(isinstance(image, str) for image in images):
    raise errors.DataError(f"{where}: an image is {str(images)[:60]!r}; expected paths.")
  return list(dict.fromkeys(images)), turns


def _list(value: Any) -> list[Any]:
  if value is None:
    return []
  return list(value) if isinstance(value, (list, tuple)) else [value]


def _csv(args: argparse.Namespace, count: Callable[[str], None]) -> Iterator[dict[str, Any]]:
  del count
  rows = sources.Csv(args.path, image_column="").open()
  yield from (rows[i] for i in range(len(rows)))


def _json(args: argparse.Namespace, count: Callable[[str], None]) -> Iterator[dict[str, Any]]:
  del count
  yield from _records(args.path)


def _records(path: str) -> Iterator[dict[str, Any]]:
  """The objects of an array, of JSON lines, or of consecutive pretty-printed objects."""
  text = _read(path).decode("utf-8-sig", "replace")
  decoder, at = json.JSONDecoder(), 0
  while (at := len(text) - len(text[at:].lstrip())) < len(text):
    try:
      value, at = decoder.raw_decode(text, at)
    except (ValueError, RecursionError) as e:
      raise errors.DataError(f"{path} is not JSON after {at} characters: {e}.") from None
    for record in value if isinstance(value, list) else [value]:
      if not isinstance(record, dict):
        raise errors.DataError(f"{path}: expected objects, found {str(record)[:60]!r}.")
      yield record


def _read(path: str) -> bytes:
  try:
    return atomic_io.read(path, max_bytes=_MAX_BYTES)
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path!r}: {strict_json.reason(e)}.") from None


def _boxes(make: Callable[[argparse.Namespace], Any]) -> Callable[..., Iterator[dict[str, Any]]]:
  """The converter for a source with boxes."""

  def convert(args: argparse.Namespace, count: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    rows = make(args).open()
    found = []
    for i in range(len(rows)):
      row = rows[i]
      for note in row.get("_notes", ()):
        count(f"rows with {note}")
      if row.get("_exif") is False:
        raise errors.DataError(
          f"{rows.where(i)}: its boxes refer to the stored image, but EXIF rotates it, and JSON"
          " lines cannot express this. Rotate the image files first."
        )
      crowd = row["crowd"]
      kept = [j for j in range(len(crowd)) if not crowd[j]]
      labels, boxes = ([row[name][j] for j in kept] for name in ("labels", "boxes"))
      found.append((row["image_path"], labels, loc.format_boxes(boxes, labels, bins=_BINS)))
    classes = sorted({label for _, labels, _ in found for label in labels})
    prompt = args.prompt or f"detect {loc.SEPARATOR.join(classes)}"
    for path, _, text in found:
      yield {"image": path, "prefix": prompt, "suffix": text}

  return convert


def _pair(text: str) -> tuple[str, str]:
  name, sign, column = text.partition("=")
  if not (name and sign and column):
    raise errors.ConfigError(f"--key {text!r}: expected NAME=COLUMN, as in prefix=question.")
  return name, column


def _summary(counts: Mapping[str, int]) -> str:
  return "".join(f"{number} {what}. " for what, number in counts.items()).rstrip()


_KINDS: Mapping[str, Callable[..., Iterator[dict[str, Any]]]] = {
  "chat": _chat,
  "csv": _csv,
  "json": _json,
  "coco": _boxes(lambda args: sources.Coco(args.path, images=args.images)),
  "yolo": _boxes(lambda args: sources.Yolo(args.path, args.split or "train")),
  "voc": _boxes(lambda args: sources.Voc(args.path, args.split or "train")),
}


if __name__ == "__main__":
  errors.run_main(main)
