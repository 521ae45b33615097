"""COCO 2017 as its zip files unpack: two files of instances and the pictures."""

from tests.miniatures import images

_CATEGORIES = [
  {"id": 18, "name": "dog", "supercategory": "animal"},
  {"id": 10, "name": "traffic light", "supercategory": "outdoor"},
]
# {split: {image: (width, height, [(category, bbox, area, crowd), …])}}
_IMAGES = {
  "train": {
    9: (48, 36, [(18, [12, 9, 24, 18], 300.5, 0), (10, [0, 0, 48, 36], 900.0, 1)]),
    25: (40, 60, [(10, [10, 30, 20, 30.5], 410.25, 0)]),
    30: (48, 36, []),
  },
  "val": {
    139: (48, 36, [(18, [6, 9, 12, 9], 80.0, 0)]),
    285: (48, 36, [(18, [0, 0, 24, 36], 500.0, 0), (18, [24, 0, 24, 36], 700.0, 0)]),
  },
}


def make(raw):
  """Writes the download below `raw`."""
  for split, pictures in _IMAGES.items():
    content = {"info": {}, "licenses": [], "categories": _CATEGORIES, "images": [],
               "annotations": []}  # fmt: skip
    for number, (width, height, objects) in pictures.items():
      name = f"{number:012d}.jpg"
      images.write(raw / f"{split}2017" / name, images.jpeg(number, (width, height)))
      content["images"].append(
        {"id": number, "file_name": name, "width": width, "height": height, "license": 1}
      )
      for category, box, area, crowd in objects:
        outline = {"size": [height, width], "counts": [height * width]} if crowd else [[0.0] * 6]
        content["annotations"].append(
            {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category,
             "bbox": box, "area": area, "iscrowd": crowd, "segmentation": outline}
        )  # fmt: skip
    images.write(raw / "annotations" / f"instances_{split}2017.json", content)


def _row(split, number):
  names = {c["id"]: c["name"] for c in _CATEGORIES}
  width, height, objects = _IMAGES[split][number]
  boxes = [
    [round(min(v, 1.0), 5) for v in (y / height, x / width, (y + h) / height, (x + w) / width)]
    for _, (x, y, w, h), _, _ in objects
  ]
  row = {
      "image_id": number, "height": height, "width": width,
      "labels": [names[category] for category, *_ in objects],
      "areas": [area for *_, area, _ in objects], "crowd": [crowd for *_, crowd in objects],
  }  # fmt: skip
  return {**row, "boxes": boxes} if boxes else row


EXPECTED = {
  "coco_detection": {
    split: [_row(split, number) for number in pictures] for split, pictures in _IMAGES.items()
  }
}
