"""Rates of measured answers with their intervals, compared between runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..artefacts import FINDINGS, THINKING, UNEXPECTED
from ..languages import get_language
from ..metrics import Difference, Share, SwitchCriteria, clusters_of, compare_rates
from ..metrics.interval import ClusteredOutcome
from .run import Run, RunRow, explaining_damage

# Plain names of the common scripts. Other scripts are shown by their ISO 15924 code.
SCRIPTS = {
    "Arab": "Arabic script",
    "Beng": "Bengali script",
    "Cyrl": "Cyrillic",
    "Deva": "Devanagari",
    "Grek": "Greek",
    "Hang": "Hangul (Korean)",
    "Hani": "Chinese characters",
    "Hebr": "Hebrew script",
    "Hira": "Hiragana (Japanese)",
    "Kana": "Katakana (Japanese)",
    "Latn": "Latin letters",
    "Thai": "Thai script",
}
PAIRS = 40
# Columns in which `measure` writes the sampling settings, if there were several.
_SETTINGS = ("temperature", "max_new_tokens")
_AXES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0)

Judge = Callable[[RunRow], bool]


@dataclass(frozen=True)
class Measured:
    """One run's share, and the result of each answer, for `compare_rates`."""

    share: Share
    outcomes: tuple[ClusteredOutcome, ...] = field(repr=False)
    confidence: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """One measurement of several runs.

    Args:
        title: name of the rate.
        name: name of the file, with the sampling setting if the file has several.
        overall: run → share.
        against: the run that the others are compared with.
        differences: run → difference from the rate of `against`; None if the two answered different prompts.
        details: kind of answer → run → share, for at most `PAIRS` kinds.
        scale: largest value on the axis of the intervals.
    """

    title: str
    name: str
    overall: Mapping[str, Share]
    against: str
    differences: Mapping[str, Difference | None]
    details: Mapping[str, Mapping[str, Share]]
    scale: float


class RunAnswers(NamedTuple):
    """The rows of a run from one file, or from one setting in it."""

    run: Run
    rows: Sequence[RunRow]
    path: Path


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Compare the runs, for each file name and for each kind of measurement in its rows.

    Switches into the suppressed languages of SASFT runs come first, then switches into any language.
    """
    suppressed = list(dict.fromkeys(code for run in runs for code in run.suppress))
    found: list[Comparison] = []
    for name, answers in sorted(_by_name(runs).items()):
        for finding in FINDINGS:
            judged = [one for one in answers if all(finding.column in row for row in one.rows)]
            if judged and finding.column == UNEXPECTED:
                found += [one for code in suppressed if (one := _into(judged, name, code))]
                title = f"{finding.title}{' for any other' if suppressed else ''}"
                found.append(_comparison(title, name, judged, _has(UNEXPECTED), _by_pair(judged)))
            elif judged:
                judge = _has(finding.column)
                found.append(_comparison(finding.title, name, judged, judge, _by_language(judged, judge)))
        found += _of_thinking(answers, name)
    return found


def _of_thinking(answers: Sequence[RunAnswers], name: str) -> list[Comparison]:
    """Comparisons of the thinking of reasoning models, over the answers that have thinking."""
    found = []
    for finding in FINDINGS:
        key = THINKING + finding.column
        thinking = [one._replace(rows=rows) for one in answers if (rows := [row for row in one.rows if key in row])]
        if thinking:
            found.append(_comparison(finding.thinking_title, name, thinking, _has(key), {}))
    return found


def into_words(span: Mapping[str, Any]) -> str:
    """The name of a foreign span's script, or its language if the script does not show it."""
    language, script = span.get("language"), str(span["script"])
    if language:
        return f"{language} {'words' if script == 'Hani' else 'phrases'}"
    return SCRIPTS.get(script, script)


def _by_name(runs: Sequence[Run]) -> dict[str, list[RunAnswers]]:
    found: dict[str, list[RunAnswers]] = {}
    for run in runs:
        for name, rows in run.answers.items():
            for setting, own in _by_setting(rows).items():
                answers = RunAnswers(run, own, run.answers_file(name))
                found.setdefault(", ".join([name, *setting]), []).append(answers)
    return found


