"""Screen2Words in miniature."""

from tests.miniatures import images

_SCREENS = {"train": (54137, 312, 65), "dev": (7, 20415), "test": (44, 71012)}


def make(folder):
  lines = ["screenId,summary"]
  for split, ids in _SCREENS.items():
    images.write(folder / f"split/{split}_screens.txt", "".join(f"{i}\n" for i in ids).encode())
    for i in ids:
      images.write(folder / f"combined/{i}.jpg", images.jpeg(i, (27, 48)))
      lines += [f'{i},"{text}"' for text in _captions(i)]
  images.write(folder / "screen_summaries.csv", ("\n".join(lines) + "\n").encode())


def _captions(i):
  return [f"page {i} of an app, part {k}" for k in range(5)]


EXPECTED = {
  "screen2words": {
    split: [{"image_id": i, "captions": _captions(i)} for i in ids]
    for split, ids in _SCREENS.items()
  }
}
