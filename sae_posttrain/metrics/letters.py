"""Measure a text's length in characters weighted by information, and find non-text characters at its end."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import regex

from .scripts import code_points, every_character

# A Chinese character carries about as much information as three Latin letters, a kana or a Korean syllable as two.
WEIGHTS = {"Hani": 3, "Hira": 2, "Kana": 2, "Hang": 2}

_MARKER = regex.compile(
    r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|\[(?:EOS|PAD|SEP|END)\]"
    r"|<(?:eos|bos|pad|unk|eot|eod|eom|end|end_of_turn|start_of_turn|end_of_text|endoftext|end_of_utterance)>"
    r"|<[|｜][^<>|｜\s]{0,40})\Z"  # the last one is a marker that was cut
)
_LONGEST_MARKER = 48
_MARKS = 16  # maximum number of punctuation marks in a tail


def weight(text: str) -> int:
    """The length of a text, where each character is weighted by how much information it carries."""
    return len(text) if text.isascii() else int(_weights().take(code_points(text)).sum())


def heaviest(text: str) -> int:
    """The largest weight of a character in the text; 1 for an empty text."""
    return 1 if text.isascii() else int(_weights().take(code_points(text)).max())


def without_cut(text: str) -> str:
    """The text without white space, U+FFFD (from a cut character) and end markers at its end."""
    while True:
        shorter = text.rstrip().rstrip("\ufffd")
        marker = _MARKER.search(shorter, max(0, len(shorter) - _LONGEST_MARKER))
        shorter = shorter[: marker.start()] if marker else shorter
        if len(shorter) == len(text):
            return shorter
        text = shorter


def without_tail(text: str) -> str:
    """The text without what `without_cut` removes, and without the last few punctuation marks before that."""
    text = without_cut(text)
    end = len(text)
    while end > max(0, len(text) - _MARKS) and is_mark(text[end - 1]):
        end -= 1
    return text[:end]


def is_mark(character: str) -> bool:
    """Whether a character is white space, punctuation or a box-drawing character."""
    return character.isspace() or character in "\ufffd|~`^+<>=$" or unicodedata.category(character).startswith("P")


@cache
def _weights() -> np.ndarray:
    """The weight of every Unicode character, as an array that is indexed by code point."""
    weights = np.ones(sys.maxunicode + 1, dtype=np.uint8)
    for script, value in WEIGHTS.items():
        for match in regex.finditer(rf"\p{{Script={script}}}+", every_character()):
            weights[match.start() : match.end()] = value
    return weights
