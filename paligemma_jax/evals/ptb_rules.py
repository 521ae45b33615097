"""What the tokenizer of captions takes for one word: its rules, and how each word is written.

See `ptb`. A rule is (kinds of the first character, the token, what must follow it, how it is
written); the kinds are L for a letter, D for a digit, O for all others.
"""

from __future__ import annotations

from collections.abc import Callable

from paligemma_jax.evals import ptb_characters

Rule = tuple[str, str, str, Callable[[str], str]]

# How tokens are written.

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


def _plain(token: str) -> str:
  return token


def _nothing(token: str) -> str:
  del token
  return ""


def _ampersand(token: str) -> str:
  return token.replace("&amp;", "&")


def _apostrophe(token: str) -> str:
  return token.replace("&apos;", "'").translate(_APOSTROPHES)


def _quotes(token: str) -> str:
  return token.translate(_QUOTES)


def _blanks(token: str) -> str:
  return token.replace(" ", "\u00a0")


def _round_brackets(token: str) -> str:
  return _blanks(token).replace("(", "-lrb-").replace(")", "-rrb-")


# Parts of rules.


def _ranges(table: str) -> str:
  return "".join(
      "-".join(f"\\u{int(code, 16):04x}" for code in codes.split("-")) for codes in table.split()
  )


def _any_case(pattern: str) -> str:
  """ASCII letters in either case; a blank separates alternatives."""
  return f"(?ai:{pattern.replace(' ', '|')})"


_A = "A-Za-z" + _ranges(ptb_characters.LETTERS)
_N = "0-9" + _ranges(ptb_characters.DIGITS)
_MARKS = _ranges(ptb_characters.MARKS) + "\\u00ad"
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

# Abbreviations that keep their full stop. Those of the first kind look two characters ahead.
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


