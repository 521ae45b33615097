"""RSVQA, high resolution, in miniature; one of the images is a PNG, as some copies have them."""

from tests.miniatures import images
from tests.miniatures import rsvqa_lr

_ROWS = [
  ("presence", "Is there a small road in the image?", "yes", "yes"),
  ("comp", "Are there more roads than buildings?", "no", "no"),
  ("count", "What is the amount of buildings?", "27", "27"),
  ("area", "What is the area covered by roads?", "0m2", "0 m2"),
  ("area", "What is the area covered by buildings?", "10m2", "between 1 m2 and 10 m2"),
  ("area", "What is the area covered by buildings?", "2571m2", "more than 1000 m2"),
]
_STEMS = {"train": "train", "val": "val", "test": "test", "test_2": "test_phili"}


def make(folder):
  for k, stem in enumerate(_STEMS.values()):
    rsvqa_lr.write(folder, f"USGS_split_{stem}", k, _ROWS)
    if k:
      images.write(folder / "Data" / f"{k}.tif", images.tiff(k))
    else:
      images.write(folder / "Data" / f"{k}.png", images.png(k))


EXPECTED = {
  f"rsvqa_hr/{name}": {
    split: rsvqa_lr.expected(k, _ROWS, leave_out) for k, split in enumerate(_STEMS)
  }
  for name, leave_out in (("nonum", ("area", "count")), ("all", ()))
}
