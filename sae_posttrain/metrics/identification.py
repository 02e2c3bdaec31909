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
"""Those of the Language Confusion Benchmark, arXiv:2406.20052."""

LINE_LANGUAGES = (*BENCHMARK_LANGUAGES, "ca", "fa", "ms", "nl", "ro", "uk")
"""What lines are told apart from by default: the benchmark's languages, and near relatives that fastText, too, takes
some of their lines for. Chosen with `_MOSTLY` on the benchmark's own outputs (benchmarks/language_confusion.py)."""

_MOSTLY = 0.6  # of a line's words in Latin letters: then it is in a language of Latin letters, whatever else is in it


def langid_scorer(languages: Iterable[str] = BENCHMARK_LANGUAGES) -> Scorer:
    """py3langid's log-probabilities of these languages; 0 for each where a text holds nothing that it knows.

    Raises: ValueError for fewer than two languages, or one that it does not know; ImportError when not installed.
    """
    codes = sorted({get_language(code).code for code in languages})
    identifier = _restricted({_LABELS.get(code, code) for code in codes})

    def score(text: str) -> dict[str, float]:
        scores = dict(identifier.rank(text))
        known = max(scores.values()) > _FLOOR
        return {code: scores[_LABELS.get(code, code)] if known else 0.0 for code in codes}

    return score


def langid_identifier(languages: Iterable[str] = BENCHMARK_LANGUAGES) -> Identifier:
    """py3langid's choice among these languages; None for a text without anything that it knows.

    A text with more than 60% of its words in Latin letters is in a language of Latin letters, if there is one among
    them: py3langid reads bytes, of which a Chinese character has three, so that a few would outweigh a sentence.

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
    """The share of words in Latin letters; of a script without spaces two characters are a word."""
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


_FLOOR = -1e30  # py3langid's score of a text without features lies below
_LABELS = {"fil": "tl"}  # what py3langid calls a language of ours


def _restricted(languages: Iterable[str]) -> Any:
    codes = sorted(languages)
    if len(codes) < 2:
        raise ValueError(f"got {codes} to tell apart; name at least two languages.")
    identifier = copy(_whole())  # restricting one must not restrict the others
    unknown = sorted(set(codes) - set(identifier.labels))
    if unknown:
        raise ValueError(
            f"py3langid does not know {', '.join(unknown)}; leave them out, or bring an identifier of your own."
        )
    identifier.set_languages(codes)
    return identifier


@cache
def _whole() -> Any:
    """The whole py3langid model. It is loaded only once, because loading takes more than a second."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ImportError(
            'telling languages of one script apart needs py3langid: pip install "sae-posttrain[langid]".'
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE)
