"""Find words in scripts that a language is not written in: code-switching that the script alone shows."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import regex

from ..languages import SCRIPTS, get_language, script_counts
from .glosses import glossed, without_hanja
from .han import chinese_forms, in_quoted_name, japanese_forms, japanese_passages, run_around
from .offsets import code_points
from .prose import blank
from .symbols import SYMBOLS, is_symbol

# These may occur inside a word: marks and joiners of no script, the kana length mark, dots and hyphens in names.
_CARRIED = r"[\p{Script=Zinh}[\p{Lm}&&\p{Script=Zyyy}]]"
_JOINT = r"[·・‧'’\-‐]"
_PHONETIC = regex.compile(r"[\u0250-\u02af\u02b0-\u02ff--əƏ]", regex.V1)  # ə is also a letter of Azerbaijani
_JAPANESE = frozenset({"Hani", "Hira", "Kana"})
_CHINESE = frozenset({"zh", "yue"})
_NOWHERE = np.empty(0, dtype=np.intp)

__all__ = ["Span", "code_points", "every_character", "unexpected_scripts", "unexpected_spans"]


@dataclass(frozen=True)
class Span:
    """A word in an unexpected script, or a phrase in another language; response[start:end] == text.

    `language` is set for phrases, and for words whose script the response's own language uses too.
    """

    start: int
    end: int
    script: str
    text: str
    language: str | None = None


def unexpected_spans(
    response: str,
    language: str,
    *,
    prompt: str | None = None,
    ignore_code: bool = True,
    ignore_urls: bool = True,
    ignore_glosses: bool = False,
    count_latin: bool = False,
    han_without_kana: bool = False,
    allowed: Iterable[str] = (),
    allowed_languages: Iterable[str] = (),
) -> list[Span]:
    """The words of `response` in scripts that `language` is not written in, in order.

    The following are not counted:

    - symbols: Δφ, a single Ш or ॐ, currency signs, faces such as ಠ_ಠ
    - bopomofo in Chinese
    - Hanja after their Korean reading, as in 한국(韓國)
    - names in quotation marks that mix Han and some kana, as 「優の良品」 in Chinese

    In Japanese, words with Chinese character forms count (说, 这). In Chinese, words with Japanese forms (検, 働) do.
    The span of such a word has a `language`.

    Args:
        response: the answer, with code and markup left in.
        language: code, tag or name of the language that it should be in.
        prompt: words that occur in it are quotations and are not counted.
        ignore_code: leave out code, LaTeX, HTML tags and placeholders, as `blank` does.
        ignore_urls: leave out URLs, e-mail addresses and targets of links.
        ignore_glosses: leave out names and terms next to their reading or translation, as in Miyazaki (宮崎 駿).
        count_latin: count Latin words inside other scripts. By default they do not count, because English terms, units
            and names are common there.
        han_without_kana: give Han words the language Japanese in a passage with kana, and Chinese elsewhere.
        allowed: scripts ('Grek') or words ('東京') that never count.
        allowed_languages: languages that the response may use besides its own, such as that of a translation.

    Returns:
        Spans with their positions in `response`.

    Raises:
        ValueError: an unknown language.

    Example:
        >>> [span.text for span in unexpected_spans("The answer is 答案, so Δx = 5.", "en")]
        ['答案']
    """
    extra = (allowed,) if isinstance(allowed, str) else tuple(allowed)
    further = (allowed_languages,) if isinstance(allowed_languages, str) else tuple(allowed_languages)
    expected = _expected(language, count_latin, extra, further)
    if not len(_places(response, expected)):
        return []
    terms = tuple(entry for entry in extra if entry not in SCRIPTS)
    text = blank(response, code=ignore_code, urls=ignore_urls, markup=ignore_code, terms=terms)
    if expected.code == "ko":
        text = without_hanja(text)
    spans = list(_words(text, expected, prompt.casefold() if prompt else ""))
    if ignore_glosses and spans:
        beside = glossed(text, [(span.start, span.end) for span in spans])
        spans = [span for span, gloss in zip(spans, beside, strict=True) if not gloss]
    return _told_by_kana(text, spans) if han_without_kana else spans


def unexpected_scripts(response: str, language: str, *, count_latin: bool = False) -> set[str]:
    """The scripts of all unexpected characters, also in code, quotations and URLs. This is the published definition.

    Source: arXiv:2507.14894, code-switching ratio.
    """
    expected = replace(_expected(language, count_latin, (), ()), forms=None, symbols=True)
    return set(script_counts("".join({response[place] for place in _places(response, expected)})))


@dataclass(frozen=True)
class _Expected:
    """What is expected in a response: its scripts, without the Han forms of another language."""

    code: str
    scripts: frozenset[str]
    forms: str | None  # the language whose Han forms are unexpected
    symbols: bool = False  # whether symbols count


@lru_cache(maxsize=1024)
def _expected(language: str, count_latin: bool, allowed: tuple[str, ...], further: tuple[str, ...]) -> _Expected:
    own = get_language(language)
    scripts, codes = set(own.scripts), {own.code}
    for entry in further:
        if entry in SCRIPTS:
            scripts.add(entry)
        else:
            scripts.update(get_language(entry).scripts)
            codes.add(get_language(entry).code)
    if not _CHINESE.isdisjoint(codes):
        scripts.add("Bopo")
    han_allowed = "Hani" in allowed or "Hani" in further
    forms = None
    if "Hani" in own.scripts and not han_allowed:
        chinese = not _CHINESE.isdisjoint(codes)
        forms = None if chinese and "ja" in codes else "ja" if chinese else "zh" if own.code == "ja" else None
    scripts.update(entry for entry in allowed if entry in SCRIPTS)
    return _Expected(own.code, frozenset(scripts if count_latin else scripts | {"Latn"}), forms)


def _words(text: str, expected: _Expected, quoted: str) -> Iterator[Span]:
    places, index, since = _places(text, expected), 0, 0
    while index < len(places):
        start = int(places[index])
        script = _script_of(text[start])
        if script in expected.scripts:  # a Han form of another language: the word is the whole run of Han
            start, end = run_around(text, start, since)
        else:
            end = _word_in(script).match(text, start).end()
        word = text[start:end]
        skipped = (
            is_symbol(word, script, text, start)
            or (script == "Latn" and _PHONETIC.search(word) is not None)
            or bool(quoted and word.casefold() in quoted)
            or (expected.forms == "ja" and script in _JAPANESE and in_quoted_name(text, start, end))
        )
        if not skipped:
            yield Span(start, end, script, word, expected.forms if script in expected.scripts else None)
        index, since = int(np.searchsorted(places, end)), end


@lru_cache(maxsize=1 << 16)
def _script_of(char: str) -> str:
    (script,) = script_counts(char)
    return script


def _told_by_kana(text: str, spans: list[Span]) -> list[Span]:
    passages = list(japanese_passages(text)) if any(span.script == "Hani" for span in spans) else []
    starts = [start for start, _ in passages]
    found = []
    for span in spans:
        number = bisect_right(starts, span.start) - 1
        japanese = number >= 0 and span.end <= passages[number][1]
        told = span.script == "Hani" and span.language is None
        found.append(replace(span, language="ja" if japanese else "zh") if told else span)
    return found


def _places(text: str, expected: _Expected) -> np.ndarray:
    """The positions of unexpected characters."""
    if text.isascii() and "Latn" in expected.scripts:
        return _NOWHERE
    outside = _outside(expected.scripts, expected.forms, expected.symbols).take(code_points(text))
    return np.flatnonzero(outside) if outside.any() else _NOWHERE


@lru_cache(maxsize=32)  # each entry takes 1 MiB
def _outside(scripts: frozenset[str], forms: str | None, symbols: bool) -> np.ndarray:
    """Whether each Unicode character is unexpected. Common and Inherited characters are expected everywhere."""
    expected = "".join(rf"\p{{Script={script}}}" for script in sorted({*scripts, "Zyyy", "Zinh", "Zzzz"}))
    besides = "" if symbols else SYMBOLS
    outside = np.zeros(sys.maxunicode + 1, dtype=bool)
    for match in regex.finditer(f"[^{expected}{besides}]+", every_character(), regex.V1):
        outside[match.start() : match.end()] = True
    if forms is not None:
        outside[[ord(char) for char in (chinese_forms() if forms == "zh" else japanese_forms())]] = True
    return outside


def every_character() -> str:
    """All Unicode characters, each at the index of its code point."""
    return "".join(map(chr, range(sys.maxunicode + 1)))


@cache
def _word_in(script: str) -> regex.Pattern[str]:
    own = rf"\p{{Script={script}}}"
    return regex.compile(rf"{own}(?:{own}|{_CARRIED}|{_JOINT}(?={own}))*", regex.VERSION1)
