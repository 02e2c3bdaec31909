"""Map each character of a text to one byte that names its class, so that short regular expressions run fast.

l and U  Latin letters, small and capital      m  marks
H        Han                                   C  Han that Japanese does not write
J        Han that Chinese does not write       S  the Chinese copula
K        kana                                  G  Hangul
d        digits                                space, newline: themselves
E and .  ends of sentences, CJK and others     c  the Chinese comma
'        joints of words                       ,  other soft punctuation
#        everything else                       from 0x80 on: letters of further scripts
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import regex

from ..languages import LANGUAGES, SCRIPTS
from .han import chinese_forms, japanese_forms
from .offsets import code_points

_OWN_CLASS = {"Hani": "H", "Hira": "K", "Kana": "K", "Hang": "G"}
_LIVING = {script for language in LANGUAGES.values() for script in language.scripts}
_OTHERS = sorted({*SCRIPTS} - {"Latn", "Zyyy", "Zinh", *_OWN_CLASS}, key=lambda script: (script not in _LIVING, script))
SCRIPT_OF_BYTE = dict(zip(range(0x80, 0x100), _OTHERS, strict=False))
"""The scripts of the languages in our table, then other scripts until all byte values are used."""
NO_LETTERS = b"d \nE.',c#"
_PUNCTUATION = {
    r"\p{Nd}": "d",
    r"[\p{Zs}\t]": " ",
    r"[\n\r\u2028\u0085]": "\n",
    "[。！？；｡]": "E",
    "[.!?;:…]": ".",
    r"['’\-‐\u2011·]": "'",
    r"[,()\[\]|\"“”„«»‘—–*]": ",",
    "，": "c",
    r"\p{Script=Zinh}": "m",
}


def classes_of(text: str) -> bytes:
    """The class of each character of the text, as bytes."""
    classes: bytes = _table()[code_points(text)].tobytes()
    return classes


@cache
def _table() -> np.ndarray:
    """The class of every Unicode character, as an array that is indexed by code point."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    table = np.full(sys.maxunicode + 1, ord("#"), dtype=np.uint8)
    classes = {r"\p{Script=Latn}": ord("l"), r"[\p{Script=Latn}&&\p{Lu}]": ord("U")}
    classes |= {pattern: ord(char) for pattern, char in _PUNCTUATION.items()}
    classes |= {rf"\p{{Script={script}}}": ord(char) for script, char in _OWN_CLASS.items()}
    classes |= {rf"\p{{Script={script}}}": byte for byte, script in SCRIPT_OF_BYTE.items()}
    for pattern, byte in classes.items():
        try:
            matches = regex.finditer(f"{pattern}+", everything, regex.V1)
        except regex.error:
            continue  # the installed `regex` does not know this script yet
        for match in matches:
            table[match.start() : match.end()] = byte
    for forms, char in ((chinese_forms(), "C"), (japanese_forms(), "J"), ("是", "S")):
        table[[ord(form) for form in forms]] = ord(char)
    return table
