r"""The words of a caption, as the official caption scores count them; no Java.

The scores of captions are defined on the tokens of Stanford's Penn Treebank tokenizer (CoreNLP
3.4.1, options -preserveLines -lowerCase) without those that are punctuation; this gives the same.
The rules were found by asking that program. Where several match, the longest wins, counting what a
rule looks ahead, and of equally long ones the first. Oddities that are kept:

- brackets stay, as words like '-lrb-', because the official list has them in upper case;
- so does punctuation that comes in a run: '!?';
- £ is '#', € is '$', ½ is '1/2'; emoji and other symbols outside of the tables vanish.

One oddity is not: the program sees all captions as one text, so that what follows a line break can
change the line before it, and a line break within a caption shifts all later ones. Here each
caption is alone, and a line break in it is a blank.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from paligemma_jax.evals import ptb_rules

_PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

_LINE_BREAKS = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# Chunks between blanks whose words do not depend on their neighbours: not a number (fractions and
# telephone numbers have blanks), no tag, no full stop.
_ALONE = re.compile(r"[A-Za-z'’\"“”(),;:!?/-]+|[A-Za-z][A-Za-z0-9]*,?")
# What no rule but those for these words takes apart.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?=[ \n])")
_SPLIT = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))


def tokenize(text: str) -> str:
  """The words of a caption in lower case with single blanks between; punctuation is left out.

  A no-break space may stand within a word, as in '1 1/2'.
  """
  words: list[str] = []
  together: list[str] = []
  text = _LINE_BREAKS.sub(" ", text).rstrip()
  if "<" in text:  # A tag may have many blanks.
    return " ".join(_words(text))
  chunks = text.split(" ")
  for chunk in chunks[:-1]:
    if not _ALONE.fullmatch(chunk):
      together.append(chunk)
    elif together:
      words += _words(" ".join((*together, chunk)))
      together = []
    else:
      words += _words_alone(chunk)
  if together:
    return " ".join(words + _words(" ".join((*together, chunks[-1]))))
  return " ".join((*words, *_words_alone(chunks[-1])))


@functools.lru_cache(maxsize=1 << 16)
def _words_alone(chunk: str) -> tuple[str, ...]:
  return tuple(_words(chunk))


def _words(text: str) -> list[str]:
  """The words of a text without line breaks."""
  rules_at = _rules_at()
  text += "\n"  # Rules look ahead; a text ends as a line does.
  words = []
  start = 0
  while start < len(text) - 1:
    plain = _PLAIN.match(text, start)
    if plain and plain.group().lower() not in _SPLIT:
      words.append(plain.group().lower())
      start = plain.end()
      continue
    longest, end, token, write = start, start + 1, "", None
    for pattern, candidate in rules_at[_kind(text[start])]:
      match = pattern.match(text, start)
      if match and match.end() > longest:
        longest, end, token, write = match.end(), match.end(1), match.group(1), candidate
    if write:
      word = ptb_rules.ALWAYS_WRITTEN.get(token) or write(token).replace("\u00ad", "").lower()
      if word and word not in _PUNCTUATION:
        words.append(word)
    start = end
  return words


@functools.cache
def _rules_at() -> dict[str, list[tuple[re.Pattern[str], Callable[[str], str]]]]:
  """The compiled rules by the kind of the first character."""
  compiled = [
    (kinds, re.compile(f"({token}){ahead}"), write)
    for kinds, token, ahead, write in ptb_rules.rules()
  ]
  return {k: [(p, w) for kinds, p, w in compiled if k in kinds] for k in ("L", "D", "O")} | {
    "&": [(p, w) for _, p, w in compiled]
  }


@functools.lru_cache(maxsize=1 << 16)
def _kind(char: str) -> str:
  """L for a letter, D for a digit, & for what may begin an entity, O for all others."""
  if char == "&":
    return "&"
  if re.match(f"[{ptb_rules.LETTERS}]", char):
    return "L"
  return "D" if re.match(f"[{ptb_rules.DIGITS}]", char) else "O"
