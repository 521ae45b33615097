"""NoCaps in miniature."""

from tests.miniatures import images

_ROWS = {
    "val": [(0, "0013ea2087020901", "near-domain", ["A baby is standing in front of a house.",
                                                    "A little girl in a white jacket."]),
            (1, "001464256dd8bfb5", "out-domain", ["A lobster on a plate.", "Red seafood."])],
    "test": [(4500, "000c4d66ce89aa69", "", []), (4501, "0042ca9fbe9d6ed4", "", [])],
}  # fmt: skip
_FILES = {
  "val": ("nocaps_val_4500_captions.json", "validation"),
  "test": ("nocaps_test_image_info.json", "test"),
}


def make(folder):
  for split, rows in _ROWS.items():
    name, place = _FILES[split]
    info = {"info": {}, "licenses": [], "images": []}
    annotations = []
    for i, key, domain, captions in rows:
      image = {"id": i, "open_images_id": key, "file_name": f"{key}.jpg", "width": 48, "height": 36,
               "coco_url": f"https://example.org/{place}/{key}.jpg", "date_captured": "2018-11-06",
               "license": 0}  # fmt: skip
      info["images"].append({**image, "domain": domain} if domain else image)
      for text in captions:
        annotations.append({"image_id": i, "id": len(annotations), "caption": text})
      images.write(folder / place / f"{key}.jpg", images.jpeg(i))
    images.write(folder / name, {**info, "annotations": annotations} if annotations else info)


EXPECTED = {
  "nocaps": {
    split: [
      {"image_id": i, "open_images_id": key, "domain": domain, "captions": captions}
      for i, key, domain, captions in rows
    ]
    for split, rows in _ROWS.items()
  }
}
