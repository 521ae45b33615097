"""ST-VQA in miniature: val is what the rule of the builder makes of these names."""

from tests.miniatures import images

_TRAIN = [
    ("coco-text/COCO_train2014_000000000008.jpg", 1),
    ("visual-genome/2317985.jpg", 2), ("visual-genome/2317985.jpg", 3),
    ("iiit-text/img_000007.jpg", 4),
]  # fmt: skip
_VAL = [("vizwiz/VizWiz_train_000000000009.jpg", 5), ("icdar/img_10.jpg", 6)]
_TEST = [("coco-text/COCO_train2014_000000086956.jpg", 7), ("svt/17_14.jpg", 8)]
_ANSWERS = {1: ["BUS"], 2: ["stop", "Stop"]}


def make(folder):
  for part, rows in (("train", _TRAIN + _VAL), ("test", _TEST)):
    data = []
    for path, question_id in rows:
      row = {
        "dataset": path.split("/")[0],
        "file_name": path.split("/")[1],
        "img_height": 36,
        "img_width": 48,
        "file_path": path,
        "question": f"What does sign {question_id} say?",
        "question_id": question_id,
        "set_name": part,
      }
      if part == "train":
        row |= {"answers": _ANSWERS.get(question_id, ["25"]), "question_tokens": ["What"]}
      data.append(row)
      place = "train_images" if part == "train" else "test_task3_images"
      images.write(folder / place / path, images.jpeg(question_id))
    images.write(
      folder / f"{part}_task_3.json",
      {"dataset_name": "st-vqa", "dataset_version": 1.0, "task": "task_3", "data": data},
    )
  images.write(folder / "train2014/COCO_train2014_000000000008.jpg", images.jpeg(1, (96, 72)))


EXPECTED = {
    "stvqa": {
        split: [
            {"question_id": question_id, "image_id": path,
             "question": f"What does sign {question_id} say?",
             "answers": [] if split == "test" else _ANSWERS.get(question_id, ["25"])}
            for path, question_id in rows
        ]
        for split, rows in (("train", _TRAIN), ("val", _VAL), ("test", _TEST))
    }
}  # fmt: skip
