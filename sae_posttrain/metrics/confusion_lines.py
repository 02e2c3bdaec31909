"""The parts of a response that the Language Confusion Benchmark checks: lines in a wrong language and wrong words."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache

import regex

from ..languages import UNSPACED_SCRIPTS, Language, get_language, is_same_language, script_counts
from .identification import Identifier
from .prose import blank
from .scripts import Span
from .words import count_words

MIN_WORDS = 5  # shorter lines are not checked, as in the published code
# Characters per word in scripts without spaces. The published code uses a tokeniser for zh and one for ja; this
# estimate agrees with them on 96 to 99% of the benchmark's lines.
_CHARACTERS_PER_TOKEN = 1.6
_MARK = regex.compile(r"[\p{P}\p{S}]")
_LINE = regex.compile(r"\S(?:[^\n]*\S)?")
_TOKEN = regex.compile(r"\S+")
_TRANSCRIPT = "\nQ:"  # here a base model starts to generate the next question
_DELETED = str.maketrans({**dict.fromkeys(string.punctuation + "،", ""), "—": " "})
_UNSPACED = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)

Wrong = tuple[int, int, str]
"""Start, end, and the code of the language; None if the language was not identified."""


@dataclass(frozen=True)
class LineReader:
    """Finds the wrong lines and words of responses.

    Args:
        identify: function from a line to the code of its language, or None, which counts as wrong.
        english: the words that count as wrong; None: any word of at least four small Latin letters.
        ignore_code, ignore_urls: whether code and URLs are left out.
        published: read the response as the published code does. The text up to a line that begins with "Q:" is read,
            with code and URLs. ASCII punctuation is deleted before words are counted and lines are identified. Words
            are separated by spaces.
    """

    identify: Identifier
    english: Collection[str] | None = None
    ignore_code: bool = True
    ignore_urls: bool = True
    published: bool = False

    def text(self, response: str) -> str:
        """The checked part of a response. The rest is replaced by spaces, so that offsets do not change."""
        if self.published:
            return response.split(_TRANSCRIPT)[0]
        return blank(response, code=self.ignore_code, urls=self.ignore_urls, markup=self.ignore_code)

    def lines(self, text: str, language: Language) -> list[tuple[int, int]]:
        """Start and end of each line with at least five words."""
        spans = (match.span() for match in _LINE.finditer(text))
        return [(start, end) for start, end in spans if self._words(text[start:end], language) >= MIN_WORDS]

    def wrong_lines(self, text: str, language: Language, lines: list[tuple[int, int]]) -> Iterator[Wrong]:
        for start, end in lines:
            line = text[start:end]
            found = self.identify(line.translate(_DELETED) if self.published else line)
            if found is None or not is_same_language(found, language.code):
                yield start, end, found or ""

    def wrong_words(self, text: str, language: Language, lines: list[tuple[int, int]]) -> Iterator[Wrong]:
        """Find the English words. If the language is written in Latin letters, there are none."""
        if "Latn" in language.scripts:
            return
        for start, end in lines:
            if self.published and not _is_unspaced(language):
                for match in _TOKEN.finditer(text, start, end):
                    word = match[0].translate(_DELETED)
                    if self._is_english(word) and _latin_word().fullmatch(word):
                        yield *match.span(), "en"
            else:
                for match in _latin_word().finditer(text, start, end):
                    if self._is_english(match[0]):
                        yield *match.span(), "en"

    def _is_english(self, word: str) -> bool:
        return self.english is None or word in self.english

    def _words(self, line: str, language: Language) -> float:
        if self.published:
            line = line.translate(_DELETED)
            if not _is_unspaced(language):
                return len(line.split())
            marks = len(_MARK.findall(line)) + (line.count(" ") if language.code == "zh" else 0)  # like jieba
            words = _unspaced().sub(" ", _MARK.sub(" ", line)).split()
            return len(words) + marks + len(_unspaced().findall(line)) / _CHARACTERS_PER_TOKEN
        return count_words(line)


def confused_spans(
    response: str,
    language: str,
    *,
    identify: Identifier,
    english: Collection[str] | None = None,
    ignore_code: bool = True,
    ignore_urls: bool = True,
    published: bool = False,
) -> list[Span]:
    """The spans that make a response fail: its lines in a wrong language, or, if there are none, its wrong words.

    Args:
        response: the text.
        language: code of the language that the response should be in.
        identify, english, ignore_code, ignore_urls, published: as in `language_confusion`.

    Raises: ValueError for an unknown language.
    """
    known = get_language(language)
    reader = LineReader(identify, english, ignore_code, ignore_urls, published)
    text = reader.text(response)
    lines = reader.lines(text, known)
    found = list(reader.wrong_lines(text, known, lines)) or list(reader.wrong_words(text, known, lines))
    return [Span(start, end, _script(text[start:end]), response[start:end], code or None) for start, end, code in found]


def _is_unspaced(language: Language) -> bool:
    """Whether the language is Chinese or Japanese, the unspaced languages of the published code."""
    return "Hani" in language.scripts


def _script(text: str) -> str:
    counts = script_counts(text)
    return max(counts, key=counts.__getitem__, default="Zyyy")


@cache
def _latin_word() -> regex.Pattern[str]:
    """At least four lower-case Latin letters. Characters of a script without spaces may adjoin them."""
    letter = rf"(?![{_UNSPACED}])[\p{{L}}\p{{N}}_]"
    return regex.compile(rf"(?<!(?:{letter}))[a-z]{{4,}}(?!{letter})")


@cache
def _unspaced() -> regex.Pattern[str]:
    return regex.compile(f"[{_UNSPACED}]")
