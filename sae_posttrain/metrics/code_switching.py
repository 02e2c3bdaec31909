"""Code-switching: the share of responses that leave their language, overall and by what they switch into."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ..languages import SCRIPTS, get_language
from .interval import Outcome, clustered_interval
from .phrases import PhraseFinder
from .scripts import Span, unexpected_scripts, unexpected_spans


@dataclass(frozen=True)
class Rate:
    """How many of `total` responses switched, and the confidence interval of that share."""

    switched: int
    total: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        return self.switched / self.total


@dataclass(frozen=True)
class CodeSwitchingReport:
    """Rates over all responses, by language of the response, and by what it switched into.

    Pairs are (language, script), and for phrases (language, other language).
    """

    overall: Rate
    languages: Mapping[str, Rate]
    pairs: Mapping[tuple[str, str], Rate]
    skipped: int  # responses left out because their own language is written in every target script
    confidence: float
    published: Rate | None = None  # by the authors' definition: any character of the script, anywhere
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)  # of each response, for `compare_rates`

    @property
    def rate(self) -> float:
        return self.overall.rate

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
        lines = [f"language  {'into':<{width}} switched     total    rate %   {self.confidence:.0%} interval"]
        lines += [
            f"{row['language']:<9} {row['into']:<{width}} {row['switched']:>8} {row['total']:>9} "
            f"{100 * row['rate']:>9.3f}   {100 * row['low']:.3f} to {100 * row['high']:.3f}"
            for row in rows
        ]
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: their own language is written in the target script")
        return "\n".join(lines)


class _Judged(NamedTuple):
    language: str
    cluster: Hashable
    into: frozenset[str]  # the scripts, and languages of phrases, it switched into, of those asked for
    published: bool


class _Targets(NamedTuple):
    """What switches are looked for."""

    scripts: frozenset[str]
    languages: frozenset[str]


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
    count_latin: bool = False,
    allowed: Iterable[str] = (),
) -> CodeSwitchingReport:
    """The share of responses with at least one unexpected word, with bootstrap intervals (see `share_interval`).

    languages: of each response, or one for all. to: languages or scripts; only words in these scripts count, and
    responses whose own language is written in all of them are left out. phrases: counts phrases in other languages of
    the same writing as well. compare_published: gives the rate by the authors' definition beside ours. clusters: what
    responses share, usually the prompt, so that eight samples of one prompt are not taken for eight independent ones.
    prompts and the rest: as `unexpected_spans`.

    Raises: ValueError when lengths differ, a code is unknown, or nothing is left to measure.
    Source: arXiv:2507.14894, code-switching ratio.
    """
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    _check_lengths(responses, languages=codes, prompts=prompts, clusters=clusters)
    targets = _targets(to)
    latin = count_latin or counts_latin(to)
    ignored: dict[str, Any] = {
        "ignore_code": ignore_code,
        "ignore_urls": ignore_urls,
        "allowed": (allowed,) if isinstance(allowed, str) else tuple(allowed),
    }
    judged = []
    for index, (response, code) in enumerate(zip(responses, codes, strict=True)):
        language = get_language(code)
        if _nothing_to_find(language.code, targets, phrases):
            continue
        prompt = None if prompts is None else prompts[index]
        spans = unexpected_spans(response, code, prompt=prompt, count_latin=latin, **ignored)
        if phrases is not None:
            spans += phrases.find(response, code, prompt=prompt, **ignored)
        published = compare_published and _any_character(response, code, targets, latin)
        cluster = index if clusters is None else clusters[index]
        judged.append(_Judged(language.code, cluster, _into(spans, targets), published))
    if not judged:
        why = "" if targets is None else f": every language given is itself written in {', '.join(sorted(targets[0]))}"
        raise ValueError(f"nothing to measure among {len(responses)} responses{why}")
    interval = partial(clustered_interval, confidence=confidence, resamples=resamples, seed=seed)
    report = _report(judged, targets, phrases, interval)
    return CodeSwitchingReport(
        **report,
        skipped=len(responses) - len(judged),
        confidence=confidence,
        published=_rate([row.published for row in judged], judged, interval) if compare_published else None,
        outcomes=tuple((row.cluster, bool(row.into)) for row in judged),
    )


def counts_latin(to: str | Sequence[str] | None) -> bool:
    """Whether Latin words inside other scripts are switches into these languages or scripts, asked for or not.

    Raises: ValueError for an unknown one.
    """
    targets = _targets(to)
    return targets is not None and "Latn" in targets.scripts


def _report(
    judged: Sequence[_Judged], targets: _Targets | None, phrases: PhraseFinder | None, interval: Any
) -> dict[str, Any]:
    by_language: dict[str, list[_Judged]] = {}
    for row in judged:
        by_language.setdefault(row.language, []).append(row)
    languages, pairs = {}, {}
    for code, rows in sorted(by_language.items()):
        languages[code] = _rate([bool(row.into) for row in rows], rows, interval)
        into = set().union(*(row.into for row in rows))
        if targets is not None:
            into |= targets.scripts - set(get_language(code).scripts)
            into |= targets.languages.intersection(phrases.others(code) if phrases else ())
        for one in sorted(into):
            pairs[code, one] = _rate([one in row.into for row in rows], rows, interval)
    overall = _rate([bool(row.into) for row in judged], judged, interval)
    return {"overall": overall, "languages": languages, "pairs": pairs}


def _rate(hits: Sequence[bool], rows: Sequence[_Judged], interval: Any) -> Rate:
    low, high = interval(hits, [row.cluster for row in rows])
    return Rate(sum(hits), len(rows), low, high)


def _targets(to: str | Sequence[str] | None) -> _Targets | None:
    if to is None:
        return None
    scripts: set[str] = set()
    languages: set[str] = set()
    for entry in [to] if isinstance(to, str) else to:
        if entry in SCRIPTS:
            scripts.add(entry)
        else:
            scripts.update(get_language(entry).scripts)
            languages.add(get_language(entry).code)
    if not scripts:
        raise ValueError("`to` is empty; name a language or script, or leave it out to count every switch")
    return _Targets(frozenset(scripts), frozenset(languages))


def _nothing_to_find(code: str, targets: _Targets | None, phrases: PhraseFinder | None) -> bool:
    if targets is None or not targets.scripts <= set(get_language(code).scripts):
        return False
    return phrases is None or not targets.languages.intersection(phrases.others(code))


def _into(spans: Iterable[Span], targets: _Targets | None) -> frozenset[str]:
    into = {span.language or span.script for span in spans}
    return frozenset(into if targets is None else into & (targets.scripts | targets.languages))


def _any_character(response: str, code: str, targets: _Targets | None, latin: bool) -> bool:
    found = unexpected_scripts(response, code, count_latin=latin)
    return bool(found if targets is None else found & targets.scripts)


def _check_lengths(responses: Sequence[str], **columns: Sequence[Any] | None) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response")


def _script(into: str) -> str:
    return into if into in SCRIPTS else get_language(into).scripts[0]


def _plain(rate: Rate) -> dict[str, Any]:
    return {"rate": rate.rate, **asdict(rate)}
