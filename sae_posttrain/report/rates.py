"""Rates of measured answers with their intervals, side by side for the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..metrics.interval import clustered_interval
from .run import Row, Run, damaged

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


@dataclass(frozen=True)
class Rate:
    """`hits` of `total` answers, with the 95% interval of their share."""

    hits: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.hits / self.total


@dataclass(frozen=True)
class Comparison:
    """One measurement of several runs; `details` are the same by language and script, rows by name.

    Args:
        scale: where the axis of the intervals ends.
    """

    kind: str
    name: str
    overall: dict[str, Rate]
    details: dict[str, dict[str, Rate]]
    scale: float


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """A comparison for each file name that some run has, of each kind of measurement that its rows hold."""
    names = list(dict.fromkeys(name for run in runs for name in run.answers))
    found = []
    for name in sorted(names):
        answers = {run.name: run.answers[name] for run in runs if name in run.answers}
        paths = {run.name: run.folder / f"{name}.jsonl" for run in runs}
        for kind, column, judge in (("switching", "unexpected", _switched), ("repetition", "loop", _looped)):
            measured = {run: rows for run, rows in answers.items() if all(column in row for row in rows)}
            if measured:
                overall = {run: _rate(rows, judge, paths[run]) for run, rows in measured.items()}
                details = _by_pair(measured, paths) if kind == "switching" else _by_language(measured, judge, paths)
                shown = [*overall.values(), *(rate for row in details.values() for rate in row.values())]
                found.append(Comparison(kind, name, overall, details, _round_up(max(rate.high for rate in shown))))
    return found


def _switched(row: Row) -> bool:
    return bool(row["unexpected"])


def _looped(row: Row) -> bool:
    return row["loop"] is not None


def _rate(rows: Iterable[Row], judge: Callable[[Row], bool], path: Path) -> Rate:
    with damaged(path):
        rows = list(rows)
        hits = [judge(row) for row in rows]
        # Samples of one prompt belong together; an answer without a prompt stands by itself.
        prompts = [json.dumps(row["prompt"]) if row.get("prompt") else number for number, row in enumerate(rows)]
        low, high = clustered_interval(hits, prompts)
        return Rate(sum(hits), len(hits), low, high)


def _by_pair(measured: dict[str, Sequence[Row]], paths: dict[str, Path]) -> dict[str, dict[str, Rate]]:
    """`from → into` → run → rate, the most frequent first, for the pairs that occur at all."""
    pairs: dict[tuple[str, str], int] = {}
    for run, rows in measured.items():
        with damaged(paths[run]):
            for row in rows:
                for script in {span["script"] for span in row["unexpected"]}:
                    pair = str(row.get("language", "?")), str(script)
                    pairs[pair] = pairs.get(pair, 0) + 1
    found = {}
    for language, script in sorted(pairs, key=lambda pair: (-pairs[pair], pair)):

        def into(row: Row, script: str = script) -> bool:
            return any(span["script"] == script for span in row["unexpected"])

        of_language = {
            run: [row for row in rows if str(row.get("language", "?")) == language] for run, rows in measured.items()
        }
        found[f"{language} → {SCRIPTS.get(script, script)}"] = {
            run: _rate(rows, into, paths[run]) for run, rows in of_language.items() if rows
        }
    return found


def _by_language(
    measured: dict[str, Sequence[Row]], judge: Callable[[Row], bool], paths: dict[str, Path]
) -> dict[str, dict[str, Rate]]:
    languages = sorted({str(row["language"]) for rows in measured.values() for row in rows if row.get("language")})
    if len(languages) < 2:
        return {}
    return {
        language: {
            run: _rate(own, judge, paths[run])
            for run, rows in measured.items()
            if (own := [row for row in rows if str(row.get("language")) == language])
        }
        for language in languages
    }


def _round_up(share: float) -> float:
    """The next end of an axis that is easy to read."""
    steps = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0)
    return next((step for step in steps if share <= step), 1.0)
