"""OK-VQA in miniature."""

from tests.miniatures import images

_ROWS = {
  "train": [(1, 11, "what is on the bed?"), (1, 12, "who made it?"), (2, 21, "which breed?")],
  "val": [(3, 31, "what sport is this?"), (4, 41, "what is it for?")],
}


def make(folder):
  for split, rows in _ROWS.items():
    questions = [{"image_id": i, "question": q, "question_id": n} for i, n, q in rows]
    images.write(
      folder / f"OpenEnded_mscoco_{split}2014_questions.json",
      {
        "info": {},
        "task_type": "Open-Ended",
        "license": {},
        "data_type": "mscoco",
        "data_subtype": f"{split}2014",
        "questions": questions,
      },
    )
    annotations = [
      {
        "image_id": i,
        "question_id": n,
        "answer_type": "other",
        "question_type": "eight",
        "confidence": 3,
        "answers": [
          {
            "answer_id": k + 1,
            "raw_answer": f"answers {k % 2}",
            "answer": f"answer {k % 2}",
            "answer_confidence": "yes",
          }
          for k in range(10)
        ],
      }
      for i, n, _ in rows
    ]
    images.write(
      folder / f"mscoco_{split}2014_annotations.json",
      {"info": {}, "annotations": annotations, "question_types": {"eight": "Plants"}},
    )
    for i in {i for i, _, _ in rows}:
      images.write(folder / f"{split}2014/COCO_{split}2014_{i:012d}.jpg", images.jpeg(i))


EXPECTED = {
  "okvqa": {
    split: [
      {
        "question_id": n,
        "image_id": i,
        "question": q,
        "answer_type": "other",
        # The official tool scores `answer`, the stems.
        "answers": [f"answer {k % 2}" for k in range(10)],
        "raw_answers": [f"answers {k % 2}" for k in range(10)],
      }
      for i, n, q in rows
    ]
    for split, rows in _ROWS.items()
  }
}
