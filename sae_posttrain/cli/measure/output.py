"""What a report becomes: a table, JSON or CSV on standard output, the responses in a file, and an exit code."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..inputs import Row
from ..outputs import check_file, replacing
from .responses import SAMPLING, by_setting, check_sampling, sample, setting_columns, stand_ins

ABOVE = 1
"""Exit code when a rate is above what is allowed; 2 is that of every error."""


def add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", metavar="FILE", help="write responses and what was found in them as .jsonl")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--csv", action="store_true", help="print CSV instead of a table, a row for each rate")
    group.add_argument("--confidence", type=float, default=0.95, help="of the interval (default: 0.95)")
    group.add_argument(
        "--fail-above", type=_share, metavar="RATE", help="exit with code 1 when the rate is above, such as 1%% or 0.01"
    )


def finish(
    rows: Sequence[Row],
    against: Sequence[Row],
    args: argparse.Namespace,
    report_of: Callable[[Sequence[Row]], Any],
    mark: Callable[[Row], None],
    **options: Any,
) -> int:
    """Sample what is not there yet, report on the rows of each setting, write and print; returns the exit code.

    What can be told before sampling, which takes hours, is refused before it.

    Args:
        rows: with their responses, or with the prompts to sample them for.
        against: rows of the run to compare with, if there is one.
        mark: puts what was found in a response into its row.
        options: printed with the report, as JSON.
    """
    from ...metrics import compare_rates

    columns = setting_columns(args)
    output = check_file(args.output) if args.output else None
    other = report_of(against) if args.against else None
    if args.model:
        check_sampling(args)
        for group in by_setting(stand_ins(rows, args), columns).values():
            report_of(group)
            mark(group[0])
        rows = sample(rows, args)
    if output:  # first, so that nothing sampled is lost to an error below
        for row in rows:
            mark(row)
        _write(rows, output)
    found = [
        (dict(zip(columns, setting, strict=True)), report_of(group))
        for setting, group in by_setting(rows, columns).items()
    ]
    difference = None if other is None else compare_rates(found[0][1], other, seed=args.seed)
    if args.json:
        print(json.dumps(_as_json(found, other, difference, args, options), ensure_ascii=False, indent=2))
    elif args.csv:
        _print_csv([_beside(setting, row) for setting, report in found for row in report.rows()])
    else:
        tables = [_titled(setting, report.table()) for setting, report in found]
        print("\n\n".join([*tables, *([] if difference is None else [difference.table()])]))
    return _exit_code(found, args.fail_above)


def _as_json(
    found: Sequence[tuple[dict[str, Any], Any]],
    other: Any,
    difference: Any,
    args: argparse.Namespace,
    options: dict[str, Any],
) -> dict[str, Any]:
    plain = [_beside(setting, report.to_dict()) for setting, report in found]
    whole = plain[0] if not setting_columns(args) else {"settings": plain}
    if other is not None:
        whole = {**whole, "against": other.to_dict(), "comparison": difference.to_dict()}
    if args.model:
        sampling = {name: getattr(args, name) for name in ("model", "adapter", *SAMPLING)}
        options = {**options, **{name: _only(value) for name, value in sampling.items()}}
    return {**whole, **options}


def _beside(setting: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Both in one, where a column that is called as something found is `by_` that."""
    return {**{f"by_{name}" if name in found else name: value for name, value in setting.items()}, **found}


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _print_csv(rows: Sequence[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _titled(setting: dict[str, Any], table: str) -> str:
    title = ", ".join(f"{column} {value}" for column, value in setting.items())
    return f"{title}\n{table}" if title else table


def _exit_code(found: Sequence[tuple[dict[str, Any], Any]], allowed: float | None) -> int:
    highest = max(report.rate for _, report in found)
    if allowed is None or highest <= allowed:
        return 0
    print(f"{highest:.3%} is above the {allowed:.3%} that --fail-above allows", file=sys.stderr)
    return ABOVE


def _share(text: str) -> float:
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, such as 1% or 0.01, got {text!r}")
    return share


def _write(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
