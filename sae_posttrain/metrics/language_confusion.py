"""Line and word pass rates of the Language Confusion Benchmark, with an identifier that needs no download."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import regex

from ..languages import UNSPACED_SCRIPTS, get_language, is_same_language, script_counts
from .identification import BENCHMARK_LANGUAGES, Identifier, langid_identifier
from .interval import Outcome, clustered_interval
from .prose import blank
from .scripts import Span

MIN_WORDS = 5  # of a line that is looked at, as published
_CHARACTERS_PER_WORD = 2  # in scripts without spaces; the published code has a tokeniser for zh and one for ja
_LINE = regex.compile(r"\S(?:[^\n]*\S)?")
_LATIN_WORD = regex.compile(r"(?<![\p{L}\p{N}_])[a-z]{4,}(?![\p{L}\p{N}_])")


@dataclass(frozen=True)
class PassRate:
    """How many of `total` responses passed, and the confidence interval of that share; none where none was judged."""

    passed: int
    total: int
    low: float | None
    high: float | None

    @property
    def rate(self) -> float | None:
        return self.passed / self.total if self.total else None


@dataclass(frozen=True)
class LanguageConfusionReport:
    """Line pass rate: responses without a line in a wrong language, of those with a line long enough. Word pass rate:
    those without a wrong word, of those that passed by line and whose language is not written in Latin letters.

    lines, words: over all responses; by_language: (lines, words) of each.
    """

    lines: PassRate
    words: PassRate
    by_language: Mapping[str, tuple[PassRate, PassRate]]
    skipped: int  # responses without a line long enough
    confidence: float
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)  # of each response, for `compare_rates`

    @property
    def rate(self) -> float:
        """The share of responses that failed, by line or by word."""
        return sum(failed for _, failed in self.outcomes) / len(self.outcomes)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each rate, of all and of each language; for tables and .csv."""
        found = {"all": (self.lines, self.words), **self.by_language}
        return [
            {"language": code, "measure": measure, **_plain(rate)}
            for code, rates in found.items()
            for measure, rate in zip(("LPR", "WPR"), rates, strict=True)
            if rate.total
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        languages = {
            code: {"lpr": _plain(lines), "wpr": _plain(words)} for code, (lines, words) in self.by_language.items()
        }
        return {
            "rate": self.rate,
            "lpr": _plain(self.lines),
            "wpr": _plain(self.words),
            "languages": languages,
            "skipped": self.skipped,
            "confidence": self.confidence,
        }

    def table(self) -> str:
        """One line per rate, in percent."""
        lines = [f"language  measure   passed     total    rate %   {self.confidence:.0%} interval"]
        lines += [
            f"{row['language']:<9} {row['measure']:<7} {row['passed']:>8} {row['total']:>9} {100 * row['rate']:>9.3f}"
            f"   {100 * row['low']:.3f} to {100 * row['high']:.3f}"
            for row in self.rows()
        ]
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: no line of at least {MIN_WORDS} words")
        return "\n".join(lines)


class _Judged(NamedTuple):
    language: str
    cluster: Hashable
    line: bool  # whether every line passed
    word: bool | None  # whether every word did; None where words are not looked at


def language_confusion(
    responses: Sequence[str],
    languages: str | Sequence[str],
    *,
    among: Iterable[str] = BENCHMARK_LANGUAGES,
    identify: Identifier | None = None,
    english: Collection[str] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    ignore_code: bool = True,
    ignore_urls: bool = True,
) -> LanguageConfusionReport:
    """Line and word pass rates, as in the Language Confusion Benchmark, with bootstrap intervals.

    languages: of each response, or one for all. identify: from a line to its language's code, or None, which is wrong
    too; default: py3langid, choosing among these languages and `among`. english: the words that count as wrong; without
    a list any word of at least four small Latin letters does, so that English-like names in small letters count.
    clusters: as in `code_switching_rate`.

    Apart from the identifier the differences to the published code are: no dictionary comes along; a word of Chinese
    or Japanese is taken for two characters long; and code and addresses are passed over unless `ignore_code` and
    `ignore_urls` are off.

    Raises: ValueError when lengths differ, a code is unknown, or no response has a line to look at.
    Source: arXiv:2406.20052 and its code, for-ai/language-confusion.
    """
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    for name, column in (("languages", codes), ("clusters", clusters)):
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response")
    known = [get_language(code) for code in codes]
    identify = identify or langid_identifier({*among, *(language.code for language in known)})
    judged = []
    for index, (response, language) in enumerate(zip(responses, known, strict=True)):
        text = blank(response, code=ignore_code, urls=ignore_urls, markup=ignore_code)
        lines = list(_lines(text))
        if lines:
            cluster = index if clusters is None else clusters[index]
            passed = not any(_wrong_lines(text, lines, language.code, identify))
            words = passed and "Latn" not in language.scripts
            word = not any(_wrong_words(text, lines, english)) if words else None
            judged.append(_Judged(language.code, cluster, passed, word))
    if not judged:
        raise ValueError(f"nothing to measure among {len(responses)} responses: no line has at least {MIN_WORDS} words")
    rate = partial(_rates, interval=partial(clustered_interval, confidence=confidence, resamples=resamples, seed=seed))
    by_language: dict[str, list[_Judged]] = {}
    for row in judged:
        by_language.setdefault(row.language, []).append(row)
    overall = rate(judged)
    return LanguageConfusionReport(
        *overall,
        by_language={code: rate(rows) for code, rows in sorted(by_language.items())},
        skipped=len(responses) - len(judged),
        confidence=confidence,
        outcomes=tuple((row.cluster, not row.line or row.word is False) for row in judged),
    )


def confused_spans(
    response: str,
    language: str,
    *,
    identify: Identifier,
    english: Collection[str] | None = None,
    ignore_code: bool = True,
    ignore_urls: bool = True,
) -> list[Span]:
    """What makes a response fail: its lines in a wrong language, or, if there are none, its wrong words."""
    known = get_language(language)
    text = blank(response, code=ignore_code, urls=ignore_urls, markup=ignore_code)
    lines = list(_lines(text))
    found = list(_wrong_lines(text, lines, known.code, identify))
    if not found and "Latn" not in known.scripts:
        found = list(_wrong_words(text, lines, english))
    return [Span(start, end, _script(text[start:end]), response[start:end], code or None) for start, end, code in found]


_Line: TypeAlias = tuple[int, int]
_Wrong: TypeAlias = tuple[int, int, str]
"""Start, end, and the code of its language, if that could be told."""


def _lines(text: str) -> Iterator[_Line]:
    """Where the lines of at least five words are."""
    for match in _LINE.finditer(text):
        if _words(match[0]) >= MIN_WORDS:
            yield match.span()


def _words(line: str) -> float:
    words = _unit().findall(line)
    unspaced = sum(len(word) == 1 and _unspaced().match(word) is not None for word in words)
    return len(words) - unspaced + unspaced / _CHARACTERS_PER_WORD


def _wrong_lines(text: str, lines: Iterable[_Line], code: str, identify: Identifier) -> Iterator[_Wrong]:
    for start, end in lines:
        found = identify(text[start:end])
        if found is None or not is_same_language(found, code):
            yield start, end, found or ""


def _wrong_words(text: str, lines: Iterable[_Line], english: Collection[str] | None) -> Iterator[_Wrong]:
    for line in lines:
        for match in _LATIN_WORD.finditer(text, *line):
            if english is None or match[0] in english:
                yield *match.span(), "en"


def _script(text: str) -> str:
    counts = script_counts(text)
    return max(counts, key=counts.__getitem__, default="Zyyy")


def _rates(rows: Sequence[_Judged], interval: Any) -> tuple[PassRate, PassRate]:
    words = [(row.cluster, row.word) for row in rows if row.word is not None]
    return _rate([(row.cluster, row.line) for row in rows], interval), _rate(words, interval)


def _rate(rows: Sequence[Outcome], interval: Any) -> PassRate:
    if not rows:
        return PassRate(0, 0, None, None)
    clusters, passed = zip(*rows, strict=True)
    return PassRate(sum(passed), len(rows), *interval(passed, clusters))


@cache
def _unspaced() -> regex.Pattern[str]:
    return regex.compile("[" + "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS) + "]")


@cache
def _unit() -> regex.Pattern[str]:
    """A word with a letter, or one character of a script without spaces."""
    unspaced = "".join(rf"\p{{Script={script}}}" for script in UNSPACED_SCRIPTS)
    return regex.compile(rf"[{unspaced}]|[^\W\d_{unspaced}][^\W{unspaced}]*")


def _plain(rate: PassRate) -> dict[str, Any]:
    return {"rate": rate.rate, **asdict(rate)}
