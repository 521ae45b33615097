"""SciCap in miniature, with a figure that is in none of the experiment's lists."""

from tests.miniatures import images

_FIGURES = {
    "train": ("1001.0025v1-Figure2-1.png", "1002.0773v2-Figure1-1.png",
              "0901.2911v1-Figure4-1.png"),
    "val": ("1105.0442v1-Figure3-1.png", "1203.1855v1-Figure5-1.png"),
    "test": ("1309.7435v3-Figure1-1.png", "1604.02506v1-Figure7-1.png"),
}  # fmt: skip


def make(folder):
  root = folder / "scicap_data"
  for split, names in _FIGURES.items():
    experiment = "List-of-Files-for-Each-Experiments/First-Sentence/No-Subfig"
    images.write(root / experiment / split / "file_idx.json", list(names))
    for i, name in enumerate((*names, f"9999.{split}-Figure1-1.png")):
      image_id = name.removesuffix(".png")
      images.write(root / "SciCap-No-Subfig-Img" / split / name, images.png(i))
      images.write(root / "SciCap-Caption-All" / split / f"{image_id}.json", _figure(image_id))


def _figure(image_id):
  sentence = f"the loss of {image_id} falls ."
  level = {"caption": sentence, "sentence": [sentence], "token": sentence.split()}
  return {
    "contains-subfigure": False,
    "Img-text": ["loss", "0.5"],
    "paper-ID": _paper(image_id),
    "figure-ID": f"{image_id}.png",
    "figure-type": "Graph Plot",
    "0-originally-extracted": f"Figure 2: The loss of {image_id} falls.",
    "1-lowercase-and-token-and-remove-figure-index": level,
    "2-normalized": {"2-1-basic-num": level, "2-2-advanced-euqation-bracket": level},
  }


def _paper(image_id):
  return image_id.partition("-")[0]


EXPECTED = {
  "scicap": {
    split: [
      {
        "image_id": image_id,
        "paper_id": _paper(image_id),
        "caption": f"the loss of {image_id} falls .",
        "caption_original": f"Figure 2: The loss of {image_id} falls.",
      }
      for image_id in (name.removesuffix(".png") for name in names)
    ]
    for split, names in _FIGURES.items()
  }
}