def _by_setting(rows: Sequence[RunRow]) -> dict[tuple[str, ...], list[RunRow]]:
    found: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        told = tuple(f"{name} {row[name]}" for name in _SETTINGS if name in row)
        found.setdefault(told, []).append(row)
    return found


def _comparison(
    title: str, name: str, answers: Sequence[RunAnswers], judge: Judge, details: Mapping[str, Mapping[str, Share]]
) -> Comparison:
    measured = {one.run.name: _measured(one, judge) for one in answers}
    overall = {run: one.share for run, one in measured.items()}
    highest = max(share.high for share in overall.values())
    # Compare with the first run without SASFT, or with the first run if all use SASFT.
    against = next((one.run.name for one in answers if not one.run.suppress), answers[0].run.name)
    differences = {run: _difference(one, measured[against]) for run, one in measured.items() if run != against}
    scale = next(end for end in _AXES if highest <= end)
    return Comparison(title, name, overall, against, differences, details, scale)


def _difference(measured: Measured, against: Measured) -> Difference | None:
    try:
        return compare_rates(measured, against)
    except ValueError:  # the runs answered different prompts
        return None


def _measured(answers: RunAnswers, judge: Judge) -> Measured:
    with explaining_damage(answers.path):
        hits, clusters = [judge(row) for row in answers.rows], clusters_of(answers.rows)
        return Measured(Share.of(hits, clusters), tuple(zip(clusters, hits, strict=True)))


def _share(answers: RunAnswers, judge: Judge) -> Share:
    return _measured(answers, judge).share


def _has(column: str) -> Judge:
    """A function that says whether an answer has a finding in this column."""
    return lambda row: bool(row[column])


def _into(answers: Sequence[RunAnswers], name: str, code: str) -> Comparison | None:
    """Switches into one language, over the answers in which such a switch can be recognised."""
    if not _is_known(code):
        return None
    criteria = SwitchCriteria(to=code)
    eligible = [
        one._replace(rows=rows)
        for one in answers
        if (rows := [row for row in one.rows if _may_switch(_language(row), criteria)])
    ]
    if not eligible:
        return None

    def judge(row: RunRow) -> bool:
        return any(criteria.wants(span["script"], span.get("language"), _language(row)) for span in row[UNEXPECTED])

    return _comparison(f"Answers that switch into {code}", name, eligible, judge, {})


def _may_switch(language: str, criteria: SwitchCriteria) -> bool:
    return not _is_known(language) or criteria.applies_to(language)


@cache
def _is_known(language: str) -> bool:
    try:
        get_language(language)
    except ValueError:
        return False
    return True


def _by_pair(answers: Sequence[RunAnswers]) -> dict[str, dict[str, Share]]:
    """`from → into` → run → share, for the pairs that occur, the most frequent first."""
    pairs: Counter[tuple[str, str]] = Counter()
    for one in answers:
        with explaining_damage(one.path):
            for row in one.rows:
                pairs.update((_language(row), target) for target in {into_words(span) for span in row[UNEXPECTED]})
    of_language = _split(answers)
    found = {}
    for language, target in sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:PAIRS]:

        def judge(row: RunRow, target: str = target) -> bool:
            return any(into_words(span) == target for span in row[UNEXPECTED])

        found[f"{language} → {target}"] = {one.run.name: _share(one, judge) for one in of_language[language]}
    return found


def _by_language(answers: Sequence[RunAnswers], judge: Judge) -> dict[str, dict[str, Share]]:
    of_language = _split(answers)
    if len(of_language) < 2:
        return {}
    return {code: {one.run.name: _share(one, judge) for one in of_language[code]} for code in sorted(of_language)}


def _split(answers: Sequence[RunAnswers]) -> dict[str, list[RunAnswers]]:
    """The answers by language."""
    found: dict[str, list[RunAnswers]] = {}
    for one in answers:
        rows: dict[str, list[RunRow]] = {}
        for row in one.rows:
            rows.setdefault(_language(row), []).append(row)
        for language, own in rows.items():
            found.setdefault(language, []).append(one._replace(rows=own))
    return found


def _language(row: RunRow) -> str:
    return str(row.get("language") or "?")
