"""ActivityNet-QA in miniature."""

from tests.miniatures import clips
from tests.miniatures import images

_ROWS = {
    "train": [("okC18bPTils", 2, "is the person indoors", "no", 3),
              ("okC18bPTils", 6, "what is the sex of the person", "male", 8)],
    "val": [("1QIUV7WYKXg", 3, "is the athlete wearing trousers", "yes", 3),
            ("1QIUV7WYKXg", 4, "what is the color of the hat", "red", 4)],
    "test": [("Mzt-E6pxuUI", 5, "how many people are there", "2", 7),
             ("Mzt-E6pxuUI", 7, "where is the man", "beach", 6)],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    images.write(
      folder / f"{split}_q.json",
      [{"video_name": v, "question": q, "question_id": f"v_{v}_{k}"} for v, k, q, _, _ in rows],
    )
    images.write(
      folder / f"{split}_a.json",
      [{"answer": a, "type": t, "question_id": f"v_{v}_{k}"} for v, k, _, a, t in rows],
    )
    for v in {row[0] for row in rows}:
      images.write(folder / "videos" / f"v_{v}.mp4", clips.mp4())


EXPECTED = {
  "activitynet_qa": {
    split: [
      {"question_id": f"v_{v}_{k}", "video_id": f"v_{v}", "question": q, "answer": a, "type": t}
      for v, k, q, a, t in rows
    ]
    for split, rows in _ROWS.items()
  }
}
