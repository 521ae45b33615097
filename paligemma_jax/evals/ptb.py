r"""The words of a caption as in the official caption scores, without Java.

The scores are defined on the tokens of Stanford's Penn Treebank tokenizer (CoreNLP 3.4.1, options
-preserveLines -lowerCase) without punctuation; this gives the same tokens. The rules were inferred
from the program's outputs. The longest match wins, including the lookahead, and the first of a tie.
These oddities are kept:

- brackets stay, as words like '-lrb-', because the official list has them in upper case;
- so does punctuation in a run: '!?';
- £ is '#', € is '$', ½ is '1/2'; emoji and other symbols outside the tables vanish.

One oddity is not: the program reads all captions as one text, so that a line break can change the
line before it, and one within a caption shifts all later captions. Here each caption is separate,
and a line break in it is a blank.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable

_PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

_LINE_BREAKS = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# Chunks between blanks whose words do not depend on their neighbours: no number (fractions and
# telephone numbers have blanks), no tag, no full stop.
_ALONE = re.compile(r"[A-Za-z'’\"“”(),;:!?/-]+|[A-Za-z][A-Za-z0-9]*,?")
# Words that no rule splits, apart from those in _SPLIT.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?=[ \n])")
_SPLIT = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))


def tokenize(text: str) -> str:
  """The words of a caption in lower case with single blanks between, without punctuation.

  A word may contain a no-break space, as in '1 1/2'.
  """
  words: list[str] = []
  together: list[str] = []
  text = _LINE_BREAKS.sub(" ", text).rstrip()
  if "<" in text:  # A tag may have blanks.
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
  text += "\n"  # For the lookahead of rules.
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
      word = ALWAYS_WRITTEN.get(token) or write(token).replace("\u00ad", "").lower()
      if word and word not in _PUNCTUATION:
        words.append(word)
    start = end
  return words


@functools.cache
def _rules_at() -> dict[str, list[tuple[re.Pattern[str], Callable[[str], str] | None]]]:
  """The compiled rules by the kind of the first character."""
  compiled = [
    (kinds, re.compile(f"({token}){ahead}"), write) for kinds, token, ahead, write in _RULES
  ]
  return {k: [(p, w) for kinds, p, w in compiled if k in kinds or k == "&"] for k in "LDO&"}


@functools.lru_cache(maxsize=1 << 16)
def _kind(char: str) -> str:
  """L for a letter, D for a digit, & for what may begin an entity, O for all others."""
  if char == "&":
    return "&"
  if re.match(f"[{LETTERS}]", char):
    return "L"
  return "D" if re.match(f"[{DIGITS}]", char) else "O"


# A rule is (kinds of the first character, pattern of the token, pattern of the lookahead, function
# from the token to the word, None for no word); the kinds are L for a letter, D for a digit, O for
# all others.

# Letters by themselves.
_LETTER_RANGES = """
aa b5 ba c0-d6 d8-f6 f8-2c1 2c6-2d1 2e0-2e4 2ec 2ee 370-374 376-377 37a-37d 386 388-38a 38c
38e-3a1 3a3-3f5 3f7-481 48a-527 531-556 559 561-587 5d0-5ea 5f0-5f2 620-64a 66e-66f 671-6d3 6d5
6e5-6e6 6ee-6ef 6fa-6fc 6ff 710 712-72f 74d-7a5 7b1 7ca-7ea 7f4-7f5 7fa 800-815 81a 824 828
840-858 8a0 8a2-8ac 904-939 93d 950 958-961 971-977 979-97f 985-98c 98f-990 993-9a8 9aa-9b0 9b2
9b6-9b9 9bd 9ce 9dc-9dd 9df-9e1 9f0-9f1 a05-a0a a0f-a10 a13-a28 a2a-a30 a32-a33 a35-a36 a38-a39
a59-a5c a5e a72-a74 a85-a8d a8f-a91 a93-aa8 aaa-ab0 ab2-ab3 ab5-ab9 abd ad0 ae0-ae1 b05-b0c
b0f-b10 b13-b28 b2a-b30 b32-b33 b35-b39 b3d b5c-b5d b5f-b61 b71 b83 b85-b8a b8e-b90 b92-b95
b99-b9a b9c b9e-b9f ba3-ba4 ba8-baa bae-bb9 bd0 c05-c0c c0e-c10 c12-c28 c2a-c33 c35-c39 c3d
c58-c59 c60-c61 c85-c8c c8e-c90 c92-ca8 caa-cb3 cb5-cb9 cbd cde ce0-ce1 cf1-cf2 d05-d0c d0e-d10
d12-d3a d3d d4e d60-d61 d7a-d7f d85-d96 d9a-db1 db3-dbb dbd dc0-dc6 e01-e30 e32-e33 e40-e46
e81-e82 e84 e87-e88 e8a e8d e94-e97 e99-e9f ea1-ea3 ea5 ea7 eaa-eab ead-eb0 eb2-eb3 ebd ec0-ec4
ec6 edc-edf f00 f40-f47 f49-f6c f88-f8c 1000-102a 103f 1050-1055 105a-105d 1061 1065-1066
106e-1070 1075-1081 108e 10a0-10c5 10c7 10cd 10d0-10fa 10fc-1248 124a-124d 1250-1256 1258
125a-125d 1260-1288 128a-128d 1290-12b0 12b2-12b5 12b8-12be 12c0 12c2-12c5 12c8-12d6 12d8-1310
1312-1315 1318-135a 1380-138f 13a0-13f4 1401-166c 166f-167f 1681-169a 16a0-16ea 1700-170c
170e-1711 1720-1731 1740-1751 1760-176c 176e-1770 1780-17b3 17d7 17dc 1820-1877 1880-18a8 18aa
18b0-18f5 1900-191c 1950-196d 1970-1974 1980-19ab 19c1-19c7 1a00-1a16 1a20-1a54 1aa7 1b05-1b33
1b45-1b4b 1b83-1ba0 1bae-1baf 1bba-1be5 1c00-1c23 1c4d-1c4f 1c5a-1c7d 1ce9-1cec 1cee-1cf1
1cf5-1cf6 1d00-1dbf 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d
1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc
2071 207f 2090-209c 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2139
213c-213f 2145-2149 214e 2183-2184 2c00-2c2e 2c30-2c5e 2c60-2ce4 2ceb-2cee 2cf2-2cf3 2d00-2d25
2d27 2d2d 2d30-2d67 2d6f 2d80-2d96 2da0-2da6 2da8-2dae 2db0-2db6 2db8-2dbe 2dc0-2dc6 2dc8-2dce
2dd0-2dd6 2dd8-2dde 2e2f 3005-3006 3031-3035 303b-303c 3041-3096 309d-309f 30a1-30fa 30fc-30ff
3105-312d 3131-318e 31a0-31ba 31f0-31ff 3400-4db5 4e00-9fcc a000-a48c a4d0-a4fd a500-a60c
a610-a61f a62a-a62b a640-a66e a67f-a697 a6a0-a6e5 a717-a71f a722-a788 a78b-a78e a790-a793
a7a0-a7aa a7f8-a801 a803-a805 a807-a80a a80c-a822 a840-a873 a882-a8b3 a8f2-a8f7 a8fb a90a-a925
a930-a946 a960-a97c a984-a9b2 a9cf aa00-aa28 aa40-aa42 aa44-aa4b aa60-aa76 aa7a aa80-aaaf aab1
aab5-aab6 aab9-aabd aac0 aac2 aadb-aadd aae0-aaea aaf2-aaf4 ab01-ab06 ab09-ab0e ab11-ab16
ab20-ab26 ab28-ab2e abc0-abe2 ac00-d7a3 d7b0-d7c6 d7cb-d7fb f900-fa6d fa70-fad9 fb00-fb06
fb13-fb17 fb1d fb1f-fb28 fb2a-fb36 fb38-fb3c fb3e fb40-fb41 fb43-fb44 fb46-fbb1 fbd3-fd3d
fd50-fd8f fd92-fdc7 fdf0-fdfb fe70-fe74 fe76-fefc ff21-ff3a ff41-ff5a ff66-ffbe ffc2-ffc7
ffca-ffcf ffd2-ffd7 ffda-ffdc
"""

# Letters in a word, but not beside digits or hyphens: marks, and some old code points.
MARKS = """
2c2-2c5 2d2-2df 2e5-2eb 2ed 2ef-36f 375 378-379 384-385 3f6 483-487 55a-55f 591-5bd 5bf 5c1-5c2
5c4-5c5 5c7 615-61a 64b-65e 670 6d6-6e4 6e7-6ed 6fd-6fe 70f 711 730-74c 7a6-7b0 7eb-7f3 900-903
93c 93e-94e 951-955 962-963 981-983 9bc 9be-9c4 9c7-9c8 9cb-9cd 9d7 9e2-9e3 a01-a03 a3c a3e-a4f
a81-a83 abc abe-acf b82 bbe-bc2 bc6-bc8 bca-bcd c01-c03 c3e-c56 d3e-d44 d46-d48 e31 e34-e3a
e47-e4e eb1 eb4-ebc ec8-ecd
"""

# The zeros before nine other decimal digits.
_ZEROS = """
660 6f0 7c0 966 9e6 a66 ae6 b66 be6 c66 ce6 d66 e50 ed0 f20 1040 1090 17e0 1810 1946 19d0 1a80 1a90
1b50 1bb0 1c40 1c50 a620 a8d0 a900 a9d0 aa50 abf0 ff10
"""

# Symbols, each a token unless another rule matches.
SYMBOLS = """
80 91-94 96-97 a1-a9 ab-b4 b6-b9 bb-bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 5f3-5f4 600-603 606-60c
614 61b 61e-61f 66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2013-2023 2026 2030-203b
203e-2042 2044 2070 2074-207e 2080-208e 20a0 20a4 20ac 2100-2101 2103-2106 2108-2109 2114
2116-2118 211e-2123 2125 2127 2129 212e 213a-213b 2140-2144 214a-214d 214f 2153-215e 2190-2bff
3001-3002 3012 30fb ff01-ff0f ff1a-ff20 ff3b-ff40 ff5b-ff65 ffe0-ffe1 ffe5-ffe6
"""

_Rule = tuple[str, str, str, Callable[[str], str] | None]

# From tokens to words.

ALWAYS_WRITTEN = {
  **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
  **{"¢": "cents", "£": "#", "\u0080": "$", "¤": "$", "₠": "$", "€": "$"},
  **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
  **{"&lt;": "<", "&gt;": ">", "\u00ad": "-"},
}
_APOSTROPHES = str.maketrans(dict.fromkeys("’\u0092", "'") | dict.fromkeys("‘‛\u0091", "`"))
_QUOTES = str.maketrans(
  {
    **dict.fromkeys("‘‛\u0091‹", "`"),
    **dict.fromkeys("’\u0092›", "'"),
    **dict.fromkeys("“\u0093«", "``"),
    **dict.fromkeys("”\u0094»", "''"),
  }
)


def _apostrophe(token: str) -> str:
  return token.replace("&apos;", "'").translate(_APOSTROPHES)


_ampersand = operator.methodcaller("replace", "&amp;", "&")
_quotes = operator.methodcaller("translate", _QUOTES)
_blanks = operator.methodcaller("translate", str.maketrans({" ": "\u00a0"}))
_round_brackets = operator.methodcaller(
  "translate", str.maketrans({" ": "\u00a0", "(": "-lrb-", ")": "-rrb-"})
)

# Parts of rules.


def _ranges(table: str) -> str:
  return "".join(
    "-".join(f"\\u{int(code, 16):04x}" for code in codes.split("-")) for codes in table.split()
  )


def _any_case(pattern: str) -> str:
  """ASCII letters in either case; a blank separates alternatives."""
  return f"(?ai:{pattern.replace(' ', '|')})"


_A = "A-Za-z" + _ranges(_LETTER_RANGES)
_N = "0-9" + _ranges(" ".join(f"{zero}-{int(zero, 16) + 9:x}" for zero in _ZEROS.split()))
_MARKS = _ranges(MARKS) + "\\u00ad"
LETTERS, DIGITS = f"{_A}{_MARKS}", _N
_ENTITY = "&[aeiouAEIOU](?:acute|grave|uml);"
_LETTER = f"(?:[{_A}{_MARKS}]|{_ENTITY})"
_LETTER_OR_DIGIT = f"(?:[{_A}{_MARKS}{_N}]|{_ENTITY})"
_WORD = f"{_LETTER}{_LETTER_OR_DIGIT}*(?:[.!?]{_LETTER}{_LETTER_OR_DIGIT}*)*"
_APOS = "(?:['’\\u0092]|&apos;)"
_CURLY_APOS = "(?:[’\\u0092]|&apos;)"
_APOS_LIKE = "(?:['`‘’‛\\u0091\\u0092]|&apos;)"
_SHORT_VERB = _any_case("[msd] re ve ll")
_NUMBER = f"(?:[{_N}]*(?:[.:,\\u00ad\\u066b\\u066c][{_N}]+)+|[{_N}]+)"
_HYPHEN = "[-_\\u058a\\u2010\\u2011]"
_PART = f"(?:(?:[dDoOlL]{_APOS_LIKE}[{_A}{_N}](?=[{_A}{_N}]))?[{_A}{_N}]+)"
_HYPHENED = f"{_PART}(?:{_HYPHEN}{_PART})*"
_ACRONYM = "[A-Za-z](?:\\.[A-Za-z])+"
_DOTTED_HYPHENED = f"[A-Za-z0-9][A-Za-z0-9.,\\u00ad]*(?:-(?:{_ACRONYM}\\.|[A-Za-z0-9\\u00ad]+))+"
_AND = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"
_BLANK = "[ \\t\\u00a0\\u2000-\\u200a\\u3000\\n]"
_PAUSE = "[,;:\\u3001]"

# Abbreviations that keep their full stop. The rule of the first has a lookahead of two characters.
_ABBREVIATIONS = (
  "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq"
  " est etc ext feb fla fri ga inc ind intl jan jr jul jun kans? ky ltd mar md mich minn mo mon"
  " mont neb nev nov oct okla penn plc pp?t[ey]s? ppties rd rt sept? seq sq sr sys tel tenn thu"
  " thurs tues? univ va vt wed wisc? wyo (?:ed|ph)\\.d"
)
_CAPITAL_ABBREVIATIONS = (
  "A[Zz]|A[Rr][Kk]|D[Ee][Ll]|I[Ll][Ll]|L[Aa]|M[Aa][Ss][Ss]|M[Ii][Ss][Ss]|O[Rr][Ee]|P[Aa]"
  "|T[Ee][Xx]|W[Aa][Ss][Hh]"
)
_TITLES = (
  "adj adm adv alex assoc asst attys? ave brig capt cf cie co?mdr col cpl dept det drs? elec ens"
  " ft gen govs? hon insp invt jos lieut lt maj messrs mfg mlle mme mrs? ms msgr mt mtg natl pfc"
  " ph pres profs? pvt reps? rev sens? sfc sgt spc ste? supts? treas vs wm a\\.k\\.a"
)
_BEFORE_NUMBERS = "art ca figs? no nos op pp? prop"
# After one of these the full stop of a letter ends a sentence.
_STARTS = (
  "A About According Additionally After An As At But Earlier He Her Here However If In It Last"
  " Many More M[rs]\\. Now Once One Other Our She Since So Some Such That The Their Then There"
  " These They This We What When While Yet You"
)
_STARTS = "|".join(f"{word[0]}{_any_case(word[1:])}" for word in _STARTS.split())

_URL = '[^ \\t\\n\\f\\r"<>|(){}]'
_URL_END = '[^ \\t\\n\\f\\r"<>|.!?(){},-]'
_URL_PATH = f"(?:/{_URL}+{_URL_END})?"
_WWW = '(?ai:www)\\.(?:[^ \\t\\n\\f\\r"<>|.!?(){},]+\\.)+[A-Za-z]{2,4}'
_WWW_BEFORE_PATH = _WWW.replace("[^ ", "[^/ ")
_HOST = "(?:[^ \\t\\n\\f\\r\"`'<>|.!?(){}$,-_]+\\.)+(?ai:com|net|org|edu)"
_MAIL_NAME = '[A-Za-z0-9][^ \\t\\n\\f\\r"<>|(){}\\u00a0]*'
_MAIL_PART = '[^ \\t\\n\\f\\r"<>|().{}\\u00a0]+'
_FILE_END = _any_case(
  "bat bmp class cgi cpp c dll docx? exe gif gz html? h java jar jpe?g mov mp3 pdf php pl png ppt"
  " ps py sql tar txt wav xml x zip"
)
_TAG_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_TAG_VALUE = f"{_TAG_NAME}[ ]*=[ ]*(?:'[^'\\n]*'|\"[^\"\\n]*\")"
_TAG = (
  f"<(?:[!?][A-Za-z-][^>\\n]*|/{_TAG_NAME}[ ]*"
  f"|{_TAG_NAME}(?:[ ]+(?:{_TAG_VALUE}|{_TAG_NAME}))*[ ]*/?[ ]*)>"
)
_TELEPHONE = (
  "\\([0-9]{2,3}\\)[ \\u00a0]?[0-9]{3,4}[- \\u00a0]?[0-9]{3,5}"
  "|(?:\\+\\+?)?(?:[0-9]{2,4}[- \\u00a0])?[0-9]{2,4}[- \\u00a0][0-9]{3,4}[- \\u00a0]?[0-9]{3,5}"
  "|(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}\\.[0-9]{3,5}"
)
_ODD_APOSTROPHES = "|".join(
    f"(?:{form})".replace("'", _APOS)
    for form in (
        "'[nN]'", "[lLdDjJ]'", "(?ai:dunkin|somethin|ol)'", "'(?ai:em|cause|till?)", "'[2-9]0s",
        "(?ai:cont'd)\\.?", "(?ai:nor'easter|c'mon|[eo]'er|ne'er|s'mores|ev'ry|li'l|nat'l)",
        "(?ai:cap'n|c'est)",
    )
)  # fmt: skip


# The order decides between equally long matches.
_RULES: list[_Rule] = [
    ("L", _any_case("can"), _any_case("not"), str),
    ("L", _any_case("gon wan"), _any_case("na"), str),
    ("L", _any_case("got"), _any_case("ta"), str),
    ("L", _any_case("lem gim"), _any_case("me"), str),
    ("O", _TAG, "", _blanks),
    ("O", "&(?:MD|mdash|ndash|nbsp|quot|apos);|[\\u0096\\u0097–—―]", "", None),
    ("O", "&amp;", "", _ampersand),
    ("O", "&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", "", str),
    ("LO", _WORD, f"{_APOS}{_SHORT_VERB}", str),
    ("L", "[A-Za-z]*[A-MO-Za-mo-z]", f"[nN]{_APOS_LIKE}[tT]", str),
    ("LO", _WORD, "", str),
    ("LO", _ODD_APOSTROPHES, "", str),
    ("L", f"[A-HJ-XZn]{_APOS_LIKE}[{_A}]{{2,}}|[oO]{_APOS_LIKE}[oO]", "", str),
    ("L", f"[{_A}]+[aeiouyAEIOUY]{_APOS_LIKE}[aeiouA-Z][{_A}]*", "", str),
    ("O", "'[nN]", _BLANK, str),
    ("O", f"{_CURLY_APOS}[nN]", "", str),
    ("O", "'[tT]", _any_case("is was"), str),
    ("L", f"[yY]{_APOS}", f"[{_A}]", str),
    ("L", f"(?ai:https?)://{_URL}+{_URL_END}", "", str),
    ("L", f"{_WWW}{_URL_PATH}", "", str),
    ("L", f"{_WWW_BEFORE_PATH}{_URL_PATH}", "", str),
    ("LDO", f"{_HOST}{_URL_PATH}", "", str),
    ("LDO", f"(?:&lt;|<)?{_MAIL_NAME}@(?:{_MAIL_PART}\\.)*{_MAIL_PART}(?:&gt;|>)?", "", str),
    ("O", f"@[a-zA-Z_][a-zA-Z_0-9]*|#{_LETTER}+", "", str),
    ("O", f"{_APOS}{_SHORT_VERB}", "[^A-Za-z]", _apostrophe),
    ("O", f"{_CURLY_APOS}{_SHORT_VERB}", "", _apostrophe),
    ("L", f"[nN]{_APOS_LIKE}[tT]", "", _apostrophe),
    ("D", f"[{_N}]{{1,2}}[-/][{_N}]{{1,2}}[-/][{_N}]{{2,4}}", "", str),
    ("DO", f"[-+]?{_NUMBER}", "", str),
    ("O", "[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)", "", str),
    ("D", f"(?:[{_N}]{{1,4}}[- \\u00a0])?[{_N}]{{1,4}}(?:\\\\?/|⁄)[{_N}]{{1,4}}", "", _blanks),
    ("O", "[\\u00bc-\\u00be\\u2153-\\u215e]", "", str),
    ("O", "-(?ai:[lr][rcs]b)-", "", str),
    ("L", _any_case("c\\.d\\.s pro- anti- s(?:&|&amp;)p-500 s(?:&|&amp;)ls"), "", _ampersand),
    ("O", f"{_APOS}[0-9][0-9]", _BLANK, str),
    ("LD", "A(?:\\\\?/A){1,2}".replace("A", "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"), "", str),
    ("LO", "[A-Z]*\\$|#", "", str),
    ("L", f"(?:{_any_case(_ABBREVIATIONS)}|{_CAPITAL_ABBREVIATIONS})\\.", "(?s:.{1,2})", str),
    ("L", f"{_any_case(_TITLES)}\\.", "", str),
    ("L", f"{_any_case(_BEFORE_NUMBERS)}\\.", f"{_BLANK}?[{_N}]", str),
    ("L", "[A-Za-z]", f"\\.{_BLANK}+(?:{_STARTS}){_BLANK}", str),
    ("L", f"(?:{_ACRONYM}|[A-Za-z])\\.", "", str),
    ("LDO", f"(?:{_WORD}|{_HYPHENED}|{_DOTTED_HYPHENED}|{_AND})\\.", _PAUSE, _ampersand),
    ("LDO", f"{_LETTER_OR_DIGIT}+(?:\\.{_LETTER_OR_DIGIT}+)*\\.{_FILE_END}",
     f"(?:{_BLANK}|[.?!,])", str),
    ("DO", _TELEPHONE, "", _round_brackets),
    ("LD", _HYPHENED, "", str),
    ("L", _AND, "", _ampersand),
    ("LD", _DOTTED_HYPHENED, "", str),
    ("L", "[cC]\\+\\+|[cCfF]#", "", str),
    ("O", "[<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]]", "[^A-Za-z0-9]", _round_brackets),
    ("LO", "[-x^=~<>']_[-x^=~<>']|\\([-x^=~<>'][_.]?[-x^=~<>']\\)", "", _round_brackets),
    ("O", "\\([x^=~<>']-[x^=~<>'`]\\)", "", _round_brackets),
    ("O", "[`‘-‟\\u0091-\\u0094‹›«»]{1,2}|''", "", _quotes),
    ("O", "\\.{3,5}|(?:\\.[ \\u00a0]){2,4}\\.|[\".,:;'…]|-{1,4}(?!-)", "", None),
    ("O", "[!?]+|-+|\\*+|(?:\\\\\\*){1,3}|@+|#+|_+", "", str),
    ("O", "&lt;|&gt;|<<|>>", "", str),
    ("O", f"[+%&~^|\\\\/()<>\\[\\]{{}}={_ranges(SYMBOLS)}]", "", str),
]  # fmt: skip
