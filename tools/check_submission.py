"""Checks a file for a test server: python tools/check_submission.py FILE --format vqav2 …

    python tools/check_submission.py runs/vqav2/predictions/test-dev/server-25307.json \
        --format vqav2 --against v2_OpenEnded_mscoco_test-dev2015_questions.json

Checks for missing, duplicate and unknown ids, and for the keys and types that the server requires.
Prints the first few errors of each kind and exits with 65, or with 0 if there are none.
docs/test_servers.md lists formats, official files and servers.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

from paligemma_jax import sources  # noqa: E402
from paligemma_jax.core import errors  # noqa: E402
from paligemma_jax.evals import predictions  # noqa: E402

_SHOWN = 3  # Problems of each kind that are named.
_MAX_BYTES = 2 << 30  # The largest official file has all of GQA's questions and is smaller.


def main() -> None:
  """Checks the file and prints the result."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("file", type=pathlib.Path, metavar="FILE", help="the file to check")
  parser.add_argument("--format", required=True, help=", ".join(predictions.FORMATS))
  parser.add_argument(
    "--against",
    required=True,
    metavar="QUESTIONS",
    help="the official question file (JSON), or a dataset built by paligemma_jax.prepare:"
    " 'vqav2:test-dev' (slower, as its images are read too)",
  )
  args = parser.parse_args()
  form = errors.pick(predictions.FORMATS, args.format, "format of a test server")
  repeated: list[str] = []
  submission = read_json(args.file, repeated)
  wanted = expected(form, args.against)
  problems = list(problems_of(form, submission, wanted, repeated))
  if problems:
    raise errors.DataError("\n  ".join([f"{args.file} would be rejected:", *problems]))
  entries = submission if form.id_key else submission.values()
  num_empty = sum(not entry[form.answer_key].strip() for entry in entries)
  print(f"{args.file}: ok, {len(entries)} answers, {num_empty} of them empty")


def expected(form: predictions.Format, against: str) -> dict[predictions.Id, tuple[str, ...]]:
  """{id: choices} of the official file, or of a dataset 'name:split'.

  Raises:
    ConfigError: neither exists.
    DataError: the official file has another layout.
  """
  if pathlib.Path(against).exists():
    try:
      return official(form, read_json(pathlib.Path(against), []))
    except errors.DataError as e:
      raise errors.DataError(f"{against}: {e}") from None
  name, _, split = against.partition(":")
  if not split:
    raise errors.ConfigError(
      f"There is no file {against!r}; --against takes the official question file, or a"
      " dataset and its split, such as 'vqav2:test-dev'."
    )
  rows = sources.Tfds(name, split).open()
  found = {}
  for i in range(len(rows)):
    row = rows[i]
    if form.column not in row:
      hint = errors.did_you_mean(form.column, row)
      raise errors.ConfigError(f"{against} has no column {form.column!r}.{hint}")
    choices = tuple(row.get(form.choices_key, ())) if form.choices_key else ()
    found[predictions.as_id(form, row[form.column])] = choices
  return found


