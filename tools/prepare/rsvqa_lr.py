"""RSVQA, low resolution: questions about satellite images of the Netherlands, 10 m a pixel.

'rsvqa_lr/nonum' leaves out the questions answered by a count, as PaliGemma's transfer does.
"""

from __future__ import annotations

import functools

from . import build
from . import raw as raw_lib
from . import rsvqa


def splits(raw: raw_lib.Raw, leave_out: tuple[str, ...]) -> dict[str, list[build.Record]]:
  """train, val and test: the authors' splits."""
  return {
    split: rsvqa.records(
      raw, f"LR_split_{split}", folder="Images_LR", leave_out=leave_out, in_range=_in_range
    )
    for split in ("train", "val", "test")
  }


def _in_range(question_type: str, answer: str) -> str:
  return rsvqa.range_of(int(answer)) if question_type == "count" else answer


DATASETS = tuple(
  build.Dataset(
    name=f"rsvqa_lr/{name}",
    homepage="https://zenodo.org/records/6344334",
    files=(
      "LR_split_{train,val,test}_{questions,answers}.json",
      "Images_LR.zip",
    ),
    features=rsvqa.features,
    splits=functools.partial(splits, leave_out=leave_out),
  )
  for name, leave_out in (("nonum", ("count",)), ("all", ()))
)
