"""CountBenchQA in miniature: of five images one has gone, and one is grey."""

import io

import pyarrow
import pyarrow.parquet

from tests.miniatures import images

_ROWS = [("headsets", 10), ("light bulbs", 3), ("prints", 4), ("arrows", 6), ("spoons", 5)]
_GONE, _GREY = 1, 3


def make(folder):
  rows = []
  for i, (things, number) in enumerate(_ROWS):
    data = images.grey_png(i) if i == _GREY else images.jpeg(i)
    rows.append({
        "image": None if i == _GONE else {"bytes": data, "path": None},
        "text": f"{number} {things}", "number": number, "image_url": "https://example.org/x.jpg",
    })  # fmt: skip
  file = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
  images.write(folder / "train-00000-of-00001-cf54c241ba947306.parquet", file.getvalue())
  images.write(
    folder / "countbench_paired_questions.json",
    [{"question": _question(things)} for things, _ in _ROWS],
  )


def _question(things):
  return f"How many {things} are there in the image?"


EXPECTED = {
    "countbenchqa": {
        "huggingface": [
            {"image_id": i, "question": _question(things), "number": number,
             "text": f"{number} {things}"}
            for i, (things, number) in enumerate(_ROWS) if i not in (_GONE, _GREY)
        ]
    }
}  # fmt: skip