def read_json(path: pathlib.Path, repeated: list[str]) -> Any:
  """The file's content; duplicate keys of objects are appended to `repeated`.

  Raises:
    ConfigError: there is no such file, or it is too large.
    DataError: the file is not JSON.
  """

  def objects(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
      seen: set[str] = set()
      repeated.extend(key for key, _ in pairs if key in seen or seen.add(key))
    return found

  try:
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
      what = "has more than 2 GB" if path.is_file() else "is not a file"
      raise errors.ConfigError(f"{path} {what}.")
    return json.loads(path.read_bytes(), object_pairs_hook=objects, parse_constant=_refused)
  except (UnicodeDecodeError, ValueError, RecursionError) as e:
    raise errors.DataError(f"{path} is not JSON: {e}") from None
  except OSError as e:
    raise errors.ConfigError(f"Cannot read {path}: {e}") from None


def official(form: predictions.Format, questions: Any) -> dict[predictions.Id, tuple[str, ...]]:
  """{id: choices, () for any} of the official file of questions; DataError of another layout."""
  where = f"a list under {form.list_key!r}" if form.list_key else "a list"
  if not form.official_key:
    if not isinstance(questions, Mapping) or not questions:
      raise errors.DataError("The official file should be an object with ids as its keys.")
    return {predictions.as_id(form, key): () for key in questions}
  listed = questions.get(form.list_key) if isinstance(questions, Mapping) else questions
  if bool(form.list_key) != isinstance(questions, Mapping) or not isinstance(listed, list):
    raise errors.DataError(f"The official file should hold {where}.")
  found = {}
  for i, question in enumerate(listed):
    if not isinstance(question, Mapping) or form.official_key not in question:
      raise errors.DataError(f"The official file's entry {i} has no {form.official_key!r}.")
    choices = question.get(form.choices_key, ()) if form.choices_key else ()
    found[predictions.as_id(form, question[form.official_key])] = tuple(choices)
  return found


def problems_of(
  form: predictions.Format,
  submission: Any,
  wanted: Mapping[predictions.Id, Sequence[str]],
  repeated: Iterable[str] = (),
) -> Iterator[str]:
  """A sentence for each kind of problem of a file.

  Args:
    submission: the file's content.
    wanted: {id: choices} of `official`.
    repeated: keys that an object of the file has more than once, which parsing hides.
  """
  if form.id_key and not isinstance(submission, list):
    yield f"It holds {_named(submission)}; the server wants a list."
    return
  if not form.id_key and not isinstance(submission, Mapping):
    yield f"It holds {_named(submission)}; the server wants an object with ids as its keys."
    return
  found: dict[str, list[str]] = collections.defaultdict(list)
  found["keys that come twice in one object"] = [repr(key) for key in repeated]
  seen: collections.Counter[predictions.Id] = collections.Counter()
  entries: list[tuple[Any, Any]] = list(
    enumerate(submission) if form.id_key else submission.items()
  )
  keys = {form.answer_key} | ({form.id_key} if form.id_key else set())
  for place, entry in entries:
    if not isinstance(entry, Mapping) or set(entry) != keys:
      shown = sorted(map(str, entry)) if isinstance(entry, Mapping) else _named(entry)
      found[f"entries without exactly the keys {sorted(keys)}"].append(f"{place!r} has {shown}")
    if not isinstance(entry, Mapping):
      continue
    if form.answer_key in entry and not isinstance(entry[form.answer_key], str):
      answer = entry[form.answer_key]
      found[f"{form.answer_key} that are no texts"].append(f"{place!r} has {answer!r}")
    if form.id_key and form.id_key not in entry:
      continue
    id_: Any = entry[form.id_key] if form.id_key else place
    if type(id_) is not form.id_type:
      what = f"{form.id_key or 'id'} that are not of type {form.id_type.__name__}"
      found[what].append(f"{place!r} has {id_!r}")
      continue
    seen[id_] += 1
    choices = wanted.get(id_, ())
    if choices and entry.get(form.answer_key) not in choices:
      found["answers that are none of the question's choices"].append(
        f"{id_!r} has {entry.get(form.answer_key)!r}, not of {list(choices)}"
      )
  found["ids that come more than once"] = [repr(id_) for id_, num in seen.items() if num > 1]
  found["ids that are missing"] = [repr(id_) for id_ in wanted if id_ not in seen]
  found["ids that the server does not know"] = [repr(id_) for id_ in seen if id_ not in wanted]
  for what, examples in found.items():
    if examples:
      more = ", …" if len(examples) > _SHOWN else ""
      yield f"{len(examples)} {what}: {', '.join(examples[:_SHOWN])}{more}"


def _named(value: Any) -> str:
  kinds = {list: "a list", dict: "an object", str: "a text", type(None): "null"}
  return kinds.get(type(value), f"{value!r}")


def _refused(literal: str) -> Any:
  raise ValueError(f"{literal} is not a JSON value")


if __name__ == "__main__":
  errors.run_main(main)
