"""GQA in miniature."""

from tests.miniatures import images

_ROWS = {
    "train": [("2354786", "02930152", "Is the sky dark?", "yes", "Yes, the sky is dark."),
              ("2354786", "07333408", "What is on the wall?", "mirror", "The mirror is on it."),
              ("2375429", "07333409", "Is it red or blue?", "red", "It is red.")],
    "val": [("2405722", "05451384", "What color is the cat?", "black", "The cat is black."),
            ("2405722", "05451385", "Is the cat black?", "yes", "Yes, the cat is black.")],
    "testdev": [("n161313", "201307251", "Is it overcast?", "no", "No, it is sunny."),
                ("n235859", "201640614", "Who is wearing the dress?", "woman", "The woman is.")],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    content = {
      question_id: {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (1)"}],
        "entailed": [],
        "equivalent": [question_id],
        "question": question,
        "imageId": image_id,
        "isBalanced": True,
        "groups": {"global": None, "local": "06"},
        "answer": answer,
        "semanticStr": "select: sky (1)->verify color: dark [0]",
        "annotations": {"answer": {"0": "1"}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
        "fullAnswer": full,
      }
      for image_id, question_id, question, answer, full in rows
    }
    images.write(folder / f"{split}_balanced_questions.json", content)
    for i, (image_id, *_) in enumerate(rows):
      images.write(folder / f"images/{image_id}.jpg", images.jpeg(i))


EXPECTED = {
    "gqa": {
        f"{split}_balanced": [
            {"image_id": image_id, "question_id": question_id, "question": question,
             "answer": answer, "full_answer": full}
            for image_id, question_id, question, answer, full in rows
        ]
        for split, rows in _ROWS.items()
    }
}  # fmt: skip
