"""MaRVL in miniature; the folder's name is spelled with other code points than the annotation's."""

import json
import unicodedata

from tests.miniatures import images

_LANGUAGES = ("id", "sw", "ta", "tr", "zh")
_CONCEPT = "21-Kaplıcaé"


def make(folder):
  for language in _LANGUAGES:
    lines = [json.dumps(_row(language, i)) + "\n" for i in (0, 1)]
    images.write(folder / f"marvl-{language}.jsonl", "".join(lines).encode())
    for i in range(3):
      place = folder / language / "images" / unicodedata.normalize("NFD", _CONCEPT)
      images.write(place / f"21-{i}.jpg", images.jpeg(i))


def _row(language, i):
  return {
    "concept": _CONCEPT,
    "language": language,
    "caption": _sentence(language, i),
    "left_img": f"21-{i}.jpg",
    "right_img": f"21-{i + 1}.jpg",
    "annotator_info": {"annotator_id": "a", "country_of_birth": "x"},
    "chapter": "House",
    "id": f"21-{i}",
    "label": i == 0,
  }


def _sentence(language, i):
  return f"{language}: ஒரு படம் {i}"


EXPECTED = {
  "marvl": {
    f"test_{language}": [
      {
        "question_id": f"{language}-21-{i}",
        "sentence": _sentence(language, i),
        "label": str(i == 0),
        "language": language,
        "concept": _CONCEPT,
      }
      for i in (0, 1)
    ]
    for language in _LANGUAGES
  }
}
