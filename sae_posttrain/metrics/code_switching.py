"""Code-switching by script: where a response leaves its language's writing, and how often that happens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import regex

from ..languages import SCRIPTS, get_language, script_counts
from .interval import clustered_interval

_FENCE = r"(?ms)^[ \t]*(?P<fence>`{3,}|~{3,}).*?(?:^[ \t]*(?P=fence)|\Z)"
_INLINE = r"(?<!`)(?P<ticks>`{1,2})(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)"
_CODE = regex.compile(f"{_FENCE}|{_INLINE}")
# The host is plain ASCII, so that text written right behind a bare domain is still looked at.
_URL = regex.compile(
    r"(?i)\b(?:[a-z][a-z0-9+.-]*://|www\.)[a-z0-9.:@_~-]+(?:[/?#][^\s<>\"`，。、；：！？（）「」『』《》]*)?"
)
# Inside a word: marks and joiners that belong to no script, the kana length mark, dots and hyphens in names.
_CARRIED = r"[\p{Script=Zinh}[\p{Lm}&&\p{Script=Zyyy}]]"
_JOINT = r"[·・‧'’\-‐]"


_Interval: TypeAlias = Callable[[Sequence[bool], Sequence[Hashable]], tuple[float, float]]


@dataclass(frozen=True)
class Span:
    """A word in an unexpected script: response[start:end] == text."""

    start: int
    end: int
    script: str
    text: str


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
    """Rates over all responses, by language of the response, and by (language, script it switched into)."""

    overall: Rate
    languages: Mapping[str, Rate]
    pairs: Mapping[tuple[str, str], Rate]
    skipped: int  # responses left out because their own language is written in every target script
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "overall": _plain(self.overall),
            "languages": {language: _plain(rate) for language, rate in self.languages.items()},
            "pairs": [
                {"language": language, "script": script, **_plain(rate)}
                for (language, script), rate in self.pairs.items()
            ],
            "skipped": self.skipped,
            "confidence": self.confidence,
        }

    def table(self) -> str:
        """One line per rate, in percent."""
        rows = [("all", "any", self.overall)]
        rows += [(language, "any", rate) for language, rate in self.languages.items()]
        rows += [(language, script, rate) for (language, script), rate in self.pairs.items()]
        lines = [f"language  into   switched     total    rate %   {self.confidence:.0%} interval"]
        lines += [
            f"{language:<9} {script:<6} {rate.switched:>8} {rate.total:>9} {100 * rate.rate:>9.3f}"
            f"   {100 * rate.low:.3f} to {100 * rate.high:.3f}"
            for language, script, rate in rows
        ]
        if self.skipped:
            lines.append(f"{self.skipped} responses left out: their own language is written in the target script")
        return "\n".join(lines)


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
    names are ordinary there. A Greek letter by itself is a symbol (α, Ω) and never counted.

    Raises: ValueError for an unknown language.
    """
    extra = (allowed,) if isinstance(allowed, str) else tuple(allowed)
    scripts = {*get_language(language).scripts, *(entry for entry in extra if entry in SCRIPTS)}
    if not count_latin:
        scripts.add("Latn")
    if "Latn" in scripts and response.isascii():
        return []
    unexpected = _outside(frozenset(scripts))
    if not unexpected.search(response):
        return []
    text = _blank(response, ignore_code, ignore_urls, tuple(entry for entry in extra if entry not in SCRIPTS))
    spans = []
    match = unexpected.search(text)
    while match:
        (script,) = script_counts(match[0])
        word = _word_in(script).match(text, match.start())
        if not (script == "Grek" and script_counts(word[0])["Grek"] == 1) and not (prompt and word[0] in prompt):
            spans.append(Span(word.start(), word.end(), script, word[0]))
        match = unexpected.search(text, word.end())
    return spans


class _Judged(NamedTuple):
    language: str
    cluster: Hashable
    into: set[str]  # the scripts it switched into, of those asked for


