"""OCR-VQA in miniature."""

from tests.miniatures import images

_QUESTIONS = ["Who wrote this book?", "Is this book related to Law?"]
# One cover is a GIF, one a GIF's address with a JPEG's name, one is gone.
_BOOKS = {
  "761183272": (1, "51+RGkhmUjL.jpg", ".jpg", ["Mary Engelbreit", "No"]),
  "1449407366": (1, "no-img._V0_.gif", ".gif", ["Jane Roe", "Yes"]),
  "1623439671": (1, "gone.jpg", "", ["Sandra Boynton", "No"]),
  "B00O80WC6I": (2, "51c1w.gif", ".jpg", ["A. Smith", "Yes"]),
  "761182187": (3, "61Swl2P.jpg", ".jpg", ["Workman Publishing", "No"]),
}


def make(folder):
  books = {}
  for i, (name, (split, url, ending, answers)) in enumerate(_BOOKS.items()):
    books[name] = {
      "imageURL": f"http://ecx.images-amazon.com/images/I/{url}",
      "questions": _QUESTIONS,
      "answers": answers,
      "title": "Calendar",
      "authorName": answers[0],
      "genre": "Calendars",
      "split": split,
    }
    if ending:
      images.write(folder / f"images/{name}{ending}", images.jpeg(i))
  images.write(folder / "dataset.json", books)


EXPECTED = {
    "ocrvqa": {
        name: [
            {"image_id": book, "question_id": 2 * i + k, "question": _QUESTIONS[k],
             "answer": answers[k]}
            for i, (book, (split, _, ending, answers)) in enumerate(_BOOKS.items())
            for k in range(2)
            if split == number and ending
        ]
        for number, name in ((1, "train"), (2, "val"), (3, "test"))
    }
}  # fmt: skip