def rules() -> list[Rule]:
  """All rules; the order decides between equally long matches."""
  return [
      ("L", _any_case("can"), _any_case("not"), _plain),
      ("L", _any_case("gon wan"), _any_case("na"), _plain),
      ("L", _any_case("got"), _any_case("ta"), _plain),
      ("L", _any_case("lem gim"), _any_case("me"), _plain),
      ("O", _TAG, "", _blanks),
      ("O", "&(?:MD|mdash|ndash|nbsp|quot|apos);|[\\u0096\\u0097–—―]", "", _nothing),
      ("O", "&amp;", "", _ampersand),
      ("O", "&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", "", _plain),
      ("LO", _WORD, f"{_APOS}{_SHORT_VERB}", _plain),
      ("L", "[A-Za-z]*[A-MO-Za-mo-z]", f"[nN]{_APOS_LIKE}[tT]", _plain),
      ("LO", _WORD, "", _plain),
      ("LO", _ODD_APOSTROPHES, "", _plain),
      ("L", f"[A-HJ-XZn]{_APOS_LIKE}[{_A}]{{2,}}|[oO]{_APOS_LIKE}[oO]", "", _plain),
      ("L", f"[{_A}]+[aeiouyAEIOUY]{_APOS_LIKE}[aeiouA-Z][{_A}]*", "", _plain),
      ("O", "'[nN]", _BLANK, _plain),
      ("O", f"{_CURLY_APOS}[nN]", "", _plain),
      ("O", "'[tT]", _any_case("is was"), _plain),
      ("L", f"[yY]{_APOS}", f"[{_A}]", _plain),
      ("L", f"(?ai:https?)://{_URL}+{_URL_END}", "", _plain),
      ("L", f"{_WWW}{_URL_PATH}", "", _plain),
      ("L", f"{_WWW_BEFORE_PATH}{_URL_PATH}", "", _plain),
      ("LDO", f"{_HOST}{_URL_PATH}", "", _plain),
      ("LDO", f"(?:&lt;|<)?{_MAIL_NAME}@(?:{_MAIL_PART}\\.)*{_MAIL_PART}(?:&gt;|>)?", "", _plain),
      ("O", f"@[a-zA-Z_][a-zA-Z_0-9]*|#{_LETTER}+", "", _plain),
      ("O", f"{_APOS}{_SHORT_VERB}", "[^A-Za-z]", _apostrophe),
      ("O", f"{_CURLY_APOS}{_SHORT_VERB}", "", _apostrophe),
      ("L", f"[nN]{_APOS_LIKE}[tT]", "", _apostrophe),
      ("D", f"[{_N}]{{1,2}}[-/][{_N}]{{1,2}}[-/][{_N}]{{2,4}}", "", _plain),
      ("DO", f"[-+]?{_NUMBER}", "", _plain),
      ("O", "[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)", "", _plain),
      ("D", f"(?:[{_N}]{{1,4}}[- \\u00a0])?[{_N}]{{1,4}}(?:\\\\?/|⁄)[{_N}]{{1,4}}", "", _blanks),
      ("O", "[\\u00bc-\\u00be\\u2153-\\u215e]", "", _plain),
      ("O", "-(?ai:[lr][rcs]b)-", "", _plain),
      ("L", _any_case("c\\.d\\.s pro- anti- s(?:&|&amp;)p-500 s(?:&|&amp;)ls"), "", _ampersand),
      ("O", f"{_APOS}[0-9][0-9]", _BLANK, _plain),
      ("LD", "A(?:\\\\?/A){1,2}".replace("A", "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"), "", _plain),
      ("LO", "[A-Z]*\\$|#", "", _plain),
      ("L", f"(?:{_any_case(_ABBREVIATIONS)}|{_CAPITAL_ABBREVIATIONS})\\.", "(?s:.{1,2})", _plain),
      ("L", f"{_any_case(_TITLES)}\\.", "", _plain),
      ("L", f"{_any_case(_BEFORE_NUMBERS)}\\.", f"{_BLANK}?[{_N}]", _plain),
      ("L", "[A-Za-z]", f"\\.{_BLANK}+(?:{_STARTS}){_BLANK}", _plain),
      ("L", f"(?:{_ACRONYM}|[A-Za-z])\\.", "", _plain),
      ("LDO", f"(?:{_WORD}|{_HYPHENED}|{_DOTTED_HYPHENED}|{_AND})\\.", _PAUSE, _ampersand),
      ("LDO", f"{_LETTER_OR_DIGIT}+(?:\\.{_LETTER_OR_DIGIT}+)*\\.{_FILE_END}",
       f"(?:{_BLANK}|[.?!,])", _plain),
      ("DO", _TELEPHONE, "", _round_brackets),
      ("LD", _HYPHENED, "", _plain),
      ("L", _AND, "", _ampersand),
      ("LD", _DOTTED_HYPHENED, "", _plain),
      ("L", "[cC]\\+\\+|[cCfF]#", "", _plain),
      ("O", "[<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]]", "[^A-Za-z0-9]", _round_brackets),
      ("LO", "[-x^=~<>']_[-x^=~<>']|\\([-x^=~<>'][_.]?[-x^=~<>']\\)", "", _round_brackets),
      ("O", "\\([x^=~<>']-[x^=~<>'`]\\)", "", _round_brackets),
      ("O", "[`‘-‟\\u0091-\\u0094‹›«»]{1,2}|''", "", _quotes),
      ("O", "\\.{3,5}|(?:\\.[ \\u00a0]){2,4}\\.|[\".,:;'…]|-{1,4}(?!-)", "", _nothing),
      ("O", "[!?]+|-+|\\*+|(?:\\\\\\*){1,3}|@+|#+|_+", "", _plain),
      ("O", "&lt;|&gt;|<<|>>", "", _plain),
      ("O", f"[+%&~^|\\\\/()<>\\[\\]{{}}={_ranges(ptb_characters.SYMBOLS)}]", "", _plain),
  ]  # fmt: skip