def code_switching_rate(
    responses: Sequence[str],
    languages: str | Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    to: str | Sequence[str] | None = None,
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
    responses whose own language is written in all of them are left out. clusters: what responses share, usually the
    prompt, so that eight samples of one prompt are not taken for eight independent ones. prompts and the rest: as
    `unexpected_spans`. As published is `to`, with ignore_code and ignore_urls off.

    Raises: ValueError when lengths differ, a code is unknown, or nothing is left to measure.
    Source: arXiv:2507.14894, code-switching ratio.
    """
    codes = [languages] * len(responses) if isinstance(languages, str) else list(languages)
    _check_lengths(responses, languages=codes, prompts=prompts, clusters=clusters)
    targets = _target_scripts(to)
    look = partial(
        unexpected_spans,
        ignore_code=ignore_code,
        ignore_urls=ignore_urls,
        count_latin=count_latin or (targets is not None and "Latn" in targets),
        allowed=(allowed,) if isinstance(allowed, str) else tuple(allowed),
    )
    judged = []
    for index, (response, code) in enumerate(zip(responses, codes, strict=True)):
        language = get_language(code)
        if targets is None or not targets <= set(language.scripts):
            spans = look(response, code, prompt=None if prompts is None else prompts[index])
            into = {span.script for span in spans if targets is None or span.script in targets}
            judged.append(_Judged(language.code, index if clusters is None else clusters[index], into))
    if not judged:
        why = "" if targets is None else f": every language given is itself written in {', '.join(sorted(targets))}"
        raise ValueError(f"nothing to measure among {len(responses)} responses{why}")
    interval = partial(clustered_interval, confidence=confidence, resamples=resamples, seed=seed)
    return _report(judged, len(responses) - len(judged), targets, confidence, interval)


def _report(
    judged: Sequence[_Judged], skipped: int, targets: set[str] | None, confidence: float, interval: _Interval
) -> CodeSwitchingReport:
    by_language: dict[str, list[_Judged]] = {}
    for row in judged:
        by_language.setdefault(row.language, []).append(row)
    languages, pairs = {}, {}
    for code, rows in sorted(by_language.items()):
        languages[code] = _rate(rows, interval)
        found = set().union(*(row.into for row in rows))
        for script in sorted(found if targets is None else targets - set(get_language(code).scripts)):
            pairs[code, script] = _rate([row._replace(into=row.into & {script}) for row in rows], interval)
    return CodeSwitchingReport(_rate(judged, interval), languages, pairs, skipped, confidence)


def _rate(rows: Sequence[_Judged], interval: _Interval) -> Rate:
    hits = [bool(row.into) for row in rows]
    low, high = interval(hits, [row.cluster for row in rows])
    return Rate(sum(hits), len(rows), low, high)


def _target_scripts(to: str | Sequence[str] | None) -> set[str] | None:
    if to is None:
        return None
    targets: set[str] = set()
    for entry in [to] if isinstance(to, str) else to:
        targets.update((entry,) if entry in SCRIPTS else get_language(entry).scripts)
    if not targets:
        raise ValueError("`to` is empty; name a language or script, or leave it out to count every switch")
    return targets


def _check_lengths(responses: Sequence[str], **columns: Sequence[Any] | None) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(column)} {name}; give one for each response")


def _blank(text: str, code: bool, urls: bool, terms: tuple[str, ...]) -> str:
    """The text with code, URLs and allowed terms as spaces, so that offsets stay."""
    for wanted, pattern in ((code, _CODE), (urls, _URL), (bool(terms), _any_of(terms))):
        if wanted:
            text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text


@lru_cache(maxsize=64)
def _any_of(terms: tuple[str, ...]) -> regex.Pattern[str]:
    longest_first = sorted(filter(None, terms), key=len, reverse=True)
    return regex.compile("|".join(map(regex.escape, longest_first)) or r"(?!)", regex.IGNORECASE)


@cache
def _outside(scripts: frozenset[str]) -> regex.Pattern[str]:
    """A character of any script but these; Common and Inherited ones belong to whatever they stand in."""
    expected = "".join(rf"\p{{Script={script}}}" for script in sorted({*scripts, "Zyyy", "Zinh", "Zzzz"}))
    return regex.compile(f"[^{expected}]")


@cache
def _word_in(script: str) -> regex.Pattern[str]:
    own = rf"\p{{Script={script}}}"
    return regex.compile(rf"{own}(?:{own}|{_CARRIED}|{_JOINT}(?={own}))*", regex.VERSION1)


def _plain(rate: Rate) -> dict[str, float]:
    return {"rate": rate.rate, **asdict(rate)}
