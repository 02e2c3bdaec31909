"""Rates of measured answers with their intervals, side by side for the runs."""

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

# What a newcomer calls the scripts; others go by their ISO 15924 code.
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
# In which columns `measure` says what it sampled at, where that was more than one setting.
_SETTINGS = ("temperature", "max_new_tokens")
_AXES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0)

Judge = Callable[[RunRow], bool]


@dataclass(frozen=True)
class Measured:
    """One run's share, and for `compare_rates` what became of each answer."""

    share: Share
    outcomes: tuple[ClusteredOutcome, ...] = field(repr=False)
    confidence: float = 0.95


@dataclass(frozen=True)
class Comparison:
    """One measurement of several runs.

    Args:
        title: what is counted.
        name: of the file, and the setting where it holds several.
        overall: run → share.
        against: the run that the others are compared with.
        differences: run → how its rate differs from that; None where the two answered other prompts.
        details: kind of answer → run → share, of no more than `PAIRS` kinds.
        scale: where the axis of the intervals ends.
    """

    title: str
    name: str
    overall: Mapping[str, Share]
    against: str
    differences: Mapping[str, Difference | None]
    details: Mapping[str, Mapping[str, Share]]
    scale: float


class RunAnswers(NamedTuple):
    """A run's rows of one file, or of one setting in it."""

    run: Run
    rows: Sequence[RunRow]
    path: Path


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """Comparisons for each file name that some run has, of each kind of measurement that its rows hold.

    Switches into the languages that SASFT kept out of some run come first, then those into any.
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
    """What was found in the thinking of reasoning models, of the answers that think."""
    found = []
    for finding in FINDINGS:
        key = THINKING + finding.column
        thinking = [one._replace(rows=rows) for one in answers if (rows := [row for row in one.rows if key in row])]
        if thinking:
            found.append(_comparison(finding.thinking_title, name, thinking, _has(key), {}))
    return found


def into_words(span: Mapping[str, Any]) -> str:
    """What a foreign span is in: its script by its name, or its language where its script does not tell."""
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
    # The baseline, wherever it stands: a run without SASFT, if there is one.
    against = next((one.run.name for one in answers if not one.run.suppress), answers[0].run.name)
    differences = {run: _difference(one, measured[against]) for run, one in measured.items() if run != against}
    scale = next(end for end in _AXES if highest <= end)
    return Comparison(title, name, overall, against, differences, details, scale)


def _difference(measured: Measured, against: Measured) -> Difference | None:
    try:
        return compare_rates(measured, against)
    except ValueError:  # other prompts
        return None


def _measured(answers: RunAnswers, judge: Judge) -> Measured:
    with explaining_damage(answers.path):
        hits, clusters = [judge(row) for row in answers.rows], clusters_of(answers.rows)
        return Measured(Share.of(hits, clusters), tuple(zip(clusters, hits, strict=True)))


def _share(answers: RunAnswers, judge: Judge) -> Share:
    return _measured(answers, judge).share


def _has(column: str) -> Judge:
    """Whether something was found in an answer, as a column of it says."""
    return lambda row: bool(row[column])


def _into(answers: Sequence[RunAnswers], name: str, code: str) -> Comparison | None:
    """Switches into one language, of the answers from which such a switch can be told."""
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

    return _comparison(f"Answers that slip into {code}", name, eligible, judge, {})


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
    """`from → into` → run → share, for the pairs that occur at all, the most frequent first."""
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
