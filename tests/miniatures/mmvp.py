"""MMVP in miniature: two pairs."""

from tests.miniatures import images

_ROWS = [
    ("Are the wings open, or closed?", "(a) Open (b) Closed", "(a)", ["Open", "Closed"], "Open"),
    ("Are the wings open, or closed?", "(a) Open (b) Closed", "(b)", ["Open", "Closed"], "Closed"),
    ("Where does the dog lie?", "(a) On the floor (b) On a bed", "(b)",
     ["On the floor", "On a bed"], "On a bed"),
    ("Where does the dog lie?", "(a) On the floor (b) On a bed", "(a)",
     ["On the floor", "On a bed"], "On the floor"),
]  # fmt: skip


def make(folder):
  lines = ["Index,Question,Options,Correct Answer"]
  for number, (question, options, letter, _, _) in enumerate(_ROWS, 1):
    lines.append(f'{number},"{question}",{options},{letter}')
    images.write(folder / "MMVP Images" / f"{number}.jpg", images.jpeg(number))
  images.write(folder / "Questions.csv", "\r\n".join(lines).encode())


EXPECTED = {
    "mmvp": {
        "test": [
            {"question_id": number, "question": question, "options": options, "pair": pair,
             "answers": [text, letter]}
            for pair, number, (question, _, letter, options, text)
            in zip((0, 0, 1, 1), (1, 2, 3, 4), _ROWS, strict=True)
        ]
    }
}  # fmt: skip
