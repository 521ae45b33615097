"""DocVQA in miniature: images of train and val as they come now, those of test as before."""

from tests.miniatures import images

_ROWS = {
  # As many as it takes for a part of 5 % to have a row.
  "train": [(337 + i, "xnbl0037_1" if i < 10 else "mxcj0037_1") for i in range(20)],
  "val": [(49153, "pybv0228_81"), (24580, "rzbj0037_1")],
  "test": [(57344, "jnjm0223_7"), (57345, "jfrm0223_2")],
}
_ANSWERS = {337: ["1/8/93"], 338: ["P. Carter", "p. carter"]}


def _answers(question_id):
  return _ANSWERS.get(question_id, ["0.28"])


def make(folder):
  for split, rows in _ROWS.items():
    data = []
    for question_id, page in rows:
      row = {
        "questionId": question_id,
        "question": f"What is the date of {question_id}?",
        "question_types": ["handwritten", "form"],
        "image": f"documents/{page}.png",
        "docId": 279,
        "ucsf_document_id": page[:8],
        "ucsf_document_page_no": page[9:],
        "data_split": split,
      }
      if split == "test":
        del row["question_types"]
        place = folder / f"test/documents/{page}.png"
      else:
        row["answers"] = _answers(question_id)
        place = folder / f"spdocvqa_images/{page}.png"
      data.append(row)
      images.write(place, images.png(question_id))
    name = "test_v1.0.json" if split == "test" else f"{split}_v1.0_withQT.json"
    images.write(
      folder / name,
      {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": split, "data": data},
    )


EXPECTED = {
    "docvqa": {
        split: [
            {"question_id": question_id, "image_id": f"documents/{page}.png",
             "question": f"What is the date of {question_id}?",
             "answers": [] if split == "test" else _answers(question_id)}
            for question_id, page in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
