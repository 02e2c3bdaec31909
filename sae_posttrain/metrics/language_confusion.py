"""Line and word pass rates of the Language Confusion Benchmark, with an identifier that needs no download."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ..languages import get_language
from .confusion_lines import MIN_WORDS, LineReader, confused_spans
from .identification import LINE_LANGUAGES, Identifier, langid_identifier
from .interval import ClusteredOutcome, mean_share_interval
from .share import Share, ShareOf

__all__ = ["LanguageConfusionReport", "confused_spans", "language_confusion"]


@dataclass(frozen=True)
class AverageRate:
    """The mean over languages of the mean over sources of a pass rate, as published, and its confidence interval."""

    rate: float
    low: float
    high: float
    cells: int  # number of pairs of source and language in the mean


@dataclass(frozen=True)
class LanguageConfusionReport:
    """Line and word pass rates.

    The line pass rate (LPR) is the share of responses without a line in a wrong language. Responses without a line of
    at least five words are left out. The word pass rate (WPR) is the share without a wrong word among the responses
    that passed by line and whose language is not written in Latin letters.

    Args:
        lpr, wpr: averages over sources and languages, as published. wpr is None if no response was judged by word.
        lines, words: the shares that passed, pooled over all responses. words is None if wpr is None.
        by_language: (lines, words) of each language, pooled over its responses.
        skipped: number of responses without a line that is long enough.
        confidence: confidence level of the intervals.
        outcomes: the cluster and result of each response; used by `compare_rates`.
    """

    lpr: AverageRate
    wpr: AverageRate | None
    lines: Share
    words: Share | None
    by_language: Mapping[str, tuple[Share, Share | None]]
    skipped: int
    confidence: float
    outcomes: tuple[ClusteredOutcome, ...] = field(default=(), repr=False)

    @property
    def rate(self) -> float:
        """The share of responses that failed, by line or by word."""
        return sum(failed for _, failed in self.outcomes) / len(self.outcomes)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each rate: the published average, all responses pooled, each language; for tables and .csv."""
        found = {"all": (self.lines, self.words), **self.by_language}
        averages = (("LPR", self.lpr), ("WPR", self.wpr))
        return [
            {"language": "average", "measure": measure, **_plain_average(rate)} for measure, rate in averages if rate
        ] + [
            {"language": code, "measure": measure, **_plain(rate)}
            for code, rates in found.items()
            for measure, rate in zip(("LPR", "WPR"), rates, strict=True)
            if rate is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        languages = {
            code: {"lpr": _plain(lines), "wpr": _plain(words)} for code, (lines, words) in self.by_language.items()
        }
        return {
            "rate": self.rate,
            "average": {
                "lpr": _plain_average(self.lpr),
                "wpr": None if self.wpr is None else _plain_average(self.wpr),
            },
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
            f"{row['language']:<9} {row['measure']:<7} {_cell(row['passed']):>8} {_cell(row['total']):>9}"
            f" {100 * row['rate']:>9.3f}"
            f"   {100 * row['low']:.3f} to {100 * row['high']:.3f}"
            for row in self.rows()
        ]
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: no line of at least {MIN_WORDS} words.")
        return "\n".join(lines)


class _Judged(NamedTuple):
    language: str
    source: Hashable
    cluster: Hashable
    line: bool  # whether every line passed
    word: bool | None  # whether every word passed; None if words are not checked


def language_confusion(
    responses: Sequence[str],
    languages: str | Sequence[str],
    *,
    sources: Sequence[Hashable] | None = None,
    among: Iterable[str] = LINE_LANGUAGES,
    identify: Identifier | None = None,
    english: Collection[str] | None = None,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    ignore_code: bool = True,
    ignore_urls: bool = True,
    published: bool = False,
) -> LanguageConfusionReport:
    """Line and word pass rates, as in the Language Confusion Benchmark, with bootstrap intervals.

    Differences from the published code, with `published=True`:

    - Lines are identified by py3langid among 21 languages; the published code uses fastText among 176. fastText's
      "unknown" (probability below 0.3) has no counterpart. A line with more than 60% of its words in Latin letters gets
      a language that is written in Latin letters, because fastText weighs words and py3langid weighs bytes. `identify`
      replaces the identifier.
    - In Chinese and Japanese, 1.6 characters or a punctuation mark count as a word; the published code splits words
      with jieba and fugashi. A Latin word ends where Chinese or Japanese characters begin.
    - English words are those of `english`, which is not part of the package. Without it, any word of at least four
      lower-case Latin letters counts, so names in lower case count too. Of the published list, words of at least four
      lower-case letters are used, as in the published code.
    - A pair of source and language is left out of the averages if no line is long enough; the published code counts it
      as 1. Words are judged in every language that is not written in Latin letters; the published code judges six.

    Without `published` there are four more differences:

    - Code, markup and URLs are left out, unless `ignore_code` and `ignore_urls` are off.
    - Punctuation is kept, only words with a letter are counted, and two characters of Chinese or Japanese are a word.
    - The text after a line that begins with "Q:" is read too.
    - A pair of source and language is left out of the average of words if no response passes by line; the published
      code counts it as 1.

    Args:
        responses: texts.
        languages: code of the language of each response, or one code for all.
        sources: the source of each response, such as the data set of its prompt. Default: one source for all.
        among: languages that a line can be identified as, besides those of the responses.
        identify: function from a line to the code of its language, or None, which counts as wrong. Default: py3langid.
        english: the words that count as wrong.
        clusters: as in `code_switching_rate`.
        confidence, resamples, seed: confidence level, number of draws and random seed of the intervals.
        ignore_code, ignore_urls: whether code and markup, and URLs, are left out.
        published: read responses as the published code does; `ignore_code` and `ignore_urls` then have no effect.

    Returns: the published averages, the pooled rates, and those by language.

    Raises: ValueError: lengths differ, a code is unknown, or no response has a line that is long enough.

    Example:
        >>> language_confusion(["This is a long enough English line.", "Too short."], "en").lines.rate
        1.0

    Source: arXiv:2406.20052 and its code, for-ai/language-confusion.
    """
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    for name, column in (("languages", codes), ("sources", sources), ("clusters", clusters)):
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response.")
    known = [get_language(code) for code in codes]
    identify = identify or langid_identifier({*among, *(language.code for language in known)})
    reader = LineReader(identify, english, ignore_code, ignore_urls, published)
    judged = []
    for index, (response, language) in enumerate(zip(responses, known, strict=True)):
        text = reader.text(response)
        if lines := reader.lines(text, language):
            passed = next(reader.wrong_lines(text, language, lines), None) is None
            word = next(reader.wrong_words(text, language, lines), None) is None
            judged.append(
                _Judged(
                    language.code,
                    None if sources is None else sources[index],
                    index if clusters is None else clusters[index],
                    passed,
                    word if passed and "Latn" not in language.scripts else None,
                )
            )
    if not judged:
        raise ValueError(
            f"nothing to measure among {len(responses)} responses: no line has at least {MIN_WORDS} words."
        )
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    rate = partial(_rates, share_of=partial(Share.of, **options))
    by_language: dict[str, list[_Judged]] = {}
    for row in judged:
        by_language.setdefault(row.language, []).append(row)
    overall = rate(judged)
    averages = [_average(judged, by_word, published, options) for by_word in (False, True)]
    assert averages[0] is not None
    return LanguageConfusionReport(
        averages[0],
        averages[1],
        *overall,
        by_language={code: rate(rows) for code, rows in sorted(by_language.items())},
        skipped=len(responses) - len(judged),
        confidence=confidence,
        outcomes=tuple((row.cluster, not row.line or row.word is False) for row in judged),
    )


def _average(rows: Sequence[_Judged], by_word: bool, published: bool, options: Mapping[str, Any]) -> AverageRate | None:
    """Average over sources, then over languages. Each has the same weight, whatever its number of responses."""
    cells: dict[str, dict[Hashable, list[ClusteredOutcome]]] = {}
    for row in rows:
        passed = row.word if by_word else row.line
        empty = published and by_word and "Latn" not in get_language(row.language).scripts
        if passed is not None or empty:
            cell = cells.setdefault(row.language, {}).setdefault(row.source, [])
            cell += [] if passed is None else [(row.cluster, passed)]
    weighted = [
        (1 / (len(cells) * len(sources)), outcomes) for sources in cells.values() for outcomes in sources.values()
    ]
    judged = [(weight, outcomes) for weight, outcomes in weighted if outcomes]
    if not judged:
        return None
    share = sum(weight * sum(passed for _, passed in outcomes) / len(outcomes) for weight, outcomes in judged)
    unjudged = sum(weight for weight, outcomes in weighted if not outcomes)  # the published code counts these as 1
    low, high = mean_share_interval(judged, **options)
    return AverageRate(share + unjudged, low + unjudged, min(1.0, high + unjudged), len(weighted))


def _rates(rows: Sequence[_Judged], share_of: ShareOf) -> tuple[Share, Share | None]:
    by_word = [row for row in rows if row.word is not None]
    lines = share_of([row.line for row in rows], [row.cluster for row in rows])
    return lines, share_of([bool(row.word) for row in by_word], [row.cluster for row in by_word]) if by_word else None


def _plain_average(rate: AverageRate) -> dict[str, Any]:
    return {"rate": rate.rate, "passed": None, "total": None, "low": rate.low, "high": rate.high}


def _cell(count: int | None) -> str:
    return "" if count is None else str(count)


def _plain(share: Share | None) -> dict[str, Any]:
    if share is None:
        return {"rate": None, "passed": 0, "total": 0, "low": None, "high": None}
    return share.to_dict("passed")
