"""Code-switching: the share of responses that leave their language, overall and by what they switch into."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from ..languages import SCRIPTS, get_language
from .interval import ClusteredOutcome
from .phrases import PhraseFinder
from .scripts import Span, unexpected_scripts
from .share import Share, ShareOf
from .switches import SwitchCriteria, into, parse_allowed


@dataclass(frozen=True)
class CodeSwitchingReport:
    """Shares of responses that switch: over all responses, by language, and by what they switch into.

    `graded` of each share is the mean share of a response's words that belong to switches.

    Args:
        overall: share of all responses.
        languages: share by the language of the response.
        pairs: share by (language, script), or by (language, other language) for phrases.
        skipped: number of responses left out because their own language is written in every target script.
        confidence: confidence level of the intervals.
        published: share by the paper's definition, which counts any character of another script; None if it was not
            requested.
        outcomes: the cluster and result of each response; used by `compare_rates`.

    Example:
        >>> report = code_switching_rate(["All good.", "All 一切 good."], "en")
        >>> report.pairs["en", "Hani"].rate
        0.5

    Source: arXiv:2507.14894, code-switching ratio.
    """

    overall: Share
    languages: Mapping[str, Share]
    pairs: Mapping[tuple[str, str], Share]
    skipped: int
    confidence: float
    published: Share | None = None
    outcomes: tuple[ClusteredOutcome, ...] = field(default=(), repr=False)

    @property
    def rate(self) -> float:
        return self.overall.rate

    @property
    def words(self) -> float:
        """The mean share of a response's words that are switches: the graded rate."""
        assert self.overall.graded is not None
        return self.overall.graded

    def rows(self) -> list[dict[str, Any]]:
        """A row for each rate: all, each language, each pair; for tables and .csv."""
        rows = [{"language": "all", "into": "any", **_plain(self.overall)}]
        if self.published is not None:
            rows.append({"language": "all", "into": "any, as published", **_plain(self.published)})
        rows += [{"language": code, "into": "any", **_plain(rate)} for code, rate in self.languages.items()]
        rows += [{"language": code, "into": into, **_plain(rate)} for (code, into), rate in self.pairs.items()]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        pairs = [
            {"language": code, "script": _script(into), "into": into, **_plain(rate)}
            for (code, into), rate in self.pairs.items()
        ]
        return {
            "overall": _plain(self.overall),
            "published": None if self.published is None else _plain(self.published),
            "languages": {code: _plain(rate) for code, rate in self.languages.items()},
            "pairs": pairs,
            "skipped": self.skipped,
            "confidence": self.confidence,
        }

    def table(self) -> str:
        """One line per rate, in percent."""
        rows = self.rows()
        width = max(6, *(len(row["into"]) for row in rows))
        lines = [
            f"language  {'into':<{width}} switched     total    rate %   {self.confidence:.0%} interval      words %"
        ]
        for row in rows:
            interval = f"{100 * row['low']:.3f} to {100 * row['high']:.3f}"
            words = "" if row["words"] is None else f"{100 * row['words']:>9.3f}"
            lines.append(
                f"{row['language']:<9} {row['into']:<{width}} {row['switched']:>8} {row['total']:>9} "
                f"{100 * row['rate']:>9.3f}   {interval:<16} {words}".rstrip()
            )
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: their own language is written in the target script.")
        return "\n".join(lines)


class _Judged(NamedTuple):
    language: str
    cluster: Hashable
    words: Mapping[str, float]  # for each requested target that it switched into, the share of its words
    published: bool


