"""Crossmodal-3600 in miniature; its captions are still in their zip file."""

import json
import zipfile

from tests.miniatures import images
from tools.prepare import xm3600

_KEYS = {"000411001ff7dd4f": "th", "0006ad9a1a2ef9f0": "quz"}


def make(folder):
  lines = []
  for i, (key, locale) in enumerate(_KEYS.items()):
    line = {"image/key": key, "image/locale": locale}
    for language in xm3600.LANGUAGES:
      written = [_written(language, k) for k in range(2)]
      tokenized = [_tokenized(text) for text in written]
      line[language] = {"caption": written, "caption/tokenized": tokenized,
                        "caption/tokenized/lowercase": [t.lower() for t in tokenized]}  # fmt: skip
    lines.append(line)
    images.write(folder / "images" / f"{key}.jpg", images.jpeg(i))
  with zipfile.ZipFile(folder / "captions.zip", "w") as archive:
    archive.writestr("captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _written(language, k):
  return "แมวดำ" if language == "th" else f"A {language} caption, {k}."


def _tokenized(text):
  return text.replace("แมวดำ", "แมว ดำ").replace(",", " ,").replace(".", " .")


EXPECTED = {
  "xm3600": {
    "test": [
      {
        "image_id": key,
        "locale": locale,
        **{
          f"written_{language}": [_written(language, k) for k in range(2)]
          for language in xm3600.LANGUAGES
        },
        **{
          f"captions_{language}": [_tokenized(_written(language, k)) for k in range(2)]
          for language in xm3600.LANGUAGES
        },
      }
      for key, locale in _KEYS.items()
    ]
  }
}
