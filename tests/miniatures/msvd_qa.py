"""MSVD-QA in miniature."""

from tests.miniatures import clips
from tests.miniatures import images

_NAMES = {1: "-4wsuPCjDBc_5_15", 2: "-7KMZQEsJW4_205_208", 3: "8y1Q0rA3n8o_108_115"}
_ROWS = {
  "train": [(0, 1, "who is eating a nut?", "squirrel"), (1, 1, "what is eaten?", "peanut")],
  "val": [(2, 2, "who is dancing?", "man"), (3, 2, "what does a man do?", "dance")],
  "test": [(4, 3, "what is being cut?", "onion"), (5, 3, "who cuts?", "woman")],
}


def make(folder):
  for split, rows in _ROWS.items():
    images.write(
      folder / f"{split}_qa.json",
      [{"answer": a, "id": i, "question": q, "video_id": v} for i, v, q, a in rows],
    )
  mapping = "".join(f"{name} vid{number}\n" for number, name in _NAMES.items())
  images.write(folder / "youtube_mapping.txt", mapping.encode())
  for name in _NAMES.values():
    images.write(folder / "YouTubeClips" / f"{name}.avi", clips.mp4())


EXPECTED = {
  "msvd_qa": {
    split: [
      {"question_id": i, "video_id": _NAMES[v], "question": q, "answer": a} for i, v, q, a in rows
    ]
    for split, rows in _ROWS.items()
  }
}
