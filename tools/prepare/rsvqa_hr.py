"""RSVQA, high resolution: questions about aerial images of the US, 15 cm a pixel.

'rsvqa_hr/nonum' leaves out the questions answered by a count or an area, as PaliGemma's transfer
does. Each question, about sixty per image (a hundred in 'rsvqa_hr/all'), has its own copy of the
image, so that a dataset is that many times the download of 14 GB; build only the one you need:
python -m paligemma_jax.prepare rsvqa_hr/nonum --raw DIR
"""

from __future__ import annotations

import functools

from . import build
from . import raw as raw_lib
from . import rsvqa

# The second test set is of another city, Philadelphia, and another instrument.
_STEMS = {"train": "train", "val": "val", "test": "test", "test_2": "test_phili"}


def splits(raw: raw_lib.Raw, leave_out: tuple[str, ...]) -> dict[str, list[build.Record]]:
  """train, val, test and test_2: the authors' splits."""
  return {
    split: rsvqa.records(
      raw, f"USGS_split_{stem}", folder="Data", leave_out=leave_out, in_range=_in_range
    )
    for split, stem in _STEMS.items()
  }


def _in_range(question_type: str, answer: str) -> str:
  """Areas, '27m2', as ranges; counts, which are small here, as they are."""
  if question_type == "area":
    return rsvqa.range_of(int(answer.removesuffix("m2")), " m2")
  return answer


DATASETS = tuple(
  build.Dataset(
    name=f"rsvqa_hr/{name}",
    homepage="https://zenodo.org/records/6344367",
    files=(
      "USGS_split_{train,val,test,test_phili}_{questions,answers}.json",
      "Data/0.tif, …, unpacked from Images.tar (or .png)",
    ),
    features=rsvqa.features,
    splits=functools.partial(splits, leave_out=leave_out),
  )
  for name, leave_out in (("nonum", ("area", "count")), ("all", ()))
)
