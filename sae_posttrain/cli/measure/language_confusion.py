"""`sae-posttrain measure language-confusion`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...metrics.messages import clusters_of
from ...texts import Row
from ..wording import option
from .metric import Metric
from .reporting import finish
from .responses import read_against, read_source

HELP = "line and word pass rates, as in the Language Confusion Benchmark; needs py3langid"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", metavar="CODE", help="language of rows without one")
    group = parser.add_argument_group("what counts")
    group.add_argument(
        "--among",
        nargs="+",
        metavar="CODE",
        help="languages that a line can be identified as, besides those of the rows (default: 21 languages)",
    )
    group.add_argument(
        "--english",
        metavar="FILE",
        help="file with the English words that count as wrong, one per line (default: any word)",
    )
    group.add_argument("--count-code", action="store_true", help="also read code")
    group.add_argument("--count-urls", action="store_true", help="also read URLs")
    group.add_argument(
        "--published",
        action="store_true",
        help="read responses as the published code does: with code and URLs, without punctuation, up to a line with Q:",
    )


def run(args: argparse.Namespace) -> int:
    from ...metrics import LanguageConfusionReport, compare_rates, confused_spans, langid_identifier, language_confusion
    from ...metrics.identification import LINE_LANGUAGES

    against = read_against(args, language=True)
    rows = read_source(args, language=True)
    languages = {row["language"] for row in [*rows, *against]}
    with option("--among"):
        identify = langid_identifier([*(args.among or LINE_LANGUAGES), *languages])
    how: dict[str, Any] = {
        "identify": identify,
        "english": frozenset(Path(args.english).read_text(encoding="utf-8").split()) if args.english else None,
        "ignore_code": not args.count_code,
        "ignore_urls": not args.count_urls,
        "published": args.published,
    }

    def report_of(rows: Sequence[Row]) -> LanguageConfusionReport:
        texts, codes = [row["response"] for row in rows], [row["language"] for row in rows]
        options = {"clusters": clusters_of(rows), "confidence": args.confidence, "seed": args.seed}
        return language_confusion(texts, codes, sources=[_source(row) for row in rows], **options, **how)

    def mark(row: Row) -> None:
        row["confused"] = [asdict(span) for span in confused_spans(row["response"], row["language"], **how)]

    return finish(rows, against, args, Metric(report_of, mark, compare_rates))


def _source(row: Row) -> str:
    """The group of a row for the averages: its `source`, together with its `task` if the file has several tasks."""
    return " ".join(str(row.get(column, "")) for column in ("task", "source"))
