"""Select the part of each response to measure: the answer, the thinking of a reasoning model, or each separately."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from ... import artefacts
from ...metrics.thinking import CHOICES, TAGS, Part, Split, Thinking
from ...texts import Row

ANSWER, THINKING = "answer", "thinking"


def add_thinking(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("thinking of reasoning models")
    group.add_argument(
        "--thinking",
        choices=CHOICES,
        default="both",
        help="strip: measure only the answer. only: measure only the thinking. both: print a report for each if some "
        "response has thinking; --fail-above then checks the higher rate (default: %(default)s)",
    )
    group.add_argument(
        "--thinking-tags",
        nargs=2,
        metavar=("OPEN", "CLOSE"),
        default=list(TAGS),
        help=f"tags that open and close thinking (default: {' '.join(TAGS)})",
    )
    group.add_argument(
        "--thinking-opened",
        action="store_true",
        help="the prompts open the thinking, so a response without a closing tag is all thinking. Not needed with "
        "--model, which reads the chat template",
    )


class Parts:
    """Splits the responses of rows into their parts.

    Args:
        args: arguments with the options of `add_thinking`.
        joined: whether the stretches of a part are joined into one text, which a search for loops needs. Otherwise
            everything outside the part becomes spaces, so that positions do not change.
    """

    def __init__(self, args: argparse.Namespace, *, joined: bool) -> None:
        self.joined = joined
        self.choice: str = args.thinking
        tags = tuple(args.thinking_tags)
        self._how = {
            opened: Thinking(self.choice, (tags[0], tags[1]), opened or args.thinking_opened)
            for opened in (False, True)
        }

    def names(self, rows: Sequence[Row]) -> list[str]:
        """The parts to report on. Thinking is one of them only if there is some."""
        chosen = {"strip": [ANSWER], "only": [THINKING], "both": [ANSWER, THINKING]}[self.choice]
        if self.choice != "strip" and not any(self._split(row).has_thinking for row in rows):
            if self.choice == "only":
                opening, closing = self._how[False].tags
                raise ValueError(
                    f"--thinking only: none of {len(rows)} responses has thinking between {opening} and {closing}. "
                    f"Name other tags with --thinking-tags, or leave the option out."
                )
            return [ANSWER]
        return chosen

    def read(self, rows: Sequence[Row], name: str) -> list[Row]:
        """The rows with only this part as the response. For thinking, rows without thinking are left out."""
        splits = [(row, self._split(row)) for row in rows]
        return [self._only(row, split, name) for row, split in splits if name == ANSWER or split.has_thinking]

    def unfinished(self, rows: Sequence[Row]) -> int:
        """The number of responses that have thinking but no answer."""
        return sum(self._split(row).is_unfinished for row in rows)

    def mark(self, row: Row, mark: Callable[[Row], None]) -> None:
        """Add to a row what `mark` finds in each part, with positions in the whole response.

        If the answer is measured too, the findings in the thinking have names that begin with `thinking_`.
        """
        bare, split = dict(row), self._split(row)
        for name in {"strip": [ANSWER], "only": [THINKING], "both": [ANSWER, THINKING]}[self.choice]:
            if name == THINKING and not split.has_thinking and self.choice == "both":
                continue
            part = self._only(bare, split, name)
            mark(part)
            place = split.answer if name == ANSWER else split.thinking
            prefix = artefacts.THINKING if name == THINKING and self.choice == "both" else ""
            for key, found in part.items():
                if key not in bare and key != "finish_reason":
                    row[prefix + key] = _placed(found, place) if self.joined else _worded(found, row["response"])

    def _split(self, row: Row) -> Split:
        return self._how[bool(row.get("thinking_opened"))].split(row["response"])

    def _only(self, row: Row, split: Split, name: str) -> Row:
        part = split.answer if name == ANSWER else split.thinking
        text = part.text if self.joined else part.blanked
        closed = name == THINKING and split.thinking_is_closed
        return {**row, "response": text, **({"finish_reason": "stop"} if closed else {})}  # an answer followed


def _placed(found: Any, part: Part) -> Any:
    """Convert positions of findings from the part's text to the whole response."""
    if isinstance(found, list):
        return [_placed(one, part) for one in found]
    if not isinstance(found, dict):
        return found
    moved = {key: _placed(value, part) for key, value in found.items()}
    if isinstance(found.get("start"), int):
        moved["start"] = part.place(found["start"])
    if isinstance(found.get("end"), int):
        moved["end"] = part.place(found["end"] - 1) + 1
    return moved


def _worded(found: Any, response: str) -> Any:
    """Give spans their text from the whole response, because a span may extend over removed text."""
    if not isinstance(found, list):
        return found
    return [{**one, "text": response[one["start"] : one["end"]]} if "text" in one else one for one in found]
