"""Words in scripts that a language is not written in: the spans of code-switching that the writing gives away."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import regex

from ..languages import SCRIPTS, get_language, script_counts
from .prose import blank

# Inside a word: marks and joiners that belong to no script, the kana length mark, dots and hyphens in names.
_CARRIED = r"[\p{Script=Zinh}[\p{Lm}&&\p{Script=Zyyy}]]"
_JOINT = r"[·・‧'’\-‐]"
# Korean spells out what a word is in Hanja, and reads one syllable for each of them. A run of Hanja is tried once, from
# its start, and not from each of its characters.
_HANJA = regex.compile(
    r"(?<=(?P<hangul>\p{Hang}+))[(（](?P<hanja>\p{Hani}+)[)）]"
    r"|(?<!\p{Hani})(?P<hanja>\p{Hani}++)[(（](?P<hangul>\p{Hang}+)[)）]"
)
_NOWHERE = np.empty(0, dtype=np.intp)


@dataclass(frozen=True)
class Span:
    """A word in an unexpected script, or a phrase in another `language`: response[start:end] == text."""

    start: int
    end: int
    script: str
    text: str
    language: str | None = None  # of a phrase; a script alone does not tell


def unexpected_spans(
    response: str,
    language: str,
    *,
    prompt: str | None = None,
    ignore_code: bool = True,
    ignore_urls: bool = True,
    count_latin: bool = False,
    allowed: Iterable[str] = (),
) -> list[Span]:
    """The words of `response` in scripts that `language` is not written in, in order.

    prompt: words that occur in it are quotations and not counted. allowed: further scripts ('Grek') or terms
    ('東京') that are fine. Latin inside other scripts is counted only with `count_latin`: English terms, units and
    names are ordinary there. A Greek letter by itself is a symbol (α, Ω) and never counted, nor are Hanja beside
    their Korean reading: 한국(韓國).

    Raises: ValueError for an unknown language.
    """
    extra = (allowed,) if isinstance(allowed, str) else tuple(allowed)
    own = _expected(language, count_latin, extra)
    if not len(_places(response, own)):
        return []
    terms = tuple(entry for entry in extra if entry not in SCRIPTS)
    text = blank(response, code=ignore_code, urls=ignore_urls, markup=ignore_code, terms=terms)
    if get_language(language).code == "ko":
        text = _HANJA.sub(_without_gloss, text)
    quoted = prompt.casefold() if prompt else ""
    places, spans = _places(text, own), []
    index = 0
    while index < len(places):
        start = int(places[index])
        (script,) = script_counts(text[start])
        word = _word_in(script).match(text, start)
        symbol = script == "Grek" and script_counts(word[0])["Grek"] == 1
        if not symbol and not (quoted and word[0].casefold() in quoted):
            spans.append(Span(start, word.end(), script, word[0]))
        index = int(np.searchsorted(places, word.end()))
    return spans


def unexpected_scripts(response: str, language: str, *, count_latin: bool = False) -> set[str]:
    """The scripts of any unexpected character whatever, in code, quotations and addresses as well: as published.

    Source: arXiv:2507.14894, code-switching ratio.
    """
    own = _expected(language, count_latin, ())
    return set(script_counts("".join({response[place] for place in _places(response, own)})))


@lru_cache(maxsize=1024)
def _expected(language: str, count_latin: bool, allowed: tuple[str, ...]) -> frozenset[str]:
    """The scripts in which nothing is unexpected."""
    scripts = {*get_language(language).scripts, *(entry for entry in allowed if entry in SCRIPTS)}
    return frozenset(scripts if count_latin else scripts | {"Latn"})


def _without_gloss(match: regex.Match[str]) -> str:
    return " " * len(match[0]) if len(match["hanja"]) <= len(match["hangul"]) else match[0]


def _places(text: str, scripts: frozenset[str]) -> np.ndarray:
    """Where characters of other scripts than these stand."""
    if text.isascii() and "Latn" in scripts:
        return _NOWHERE
    outside = _outside(scripts).take(code_points(text))
    return np.flatnonzero(outside) if outside.any() else _NOWHERE


def code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@lru_cache(maxsize=32)  # a mebibyte each
def _outside(scripts: frozenset[str]) -> np.ndarray:
    """For every character, whether it is of another script; Common and Inherited ones go with whatever is around."""
    expected = "".join(rf"\p{{Script={script}}}" for script in sorted({*scripts, "Zyyy", "Zinh", "Zzzz"}))
    outside = np.zeros(sys.maxunicode + 1, dtype=bool)
    for match in regex.finditer(f"[^{expected}]+", every_character()):
        outside[match.start() : match.end()] = True
    return outside


def every_character() -> str:
    """Each at the place that is its number."""
    return "".join(map(chr, range(sys.maxunicode + 1)))


@cache
def _word_in(script: str) -> regex.Pattern[str]:
    own = rf"\p{{Script={script}}}"
    return regex.compile(rf"{own}(?:{own}|{_CARRIED}|{_JOINT}(?={own}))*", regex.VERSION1)
