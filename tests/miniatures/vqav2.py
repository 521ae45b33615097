"""VQAv2 in miniature; the questions of val are still in their zip file."""

import json
import zipfile

from tests.miniatures import images

_YEARS = {
  "train": "train2014",
  "validation": "val2014",
  "test": "test2015",
  "test-dev": "test-dev2015",
}
_ROWS = {
    "train": [(458752, 458752000, "What is this photo taken looking through?", "other", "net"),
              (458752, 458752001, "What position is this man playing?", "other", "pitcher"),
              (262146, 262146000, "How many people?", "number", "2")],
    "validation": [(262148, 262148000, "Where is he looking?", "other", "down"),
                   (393225, 393225001, "Is this a creamy soup?", "yes/no", "yes")],
    "test": [(262144, 262144000, "Is the ball flying towards the batter?", "", ""),
             (262144, 262144001, "What sport is this?", "", "")],
    "test-dev": [(262144, 262144000, "Is the ball flying towards the batter?", "", "")],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    year = _YEARS[split]
    questions = {
      "info": {},
      "task_type": "Open-Ended",
      "data_type": "mscoco",
      "license": {},
      "data_subtype": year,
      "questions": [{"image_id": i, "question": q, "question_id": n} for i, n, q, _, _ in rows],
    }
    name = f"v2_OpenEnded_mscoco_{year}_questions.json"
    if split == "validation":
      with zipfile.ZipFile(folder / "v2_Questions_Val_mscoco.zip", "w") as archive:
        archive.writestr(name, json.dumps(questions))
    else:
      images.write(folder / name, questions)
    if not split.startswith("test"):
      annotations = [
          {"question_type": "what is", "multiple_choice_answer": answer, "image_id": i,
           "question_id": n, "answer_type": kind,
           "answers": [
               {"answer": text, "answer_confidence": "yes", "answer_id": k}
               for k, text in enumerate(_answers(answer), 1)
           ]}
          for i, n, _, kind, answer in rows
      ]  # fmt: skip
      images.write(
        folder / f"v2_mscoco_{year}_annotations.json", {"info": {}, "annotations": annotations}
      )
    place = year.replace("test-dev", "test")
    for i in {row[0] for row in rows}:
      images.write(folder / place / f"COCO_{place}_{i:012d}.jpg", images.jpeg(i))


def _answers(answer):
  return [answer] * 7 + ["something"] * 3 if answer else []


EXPECTED = {
    "vqav2": {
        split: [
            {"image_id": i, "question_id": n, "question": q, "answer_type": kind,
             "question_type": "what is" if answer else "", "answers": _answers(answer)}
            for i, n, q, kind, answer in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
