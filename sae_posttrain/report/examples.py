"""Split answers that switch or loop into pieces with a kind. The page escapes and marks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artefacts import LOOP, UNEXPECTED
from ..metrics import text_of
from .rates import into_words
from .run import Run, RunRow, explaining_damage

PER_RUN = 3
AROUND = 160


@dataclass(frozen=True)
class Piece:
    """A piece of an answer. `kind` is `switch`, `first` or `again` (periods of a loop), `cut`, or empty."""

    text: str
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class Example:
    """One answer. `note` describes what was found in it."""

    prompt: str
    language: str
    note: str
    pieces: tuple[Piece, ...]


def switches(run: Run, limit: int = PER_RUN) -> list[Example]:
    """Some answers of a run that switch, of as many kinds as possible."""
    by_kind: dict[tuple[str, str], list[Example]] = {}
    for path, row in _rows(run, UNEXPECTED):
        with explaining_damage(path):
            spans = row[UNEXPECTED]
            if spans:
                kind = str(row.get("language", "")), into_words(spans[0])
                if len(by_kind.setdefault(kind, [])) < limit:
                    names = dict.fromkeys(map(into_words, spans))
                    pieces = _with_switches(row["response"], spans)
                    by_kind[kind].append(Example(_prompt(row), kind[0], ", ".join(names), pieces))
    return _in_turn(list(by_kind.values()), limit)


def loops(run: Run, limit: int = PER_RUN) -> list[Example]:
    """Some answers of a run that end in a loop."""
    found: list[Example] = []
    for path, row in _rows(run, LOOP):
        with explaining_damage(path):
            if row[LOOP] is not None and len(found) < limit:
                start, end, period = (int(row[LOOP][name]) for name in ("start", "end", "period"))
                if not 0 <= start <= end <= len(row["response"]):
                    raise ValueError(f"a loop from {start} to {end} in {len(row['response'])} characters")
                if period < 1:
                    continue  # a loop of tokens that are not text, such as special tokens
                note = f"the same {period} characters {(end - start) // period} times"
                pieces = _with_loop(row["response"], start, end, period)
                found.append(Example(_prompt(row), str(row.get("language", "")), note, pieces))
    return found


def _rows(run: Run, column: str) -> list[tuple[Path, RunRow]]:
    return [(run.answers_file(name), row) for name, rows in run.answers.items() for row in rows if column in row]


def _with_switches(text: str, spans: Sequence[Any]) -> tuple[Piece, ...]:
    """The answer around its first switch, with every foreign word marked."""
    places = sorted((int(span["start"]), int(span["end"]), into_words(span)) for span in spans)
    first, last = max(0, places[0][0] - AROUND), min(len(text), places[0][0] + 2 * AROUND)
    pieces, reached = [Piece("…", "cut")] if first else [], first
    for start, end, name in places:
        end = min(end, last)
        if reached <= start < end:
            pieces += [Piece(text[reached:start]), Piece(text[start:end], "switch", name)]
            reached = end
    pieces.append(Piece(text[reached:last]))
    return tuple([*pieces, Piece("…", "cut")] if last < len(text) else pieces)


def _with_loop(text: str, start: int, end: int, period: int) -> tuple[Piece, ...]:
    """The text before the loop, the first periods of the loop, and a note on the length of the rest."""
    first = max(0, start - AROUND)
    pieces = [Piece("…", "cut")] if first else []
    pieces.append(Piece(text[first:start]))
    reached, enough = start, min(end, start + min(max(3 * period, AROUND), 6 * AROUND))
    while reached < enough:
        upto = min(reached + period, start + 6 * AROUND, end)
        pieces.append(Piece(text[reached:upto], "again" if (reached - start) // period % 2 else "first"))
        reached = upto
    if reached < len(text):
        pieces.append(Piece(f"… and so on, for {len(text) - reached:,} more characters", "cut"))
    return tuple(pieces)


def _prompt(row: RunRow) -> str:
    """The last message, or the text. A long one is cut."""
    prompt = row.get("prompt")
    text = text_of(prompt[-1:] if isinstance(prompt, list) else prompt)
    return text if len(text) <= 2 * AROUND else f"{text[: 2 * AROUND]}…"


def _in_turn(groups: list[list[Example]], limit: int) -> list[Example]:
    rounds = range(max(map(len, groups), default=0))
    return [group[turn] for turn in rounds for group in groups if turn < len(group)][:limit]
