"""ChartQA in miniature."""

from tests.miniatures import images

_ROWS = {
  "human": [("two_col_1.png", "How many bars?", "3"), ("166.png", "Is red above 5%?", "Yes")],
  "augmented": [("two_col_1.png", "What was the share in 2019?", "12.5")],
}
_SPLITS = ("train", "val", "test")


def make(folder):
  for split in _SPLITS:
    above = folder / "ChartQA Dataset" / split
    for name, rows in _ROWS.items():
      images.write(
        above / f"{split}_{name}.json",
        [{"imgname": image, "query": q, "label": a} for image, q, a in rows],
      )
      for image, _, _ in rows:
        images.write(above / "png" / image, images.png(len(image)))


EXPECTED = {
  f"chartqa/{name}": {
    split: [
      {"image_id": image, "question_id": k, "question": q, "answer": a}
      for k, (image, q, a) in enumerate(rows)
    ]
    for split in _SPLITS
  }
  for name, rows in _ROWS.items()
}