def code_switching_rate(
    responses: Sequence[str],
    languages: str | Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    to: str | Sequence[str] | None = None,
    phrases: PhraseFinder | None = None,
    compare_published: bool = False,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    ignore_code: bool = True,
    ignore_urls: bool = True,
    ignore_glosses: bool = False,
    count_latin: bool = False,
    han_without_kana: bool = False,
    allowed: Iterable[str] = (),
    allowed_languages: Sequence[Any] | None = None,
) -> CodeSwitchingReport:
    """The share of responses with at least one unexpected word, with bootstrap intervals (see `share_interval`).

    Args:
        responses: the answers, with code and markup left in.
        languages: code, tag or name of the language of each response, or one for all.
        prompts: the prompt of each response. Words that occur in it are quotations and are not counted.
        to: languages or scripts; only switches into these count. A response is left out if its own language is written
            in every target script. `to="zh"` counts Han in all responses but Chinese ones; in Japanese ones it counts
            the words with Chinese forms.
        phrases: finder of phrases in other languages of the same script, which then count too.
        compare_published: whether to report the rate by the published definition too.
        clusters: for each response, the prompt or another value that dependent responses share. The bootstrap draws
            whole clusters, so that eight samples of one prompt do not count as eight independent ones.
        confidence, resamples, seed: confidence level, number of draws and random seed of the intervals.
        ignore_code, ignore_urls, ignore_glosses, count_latin, han_without_kana, allowed: as in `unexpected_spans`.
        allowed_languages: for each response, the languages that it may use besides its own: a list, a text such as
            "zh, ja", or None. The column `allowed` of a row has the same form.

    Returns:
        Rates over all responses, by language and by pair. Each has the mean share of words that belong to switches.

    Raises:
        ValueError: lengths differ, a code is unknown, or nothing is left to measure.

    Example:
        >>> code_switching_rate(["All good.", "All 一切 good."], "en", to="zh").overall.rate
        0.5

    Source: arXiv:2507.14894, code-switching ratio. The graded share is the complement of DeepSeek-R1's language
        consistency, arXiv:2501.12948, section 2.3.2.
    """
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    _check_lengths(responses, languages=codes, prompts=prompts, clusters=clusters, allowed_languages=allowed_languages)
    criteria = SwitchCriteria(
        to=to,
        phrases=phrases,
        ignore_code=ignore_code,
        ignore_urls=ignore_urls,
        ignore_glosses=ignore_glosses,
        count_latin=count_latin,
        han_without_kana=han_without_kana,
        allowed=allowed,
    )
    known = {code: get_language(code).code for code in set(codes)}
    looked_at = {code for code in known if criteria.applies_to(code)}
    judged = []
    for index, (response, code) in enumerate(zip(responses, codes, strict=True)):
        if code not in looked_at:
            continue
        spans = criteria.find(
            response,
            code,
            prompt=None if prompts is None else prompts[index],
            allowed_languages=() if allowed_languages is None else parse_allowed(allowed_languages[index]),
        )
        published = compare_published and _any_character(response, code, criteria)
        cluster = index if clusters is None else clusters[index]
        judged.append(_Judged(known[code], cluster, _words_by_target(response, spans, criteria), published))
    if not judged:
        targets = criteria.targets
        why = "" if targets is None else f": every language given is itself written in {', '.join(sorted(targets[0]))}"
        raise ValueError(f"nothing to measure among {len(responses)} responses{why}.")
    share_of: ShareOf = partial(Share.of, confidence=confidence, resamples=resamples, seed=seed)
    by_language: dict[str, list[_Judged]] = {}
    for row in judged:
        by_language.setdefault(row.language, []).append(row)
    clusters_of_judged = [row.cluster for row in judged]
    return CodeSwitchingReport(
        overall=_switching(judged, share_of),
        languages={code: _switching(rows, share_of) for code, rows in sorted(by_language.items())},
        pairs={
            (code, target): _switching(rows, share_of, target)
            for code, rows in sorted(by_language.items())
            for target in sorted(set().union(*(row.words for row in rows)) | _pairs_looked_for(code, criteria))
        },
        skipped=len(responses) - len(judged),
        confidence=confidence,
        published=share_of([row.published for row in judged], clusters_of_judged) if compare_published else None,
        outcomes=tuple((row.cluster, bool(row.words)) for row in judged),
    )


def _pairs_looked_for(code: str, criteria: SwitchCriteria) -> set[str]:
    """The targets that get a row for this language even if there is no switch into them."""
    if criteria.targets is None:
        return set()
    others = criteria.phrases.others(code) if criteria.phrases else ()
    scripts = criteria.targets.scripts - set(get_language(code).scripts)
    return {*scripts, *criteria.targets.languages.intersection({*others, *criteria.told_by_forms(code)})}


def _switching(rows: Sequence[_Judged], share_of: ShareOf, target: str | None = None) -> Share:
    """The share of responses that switch into one target, or into any."""
    words = [sum(row.words.values()) if target is None else row.words.get(target, 0.0) for row in rows]
    hits = [bool(row.words) if target is None else target in row.words for row in rows]
    return replace(share_of(hits, [row.cluster for row in rows]), graded=fmean(words))


def _words_by_target(response: str, spans: Sequence[Span], criteria: SwitchCriteria) -> dict[str, float]:
    found: dict[str, list[Span]] = {}
    for span in spans:
        found.setdefault(into(span), []).append(span)
    return {target: criteria.word_share(response, own) for target, own in found.items()}


def _any_character(response: str, code: str, criteria: SwitchCriteria) -> bool:
    found = unexpected_scripts(response, code, count_latin=criteria.counts_latin)
    return bool(found if criteria.targets is None else found & criteria.targets.scripts)


def _check_lengths(responses: Sequence[str], **columns: Sequence[Any] | None) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response.")


def _script(into: str) -> str:
    return into if into in SCRIPTS else get_language(into).scripts[0]


def _plain(share: Share) -> dict[str, Any]:
    return {**share.to_dict("switched"), "words": share.graded}
