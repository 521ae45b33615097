"""xGQA in miniature."""

from tests.miniatures import images

_QUESTIONS = {
    "bn": "আকাশ কি মেঘলা?", "de": "Ist es bewölkt?", "en": "Is it overcast?",
    "id": "Apakah mendung?", "ko": "날씨가 흐린가요?", "pt": "Está nublado?",
    "ru": "Сейчас облачно?", "zh": "是阴天吗?",
}  # fmt: skip
_ROWS = [("201307251", "n161313", "no"), ("20602949", "n9", "yes")]


def make(folder):
  for language, question in _QUESTIONS.items():
    rows = {
        number: {
            "semantic": [], "entailed": [], "equivalent": [number], "question": question,
            "imageId": image_id, "isBalanced": True, "groups": {"global": None, "local": "13"},
            "answer": answer, "semanticStr": "", "annotations": {}, "types": {},
            "fullAnswer": "It is.",
        }
        for number, image_id, answer in _ROWS
    }  # fmt: skip
    images.write(folder / f"data/zero_shot/testdev_balanced_questions_{language}.json", rows)
  for i, (_, image_id, _) in enumerate(_ROWS):
    images.write(folder / f"images/{image_id}.jpg", images.jpeg(i))


EXPECTED = {
    "xgqa": {
        f"test_zs_{language}": [
            {"language": language, "question": question, "question_id": number,
             "image_id": image_id, "answer": answer}
            for number, image_id, answer in _ROWS
        ]
        for language, question in _QUESTIONS.items()
    }
}  # fmt: skip
