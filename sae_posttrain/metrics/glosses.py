"""Find words next to their reading: Hanja in Korean text, and names followed by their original script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex

from ..languages import script_counts

# Korean texts add the Hanja of a word after it, one for each Hangul syllable: 한국(韓國), 주(Major, 主). They are in
# brackets or in <sup>, whose tags have already been replaced by spaces. The possessive quantifiers make the pattern try
# a run of Hanja once, and not again from each of its characters.
_HANJA = regex.compile(
    r"(?<=(?P<hangul>\p{Hang}+)[》〉」』”’\"']?)[(（](?:\p{Latn}{1,30}+, )?+(?P<hanja>\p{Hani}++)[)）]"
    r"|(?<!\p{Hani})(?P<hanja>\p{Hani}++)[(（](?P<hangul>\p{Hang}+)[)）]"
)
# The second example after its tags were removed: 주Major, 主.
_GLUED = regex.compile(r"(?<=(?P<hangul>\p{Hang}+))\p{Latn}{1,30}+, (?P<hanja>\p{Hani}++)(?!\p{Hang})")
_RAISED = regex.compile(r"(?<=(?P<hangul>\p{Hang}+)) {5}(?:\p{Latn}{1,30}+, )?+(?P<hanja>\p{Hani}++) {6}")
_BETWEEN = regex.compile(r"[ \u3000·・‧•.,'’\-‐=＝]{1,3}")  # separators between the words of one name
_MOST = 30  # maximum number of characters of a name or a term
_MOST_WORDS = 5
_LOOK = 60  # number of characters that are searched for brackets
_OPENED = regex.compile(r"(?P<word>\p{L}[\p{M}\p{N}]*+)[\])*_”\"'’>」]{0,3} ?[*_]{0,3}[(（\[][^()（）\n]*+(?=\Z)")
_CLOSED = regex.compile(r"[^()（）\n]*+[)）\]]")
_READING = regex.compile(r"[\"'”’»」』*_]{0,3} ?[(（\[](?P<reading>[^()（）\[\]\n]*+)[)）\]]")


def without_hanja(text: str) -> str:
    """Blank the Hanja that follow their Korean reading, as in 한국(韓國)."""
    if " " * 5 in text:
        text = _RAISED.sub(_without_reading, text)
    return str(_HANJA.sub(_without_reading, _GLUED.sub(_without_reading, text)))


def _without_reading(match: regex.Match[str]) -> str:
    return " " * len(match[0]) if len(match["hanja"]) <= len(match["hangul"]) else match[0]


def glossed(text: str, words: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """For each word, whether it belongs to a name or a term that is glossed. Words are (start, end), in order.

    A gloss is a short run of such words in brackets after a word in another script, as in Miyazaki (宮崎 駿), or before
    brackets with words in another script, as in 宮崎 駿 (Miyazaki).
    """
    for first, last in _stretches(text, words):
        start, end = words[first][0], words[last - 1][1]
        short = end - start <= _MOST and last - first <= _MOST_WORDS
        gloss = short and (_in_brackets(text, start, end) or _before_reading(text, start, end))
        yield from [gloss] * (last - first)


def _stretches(text: str, words: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of words that are separated by spaces or dots only, as (index of the first word, index after the last)."""
    first = 0
    for number in range(1, len(words) + 1):
        parted = number == len(words) or not _joined(text, words[number - 1][1], words[number][0])
        if parted:
            yield first, number
            first = number


def _joined(text: str, end: int, start: int) -> bool:
    return end == start or _BETWEEN.fullmatch(text, end, start) is not None


def _in_brackets(text: str, start: int, end: int) -> bool:
    """Whether the words are in brackets after a word in another script."""
    closed = _CLOSED.match(text, end, end + _LOOK)
    opened = _OPENED.search(text[max(0, start - _LOOK) : start])
    return closed is not None and opened is not None and _other_script(opened["word"], text[start:end])


def _before_reading(text: str, start: int, end: int) -> bool:
    """Whether brackets with words in another script follow the words."""
    reading = _READING.match(text, end, end + _LOOK)
    return reading is not None and _other_script(reading["reading"], text[start:end])


def _other_script(text: str, words: str) -> bool:
    scripts = script_counts(text).keys()
    return bool(scripts) and scripts.isdisjoint(script_counts(words))
