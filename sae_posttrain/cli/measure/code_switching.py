"""`sae-posttrain measure code-switching`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...artefacts import UNEXPECTED
from ...metrics.comparison import compare_rates
from ...metrics.messages import clusters_of, text_of
from ...texts import Row
from ..wording import option
from . import expected
from .metric import Metric
from .reporting import finish
from .responses import check_allowed, read_against, read_source

HELP = "share of responses with words outside their language's script, with an interval"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", metavar="CODE", help="language of rows without one")
    group = parser.add_argument_group("what counts")
    group.add_argument(
        "--to",
        nargs="+",
        metavar="CODE",
        help="count only switches into these languages or scripts. zh counts every Han word, Japanese ones too; in "
        "Japanese responses it counts the words with character forms that only Chinese uses",
    )
    group.add_argument(
        "--han-without-kana",
        action="store_true",
        help="count Han words in a passage with kana as Japanese, not as Chinese",
    )
    group.add_argument(
        "--phrases",
        nargs="*",
        metavar="CODE",
        help="also count phrases in these other languages of the same script (without a code: in the usual ones); "
        "needs "
        "py3langid",
    )
    group.add_argument("--ignore-prompt", action="store_true", help="do not count words that occur in the prompt")
    group.add_argument(
        "--ignore-glosses",
        action="store_true",
        help="do not count names and terms next to their reading or translation, as in Miyazaki (宮崎 駿)",
    )
    group.add_argument("--count-code", action="store_true", help="also count words inside code, LaTeX and HTML tags")
    group.add_argument("--count-urls", action="store_true", help="also count words inside URLs")
    group.add_argument("--count-latin", action="store_true", help="also count words in Latin letters")
    group.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="WORD",
        help="words or scripts that never count. To allow a language for one row, add a column 'allowed' to the file",
    )
    group.add_argument(
        "--expected",
        action="store_true",
        help="instead of counting switches, report their probability, from the model's own next-token "
        "probabilities: along "
        "given responses (--model and --responses) or along the model's own (--model and --prompts)",
    )
    group.add_argument(
        "--published",
        action="store_true",
        help="also report the rate as published: any character of another script counts",
    )


def run(args: argparse.Namespace) -> int:
    from ...metrics import CodeSwitchingReport, PhraseFinder, SwitchCriteria, allowed_in, code_switching_rate

    if args.expected:
        return expected.run(args)
    with option("--phrases"):
        finder = None if args.phrases is None else PhraseFinder(args.phrases) if args.phrases else PhraseFinder()
    with option("--to"):
        SwitchCriteria(to=args.to)
    options: dict[str, Any] = {
        "to": args.to,
        "phrases": finder,
        "ignore_code": not args.count_code,
        "ignore_urls": not args.count_urls,
        "ignore_glosses": args.ignore_glosses,
        "count_latin": args.count_latin,
        "han_without_kana": args.han_without_kana,
        "allowed": args.allow,
    }
    # --output contains all spans of a response, even if the rate counts only some targets.
    every = SwitchCriteria(
        **{**options, "to": None, "count_latin": SwitchCriteria(to=args.to, count_latin=args.count_latin).counts_latin}
    )

    def report_of(rows: Sequence[Row]) -> CodeSwitchingReport:
        return code_switching_rate(
            [row["response"] for row in rows],
            [row["language"] for row in rows],
            prompts=[text_of(row.get("prompt")) for row in rows] if args.ignore_prompt else None,
            compare_published=args.published,
            clusters=clusters_of(rows),
            confidence=args.confidence,
            seed=args.seed,
            allowed_languages=[allowed_in(row) for row in rows],
            **options,
        )

    def mark(row: Row) -> None:
        prompt = text_of(row.get("prompt")) if args.ignore_prompt else None
        spans = every.find(row["response"], row["language"], prompt=prompt, allowed_languages=allowed_in(row))
        row[UNEXPECTED] = [asdict(span) for span in spans]

    against = read_against(args, language=True)
    rows = read_source(args, language=True)
    check_allowed(rows)
    check_allowed(against)
    if args.ignore_prompt and not all(row.get("prompt") for row in [*rows, *against]):
        raise ValueError("--ignore-prompt: some rows have no prompt; add the column, or leave the option out.")
    return finish(rows, against, args, Metric(report_of, mark, compare_rates, options={"to": args.to}))
