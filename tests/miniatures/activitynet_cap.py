"""ActivityNet Captions in miniature: parts of two videos of six tenths of a second."""

from tests.miniatures import clips
from tests.miniatures import images

_FILES = {"train": "train.json", "val": "val_1.json", "test": "val_2.json"}
_PARTS = {
  "train": {"v_QOlSCBRmfWY": [(0, 0.3, "A woman sits."), (0.3, 0.6, " The girl dances.")]},
  "val": {"v_uqiMw7tQ1Cc": [(0, 0.6, "A weight lifting tutorial."), (0.5, 9.0, "He stops.")]},
  "test": {"v_uqiMw7tQ1Cc": [(0.1, 0.2, "A man lifts."), (0.35, 0.38, "A man waits.")]},
}


def make(folder):
  for split, videos in _PARTS.items():
    images.write(folder / _FILES[split], {
        name: {"duration": 0.6, "timestamps": [[s, e] for s, e, _ in parts],
               "sentences": [text for _, _, text in parts]}
        for name, parts in videos.items()
    })  # fmt: skip
    for name in videos:
      images.write(folder / "videos" / f"{name}.mp4", clips.mp4())


EXPECTED = {
  "activitynet_cap": {
    split: [
      {"clip_id": f"{name}[{start:g}-{end:g}]", "captions": [text.strip()]}
      for name, parts in videos.items()
      for start, end, text in parts
    ]
    for split, videos in _PARTS.items()
  }
}
