"""Output of a report: a table, JSON or CSV on standard output, the responses in a file, and an exit code."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...metrics.messages import text_of
from ...metrics.report import R, Report, ReportDifference
from ...texts import Row
from ..engine_options import DEFAULTS
from ..output_files import check_file, replacing
from ..processes import INTERRUPTED
from .metric import Metric
from .responses import SAMPLING, by_setting, check_sampling, placeholder_rows, setting_columns
from .sampled import Sampled, sample
from .thinking import ANSWER, THINKING, Parts

ABOVE = 1
"""Exit code if a rate is above --fail-above. Every error has exit code 2."""


def add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output", metavar="FILE", help="write the responses and the findings in each as .jsonl")
    form = group.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--csv", action="store_true", help="print CSV instead of a table, with a row for each rate")
    group.add_argument(
        "--confidence", type=float, default=0.95, help="confidence level of the interval (default: 0.95)"
    )
    group.add_argument(
        "--fail-above",
        type=_share,
        metavar="RATE",
        help="exit with code 1 if the rate is above this, such as 1%% or 0.01",
    )


def finish(rows: Sequence[Row], against: Sequence[Row], args: argparse.Namespace, metric: Metric[Any]) -> int:
    """Sample missing responses, report on the rows of each setting, and write and print. Returns the exit code.

    Sampling takes hours, so everything that could fail after it is tried before it; see `rehearse`.

    Args:
        rows: rows with responses, or with the prompts to sample responses for.
        against: rows of the run to compare with, if there is one.
        args: the command's arguments.
        metric: the kind of `measure`.
    """
    output, sampled = check_file(args.output) if args.output else None, Sampled([])
    for group in by_setting(against, setting_columns(args)).values():
        _each_part(group, args, metric)
    if args.model:
        check_sampling(args)
        rehearse(placeholder_rows(rows, args), against, args, metric)
        sampled = sample(rows, args)
        if not sampled.main:
            return 0
        rows = sampled.rows
    if sampled.interrupted:
        against, output, args = [], None, argparse.Namespace(**{**vars(args), "against": None, "fail_above": None})
    if output:  # write first, so that an error below does not lose the sampled responses
        parts = Parts(args, joined=metric.joined)
        for row in rows:
            parts.mark(row, metric.mark)
        _write(rows, output)
        sampled.written()
    found = _measured(rows, against, args, metric)
    print(_as_text(found, args, metric))
    return INTERRUPTED if sampled.interrupted else _exit_code(found, args.fail_above)


def rehearse(rows: Sequence[Row], against: Sequence[Row], args: argparse.Namespace, metric: Metric[Any]) -> None:
    """Run all steps that follow sampling on placeholder rows, in every output format, without printing.

    Errors are thus found at once: a metric that lacks a method, a missing column, or a run with other prompts.

    Args:
        rows: placeholder rows with the columns of sampled rows.
        against, args, metric: as in `finish`.

    Raises:
        ValueError: as after sampling.
        AttributeError: the metric's report lacks a member of `Report`.
    """
    parts = Parts(args, joined=metric.joined)
    marked = [dict(row) for row in rows[:1]]
    for row in marked:
        parts.mark(row, metric.mark)
    _lines(marked)
    asked, answered = ({text_of(row.get("prompt")) for row in some} for some in (rows, against))
    # If the prompts are the same, only the responses can prevent a comparison, and they do not exist yet.
    rival = against if against and asked != answered else rows
    found = _measured(rows, rival, argparse.Namespace(**{**vars(args), "against": "placeholders"}), metric)
    for form in ({"json": True, "csv": False}, {"json": False, "csv": True}, {"json": False, "csv": False}):
        _as_text(found, argparse.Namespace(**{**vars(args), **form}), metric)
    _highest(found)


def _each_part(rows: Sequence[Row], args: argparse.Namespace, metric: Metric[R]) -> list[tuple[str, list[Row], R]]:
    """The parts (answer, thinking) of the rows of one setting, with the report on each."""
    parts = Parts(args, joined=metric.joined)
    read = [(part, parts.read(rows, part)) for part in parts.names(rows)]
    return [(part, own, metric.report(own)) for part, own in read]


def _measured(
    rows: Sequence[Row], against: Sequence[Row], args: argparse.Namespace, metric: Metric[Any]
) -> list[_Found]:
    """The reports on the rows of each setting, with the comparison if there is another run."""
    columns, parts = setting_columns(args), Parts(args, joined=metric.joined)
    others = by_setting(against, columns)
    found = []
    for setting, group in by_setting(rows, columns).items():
        for part, own, report in _each_part(group, args, metric):
            other, difference = None, None
            if args.against and (rival := _other(others, setting, part, columns, parts)):
                other = metric.report(rival)
                pair = (report, other) if part == ANSWER else tuple(map(metric.report, _paired(own, rival)))
                difference = metric.compare(pair[0], pair[1], seed=args.seed)
            named = dict(zip(columns, setting, strict=True))
            found.append(_Found(named, part, report, other, difference, parts.unfinished(group)))
    return found


class _Found(NamedTuple):
    """The report at one setting, and that of the run that it is compared with."""

    setting: dict[str, Any]
    part: str
    report: Report
    other: Report | None
    difference: ReportDifference | None
    unfinished: int  # number of responses without an answer, at this setting

    def named(self, found: Sequence[_Found]) -> dict[str, Any]:
        """The setting, with the part if there are several."""
        return {**self.setting, **({"part": self.part} if len({one.part for one in found}) > 1 else {})}

    def to_dict(self) -> dict[str, Any]:
        compared = {} if self.other is None else {"against": self.other.to_dict()}
        if self.difference is not None:
            compared["comparison"] = self.difference.to_dict()
        return {**self.report.to_dict(), **compared}


def _as_text(found: Sequence[_Found], args: argparse.Namespace, metric: Metric[Any]) -> str:
    """The text to print: JSON, CSV or tables."""
    if args.json:
        return json.dumps(_as_json(found, args, dict(metric.options)), ensure_ascii=False, indent=2)
    if args.csv:
        return _as_csv([_beside(one.named(found), row) for one in found for row in one.report.rows()])
    return "\n\n".join(table for one in found for table in _tables(one, found))


def _other(
    others: Mapping[tuple[Any, ...], list[Row]],
    setting: tuple[Any, ...],
    part: str,
    columns: Sequence[str],
    parts: Parts,
) -> list[Row]:
    """The other run's rows at a setting; none if that run has no thinking."""
    if setting not in others:
        wanted = ", ".join(f"{column} {value}" for column, value in zip(columns, setting, strict=True))
        raise ValueError(f"--against: the other run has no responses with {wanted}.")
    return parts.read(others[setting], part)


