"""VATEX in miniature."""

from tests.miniatures import clips
from tests.miniatures import images

_FILES = {
  "train": ("vatex_training_v1.0.json", ("Ptf_2VRj-V0_000122_000132", "abc-_1_000001_000011")),
  "val": ("vatex_validation_v1.0.json", ("G9zN5TTuGO4_000179_000189",)),
  "test": ("vatex_public_test_english_v1.1.json", ("1XbNeD4Ld90_000000_000010",)),
}


def make(folder):
  for split, (name, videos) in _FILES.items():
    rows = [{"videoID": v, "enCap": _captions(v)} for v in videos]
    if split != "test":
      rows = [{**row, "chCap": ["一个人"]} for row in rows]
    images.write(folder / name, rows)
    for v in videos:
      images.write(folder / "videos" / f"{v}.mp4", clips.mp4())


def _captions(video):
  return [f"Some people at {video[:3]}, take {k}." for k in range(10)]


EXPECTED = {
  "vatex_cap": {
    split: [{"video_id": v, "captions": _captions(v)} for v in videos]
    for split, (_, videos) in _FILES.items()
  }
}
