"""Recognise letters of another script that are not words: notation, faces made of letters, and signs."""

from __future__ import annotations

import unicodedata
from functools import cache
from string import ascii_letters, digits

import regex

SIGNS = "\u0950\u0ad0\u0bd0\u0f00\ua8fd\u3007\u5350\u534d" + "".join(map(chr, range(0xFDF0, 0xFE00)))
"""Single characters that are signs, although Unicode classifies them as letters: Om, swastikas, Arabic ligatures for
phrases, the Han zero."""

SYMBOLS = rf"[[\p{{S}}--[\u2e80-\u2fdf]]\p{{P}}\p{{Script=Brai}}{SIGNS}]"
"""Characters that have a script but are not letters: punctuation, currency signs, squared units, braille. Radicals
count as letters."""

_SYLLABIC = frozenset({"Hani", "Hira", "Kana", "Hang", "Bopo"})
"""Scripts in which one character can be a word."""
_GREEK_VOWELS = frozenset("αεηιουω")
_GREEK_WORDS = frozenset(
    ["και", "του", "της", "των", "τον", "την", "τους", "στο", "στη", "στον", "στην", "στα", "για", "που", "δεν", "ναι"]
)
_GREEK_ALPHABET = "αβγδεζηθικλμνξοπρστυφχψω"
_ACCENTS = frozenset("\u0300\u0301\u0313\u0314\u0342\u0345")
_JOINTS = regex.compile(r"[^\p{L}\p{M}]+")
_LONGEST_IN_FACE = 2  # maximum number of letters of one script in a row
_LOOK = 16  # number of characters on each side of a letter that are searched for the rest of a face
_FACE = "˘╭╮¯￣°º•◕◔◡◞◟‿⁀﹏︵︶╯╰┻┳━┴┬■▽∇∀ω´｀ಠಥʘ◉⊙☉¬≧≦⌐ᴥ♡♥ᗜᵔᴗ﹃ﾟ゜∩∪͜͡╥益皿・＾｡ᐛᕗᕕヅ"
_PLAIN = rf"[\p{{L}}--[{_FACE}]]"
_SEVERAL_LETTERS = regex.compile(rf"{_PLAIN}{{3}}|[A-Za-z0-9]{{2}}|\n", regex.V1)
_CUT = regex.compile(rf"\s|{_PLAIN}{{3,}}+|[A-Za-z0-9]{{2,}}+", regex.V1)
_MIRRORED = regex.compile(r"(?P<eye>\p{L})[_.‿﹏^ㅅωovux-]{1,3}(?P=eye)")
_SHRUG = regex.compile(r"\\[_(\\]*\([ツッシ]\)|\(\p{L}?[^()\p{L}\s]*[_^;<>~|`][^()\p{L}\s]*\p{L}?[^()\p{L}\s]*\)")
_LAST_GREEK = regex.compile(r"(?P<word>[\p{Grek}\p{M}]{2,}) (?=\Z)")
_NEXT_GREEK = regex.compile(r" (?P<word>[\p{Grek}\p{M}]{2,})")
_ORDINARY = frozenset(
    " \n,.:;!?\"'“”‘’。，、：；！？「」『』" + ascii_letters + digits
)  # characters that do not form a face with the letter beside them
_SMILES = frozenset("ツヅ")  # kana that are a face by themselves
_ARMS = frozenset("ᕕᕗᐛ")  # syllabics that do not occur singly in text
_OPENS, _CLOSES = "(（༼ʕ", ")）༽ʔ"


def is_symbol(word: str, script: str, text: str, start: int) -> bool:
    """Whether `word`, at `start` in `text` and in an unexpected script, is a symbol and not a word of a language.

    Symbols are Greek notation (Δφ, γδ), a single isolated letter (Ш, ع), and letters that are part of a face
    (¯\\_(ツ)_/¯). A single Han character, kana or Hangul syllable is a word, and so is a lower-case letter such as и.
    """
    if script in _SYLLABIC and len(word) > _LONGEST_IN_FACE:
        return False
    parts = [part for part in _JOINTS.split(unicodedata.normalize("NFC", word)) if part]
    if script == "Grek":
        return not any(_is_greek_word(part) for part in parts) and not _greek_beside(text, start, start + len(word))
    if any(len(part) > _LONGEST_IN_FACE for part in parts):
        return False
    end = start + len(word)
    is_word = word not in _SMILES and (script in _SYLLABIC or (script == "Cyrl" and word.islower()))
    if word in _ARMS:
        return True
    single = not is_word and sum(map(_letters, parts)) == 1 and _stands_alone(text, start, end, script)
    return single or _in_face(text, start, end)


def _letters(part: str) -> int:
    return sum(char.isalpha() for char in part)


def _is_greek_word(part: str) -> bool:
    letters = unicodedata.normalize("NFD", part.lower())
    plain = "".join(char for char in letters if char.isalpha()).replace("ς", "σ")
    if len(plain) < 2:
        return False
    if not _ACCENTS.isdisjoint(letters) or plain in _GREEK_WORDS or (part[-1] == "ς" and len(plain) > 2):
        return True
    vowels = [char for char in plain if char in _GREEK_VOWELS]
    return len(plain) > 3 and 3 * len(vowels) >= len(plain) and plain not in _GREEK_ALPHABET


def _greek_beside(text: str, start: int, end: int) -> bool:
    """Whether a short Greek word is next to one that is certainly a word."""
    before = _LAST_GREEK.search(text, max(0, start - 2 * _LOOK), start)
    after = _NEXT_GREEK.match(text, end)
    return any(found is not None and _is_greek_word(found["word"]) for found in (before, after))


def _stands_alone(text: str, start: int, end: int, script: str) -> bool:
    """Whether no letter is beside it, and no other word of its script is directly before or after it."""
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    near = text[max(0, start - 3) : start] + " " + text[end : end + 3]
    return not any(map(str.isalpha, around)) and not _of_script(script).search(near)


@cache
def _of_script(script: str) -> regex.Pattern[str]:
    return regex.compile(rf"\p{{Script={script}}}")


def _in_face(text: str, start: int, end: int) -> bool:
    if _ORDINARY.issuperset(text[max(0, start - 2) : start] + text[end : end + 2]):
        return False
    left = text[max(0, start - _LOOK) : start]
    right = text[end : end + _LOOK]
    own = text[start:end]
    token = _after_space(left) + own + _before_space(right)
    if _MIRRORED.search(token) or _SHRUG.search(token) or _is_face(token):
        return True
    opened = max(map(left.rfind, _OPENS))
    closed = min((place for place in map(right.find, _CLOSES) if place >= 0), default=-1)
    if left.endswith(tuple(_CLOSES)):  # an arm after the face, or before it
        return _is_face(left[opened:])
    if right.startswith(tuple(_OPENS)):
        return _is_face(right[: closed + 1])
    return opened >= 0 and closed >= 0 and _is_face(left[opened:] + own + right[: closed + 1])


def _is_face(token: str) -> bool:
    return sum(char in _FACE for char in token) > 1 and not _SEVERAL_LETTERS.search(token)


def _after_space(left: str) -> str:
    return left[max((cut.end() for cut in _CUT.finditer(left)), default=0) :]


def _before_space(right: str) -> str:
    found = _CUT.search(right)
    return right[: found.start()] if found else right
