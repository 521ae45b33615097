"""TextCaps in miniature; the pictures of test are still in their zip file."""

import zipfile

from tests.miniatures import images

_ROWS = {
    "train": [("fc0c7af2c1c4fd3d", ["A Stop sign on Main St.", "The sign says STOP."]),
              ("c75a4b5d0b8a6d1c", ["a book titled Dune", "Frank Herbert wrote it."])],
    "val": [("b2ae0f96dfbea5d8", ["A phone by Nokia.", "It is 12:34."]),
            ("8ba9ad0c9d9d9bd6", ["A bus to Linz", "bus 17"])],
    "test": [("0054c91397f2fe05", []), ("005635e119b9f32f", [])],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    data = []
    for image_id, captions in rows:
      entry = {"image_id": image_id, "image_classes": ["Sign"], "image_width": 48,
               "image_height": 36, "set_name": split, "image_name": image_id,
               "image_path": f"{split}/{image_id}.jpg", "flickr_original_url": "",
               "flickr_300k_url": ""}  # fmt: skip
      data += [
          {**entry, "caption_id": k, "caption_str": text, "caption_tokens": text.split(),
           "reference_strs": captions, "reference_tokens": [c.split() for c in captions]}
          for k, text in enumerate(captions)
      ] or [entry]  # fmt: skip
      if split != "test":
        images.write(folder / "train_images" / f"{image_id}.jpg", images.jpeg(len(image_id)))
    images.write(
      folder / f"TextCaps_0.1_{split}.json",
      {"dataset_type": split, "dataset_name": "textcaps", "dataset_version": "0.1", "data": data},
    )
  with zipfile.ZipFile(folder / "test_images.zip", "w") as archive:
    for i, (image_id, _) in enumerate(_ROWS["test"]):
      archive.writestr(f"test_images/{image_id}.jpg", images.jpeg(i))


EXPECTED = {
  "textcaps": {
    split: [{"image_id": i, "captions": captions} for i, captions in rows]
    for split, rows in _ROWS.items()
  }
}
