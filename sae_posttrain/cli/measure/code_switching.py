"""`sae-posttrain measure code-switching`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from ..inputs import Row
from . import expected
from .output import finish
from .responses import clusters, prompt_text, read_against, read_source

HELP = "share of responses that leave their language's script, with an interval"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", metavar="CODE", help="language of the rows that name none")
    group = parser.add_argument_group("what counts")
    group.add_argument("--to", nargs="+", metavar="CODE", help="only switches into these languages or scripts")
    group.add_argument(
        "--phrases",
        nargs="*",
        metavar="CODE",
        help="count phrases in other languages of one script too, these or the usual ones; needs py3langid",
    )
    group.add_argument("--ignore-prompt", action="store_true", help="leave out words that occur in the prompt")
    group.add_argument("--count-code", action="store_true", help="count inside code too")
    group.add_argument("--count-urls", action="store_true", help="count inside URLs too")
    group.add_argument("--count-latin", action="store_true", help="count Latin words in other scripts")
    group.add_argument("--allow", nargs="+", default=[], metavar="WORD", help="scripts or words that are fine")
    group.add_argument(
        "--expected",
        action="store_true",
        help="do not count: report the probability of leaving, from the model's own next-token probabilities, of given "
        "responses (--model and --responses) or of its own (--model and --prompts)",
    )
    group.add_argument("--published", action="store_true", help="give the rate as published, too: any character counts")


def run(args: argparse.Namespace) -> int:
    from ...metrics import CodeSwitchingReport, PhraseFinder, code_switching_rate, unexpected_spans
    from ...metrics.code_switching import counts_latin

    if args.expected:
        return expected.run(args)
    finder = None if args.phrases is None else PhraseFinder(args.phrases) if args.phrases else PhraseFinder()
    latin = args.count_latin or counts_latin(args.to)
    ignored: dict[str, Any] = {
        "ignore_code": not args.count_code,
        "ignore_urls": not args.count_urls,
        "allowed": args.allow,
    }

    def report_of(rows: Sequence[Row]) -> CodeSwitchingReport:
        return code_switching_rate(
            [row["response"] for row in rows],
            [row["language"] for row in rows],
            prompts=[prompt_text(row.get("prompt")) for row in rows] if args.ignore_prompt else None,
            to=args.to,
            phrases=finder,
            compare_published=args.published,
            clusters=clusters(rows),
            confidence=args.confidence,
            seed=args.seed,
            count_latin=latin,
            **ignored,
        )

    def mark(row: Row) -> None:
        given = {"prompt": prompt_text(row.get("prompt")) if args.ignore_prompt else None, **ignored}
        spans = unexpected_spans(row["response"], row["language"], count_latin=latin, **given)
        if finder is not None:
            spans = sorted([*spans, *finder.find(row["response"], row["language"], **given)], key=attrgetter("start"))
        row["unexpected"] = [asdict(span) for span in spans]

    against = read_against(args, language=True)
    rows = read_source(args, language=True)
    if args.ignore_prompt and not all(row.get("prompt") for row in [*rows, *against]):
        raise ValueError("--ignore-prompt: some rows have no prompt; add the column, or leave the option out")
    return finish(rows, against, args, report_of, mark, to=args.to)
