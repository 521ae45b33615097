"""MSRVTT-QA in miniature."""

from tests.miniatures import clips
from tests.miniatures import images

_ROWS = {
  "train": [(0, 5, "what is being shown?", "car"), (1, 5, "who drives?", "man")],
  "val": [(2, 6513, "what is a man doing?", "talk"), (3, 6513, "what is red?", "car")],
  "test": [(4, 7010, "what do people play?", "game"), (5, 7011, "who sings?", "woman")],
}


def make(folder):
  for split, rows in _ROWS.items():
    images.write(
      folder / f"{split}_qa.json",
      [
        {"answer": a, "category_id": 9, "id": i, "question": q, "video_id": v}
        for i, v, q, a in rows
      ],
    )
    for v in {v for _, v, _, _ in rows}:
      images.write(folder / "videos" / f"video{v}.mp4", clips.mp4())


EXPECTED = {
  "msrvtt_qa": {
    split: [
      {"question_id": i, "video_id": f"video{v}", "question": q, "answer": a} for i, v, q, a in rows
    ]
    for split, rows in _ROWS.items()
  }
}
