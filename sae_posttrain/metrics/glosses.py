"""Find words next to their reading: Hanja in Korean text, and names followed by their original script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import regex

from ..languages import script_counts

# Korean spells out what a word is in Hanja, and reads one syllable for each of them: 한국(韓國), 주(Major, 主), with
# brackets or in <sup>, of whose tags spaces are left. A run of Hanja is tried once, from its start, and not from each
# of its characters.
_HANJA = regex.compile(
    r"(?<=(?P<hangul>\p{Hang}+)[》〉」』”’\"']?)[(（](?:\p{Latn}{1,30}+, )?+(?P<hanja>\p{Hani}++)[)）]"
    r"|(?<!\p{Hani})(?P<hanja>\p{Hani}++)[(（](?P<hangul>\p{Hang}+)[)）]"
)
# As the second, but where the tags were taken out before: 주Major, 主.
_GLUED = regex.compile(r"(?<=(?P<hangul>\p{Hang}+))\p{Latn}{1,30}+, (?P<hanja>\p{Hani}++)(?!\p{Hang})")
_RAISED = regex.compile(r"(?<=(?P<hangul>\p{Hang}+)) {5}(?:\p{Latn}{1,30}+, )?+(?P<hanja>\p{Hani}++) {6}")
_BETWEEN = regex.compile(r"[ \u3000·・‧•.,'’\-‐=＝]{1,3}")  # of the words of one name
_MOST = 30  # characters of a name or a term
_MOST_WORDS = 5
_LOOK = 60  # characters in which brackets are looked for
_OPENED = regex.compile(r"(?P<word>\p{L}[\p{M}\p{N}]*+)[\])*_”\"'’>」]{0,3} ?[*_]{0,3}[(（\[][^()（）\n]*+(?=\Z)")
_CLOSED = regex.compile(r"[^()（）\n]*+[)）\]]")
_READING = regex.compile(r"[\"'”’»」』*_]{0,3} ?[(（\[](?P<reading>[^()（）\[\]\n]*+)[)）\]]")


def without_hanja(text: str) -> str:
    """Korean without the Hanja that stand beside their reading, as 한국(韓國)."""
    if " " * 5 in text:
        text = _RAISED.sub(_without_reading, text)
    return str(_HANJA.sub(_without_reading, _GLUED.sub(_without_reading, text)))


def _without_reading(match: regex.Match[str]) -> str:
    return " " * len(match[0]) if len(match["hanja"]) <= len(match["hangul"]) else match[0]


def glossed(text: str, words: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """Of each word, by start and end and in order, whether it belongs to a name or a term that is glossed.

    That is a short stretch of such words in brackets behind another word, Miyazaki (宮崎 駿), or before brackets with
    other words, 宮崎 駿 (Miyazaki).
    """
    for first, last in _stretches(text, words):
        start, end = words[first][0], words[last - 1][1]
        short = end - start <= _MOST and last - first <= _MOST_WORDS
        gloss = short and (_in_brackets(text, start, end) or _before_reading(text, start, end))
        yield from [gloss] * (last - first)


def _stretches(text: str, words: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Words that only spaces or dots part, as numbers of the first one and behind the last one."""
    first = 0
    for number in range(1, len(words) + 1):
        parted = number == len(words) or not _joined(text, words[number - 1][1], words[number][0])
        if parted:
            yield first, number
            first = number


def _joined(text: str, end: int, start: int) -> bool:
    return end == start or _BETWEEN.fullmatch(text, end, start) is not None


def _in_brackets(text: str, start: int, end: int) -> bool:
    """Whether the words stand in brackets behind a word in another script."""
    closed = _CLOSED.match(text, end, end + _LOOK)
    opened = _OPENED.search(text[max(0, start - _LOOK) : start])
    return closed is not None and opened is not None and _other_script(opened["word"], text[start:end])


def _before_reading(text: str, start: int, end: int) -> bool:
    """Whether brackets with words in another script follow."""
    reading = _READING.match(text, end, end + _LOOK)
    return reading is not None and _other_script(reading["reading"], text[start:end])


def _other_script(text: str, words: str) -> bool:
    scripts = script_counts(text).keys()
    return bool(scripts) and scripts.isdisjoint(script_counts(words))