def _paired(rows: Sequence[Row], others: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the prompts for which both runs have thinking, if there are any."""
    both = {text_of(row.get("prompt")) for row in rows} & {text_of(row.get("prompt")) for row in others}
    kept = [[row for row in some if text_of(row.get("prompt")) in both] for some in (rows, others)]
    return (kept[0], kept[1]) if both else (list(rows), list(others))


def _as_json(found: Sequence[_Found], args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """The report of each setting. With both parts, the report on the answers contains the one on the thinking."""
    plain: list[dict[str, Any]] = []
    for one in found:
        if one.part == THINKING and args.thinking == "both":
            plain[-1]["thinking"] = one.to_dict()
        else:
            unfinished = {"unfinished_thinking": one.unfinished} if one.unfinished else {}
            plain.append({**_beside(one.setting, one.to_dict()), **unfinished})
    whole = plain[0] if not setting_columns(args) else {"settings": plain}
    if args.model:
        sampling = {name: getattr(args, name) for name in ("model", "adapter", *SAMPLING)}
        changed = {name: getattr(args, name) for name in DEFAULTS if getattr(args, name) != DEFAULTS[name]}
        options = {**options, **{name: _only(value) for name, value in {**sampling, **changed}.items()}}
    return {**whole, **options}


def _beside(setting: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Merge the two. If a column of the setting has the name of a finding, it is renamed to `by_` and its name."""
    return {**{f"by_{name}" if name in found else name: value for name, value in setting.items()}, **found}


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    written = io.StringIO()
    writer = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().removesuffix("\n")


def _tables(one: _Found, found: Sequence[_Found]) -> list[str]:
    title = ", ".join(f"{column} {value}" for column, value in one.named(found).items())
    table = one.report.table()
    if one.unfinished and one.part == ANSWER:
        table += f"\n{one.unfinished} responses are thinking without an answer."
    return [f"{title}\n{table}" if title else table, *([] if one.difference is None else [one.difference.table()])]


def _exit_code(found: Sequence[_Found], allowed: float | None) -> int:
    highest = _highest(found)
    if allowed is None or highest <= allowed:
        return 0
    print(f"The rate is {highest:.3%}; --fail-above allows at most {allowed:.3%}.", file=sys.stderr)
    return ABOVE


def _highest(found: Sequence[_Found]) -> float:
    return max(one.report.rate for one in found)


def _share(text: str) -> float:
    number, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to below 1, such as 1% or 0.01, got {text!r}.")
    return share


def _write(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as file:
        file.writelines(_lines(rows))


def _lines(rows: Sequence[Row]) -> list[str]:
    return [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows]
