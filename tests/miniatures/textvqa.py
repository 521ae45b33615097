"""TextVQA in miniature."""

from tests.miniatures import images

_ANSWERS = ["nokia"] * 6 + ["nokia phone"] * 4
_ROWS = {
  "train": [("0054c91397f2fe05", 0), ("005635e119b9f32f", 1), ("005635e119b9f32f", 2)],
  "val": [("003a8ae2ef43b901", 34602), ("d7b4ad5e2fb2d8f5", 34603)],
  "test": [("a16e1dcf1fff5f5d", 39602), ("9cbf9ba7d1cdb3c1", 39603)],
}
ROTATION = {"005635e119b9f32f": "90.0", "003a8ae2ef43b901": "", "a16e1dcf1fff5f5d": "270.0"}
_FIELDS = (
  "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
  "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)


def make(folder):
  for split, rows in _ROWS.items():
    data = []
    place = "test_images" if split == "test" else "train_val_images/train_images"
    for image_id, question_id in rows:
      row = {
        "question": f"what brand is number {question_id}?",
        "image_id": image_id,
        "image_classes": ["Belt"],
        "image_width": 48,
        "image_height": 36,
        "flickr_original_url": f"https://c5.staticflickr.com/6/{image_id}_o.jpg",
        "flickr_300k_url": f"https://c5.staticflickr.com/6/{image_id}_z.jpg",
        "question_tokens": ["what", "brand"],
        "question_id": question_id,
        "set_name": split,
      }
      if split != "test":
        row["answers"] = _ANSWERS
      data.append(row)
      images.write(folder / f"{place}/{image_id}.jpg", images.jpeg(int(image_id[:4], 16)))
    images.write(
      folder / f"TextVQA_0.5.1_{split}.json",
      {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": data},
    )
  _write_rotations(folder / "train-images-boxable-with-rotation.csv", ("train", "val"))
  _write_rotations(folder / "test-images-with-rotation.csv", ("test",))


def _write_rotations(path, splits):
  used = {image_id for split in splits for image_id, _ in _ROWS[split]}
  lines = [_FIELDS]
  for image_id in sorted(used | {"ffffffffffffffff"}):  # The list has many more pictures.
    rotation = ROTATION.get(image_id, "0.0")
    lines.append(f'{image_id},train,http://o,http://l,http://c,http://a,J,"A, b",9,md5,,{rotation}')
  images.write(path, ("\n".join(lines) + "\n").encode())


EXPECTED = {
    "textvqa": {
        split: [
            {"image_id": image_id, "question_id": question_id,
             "question": f"what brand is number {question_id}?",
             "answers": [] if split == "test" else _ANSWERS}
            for image_id, question_id in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
