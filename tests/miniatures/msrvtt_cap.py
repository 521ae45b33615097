"""MSR-VTT captions in miniature; one of the videos has gone, as some have everywhere."""

from tests.miniatures import clips
from tests.miniatures import images

_VIDEOS = {"train": ("video0", "video1"), "validate": ("video2",), "test": ("video7010", "video9")}
_GONE = "video9"


def make(folder):
  for split, names in _VIDEOS.items():
    for name in set(names) - {_GONE}:
      place = "TestVideo" if split == "test" else "TrainValVideo"
      images.write(folder / place / f"{name}.mp4", clips.mp4())
  train_val = [(n, s) for s, names in _VIDEOS.items() for n in names if s != "test"]
  images.write(folder / "train_val_videodatainfo.json", _info(train_val))
  images.write(folder / "test_videodatainfo.json", _info([(n, "test") for n in _VIDEOS["test"]]))


def _info(videos):
  return {
    "info": {"year": "2016"},
    "videos": [
      {
        "video_id": name,
        "id": i,
        "split": split,
        "category": 9,
        "url": "https://…",
        "start time": 137.7,
        "end time": 149.4,
      }
      for i, (name, split) in enumerate(videos)
    ],
    "sentences": [
      {"sen_id": k, "video_id": name, "caption": f"a car is shown {k}"}
      for k in range(2)
      for name, _ in videos
    ],
  }


def _rows(split):
  return [
    {"video_id": name, "captions": ["a car is shown 0", "a car is shown 1"]}
    for name in _VIDEOS[split]
    if name != _GONE
  ]


EXPECTED = {
  "msrvtt_cap": {"train": _rows("train"), "val": _rows("validate"), "test": _rows("test")}
}
