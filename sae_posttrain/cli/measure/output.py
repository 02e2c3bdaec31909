"""What a report becomes: a table, JSON or CSV on standard output, the responses in a file, and an exit code."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    *,
    compare: Callable[..., Any] | None = None,
    **options: Any,
) -> int:
    """Sample what is not there yet, report on the rows of each setting, write and print; returns the exit code.

    What can be told before sampling, which takes hours, is refused before it.

    Args:
        rows: with their responses, or with the prompts to sample them for.
        against: rows of the run to compare with, if there is one.
        mark: puts what was found in a response into its row.
        compare: of two reports; default: `compare_rates`.
        options: printed with the report, as JSON.
    """
    from ...metrics import compare_rates

    columns = setting_columns(args)
    output = check_file(args.output) if args.output else None
    others = {setting: report_of(group) for setting, group in by_setting(against, columns).items()}
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
    found = []
    for setting, group in by_setting(rows, columns).items():
        report, other = report_of(group), _other(others, setting, columns) if args.against else None
        difference = None if other is None else (compare or compare_rates)(report, other, seed=args.seed)
        found.append(_Found(dict(zip(columns, setting, strict=True)), report, other, difference))
    if args.json:
        print(json.dumps(_as_json(found, args, options), ensure_ascii=False, indent=2))
    elif args.csv:
        _print_csv([_beside(one.setting, row) for one in found for row in one.report.rows()])
    else:
        print("\n\n".join(table for one in found for table in _tables(one)))
    return _exit_code(found, args.fail_above)


class _Found(NamedTuple):
    """What was found at one setting, and in the run that it is compared with."""

    setting: dict[str, Any]
    report: Any
    other: Any
    difference: Any


def _other(others: Mapping[tuple[Any, ...], Any], setting: tuple[Any, ...], columns: Sequence[str]) -> Any:
    if setting not in others:
        wanted = ", ".join(f"{column} {value}" for column, value in zip(columns, setting, strict=True))
        raise ValueError(f"--against: the other run has no responses with {wanted}.")
    return others[setting]


def _as_json(found: Sequence[_Found], args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    plain = []
    for one in found:
        compared = {} if one.other is None else {"against": one.other.to_dict(), "comparison": one.difference.to_dict()}
        plain.append({**_beside(one.setting, one.report.to_dict()), **compared})
    whole = plain[0] if not setting_columns(args) else {"settings": plain}
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


def _tables(one: _Found) -> list[str]:
    title = ", ".join(f"{column} {value}" for column, value in one.setting.items())
    table = one.report.table()
    return [f"{title}\n{table}" if title else table, *([] if one.difference is None else [one.difference.table()])]


def _exit_code(found: Sequence[_Found], allowed: float | None) -> int:
    highest = max(one.report.rate for one in found)
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
