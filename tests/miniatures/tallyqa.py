"""TallyQA in miniature; one of Visual Genome's zip files was unpacked, the other not."""

import zipfile

from tests.miniatures import images

_ROWS = {
    "train": [("train2014/COCO_train2014_000000262146.jpg", 1, 11, "How many people?", 2, None),
              ("val2014/COCO_val2014_000000262148.jpg", 2, 21, "How many boards?", 1, None),
              ("VG_100K/2322241.jpg", 3, 31, "How many zebras are there?", 0, None)],
    "test": [("VG_100K_2/2410408.jpg", 92410408, 41, "How many headlights are on?", 4, False),
             ("VG_100K_2/2410408.jpg", 92410408, 42, "How many buses?", 15, True)],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    content = []
    for image, image_id, number, question, answer, simple in rows:
      row = {"image": image, "image_id": image_id, "answer": answer, "question_id": number,
             "question": question, "data_source": "imported_genome"}  # fmt: skip
      content.append(row if simple is None else {**row, "issimple": simple})
    images.write(folder / f"{split}.json", content)
    for image, image_id, *_ in rows:
      if not image.startswith("VG_"):
        images.write(folder / image, images.jpeg(image_id))
  images.write(folder / "images" / "VG_100K" / "2322241.jpg", images.jpeg(3))
  with zipfile.ZipFile(folder / "images2.zip", "w") as archive:
    archive.writestr("VG_100K_2/2410408.jpg", images.jpeg(92410408))


EXPECTED = {
    "tallyqa": {
        split: [
            {"image_id": image_id, "question_id": number, "question": question, "answer": answer,
             "issimple": -1 if simple is None else int(simple), "data_source": "imported_genome"}
            for _, image_id, number, question, answer, simple in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
