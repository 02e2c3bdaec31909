"""Identify the language of a text: with py3langid, restricted to the expected languages, or with a user's function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from functools import cache
from typing import Any, TypeAlias

import regex

from ..languages import UNSPACED_SCRIPTS, get_language

Identifier: TypeAlias = Callable[[str], str | None]
"""A function from a text to the code of its language, or None if the language is not clear."""

Scorer: TypeAlias = Callable[[str], Mapping[str, float]]
"""A function from a text to the log-probability of each language, up to a constant."""

BENCHMARK_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "pt", "ru", "tr", "vi", "zh")
"""The languages of the Language Confusion Benchmark, arXiv:2406.20052."""

LINE_LANGUAGES = (*BENCHMARK_LANGUAGES, "ca", "fa", "ms", "nl", "ro", "uk")
"""The default languages for identifying lines: the benchmark's languages, and close relatives that fastText also
confuses with them. Chosen together with `_MOSTLY` on the benchmark's own outputs (benchmarks/language_confusion.py)."""

_MOSTLY = 0.6  # a line with a larger share of words in Latin letters is in a language that is written in Latin letters


def langid_scorer(languages: Iterable[str] = BENCHMARK_LANGUAGES) -> Scorer:
    """A scorer that returns py3langid's log-probability of each language; 0 for each if it knows nothing in the text.

    Raises: ValueError: fewer than two languages, or one that py3langid does not know. ImportError: it is not installed.
    """
    codes = sorted({get_language(code).code for code in languages})
    identifier = _restricted({_LABELS.get(code, code) for code in codes})

    def score(text: str) -> dict[str, float]:
        scores = dict(identifier.rank(text))
        known = max(scores.values()) > _FLOOR
        return {code: scores[_LABELS.get(code, code)] if known else 0.0 for code in codes}

    return score


def langid_identifier(languages: Iterable[str] = BENCHMARK_LANGUAGES) -> Identifier:
    """An identifier that returns py3langid's choice among these languages; None if it knows nothing in the text.

    If more than 60% of a text's words are in Latin letters, only languages written in Latin letters are considered, if
    there are any. Without this rule, a few Chinese characters would outweigh a Latin sentence, because py3langid reads
    bytes and a Chinese character has three.

    Raises: as `langid_scorer`.
    """
    score = langid_scorer(languages)
    latin = {code for code in map(_code_of, languages) if "Latn" in get_language(code).scripts}

    def identify(text: str) -> str | None:
        scores = score(text)
        if not any(scores.values()):
            return None
        candidates = latin if latin and _latin_share(text) > _MOSTLY else scores
        return max(sorted(candidates), key=scores.__getitem__)

    return identify


def _code_of(language: str) -> str:
    return get_language(language).code


def _latin_share(text: str) -> float:
    """The share of words in Latin letters. In a script without spaces, two characters count as a word."""
    if text.isascii():
        return 1.0
    latin, unspaced, other = (len(pattern.findall(text)) for pattern in _word_patterns())
    words = latin + unspaced / 2 + other
    return latin / words if words else 0.0


@cache
def _word_patterns() -> tuple[regex.Pattern[str], ...]:
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    return (
        regex.compile(r"\p{Script=Latin}[\p{Script=Latin}\p{M}]*"),
        regex.compile(f"[{unspaced}]"),
        regex.compile(
            rf"(?![\p{{Script=Latin}}{unspaced}])\p{{L}}(?:(?![\p{{Script=Latin}}{unspaced}])[\p{{L}}\p{{M}}])*"
        ),
    )


_FLOOR = -1e30  # for a text without features, py3langid's score is below this
_LABELS = {"fil": "tl"}  # our code: the code that py3langid uses for the same language


def _restricted(languages: Iterable[str]) -> Any:
    codes = sorted(languages)
    if len(codes) < 2:
        raise ValueError(f"got the languages {codes} to choose from; name at least two.")
    identifier = copy(_whole())  # a copy, because restricting it must not affect other identifiers
    unknown = sorted(set(codes) - set(identifier.labels))
    if unknown:
        raise ValueError(f"py3langid does not know {', '.join(unknown)}; leave them out, or pass your own identifier.")
    identifier.set_languages(codes)
    return identifier


@cache
def _whole() -> Any:
    """The whole py3langid model. It is loaded only once, because loading takes more than a second."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ImportError(
            'identifying languages that share a script needs py3langid: pip install "sae-posttrain[langid]".'
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)
