"""InfographicVQA in miniature."""

from tests.miniatures import images

_ROWS = {
    "train": [(65718, "20471.jpeg", ["pink, Blue"]), (65719, "20471.jpeg", ["4"]),
              (65720, "30006.jpeg", ["ten"])],
    "val": [(98313, "37313.jpeg", ["LinkedIn, X, Y"]), (98314, "37313.jpeg", ["Rome, Italy"])],
    "test": [(81920, "11895.jpeg", None), (81921, "11896.jpeg", None)],
}  # fmt: skip
_TYPES = {98313: "multi-span", 98314: "single span"}


def make(folder):
  for split, rows in _ROWS.items():
    data = []
    for question_id, image, answers in rows:
      row = {
        "questionId": question_id,
        "question": f"Which is it in {question_id}?",
        "image_local_name": image,
        "image_url": f"https://example.org/{image}",
        "ocr_output_file": image.replace("jpeg", "json"),
        "data_split": split,
      }
      if answers:
        row["answers"] = answers
      if split == "val":
        row |= {"answer_type": [_TYPES[question_id]], "evidence": ["text"]}
        row["operation/reasoning"] = []
      data.append(row)
      images.write(folder / f"infographicsvqa_images/{image}", images.jpeg(question_id))
    name = f"infographicsVQA_{split}_v1.0{'_withQT' if split == 'val' else ''}.json"
    images.write(
      folder / name,
      {
        "dataset_name": "infographicVQA",
        "dataset_version": "1.0",
        "dataset_split": split,
        "data": data,
      },
    )


def _expected(question_id, answers):
  # The reference's rule: all permutations of what ', ' parts, in val, whatever the type says.
  if question_id == 98314:
    return ["Rome, Italy", "Italy, Rome"]
  if question_id == 98313:
    return ["LinkedIn, X, Y", "LinkedIn, Y, X", "X, LinkedIn, Y", "X, Y, LinkedIn",
            "Y, LinkedIn, X", "Y, X, LinkedIn"]  # fmt: skip
  return answers or []


EXPECTED = {
    "infovqa": {
        split: [
            {"question_id": question_id, "image_id": image,
             "question": f"Which is it in {question_id}?",
             "answers": _expected(question_id, answers)}
            for question_id, image, answers in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
